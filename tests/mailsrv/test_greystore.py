"""The greylist on disk: that it is the same greylist, and what happens when the disk fails."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv import greystore
from mailsrv.clock import FakeClock
from mailsrv.greylist import KEPT_S, RETRY_WITHIN_S, Greylist, Key, MemoryStore, Record
from mailsrv.greystore import (
    FLUSH_PAUSE_NS,
    LOCKED_NS,
    QUIET_NS,
    RETRY_MAX_NS,
    ROWS_A_FLUSH_MAX,
    DatabaseStore,
)
from mailsrv.loop import Loop
from mailsrv.poll import Handler, Ready
from mailsrv.units import NS_PER_S

START_S = 12_345.678901
WALL_NS = 1_767_225_600 * NS_PER_S
DELAY_S = 300
TRIPLET = ("192.0.2.1", "a@example.org", "b@example.test")
OTHER = ("198.51.100.7", "c@example.org", "d@example.test")


class NobodyThere:
    """A poll with nothing to report."""

    def watch(self, sock: socket, events: int, handler: Handler) -> None: ...

    def change(self, sock: socket, events: int, handler: Handler) -> None: ...

    def forget(self, sock: socket) -> None: ...

    def wait(self, until_ns: int | None) -> Ready:
        return []


def no_fault(handler: Handler | None, fault: Exception) -> None:
    raise fault


@dataclass
class Running:
    """A greylist with its file, on a loop."""

    path: Path
    clock: FakeClock = field(
        default_factory=lambda: FakeClock(start=START_S, realtime_offset_ns=WALL_NS)
    )
    notes: list[tuple[str, str | None]] = field(default_factory=list)
    options: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.loop = Loop(self.clock, NobodyThere(), no_fault)
        self.store = DatabaseStore(
            str(self.path), lambda event, error: self.notes.append((event, error)), **self.options
        )
        self.greylist = Greylist(self.clock, DELAY_S, self.store)
        self.store.attach(self.loop)

    def restart(self) -> None:
        self.store.close()
        self.start()

    def check(self, triplet: tuple[str, str, str] = TRIPLET) -> str:
        """A try, and the end of the pass in which it came."""
        outcome = self.greylist.check(triplet)
        self.loop.dispatch(None)
        return outcome

    def advance(self, seconds: float) -> None:
        """Let time pass, with all its timers."""
        until_ns = self.clock.monotonic_ns() + round(seconds * NS_PER_S)
        while (wake_ns := self.loop.timers.next_wake_ns()) is not None and wake_ns <= until_ns:
            self.clock.advance_to_ns(max(wake_ns, self.clock.monotonic_ns()))
            self.loop.expire()
        self.clock.advance_to_ns(until_ns)

    def rows(self, where: str = "1") -> int:
        """What another process finds in the file."""
        with sqlite3.connect(self.path) as connection:
            (number,) = connection.execute(f"SELECT count(*) FROM known WHERE {where}").fetchone()
        connection.close()
        return int(number)

    @property
    def connection(self) -> sqlite3.Connection:
        assert self.store._file is not None
        return self.store._file._connection


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "greylist.db")
    yield running
    running.store.close()


# -- it is the same greylist ----------------------------------------------------------------------


def test_what_is_known_survives_a_restart(running: Running) -> None:
    assert running.check() == "DEFER"
    running.restart()
    running.advance(DELAY_S)
    assert running.check() == "PASS"
    running.restart()
    assert running.check() == "PASS"
    assert running.check(OTHER) == "DEFER"
    assert running.notes == []


def test_a_retry_passes_exactly_at_the_delay_and_not_a_nanosecond_before(running: Running) -> None:
    due_ns = running.clock.monotonic_ns() + DELAY_S * NS_PER_S
    running.check()
    running.clock.advance_to_ns(due_ns - 1)
    assert running.check() == "DEFER"
    running.clock.advance_to_ns(due_ns)
    assert running.check() == "PASS"


def test_everything_is_in_the_file_at_the_end_of_the_pass(running: Running) -> None:
    running.greylist.check(TRIPLET)
    assert running.rows() == 0
    running.loop.dispatch(None)
    assert running.rows() == 1
    assert running.store.backlog == 0


def test_a_retry_inside_the_delay_writes_nothing(running: Running) -> None:
    running.check()
    before = running.connection.total_changes
    running.advance(DELAY_S / 2)
    running.check()
    assert running.connection.total_changes == before


def test_names_are_values_and_never_statements(running: Running) -> None:
    hostile = ("192.0.2.1", "'; DROP TABLE known; --@example.org", "\"x'/**/OR 1=1@example.test")
    assert running.check(hostile) == "DEFER"
    running.advance(DELAY_S)
    assert running.check(hostile) == "PASS"
    assert running.check(("192.0.2.1", "' OR 1=1 --@example.org", "b@example.test")) == "DEFER"


def test_the_file_can_be_read_by_people(running: Running) -> None:
    running.check()
    rows = sqlite3.connect(running.path).execute("SELECT * FROM seen").fetchall()
    assert rows == [
        ("192.0.0.0/16", "a@example.org", "b@example.test", 0, "2026-01-01 03:25:45")
    ]
    assert running.path.stat().st_mode & 0o777 == 0o600


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["192.0.2.1", "192.0.9.1", "198.51.100.7", "2001:db8::1"]),
            st.sampled_from(["", "a@example.org", "prvs=0123456789=A@example.org"]),
            st.sampled_from(["b@example.test", "c@example.test"]),
            st.sampled_from(["", "mx1.example.org", "mx2.example.org"]),
            st.sampled_from(["", "out1.example.net", "out2.example.net"]),
        ),
        st.sampled_from([1, DELAY_S - 1, DELAY_S, RETRY_WITHIN_S, KEPT_S]),
        st.sampled_from(["pass", "restart"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_it_says_what_a_greylist_in_memory_says(
    steps: list[tuple[str, str, str, str, str] | int | str],
) -> None:
    with TemporaryDirectory() as folder:
        running = Running(Path(folder) / "greylist.db")
        memory = MemoryStore()
        model = Greylist(running.clock, DELAY_S, memory)
        for step in steps:
            if isinstance(step, int):
                running.advance(step)
            elif step == "pass":
                running.loop.dispatch(None)
            elif isinstance(step, str):
                running.restart()
                model = Greylist(running.clock, DELAY_S, memory)
            else:
                *triplet, helo, name = step
                tried = (triplet[0], triplet[1], triplet[2])
                outcome = running.greylist.check(tried, helo=helo, reverse_name=name)
                assert outcome == model.check(tried, helo=helo, reverse_name=name)
        running.store.close()


# -- what is stale --------------------------------------------------------------------------------


def fill(running: Running, number: int) -> None:
    for at in range(number):
        running.store.put(Key("pool", "a@example.org", f"{at}@example.test"), Record(WALL_NS, 0))
    while running.store.backlog:
        running.loop.dispatch(None)
        running.advance(FLUSH_PAUSE_NS / NS_PER_S)


def test_what_is_stale_goes_in_small_steps(running: Running) -> None:
    fill(running, 1000)
    running.advance(RETRY_WITHIN_S + START_S)
    left = running.rows()
    checks = 0
    while running.rows("sender = 'a@example.org' AND client = 'pool'"):
        running.check((TRIPLET[0], f"x{checks}@example.com", TRIPLET[2]))
        checks += 1
        assert left - running.rows() <= 8
        left = running.rows()
    assert checks == 1000 // 8


def test_one_step_removes_no_more_than_its_share(running: Running) -> None:
    fill(running, 1000)
    running.advance(RETRY_WITHIN_S + START_S)
    for number in range(100):  # all in one pass
        running.greylist.check((TRIPLET[0], f"x{number}@example.com", TRIPLET[2]))
    running.loop.dispatch(None)
    assert running.rows("client = 'pool'") == 1000 - ROWS_A_FLUSH_MAX


def test_a_passed_triplet_and_a_client_go_when_they_are_old(running: Running) -> None:
    running.check()
    running.advance(DELAY_S)
    running.check()
    running.advance(KEPT_S)
    running.check(OTHER)
    assert running.rows("passed > 0") == 2
    running.advance(1)
    running.check((OTHER[0], "e@example.org", OTHER[2]))
    assert running.rows("passed > 0") == 0


def test_a_flood_is_bounded_in_the_file_and_spares_who_has_passed(tmp_path: Path) -> None:
    octets_max = 256 * 1024
    running = Running(tmp_path / "greylist.db", options={"octets_max": octets_max})
    running.check()
    running.advance(DELAY_S)
    running.check()
    for number in range(4000):
        client = f"198.{number % 256}.7.7"
        running.greylist.check((client, f"x{number}@example.com", "b@example.test"))
        if number % 10 == 9:
            running.loop.dispatch(None)
    assert running.rows("passed = 0") > 500
    assert running.path.stat().st_size < 2 * octets_max
    assert running.check() == "PASS"
    assert running.notes == []
    running.store.close()


def test_a_large_backlog_is_written_in_pieces(running: Running) -> None:
    for number in range(2 * ROWS_A_FLUSH_MAX + 1):
        running.greylist.check((TRIPLET[0], f"x{number}@example.com", TRIPLET[2]))
    running.loop.dispatch(None)
    assert running.rows() == ROWS_A_FLUSH_MAX
    running.loop.dispatch(None)  # too early: the mail's turn
    assert running.rows() == ROWS_A_FLUSH_MAX
    running.advance(1.2 * FLUSH_PAUSE_NS / NS_PER_S)
    assert running.rows() == 2 * ROWS_A_FLUSH_MAX
    running.advance(1.2 * FLUSH_PAUSE_NS / NS_PER_S)
    assert running.rows() == 2 * ROWS_A_FLUSH_MAX + 1
    assert running.loop.timers.next_wake_ns() is None


# -- trouble --------------------------------------------------------------------------------------

FAILED = "greylist database failed"
WORKS = "greylist database works again"


def goes_on_from_memory(running: Running) -> None:
    """New senders are deferred and pass when they come back."""
    assert running.check(OTHER) == "DEFER"
    running.advance(DELAY_S)
    assert running.check(OTHER) == "PASS"


def fill_the_disk(running: Running) -> Callable[[], object]:
    connection = running.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(200):  # what still fits into the pages there are
        running.check(("203.0.113.1", f"x{number}@example.com", "b@example.test"))
    return lambda: connection.execute("PRAGMA max_page_count = 1000000")


def lock(running: Running) -> Callable[[], object]:
    other = sqlite3.connect(running.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other.close


def take_away(running: Running) -> Callable[[], object]:
    """The folder is gone, as when its disk is no longer mounted."""
    folder = running.path.parent
    away = folder.with_name("away")
    running.store._let_go()
    folder.rename(away)
    return lambda: away.rename(folder)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (fill_the_disk, "database or disk is full"),
        (lock, "database is locked"),
        (take_away, "No such file or directory"),
    ],
)
def test_greylisting_goes_on_from_memory_and_the_log_says_why_and_until_when(
    running: Running, trouble: Callable[[Running], Callable[[], object]], why: str
) -> None:
    running.check()
    running.advance(DELAY_S)
    running.check()
    mend = trouble(running)
    goes_on_from_memory(running)
    assert running.notes == [(FAILED, why)]
    assert running.store.trouble == why
    assert running.store.backlog
    mend()
    running.advance(2 * RETRY_MAX_NS / NS_PER_S)
    assert running.notes == [(FAILED, why), (WORKS, None)]
    assert running.store.trouble == ""
    assert running.store.backlog == 0
    assert running.loop.timers.next_wake_ns() is None
    running.restart()
    assert running.check(OTHER) == "PASS"
    assert running.check() == "PASS"


def test_a_file_that_became_read_only_is_opened_anew(running: Running) -> None:
    running.connection.execute("PRAGMA query_only = ON")
    running.check()
    assert running.notes == [(FAILED, "attempt to write a readonly database")]
    running.advance(1)
    assert running.notes[1:] == [(WORKS, None)]
    assert running.rows() == 1


def test_who_has_passed_is_still_known_while_the_file_can_only_be_read(running: Running) -> None:
    running.check()
    running.advance(DELAY_S)
    running.check()
    release = lock(running)
    assert running.check() == "PASS"
    release()


def test_a_short_lock_is_no_line_in_the_log(running: Running) -> None:
    release = lock(running)
    running.check()
    running.advance(LOCKED_NS / NS_PER_S / 2)
    assert running.store.backlog == 1
    release()
    running.advance(LOCKED_NS / NS_PER_S)
    assert running.notes == []
    assert running.rows() == 1


def test_a_file_that_comes_and_goes_fills_no_log(running: Running) -> None:
    minutes = 5
    for number in range(minutes * 12):
        release = lock(running)
        running.check(("203.0.113.1", f"x{number}@example.com", "b@example.test"))
        running.advance(4)
        release()
        running.advance(1)
    assert NS_PER_S * 60 == QUIET_NS
    assert [event for event, _ in running.notes].count(FAILED) <= minutes + 1


def test_while_the_file_fails_the_memory_is_bounded(tmp_path: Path) -> None:
    running = Running(tmp_path / "missing" / "greylist.db", options={"backlog": 50})
    for number in range(500):
        running.check((TRIPLET[0], f"x{number}@example.com", TRIPLET[2]))
    assert running.store.backlog == 50
    assert running.notes == [(FAILED, "No such file or directory")]
    running.store.close()


def not_sqlite(path: Path) -> None:
    path.write_bytes(b"To whom it may concern\n" * 100)


def of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (name TEXT)")
    connection.close()


def of_a_later_version(path: Path) -> None:
    running = Running(path)
    running.connection.execute("PRAGMA user_version = 2")
    running.store.close()


def corrupt(path: Path) -> None:
    running = Running(path)
    fill(running, 1000)
    running.store.close()
    octets = bytearray(path.read_bytes())
    octets[8192:] = b"\xa5" * (len(octets) - 8192)
    path.write_bytes(octets)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (not_sqlite, "file is not a database"),
        (of_another_program, "it is another program's database"),
        (of_a_later_version, "it has version 2, and this program writes 1"),
        (corrupt, "database disk image is malformed"),
    ],
)
def test_a_file_that_is_not_ours_or_broken_is_left_alone(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    path = tmp_path / "greylist.db"
    spoil(path)
    before = path.read_bytes()
    running = Running(path)
    goes_on_from_memory(running)
    running.advance(2 * RETRY_MAX_NS / NS_PER_S)
    running.store.close()
    assert running.notes == [(FAILED, why)]
    assert path.read_bytes() == before


def test_a_new_file_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "greylist.db"
    path.touch()
    running = Running(path)
    goes_on_from_memory(running)
    assert running.notes == []
    assert running.rows() > 0
    running.store.close()


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        running = Running(folder / "greylist.db")
        ballast = folder / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        for number in range(300):
            running.check(("203.0.113.1", f"x{number}@example.com", "b@example.test"))
        assert [event for event, _ in running.notes] == [FAILED]
        goes_on_from_memory(running)
        ballast.unlink()
        running.advance(2 * RETRY_MAX_NS / NS_PER_S)
        assert [event for event, _ in running.notes] == [FAILED, WORKS]
        assert running.store.backlog == 0
        running.store.close()
    finally:
        subprocess.run(["umount", folder], check=True)


# -- killed ---------------------------------------------------------------------------------------

WRITER = """
import sys
from mailsrv.greylist import Key, Record
from mailsrv.greystore import DatabaseStore
store = DatabaseStore(sys.argv[1])
number = 0
while True:
    for _ in range(7):
        number += 1
        store.put(Key("pool", "a@example.org", f"{number}@example.test"), Record(number, 0))
    store.flush()
    assert store.backlog == 0
    print(number, flush=True)
"""


@pytest.mark.parametrize("flushes", [1, 40, 200])
def test_what_was_flushed_survives_kill_9(tmp_path: Path, flushes: int) -> None:
    path = tmp_path / "greylist.db"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    told = [next(child.stdout) for _ in range(flushes)]
    child.send_signal(signal.SIGKILL)
    told += list(child.stdout)
    child.wait()
    last = int(told[-1] if told[-1].endswith("\n") else told[-2])

    running = Running(path)
    assert running.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert running.rows() in (last, last + 7)
    assert running.notes == []
    goes_on_from_memory(running)
    running.store.close()


def test_a_copy_of_the_files_taken_between_two_passes_is_whole(
    running: Running, tmp_path: Path
) -> None:
    fill(running, 500)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("greylist.db", "greylist.db-wal"):
        shutil.copy(tmp_path / name, copy / name)
    restored = Running(copy / "greylist.db")
    assert restored.rows() == 500
    restored.store.close()


def test_closing_writes_what_is_left_and_is_harmless_when_nothing_can_be_written(
    running: Running, tmp_path: Path
) -> None:
    for number in range(2 * ROWS_A_FLUSH_MAX):
        running.greylist.check((TRIPLET[0], f"x{number}@example.com", TRIPLET[2]))
    running.store.close()
    assert running.rows() == 2 * ROWS_A_FLUSH_MAX
    missing = Running(tmp_path / "missing" / "greylist.db")
    missing.check()
    missing.store.close()
    assert missing.loop.timers.next_wake_ns() is None


def test_the_bounds_fit_together() -> None:
    assert greystore.BACKLOG_MAX > ROWS_A_FLUSH_MAX
    assert greystore.RETRY_MIN_NS < LOCKED_NS < QUIET_NS
