"""From the spool into the Maildir: in order, in steps, again after a failure, once after a kill."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from spooling import START_S, FailingFiles, kept, received, spool_in

from mailsrv.delivery.files import SystemFiles
from mailsrv.delivery.mailbox.maildir import Maildir
from mailsrv.delivery.mailbox.maildir_delivery import RETRY_MIN_NS, STEPS_MAX, MaildirDelivery
from mailsrv.delivery.spool.spool import PIECE_OCTETS
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.loop import Loop
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play.mailsrv_harness import VirtualPoll


class Run:
    """A spool and its Maildir, on a loop in virtual time."""

    def __init__(self, folder: Path, files: SystemFiles | None = None) -> None:
        self.notes: list[dict[str, Any]] = []
        self.folder = folder
        self.clock = FakeClock(START_S)
        self.loop = Loop(self.clock, VirtualPoll(), self._on_fault)
        self.spool = spool_in(folder / "spool", self.clock)
        self.delivery = MaildirDelivery(self.spool, self.clock, self._note)
        self.delivery.use(Maildir(folder / "mail", self.clock, files))
        self.spool.attach(self.loop)
        self.delivery.attach(self.loop)

    def _on_fault(self, _: object, fault: Exception) -> None:
        raise fault

    def _note(self, event: str, **values: object) -> None:
        self.notes.append({"event": event, **values})

    def go_on(self, for_ns: int) -> None:
        """Pass time, a timer after the other."""
        until_ns = self.clock.monotonic_ns() + for_ns
        while (wake_ns := self.loop.timers.next_wake_ns()) is not None and wake_ns <= until_ns:
            self.clock.advance(max(wake_ns - self.clock.monotonic_ns(), 0) / NS_PER_S)
            self.loop.dispatch(wake_ns)
            self.loop.expire()
        self.clock.advance((until_ns - self.clock.monotonic_ns()) / NS_PER_S)

    @property
    def delivered(self) -> list[str]:
        """Ids in ``new/``, in the order of their names."""
        names = sorted(os.listdir(self.folder / "mail" / "new"))
        return [name.partition("I")[2].partition(".")[0] for name in names]

    @property
    def events(self) -> list[str]:
        return [one["event"] for one in self.notes]


def test_messages_are_delivered_in_order_and_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for number in range(1, 5):
        received(run.spool, number, b"text\r\n")
    run.go_on(NS_PER_S)
    assert run.delivered == ["ID1", "ID2", "ID3", "ID4"]
    assert [one["id"] for one in run.notes] == run.delivered
    assert run.events == ["delivered"] * 4
    assert kept(run.spool) == {}
    assert run.loop.timers.next_wake_ns() is None, "nothing is left to do"


def test_a_large_message_is_delivered_piece_by_piece(tmp_path: Path) -> None:
    run = Run(tmp_path)
    pieces = 4 * STEPS_MAX
    received(run.spool, 1, *[b"x" * PIECE_OCTETS] * pieces)
    run.go_on(NS_PER_MS)
    steps = 0
    while not run.delivered:
        run.go_on(NS_PER_MS)
        steps += 1
        assert steps < 100
    assert steps >= pieces // STEPS_MAX - 2
    [path] = (tmp_path / "mail" / "new").iterdir()
    assert path.read_bytes().endswith(b"\n" + b"x" * PIECE_OCTETS * pieces)


def test_a_message_that_is_half_written_when_the_maildir_changes_goes_to_the_new_one(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    received(run.spool, 1, *[b"x" * PIECE_OCTETS] * 4 * STEPS_MAX)
    run.spool.commit()
    run.delivery.attach(run.loop)
    run.loop.expire()
    assert len(os.listdir(tmp_path / "mail" / "tmp")) == 1
    run.delivery.use(Maildir(tmp_path / "other", run.clock))
    run.go_on(NS_PER_S)
    # Only of the new one are the names synced before the spool forgets the message.
    assert len(os.listdir(tmp_path / "other" / "new")) == 1
    assert run.delivered == os.listdir(tmp_path / "mail" / "tmp") == []


def test_a_maildir_that_fails_is_tried_again_later_and_later_and_loses_nothing(
    tmp_path: Path,
) -> None:
    files = FailingFiles(0, errno.ENOSPC, lasting=True)
    run = Run(tmp_path, files)
    files.armed = True
    for number in (1, 2):
        received(run.spool, number, b"text\r\n")
    run.go_on(10 * RETRY_MIN_NS)
    assert run.notes == [{"event": "delivery failed", "error": os.strerror(errno.ENOSPC)}]
    assert len(files.failed) == 4  # after 1, 2 and 4 s
    assert list(kept(run.spool)) == ["ID1", "ID2"]
    files.armed = False
    run.go_on(20 * RETRY_MIN_NS)
    assert run.delivered == ["ID1", "ID2"]
    assert run.events == ["delivery failed", "delivered", "delivered", "delivery works again"]


class DirectoryFails(SystemFiles):
    """A folder whose names cannot be synced while ``armed``."""

    armed = False

    def sync_directory(self, path: Path) -> None:
        if self.armed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_directory(path)


def test_names_that_cannot_be_synced_are_not_believed(tmp_path: Path) -> None:
    files = DirectoryFails()
    run = Run(tmp_path, files)
    files.armed = True
    received(run.spool, 1, b"text\r\n")
    received(run.spool, 2, *[b"x" * PIECE_OCTETS] * 2 * STEPS_MAX)
    received(run.spool, 3, b"text\r\n")
    run.go_on(RETRY_MIN_NS // 2)
    assert run.events == ["delivery failed"]
    files.armed = False
    run.go_on(3 * RETRY_MIN_NS)
    assert run.delivered == ["ID1", "ID2", "ID3"]
    assert run.events.count("delivered") == 3
    assert kept(run.spool) == {}
    [large] = [path for path in (tmp_path / "mail" / "new").iterdir() if "ID2" in path.name]
    assert large.read_bytes().endswith(b"\n" + b"x" * PIECE_OCTETS * 2 * STEPS_MAX)


def test_what_a_reader_took_before_a_restart_is_not_delivered_again_after_a_failure(
    tmp_path: Path,
) -> None:
    count, files = 2 * STEPS_MAX, DirectoryFails()
    killed = Run(tmp_path)
    for number in range(count):
        received(killed.spool, number, b"text\r\n")
    killed.spool.commit()
    while len(killed.delivered) < count:
        killed.delivery._take_steps(0)
    os.close(killed.spool._lock)  # as the end of a process does
    killed.spool._lock = -1
    for path in (tmp_path / "mail" / "new").iterdir():
        path.rename(tmp_path / "mail" / "cur" / f"{path.name}:2,S")
    run = Run(tmp_path, files)
    files.armed = True
    run.go_on(4 * RETRY_MIN_NS)
    files.armed = False
    run.go_on(8 * RETRY_MIN_NS)
    assert kept(run.spool) == {}
    assert run.delivered == []


@pytest.mark.parametrize("read", [False, True])
def test_what_was_delivered_and_not_forgotten_when_the_process_was_killed_is_there_once(
    tmp_path: Path, read: bool
) -> None:
    killed = Run(tmp_path)
    received(killed.spool, 1, b"text\r\n")
    killed.go_on(10 * NS_PER_MS)
    assert killed.delivered == ["ID1"]
    assert list(kept(killed.spool)) == ["ID1"]
    os.close(killed.spool._lock)  # as the end of a process does
    killed.spool._lock = -1
    if read:
        [path] = (tmp_path / "mail" / "new").iterdir()
        path.rename(tmp_path / "mail" / "cur" / f"{path.name}:2,S")
    run = Run(tmp_path)
    received(run.spool, 2, b"text\r\n")
    run.go_on(NS_PER_S)
    assert run.delivered == (["ID2"] if read else ["ID1", "ID2"])
    assert kept(run.spool) == {}


def test_a_message_that_cannot_be_read_is_told_and_holds_up_no_other(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for number in (1, 2):
        received(run.spool, number, b"x" * 100_000)
    received(run.spool, 3, b"text\r\n")
    run.spool.commit()
    (tmp_path / "spool" / "content" / "ID1").unlink()
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as other:
        other.execute("UPDATE message SET envelope = '{}' WHERE id = 'ID2'")
        other.commit()
    run.go_on(NS_PER_S)
    assert run.delivered == ["ID3"]
    assert [(one["event"], one["id"]) for one in run.notes] == [
        ("message unreadable", "ID1"),
        ("message unreadable", "ID2"),
        ("delivered", "ID3"),
    ]
    assert [one.id for one in run.spool.after(0, 10)] == ["ID1", "ID2"], "they are kept"


def test_the_end_of_the_process_delivers_what_is_there(tmp_path: Path) -> None:
    run = Run(tmp_path)
    received(run.spool, 1, b"x" * 3 * PIECE_OCTETS)
    received(run.spool, 2, b"text\r\n")
    run.spool.commit()
    run.delivery.finish()
    run.spool.close()
    assert run.delivered == ["ID1", "ID2"]
    assert kept(spool_in(tmp_path / "spool")) == {}
