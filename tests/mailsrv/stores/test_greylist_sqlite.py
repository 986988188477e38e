"""The greylist on disk: that it is the same greylist, bounded, and survives a kill."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from greyfile import DELAY_S, OTHER, START_S, TRIPLET, WALL_NS, Running, fill, goes_on_from_memory
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from mailsrv.policy.greylist import KEPT_S, RETRY_WITHIN_S, Greylist, MemoryStore
from mailsrv.runtime.clock import FakeClock
from mailsrv.stores import greylist_sqlite
from mailsrv.stores.greylist_sqlite import FLUSH_PAUSE_NS, LOCKED_NS, QUIET_NS, ROWS_A_FLUSH_MAX
from mailsrv.units import NS_PER_S


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


@pytest.mark.parametrize("step_s", [-56 * 365 * 86_400, -3600, 0, 365 * 86_400])
def test_a_restart_with_another_wall_clock_blocks_and_erases_nobody(
    running: Running, step_s: int
) -> None:
    running.check(OTHER)
    running.advance(DELAY_S)
    running.check(OTHER)
    running.check()
    running.advance(DELAY_S - 1)
    assert running.check() == "DEFER"
    now_ns = running.clock.monotonic_ns()
    offset_ns = WALL_NS + now_ns + step_s * NS_PER_S
    running.store.close()
    running.clock = FakeClock(start=7, realtime_offset_ns=offset_ns)  # the machine was started, too
    running.start()
    running.advance(1)
    assert running.check(OTHER) == "PASS"
    if step_s <= 0:
        assert running.check() == "PASS"
    else:  # the retry window may well be over
        assert running.check() == "DEFER"
        running.advance(DELAY_S)
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
    assert rows == [("192.0.0.0/16", "a@example.org", "b@example.test", 0, "2026-01-01 03:25:45")]
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
@budget(max_examples=60, deadline=None)
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
    assert running.loop.timers.next_wake_ns is None


# -- killed ---------------------------------------------------------------------------------------

WRITER = """
import sys
from mailsrv.policy.greylist import GreylistKey, GreylistRecord
from mailsrv.stores.greylist_sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
number = 0
while True:
    for _ in range(7):
        number += 1
        key = GreylistKey("pool", "a@example.org", f"{number}@example.test")
        store.put(key, GreylistRecord(number, 0))
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
    assert missing.loop.timers.next_wake_ns is None


def test_the_bounds_fit_together() -> None:
    assert greylist_sqlite.BACKLOG_MAX > ROWS_A_FLUSH_MAX
    assert greylist_sqlite.RETRY_MIN_NS < LOCKED_NS < QUIET_NS
