"""Whatever fails, nothing acknowledged is missing, and the spool works again without a restart."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from spooling import (
    START_S,
    FailingFiles,
    Trouble,
    codes,
    descriptors,
    failing,
    kept,
    left_over,
    received,
    spool_in,
)

from mailsrv.delivery.spool.database import CHECKPOINT_PAGES, PAGE_OCTETS
from mailsrv.delivery.spool.sink import ROW_OCTETS_MAX
from mailsrv.delivery.spool.spool import LOCKED_NS, LOCKED_PAUSE_NS, Spool
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.loop import Loop
from mailsrv.smtp.reply import Reply
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play.mailsrv_harness import VirtualPoll

LARGE = [b"x" * (ROW_OCTETS_MAX + 1), b"y" * ROW_OCTETS_MAX]


def acknowledged(folder: Path, replies: dict[int, list[Reply]]) -> None:
    """Everything with a 250 is there after a restart, and nothing that is there is half."""
    again = spool_in(folder)
    found = kept(again)
    for number, said in replies.items():
        assert len(said) == 1, "each message has one answer"
        assert said[0].code in (250, 451, 452)
        if said[0].code == 250:
            expected = b"".join(LARGE) if number % 2 else b"small"
            assert found[f"ID{number}"] == expected
    assert left_over(again) == []
    again.close()


def two_messages(spool: Spool, number: int) -> dict[int, list[Reply]]:
    """A large one with an odd number, and a small one, in one transaction."""
    replies = {
        number: received(spool, number, *LARGE),
        number + 1: received(spool, number + 1, b"small"),
    }
    spool.commit()
    return replies


# -- files ----------------------------------------------------------------------------------------

FILE_CALLS = 11
"""free_octets; create, write, close; reopen, write, close; reopen, sync, close; sync_directory."""


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("nth", range(FILE_CALLS))
@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.ENOSPC, 452), (errno.EDQUOT, 452), (errno.EIO, 451), (errno.EMFILE, 451)],
)
def test_a_file_operation_that_fails_is_a_temporary_failure_of_its_message(
    tmp_path: Path, code: int, said: int, nth: int, lasting: bool
) -> None:
    clock = FakeClock(START_S)
    files = FailingFiles(nth, code, lasting)
    spool = spool_in(tmp_path, clock, files=files)
    replies = two_messages(spool, 1)
    before = descriptors(tmp_path)
    clock.advance(1)
    files.armed = True
    replies |= two_messages(spool, 3)
    files.armed = False
    assert files.failed, "the failure was not reached: the test is out of date"
    assert [one.code for one in replies[3]] == [said]
    if not lasting:
        assert [one.code for one in replies[4]] == [250]
    assert descriptors(tmp_path) == before
    replies |= two_messages(spool, 5)
    assert codes(replies[number] for number in (1, 2, 5, 6)) == [[250]] * 4
    assert spool.open_octets == spool.open_contents == 0
    spool.close()
    acknowledged(tmp_path, replies)


# -- the database ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("nth", range(5))
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_FULL, 452),
        (sqlite3.SQLITE_IOERR | 4 << 8, 451),  # fsync
        (sqlite3.SQLITE_NOMEM, 451),
        (sqlite3.SQLITE_READONLY, 451),
    ],
)
def test_a_statement_that_fails_is_a_temporary_failure_of_all_that_wait(
    tmp_path: Path, code: int, said: int, nth: int, lasting: bool
) -> None:
    notes: list[str] = []
    trouble = Trouble(code)
    spool = spool_in(
        tmp_path, factory=failing(trouble), note=lambda event, error: notes.append(event)
    )
    replies = two_messages(spool, 1)
    spool.forget(spool.after(0, 1)[0])
    before = descriptors(tmp_path)
    trouble.armed, trouble.left, trouble.lasting = True, nth, lasting
    replies |= two_messages(spool, 3)
    trouble.armed = False
    assert trouble.failed, "the failure was not reached: the test is out of date"
    assert codes(replies[number] for number in (3, 4)) == [[said]] * 2
    assert notes.count("spool failed") == 1
    assert spool.trouble
    replies |= two_messages(spool, 5)
    assert codes(replies[number] for number in (5, 6)) == [[250]] * 2
    assert notes[-1] == "spool works again"
    assert not spool.trouble
    assert descriptors(tmp_path) == before
    spool.close()
    assert replies.pop(1)[0].code == 250  # that one was delivered, and is forgotten
    acknowledged(tmp_path, replies)
    assert "ID1" not in kept(spool_in(tmp_path))


def test_what_a_failed_transaction_left_in_the_log_is_not_kept(tmp_path: Path) -> None:
    """Its sync failed, and then that of the checkpoint at the end: the frames are still there."""
    failures: list[str] = []

    class FailingSync(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            cursor = super().execute(sql, *more)
            if sql == "COMMIT" and failures:
                raise sqlite3.OperationalError(failures.pop())
            return cursor

    spool = spool_in(tmp_path, factory=FailingSync)
    two_messages(spool, 1)
    spool.forget(spool.after(0, 1)[0])
    failures.append("disk I/O error")
    assert codes(two_messages(spool, 3).values()) == [[451], [451]]
    assert codes(two_messages(spool, 5).values()) == [[250], [250]]
    assert list(kept(spool)) == ["ID2", "ID5", "ID6"]
    expected = (3, 2 * len(b"small") + len(b"".join(LARGE)))
    assert (spool.messages, spool.octets) == expected
    spool.close()
    again = spool_in(tmp_path)
    assert (again.messages, again.octets) == expected


def test_a_checkpoint_that_fails_costs_no_message_and_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    trouble = Trouble(sqlite3.SQLITE_IOERR, only="wal_checkpoint")
    spool = spool_in(
        tmp_path, factory=failing(trouble), note=lambda event, error: notes.append(event)
    )
    trouble.armed, trouble.lasting = True, True
    replies: dict[int, list[Reply]] = {}
    number = 0
    while not trouble.failed:
        assert number < 10 * CHECKPOINT_PAGES * PAGE_OCTETS // ROW_OCTETS_MAX
        number += 2
        replies[number] = received(spool, number, b"small")
        received(spool, 10_000 + number, b"x" * ROW_OCTETS_MAX)
        spool.commit()
    replies |= two_messages(spool, 20_001)
    assert trouble.failed == ["PRAGMA wal_checkpoint(PASSIVE)"] * 2
    assert notes == ["spool checkpoint failed"]
    trouble.armed = False
    replies |= two_messages(spool, 20_003)
    assert notes == ["spool checkpoint failed", "spool checkpoint works again"]
    assert {said[0].code for said in replies.values()} == {250}
    spool.close()
    acknowledged(tmp_path, replies)


def test_while_another_process_writes_messages_wait_and_then_are_deferred(tmp_path: Path) -> None:
    clock = FakeClock(START_S)
    loop = Loop(clock, VirtualPoll(), lambda _, fault: pytest.fail(str(fault)))
    spool = spool_in(tmp_path, clock)
    spool.attach(loop)
    other = sqlite3.connect(tmp_path / "spool.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    replies = received(spool, 2, b"small")
    loop.dispatch(loop.now_ns)
    assert replies == []
    loop.expire()
    wake_ns = loop.timers.next_wake_ns
    assert wake_ns is not None and wake_ns <= loop.now_ns + LOCKED_PAUSE_NS + NS_PER_MS
    clock.advance(LOCKED_PAUSE_NS / NS_PER_S)
    loop.expire()
    assert loop.timers.next_wake_ns is not None, "nothing would try again"
    clock.advance(LOCKED_PAUSE_NS / NS_PER_S)
    other.execute("ROLLBACK")
    loop.dispatch(loop.now_ns)
    assert [one.code for one in replies] == [250]
    other.execute("BEGIN IMMEDIATE")
    replies = received(spool, 4, b"small")
    loop.dispatch(loop.now_ns)
    assert replies == []
    clock.advance(LOCKED_NS / NS_PER_S)
    loop.dispatch(loop.now_ns)
    assert [one.code for one in replies] == [451]
    other.close()
    replies = received(spool, 6, b"small")
    loop.dispatch(loop.now_ns)
    assert [one.code for one in replies] == [250]


def test_a_folder_that_was_taken_away_is_a_temporary_failure(tmp_path: Path) -> None:
    spool = spool_in(tmp_path / "spool")
    (tmp_path / "spool" / "content").rmdir()
    replies = [received(spool, 1, *LARGE), received(spool, 2, b"small")]
    spool.commit()
    assert codes(replies) == [[451], [250]]
