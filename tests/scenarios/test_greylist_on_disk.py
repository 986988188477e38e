"""The shipped server with its greylist in a file: restarts, and a disk that fails under it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailsrv.policy.greylist import Greylist
from mailsrv.settings import Settings
from mailsrv.stores.greylist_sqlite import SqliteStore
from mailsrv.units import NS_PER_S
from replay.play.mailsrv_harness import MailsrvHarness
from replay.testing import VirtualSender

CLIENT = "192.0.2.1"
FAILED = "greylist database failed"
WORKS = "greylist database works again"


class Rig:
    """A server and what its greylist's file has met."""

    def __init__(self, path: Path) -> None:
        self.notes: list[tuple[str, str | None]] = []
        self.store = SqliteStore(str(path), lambda *note: self.notes.append(note))
        settings = Settings(hostname="mx.example.test", greylist=True)
        self.harness = MailsrvHarness(
            settings, greylist=lambda clock: Greylist.of(settings, clock, self.store)
        )
        self.store.attach(self.harness.server.loop)

    def tries(self, code: int, sender: str = "ann", client: str = CLIENT) -> None:
        """A sender's whole session, with the reply to RCPT that it gets."""
        one = VirtualSender(self.harness, client)
        one.expect(220)
        for line, expected in (
            ("HELO client.example", 250),
            (f"MAIL FROM:<{sender}@example.org>", 250),
            ("RCPT TO:<bob@example.test>", code),
            ("QUIT", 221),
        ):
            one.send(line)
            one.expect(expected)
        one.release()
        self.harness.settle()

    def wait(self, seconds: float) -> None:
        self.harness.run_until(self.harness.now_ns + round(seconds * NS_PER_S))


@contextmanager
def rig(path: Path) -> Iterator[Rig]:
    rig = Rig(path)
    with rig.harness:
        yield rig
        rig.store.close()


def test_a_server_that_is_started_again_knows_who_came_before(tmp_path: Path) -> None:
    path = tmp_path / "greylist.db"
    with rig(path) as first:
        first.tries(450)
        first.wait(300)
        first.tries(250)
    with rig(path) as second:
        second.tries(250)
        second.tries(450, sender="eve")


def test_with_a_full_disk_mail_flows_and_senders_are_asked_to_come_back(tmp_path: Path) -> None:
    with rig(tmp_path / "greylist.db") as one:
        one.tries(450)
        one.wait(300)
        one.tries(250)
        assert one.store._file is not None
        disk = one.store._file._connection
        disk.execute("PRAGMA max_page_count = 1")  # as small as it is
        number = 0
        while not one.notes:
            number += 1
            one.tries(450, sender=f"s{number}", client=f"198.{number}.2.1")
            assert number < 200
        one.tries(250)
        one.wait(300)
        one.tries(250, sender=f"s{number}", client=f"198.{number}.2.1")
        assert one.notes == [(FAILED, "database or disk is full")]
        disk.execute("PRAGMA max_page_count = 100000")
        one.wait(120)
        assert one.notes == [(FAILED, "database or disk is full"), (WORKS, None)]
        assert one.store.backlog == 0


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_another_process_that_locks_the_file_delays_no_reply(tmp_path: Path, begin: str) -> None:
    path = tmp_path / "greylist.db"
    with rig(path) as one:
        one.tries(450)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute(begin)
        one.wait(300)
        before_ns = one.harness.now_ns
        one.tries(250)
        assert one.harness.now_ns == before_ns
        other.close()
        one.wait(60)
        assert one.store.backlog == 0
