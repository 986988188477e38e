"""For tests of the spool and what is behind it: envelopes, replies, and files that fail."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mailsrv.delivery.files import SystemFiles
from mailsrv.delivery.spool.disk_room import Limits
from mailsrv.delivery.spool.rows import StoredMessage
from mailsrv.delivery.spool.sink import SpoolSink
from mailsrv.delivery.spool.spool import Spool
from mailsrv.runtime.clock import Clock, FakeClock
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply

START_S = 1_700_000_000.123457
ROOMY = Limits(used_max_octets=1 << 40, free_min_octets=0)


def envelope(number: int = 1, recipients: int = 1) -> Envelope:
    return Envelope(
        "192.0.2.1",
        "client.example",
        "ESMTP",
        f"ID{number}",
        MailPath("a", "example.org"),
        [MailPath("b" if n == 0 else f"b{n}", "example.test") for n in range(recipients)],
    )


def spool_in(folder: Path, clock: Clock | None = None, **more: Any) -> Spool:
    limits = more.pop("limits", ROOMY)
    return Spool(folder, "mx.example.test", clock or FakeClock(START_S), limits, **more)


def received(spool: Spool, number: int, *chunks: bytes) -> list[Reply]:
    """Send a message; the list gets its reply."""
    replies: list[Reply] = []
    begun(spool, number, *chunks).finish(replies.append)
    return replies


def begun(spool: Spool, number: int, *chunks: bytes) -> SpoolSink:
    sink = spool.begin(envelope(number))
    for chunk in chunks:
        sink.write(chunk)
    return sink


def codes(replies: Iterable[list[Reply]]) -> list[list[int]]:
    return [[one.code for one in each] for each in replies]


def kept(spool: Spool) -> dict[str, bytes]:
    """The contents in the spool, by id."""
    return {one.id: b"".join(spool.content(one)) for one in spool.after(0, 1_000_000)}


def left_over(spool: Spool) -> list[str]:
    """Large contents of no message."""
    names = os.listdir(spool.folder / "content")
    known = {one.id for one in spool.after(0, 1_000_000) if one.in_file}
    return sorted(set(names) - known)


def descriptors(folder: Path) -> int:
    """Open files in ``folder``."""
    paths = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the list itself
            paths.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(path.startswith(f"{folder}/") for path in paths)


def stored_message(number: int = 1, id_: str = "ID1", octets: int = 0) -> StoredMessage:
    received_ns = 1_700_000_000_123_457_000
    return StoredMessage(number, id_, received_ns, "mx.example.test", octets, "{}", in_file=False)


class FailingFiles(SystemFiles):
    """Fails its ``nth`` call (from 0) with ``code``, and all later ones too if ``lasting``."""

    def __init__(self, nth: int, code: int, lasting: bool) -> None:
        self.armed = False
        self.left = nth
        self.code = code
        self.lasting = lasting
        self.failed: list[str] = []

    def step(self, name: str) -> None:
        if self.armed:
            self.left -= 1
            if self.left == -1 or (self.lasting and self.left < -1):
                self.failed.append(name)
                raise OSError(self.code, os.strerror(self.code))

    def create(self, path: Path) -> int:
        self.step("create")
        return super().create(path)

    def reopen(self, path: Path) -> int:
        self.step("reopen")
        return super().reopen(path)

    def write(self, descriptor: int, octets: bytes | memoryview) -> int:  # type: ignore[override]
        self.step("write")
        return os.write(descriptor, octets)

    def sync(self, descriptor: int) -> None:  # type: ignore[override]
        self.step("sync")

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.step("close")

    def link(self, existing: Path, new: Path) -> None:  # type: ignore[override]
        self.step("link")
        os.link(existing, new)

    def remove(self, path: Path) -> None:  # type: ignore[override]
        self.step("remove")
        os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory")

    def free_octets(self, path: Path) -> int:
        self.step("free_octets")
        return super().free_octets(path)


class Syncs(SystemFiles):
    """Remembers which folders were synced."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def sync_directory(self, path: Path) -> None:
        self.folders.append(path)
        super().sync_directory(path)


class Trouble:
    """Which call of SQLite fails, shared by all connections that ``failing`` makes."""

    def __init__(self, code: int, only: str = "") -> None:
        self.code = code
        self.only = only
        self.armed = False
        self.left = 0
        self.lasting = False
        self.failed: list[str] = []

    def step(self, statement: str) -> None:
        if self.armed and self.only in statement:
            self.left -= 1
            if self.left == -1 or (self.lasting and self.left < -1):
                self.failed.append(statement)
                error = sqlite3.OperationalError("made to fail")
                error.sqlite_errorcode = self.code
                raise error


def failing(trouble: Trouble) -> type[sqlite3.Connection]:
    """A class of connections whose calls fail as ``trouble`` says."""

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            trouble.step(sql)
            return super().execute(sql, *more)

        def executemany(self, sql: str, *more: Any) -> sqlite3.Cursor:
            trouble.step(sql)
            return super().executemany(sql, *more)

        def executescript(self, sql: str) -> sqlite3.Cursor:
            trouble.step(sql)
            return super().executescript(sql)

    return Failing
