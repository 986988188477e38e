"""From the spool into the Maildir: in order, in steps, again after a failure, once after a kill."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from queueing import MaildirRun
from spooling import FailingFiles, kept, received, spool_in

from mailsrv.delivery.files import SystemFiles
from mailsrv.delivery.mailbox.maildir_delivery import RETRY_MIN_NS
from mailsrv.delivery.mailbox.paced_runs import STEPS_MAX
from mailsrv.delivery.spool.queue_table import QueueTable
from mailsrv.delivery.spool.spool import PIECE_OCTETS
from mailsrv.units import NS_PER_MS, NS_PER_S


def test_messages_are_delivered_in_order_and_forgotten(tmp_path: Path) -> None:
    run = MaildirRun(tmp_path)
    for number in range(1, 5):
        received(run.spool, number, b"text\r\n")
    run.go_on(NS_PER_S)
    assert run.delivered == ["ID1", "ID2", "ID3", "ID4"]
    assert [one["id"] for one in run.notes] == run.delivered
    assert run.events == ["delivered"] * 4
    assert kept(run.spool) == {}
    assert run.loop.timers.next_wake_ns is None, "nothing is left to do"


def test_a_large_message_is_delivered_piece_by_piece(tmp_path: Path) -> None:
    run = MaildirRun(tmp_path)
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
    run = MaildirRun(tmp_path)
    received(run.spool, 1, *[b"x" * PIECE_OCTETS] * 4 * STEPS_MAX)
    run.spool.commit()
    while not os.listdir(tmp_path / "mail" / "tmp"):
        run.go_on(NS_PER_MS)
    run.use("other")
    run.go_on(NS_PER_S)
    # Only of the new one are the names synced before the spool forgets the message.
    assert len(os.listdir(tmp_path / "other" / "new")) == 1
    assert run.delivered == os.listdir(tmp_path / "mail" / "tmp") == []


def test_a_maildir_that_fails_is_tried_again_later_and_later_and_loses_nothing(
    tmp_path: Path,
) -> None:
    files = FailingFiles(0, errno.ENOSPC, lasting=True)
    run = MaildirRun(tmp_path, files)
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
    run = MaildirRun(tmp_path, files)
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
    killed = MaildirRun(tmp_path)
    for number in range(count):
        received(killed.spool, number, b"text\r\n")
    while len(killed.delivered) < count:
        killed.go_on(NS_PER_MS)
    killed.kill()
    for path in (tmp_path / "mail" / "new").iterdir():
        path.rename(tmp_path / "mail" / "cur" / f"{path.name}:2,S")
    run = MaildirRun(tmp_path, files)
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
    killed = MaildirRun(tmp_path)
    received(killed.spool, 1, b"text\r\n")
    killed.go_on(10 * NS_PER_MS)
    assert killed.delivered == ["ID1"]
    assert list(kept(killed.spool)) == ["ID1"]
    killed.kill()
    if read:
        [path] = (tmp_path / "mail" / "new").iterdir()
        path.rename(tmp_path / "mail" / "cur" / f"{path.name}:2,S")
    run = MaildirRun(tmp_path)
    received(run.spool, 2, b"text\r\n")
    run.go_on(NS_PER_S)
    assert run.delivered == (["ID2"] if read else ["ID1", "ID2"])
    assert kept(run.spool) == {}


def test_a_message_that_cannot_be_read_is_told_and_holds_up_no_other(tmp_path: Path) -> None:
    run = MaildirRun(tmp_path)
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
    unreadable = {one["id"] for one in run.notes if one["event"] == "message unreadable"}
    assert unreadable == {"ID1", "ID2"}
    assert [one.id for one in run.spool.after(0, 10)] == ["ID1", "ID2"], "they are kept"
    assert all(run.spool.read(partial(QueueTable.one, number=n)).row.held for n in (1, 2))


def test_the_end_of_the_process_delivers_what_is_there(tmp_path: Path) -> None:
    run = MaildirRun(tmp_path)
    received(run.spool, 1, b"x" * 3 * PIECE_OCTETS)
    received(run.spool, 2, b"text\r\n")
    run.spool.commit()
    run.queue.stop()
    while run.queue.busy:
        run.go_on(NS_PER_MS)
    run.spool.close()
    assert run.delivered == ["ID1", "ID2"]
    assert kept(spool_in(tmp_path / "spool")) == {}
