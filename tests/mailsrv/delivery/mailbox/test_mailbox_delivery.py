"""A Maildir for each recipient: each gets a copy, learns of nobody else, and waits for nobody."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from noticing import envelope_to
from queueing import VirtualRun
from spooling import FailingFiles, kept

from mailsrv.config.deliveries import ToMaildir
from mailsrv.delivery.files import SystemFiles
from mailsrv.delivery.mailbox.local_delivery import at_start
from mailsrv.delivery.mailbox.mailbox_delivery import MailboxDelivery
from mailsrv.delivery.mailbox.mailboxes import Mailboxes, UnsafeFolderError
from mailsrv.delivery.mailbox.paced_runs import STEPS_MAX
from mailsrv.delivery.queue.ways import OneWay, Way
from mailsrv.delivery.spool.spool import PIECE_OCTETS
from mailsrv.policy.recipients import Directory, Mailbox
from mailsrv.runtime.clock import FakeClock
from mailsrv.smtp.reply import Reply
from mailsrv.units import NS_PER_MS, NS_PER_S

TABLE = {"ann@example.org", "bob@example.org", "ann@example.net", "@example.net"}
DIRECTORY = Directory(["example.org", "example.net"], TABLE, hostname="mx.example.test")
ANN, BOB = Mailbox("ann", "example.org"), Mailbox("bob", "example.org")


class NewFails(SystemFiles):
    """Cannot sync the names in ``new/`` while it is ``failing``."""

    def __init__(self) -> None:
        self.failing = True
        self.asked: list[Path] = []

    def sync_directory(self, path: Path) -> None:
        if path.name == "new":
            self.asked.append(path)
            if self.failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_directory(path)


class SlowFiles(SystemFiles):
    """Each sync takes 5 ms; ``calls`` counts them."""

    def __init__(self, clock: list[FakeClock]) -> None:
        self._clock = clock
        self.calls = 0

    def sync(self, descriptor: int) -> None:  # type: ignore[override]
        self._take_long()

    def sync_directory(self, path: Path) -> None:
        self._take_long()

    def _take_long(self) -> None:
        self.calls += 1
        for one in self._clock:
            one.advance(0.005)


class MailboxRun(VirtualRun):
    """A queue that delivers into ``mail/{domain}/{local}``."""

    def __init__(self, folder: Path, files: SystemFiles | None = None) -> None:
        super().__init__(folder)
        delivery = ToMaildir(folder / "mail" / "{domain}" / "{local}")
        out = MailboxDelivery(
            Mailboxes(delivery, self.clock, files),
            DIRECTORY.mailbox,
            self.clock,
            at_start(self.spool),
        )
        out.attach(self.loop)
        self.queue.use(OneWay(Way("mailboxes", out, local=True)))
        self.begin()

    def receive(self, *recipients: str, content: Iterable[bytes] = (b"text\r\n",)) -> None:
        envelope = envelope_to(*recipients)
        envelope.id = f"ID{self.spool.next_number}"
        sink = self.spool.begin(envelope)
        for chunk in content:
            sink.write(chunk)
        replies: list[Reply] = []
        sink.finish(replies.append)
        self.spool.commit()
        assert [one.code for one in replies] == [250]

    def copies(self) -> dict[str, list[str]]:
        """The text of each copy in ``new/``, by folder."""
        root = self.folder / "mail"
        return {
            str(new.parent.relative_to(root)): sorted(
                path.read_bytes().decode() for path in new.iterdir()
            )
            for new in sorted(root.glob("*/*/new"))
            if any(new.iterdir())
        }


def test_each_recipient_gets_a_copy_that_names_nobody_else(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    run.receive("ann@example.org", "Bob+x@Example.org", "ann@example.net", "carl@example.net")
    run.go_on(NS_PER_S)
    copies = run.copies()
    assert copies.keys() == {
        *("example.org/ann", "example.org/bob", "example.net/ann", "example.net/@")
    }
    written = {
        "example.org/ann": "ann@example.org",
        "example.org/bob": "Bob+x@Example.org",
        "example.net/ann": "ann@example.net",
        "example.net/@": "carl@example.net",
    }
    for folder, recipient in written.items():
        (text,) = copies[folder]
        assert text.startswith(
            f"Return-Path: <sven@sender.example>\nDelivered-To: {recipient}\nReceived: "
        )
        named = [one for one in written.values() if one.lower() in text.lower()]
        assert named == [recipient]
        assert text.endswith("\ntext\n")
    assert kept(run.spool) == {}
    assert run.events == ["delivered"]


def test_the_only_recipient_may_stand_in_the_received_field(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    run.receive("ann@example.org")
    run.go_on(NS_PER_S)
    assert "for <ann@example.org>;" in run.copies()["example.org/ann"][0]


def test_who_is_addressed_twice_gets_it_once(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    run.receive("ann@example.org", "ann+x@example.org", "ANN@example.org")
    run.go_on(NS_PER_S)
    assert [len(texts) for texts in run.copies().values()] == [1]
    assert run.events == ["delivered"]


def test_who_does_not_exist_any_more_has_no_folder_made(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    run.receive("ghost@example.org", "ann@example.org", "ann@elsewhere.example")
    run.go_on(NS_PER_S)
    assert run.copies().keys() == {"example.org/ann"}
    assert sorted(os.listdir(tmp_path / "mail")) == ["example.org"]
    failed = [one for one in run.notes if one["event"] == "failed"]
    assert [(one["status"], one["recipients"]) for one in failed] == [
        ("5.1.1", ["<ghost@example.org>", "<ann@elsewhere.example>"])
    ]
    assert kept(run.spool) == {}


def test_folders_are_for_nobody_else_to_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        run = MailboxRun(tmp_path)
        run.receive("ann@example.org")
        run.go_on(NS_PER_S)
    finally:
        os.umask(old)
    root = tmp_path / "mail" / "example.org"
    for folder in (root, root / "ann", root / "ann" / "new"):
        assert folder.stat().st_mode & 0o777 == 0o700
    (copy,) = (root / "ann" / "new").iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600


# -- one that fails -------------------------------------------------------------------------------


def test_a_mailbox_that_fails_keeps_nobody_waiting_and_is_tried_again(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    (tmp_path / "mail" / "example.org").mkdir(parents=True)
    (tmp_path / "mail" / "example.org" / "ann").write_text("in the way")
    run.receive("ann@example.org", "bob@example.org")
    run.receive("bob@example.org")
    run.go_on(10 * NS_PER_S)
    assert len(run.copies()["example.org/bob"]) == 2
    deferred = [one for one in run.notes if one["event"] == "deferred"]
    assert [(one["status"], one["recipients"]) for one in deferred] == [
        ("4.3.0", ["<ann@example.org>"])
    ]
    (tmp_path / "mail" / "example.org" / "ann").unlink()
    run.go_on(24 * 3600 * NS_PER_S)
    assert len(run.copies()["example.org/ann"]) == 1
    assert len(run.copies()["example.org/bob"]) == 2
    assert kept(run.spool) == {}


def test_every_call_of_the_file_system_may_fail_and_nothing_is_lost(tmp_path: Path) -> None:
    for nth in range(60):
        folder = tmp_path / str(nth)
        files = FailingFiles(nth, errno.EIO, lasting=False)
        run = MailboxRun(folder, files)
        files.armed = True
        run.receive("ann@example.org", "bob@example.org")
        run.receive("bob@example.org", content=[b"other\r\n"])
        run.go_on(24 * 3600 * NS_PER_S)
        copies = run.copies()
        assert [len(copies[name]) for name in ("example.org/ann", "example.org/bob")] == [1, 2]
        assert kept(run.spool) == {}
        left = list((folder / "mail").glob("*/*/tmp/*"))
        assert not left or files.failed == ["remove"]  # that one goes when the server starts
        run.spool.close()
        if not files.failed:
            assert nth > 20, "the calls were counted"
            return
    pytest.fail("it never got through")


def test_nothing_is_delivered_before_its_name_is_on_the_disk(tmp_path: Path) -> None:
    files = NewFails()
    run = MailboxRun(tmp_path, files)
    run.receive("ann@example.org", "bob@example.org")
    run.go_on(NS_PER_S)
    assert {path.parent.name for path in files.asked} == {"ann", "bob"}
    assert run.events == ["deferred"]
    assert len(kept(run.spool)) == 1
    files.failing = False
    run.go_on(24 * 3600 * NS_PER_S)
    assert run.events == ["deferred", "delivered"]
    assert [len(texts) for texts in run.copies().values()] == [1, 1]
    assert kept(run.spool) == {}


def test_a_large_message_for_many_is_written_in_steps(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    pieces = 2 * STEPS_MAX
    run.receive("ann@example.org", "bob@example.org", content=[b"x" * PIECE_OCTETS] * pieces)
    runs = 0
    while kept(run.spool):
        run.go_on(NS_PER_MS)
        runs += 1
        assert runs < 1000
    assert runs >= 2 * pieces // STEPS_MAX - 2
    assert all(text.endswith("x" * PIECE_OCTETS * pieces) for (text,) in run.copies().values())


def test_a_mailbox_on_a_slow_disk_holds_up_the_loop_for_one_copy_at_a_time(tmp_path: Path) -> None:
    clock: list[FakeClock] = []
    files = SlowFiles(clock)
    run = MailboxRun(tmp_path, files)
    clock.append(run.clock)
    run.receive(*(f"{one}@example.{end}" for one in ("ann", "bob") for end in ("org", "net")))
    syncs_max = 0
    while (wake_ns := run.loop.timers.next_wake_ns) is not None and kept(run.spool):
        run.clock.advance(max(wake_ns - run.clock.monotonic_ns(), 0) / NS_PER_S)
        began_ns, files.calls = run.clock.monotonic_ns(), 0
        run.loop.dispatch(began_ns)
        run.loop.expire()
        syncs_max = max(syncs_max, files.calls)
    assert len(run.copies()) == 4
    assert syncs_max <= 10  # to make one mailbox, and to write one copy into it


def test_what_a_killed_process_had_delivered_is_not_delivered_again(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    run.receive("ann@example.org", "bob@example.org")
    while len(run.copies()) < 2:
        run.go_on(NS_PER_MS // 100)
    new = tmp_path / "mail" / "example.org" / "ann" / "new"
    (copy,) = new.iterdir()
    copy.rename(new.parent / "cur" / f"{copy.name}:2,S")  # it is read
    assert kept(run.spool), "not forgotten yet"
    run.kill()
    again = MailboxRun(tmp_path)
    again.go_on(NS_PER_S)
    assert again.copies().keys() == {"example.org/bob"}
    assert len(again.copies()["example.org/bob"]) == 1
    assert kept(again.spool) == {}


# -- folders that lead elsewhere ------------------------------------------------------------------


def opened(root: Path) -> None:
    Mailboxes(ToMaildir(root / "mail" / "{domain}" / "{local}"), FakeClock(0)).open(ANN)


@pytest.mark.parametrize("link", ["example.org", "example.org/ann", "example.org/ann/new"])
def test_a_link_in_the_way_is_not_followed(tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = tmp_path / "mail" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere)
    with pytest.raises(UnsafeFolderError, match="is a link"):
        opened(tmp_path)
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_the_way_has_the_mail_wait(tmp_path: Path) -> None:
    run = MailboxRun(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "example.org").symlink_to(elsewhere)
    run.receive("ann@example.org")
    run.go_on(NS_PER_S)
    assert list(elsewhere.iterdir()) == []
    assert len(kept(run.spool)) == 1
    assert "a link" in run.notes[0]["reply"]


@pytest.mark.parametrize("folder", ["example.org", "example.org/ann"])
def test_a_folder_that_everybody_may_write_to_is_not_used(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "mail" / folder
    path.mkdir(parents=True)
    path.chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="writable by everybody"):
        opened(tmp_path)
    path.chmod(0o755)
    opened(tmp_path)


def test_the_path_itself_may_be_shared_only_if_none_can_replace_what_is_in_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail").chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="writable by everybody"):
        opened(tmp_path)
    (tmp_path / "mail").chmod(0o1777)
    opened(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "mail" / "example.org"
    path.mkdir(parents=True)
    os.chown(path, 12345, -1)
    with pytest.raises(UnsafeFolderError, match="belongs to somebody else"):
        opened(tmp_path)
    os.chown(tmp_path / "mail", 12345, -1)  # the owner of the whole store
    opened(tmp_path)
