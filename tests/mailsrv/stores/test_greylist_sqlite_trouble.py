"""The greylist's file fails: greylisting goes on, and the log says why and until when."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from greyfile import (
    DELAY_S,
    FAILED,
    OTHER,
    TRIPLET,
    WORKS,
    Running,
    fill,
    goes_on_from_memory,
)

from mailsrv.policy.greylist import RETRY_WITHIN_S
from mailsrv.stores.greylist_sqlite import LOCKED_NS, QUIET_NS, RETRY_MAX_NS
from mailsrv.units import NS_PER_S


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "greylist.db")
    yield running
    running.store.close()


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
    assert running.loop.timers.next_wake_ns is None
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
    for number in range(minutes * 5):
        release = lock(running)
        running.check(("203.0.113.1", f"x{number}@example.com", "b@example.test"))
        running.advance(4)
        release()
        running.advance(8)
        assert running.store.backlog == 0
    assert NS_PER_S * 60 == QUIET_NS
    assert [event for event, _ in running.notes].count(FAILED) <= minutes + 1


def test_while_the_file_fails_the_memory_is_bounded(tmp_path: Path) -> None:
    running = Running(tmp_path / "missing" / "greylist.db", options={"backlog": 50})
    for number in range(500):
        running.check((f"203.0.{number % 250}.1", f"x{number}@example.com", TRIPLET[2]))
    assert running.store.backlog == 50
    for number in range(500):  # one network has its share of the backlog alone
        running.check(("198.51.100.1", f"x{number}@example.com", TRIPLET[2]))
    assert running.store.backlog == 50
    assert running.check(("203.0.249.1", "x499@example.com", TRIPLET[2])) == "DEFER"
    running.advance(300)
    assert running.check(("203.0.249.1", "x499@example.com", TRIPLET[2])) == "PASS"
    assert running.notes == [(FAILED, "No such file or directory")]
    running.store.close()


def test_without_a_file_what_is_stale_goes_from_memory(tmp_path: Path) -> None:
    running = Running(tmp_path / "missing" / "greylist.db")
    for number in range(8):
        running.check((TRIPLET[0], f"x{number}@example.com", TRIPLET[2]))
    running.advance(RETRY_WITHIN_S + 1)
    running.check()
    assert running.store.backlog == 1
    running.store.close()


def test_a_file_that_fails_is_tried_again_each_minute_and_without_new_mail(tmp_path: Path) -> None:
    running = Running(tmp_path / "missing" / "greylist.db")
    running.advance(3600)
    (tmp_path / "missing").mkdir()
    running.advance(RETRY_MAX_NS / NS_PER_S + 1)
    assert running.notes == [(FAILED, "No such file or directory"), (WORKS, None)]
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
    assert running.loop.timers.next_wake_ns is None  # no waiting mends it
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
