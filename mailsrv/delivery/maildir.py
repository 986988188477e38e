"""Delivery into a Maildir: the 250 is sent when the message would survive a power cut.

A message is written to ``tmp/``, synced, linked into ``new/``, and ``new/`` is synced: readers
see whole messages only, and an acknowledged one is on the disk under its final name.  A link, not
a rename, because a link never replaces a message that is there.

Small messages stay in memory, so that one costs a single write and an aborted one no file at
all.  Line ends are stored as LF, as is the custom in Maildirs.

Syncing holds up the loop for as long as the disk takes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.smtp import reply
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.trace import trace_fields
from mailsrv.units import NS_PER_S

HELD_OCTETS_MAX = 64 * 1024
"""Content of one message held in memory before it is written."""
NAME_RANDOM_BITS = 32
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
_UNSAFE_IN_FILE_NAME = re.compile(r"[^A-Za-z0-9.-]")


ABANDONED_AFTER_S = 36 * 3600
"""What lies in ``tmp/`` for longer was left by a delivery that died: the Maildir convention."""
SWEPT_MAX = 100_000
"""Names in ``tmp/`` that are looked at when the server starts."""


class Files(Protocol):
    """The part of the file system that a Maildir needs.  Each method raises OSError."""

    def create(self, path: Path) -> int:
        """Make a file that must not exist yet; returns its descriptor, for writing."""

    def write(self, descriptor: int, octets: bytes | memoryview) -> int:
        """Write; returns how many octets were written."""

    def sync(self, descriptor: int) -> None:
        """Wait until the file is on the disk."""

    def close(self, descriptor: int) -> None:
        """Close; the descriptor is gone even if this fails."""

    def link(self, existing: Path, new: Path) -> None:
        """Make a second name for a file; fails if that name exists."""

    def remove(self, path: Path) -> None:
        """Remove a name."""

    def sync_directory(self, path: Path) -> None:
        """Wait until the names in a directory are on the disk."""


class SystemFiles:
    """The file system, unbuffered."""

    __slots__ = ()

    write = staticmethod(os.write)
    sync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    link = staticmethod(os.link)
    remove = staticmethod(os.unlink)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class MaildirCourier:
    """Delivers into the Maildir ``directory``, which is made if it is not there.

    ``on_failure`` is called with the reason why a message could not be stored, for the log; the
    sender gets a temporary failure.  Raises OSError if the directories cannot be made.
    """

    def __init__(
        self,
        directory: Path | str,
        hostname: str,
        clock: Clock,
        random: Random,
        *,
        files: Files | None = None,
        on_failure: Callable[[OSError], None] | None = None,
    ) -> None:
        self._directory = Path(directory)
        self._hostname = hostname
        self._clock = clock
        self._random = random
        self._begun = 0
        self.files: Files = files or SystemFiles()
        self.on_failure = on_failure
        self.tmp = self._directory / "tmp"
        self.new = self._directory / "new"
        self._make_directories()
        self._sweep()

    def begin(self, envelope: Envelope) -> MaildirSink:
        realtime_ns = self._clock.realtime_ns()
        fields = trace_fields(envelope, self._hostname, realtime_ns)
        return MaildirSink(self, envelope.id, self._unique_name(envelope.id, realtime_ns), fields)

    def _make_directories(self) -> None:
        is_new = not self._directory.exists()
        self._directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        for part in (self.tmp, self.new, self._directory / "cur"):
            part.mkdir(DIRECTORY_MODE, exist_ok=True)
        # A synced message is still lost if the name of its directory is.
        self.files.sync_directory(self._directory)
        if is_new:
            self.files.sync_directory(self._directory.parent)

    def _sweep(self) -> None:
        """Remove what a killed server left in ``tmp/``, once no process can be writing it."""
        oldest_ns = self._clock.realtime_ns() - ABANDONED_AFTER_S * NS_PER_S
        with contextlib.suppress(OSError), os.scandir(self.tmp) as entries:
            for entry in islice(entries, SWEPT_MAX):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime_ns < oldest_ns:
                    self.files.remove(Path(entry.path))

    def _unique_name(self, envelope_id: str, realtime_ns: int) -> str:
        """A name that no other delivery uses, in the shape that Maildir readers expect."""
        self._begun += 1
        seconds, rest_ns = divmod(realtime_ns, NS_PER_S)
        unique = (
            f"M{rest_ns // 1000:06}Q{self._begun}"
            f"R{self._random.getrandbits(NAME_RANDOM_BITS):08X}I{envelope_id}"
        )
        return _UNSAFE_IN_FILE_NAME.sub("_", f"{seconds}.{unique}.{self._hostname}")


class MaildirSink:
    """One message on its way into the Maildir."""

    __slots__ = (
        *("_chunks", "_courier", "_descriptor", "_ended", "_failure", "_files", "_held_octets"),
        *("_id", "_new", "_tmp", "_tmp_exists"),
    )

    def __init__(self, courier: MaildirCourier, envelope_id: str, name: str, head: bytes) -> None:
        self._courier = courier
        self._files = courier.files
        self._id = envelope_id
        self._tmp = courier.tmp / name
        self._new = courier.new / name
        self._chunks = [head]
        self._held_octets = len(head)
        self._descriptor: int | None = None
        self._tmp_exists = False
        self._failure: OSError | None = None
        self._ended = False

    def write(self, chunk: bytes) -> None:
        if self._failure is not None or self._ended:
            return
        self._chunks.append(chunk)
        self._held_octets += len(chunk)
        if self._held_octets >= HELD_OCTETS_MAX:
            try:
                self._write_held()
            except OSError as error:
                self._fail(error)

    def finish(self, answer: Callable[[Reply], None]) -> None:
        if self._failure is None:
            try:
                self._store()
            except OSError as error:
                self._fail(error)
        self._ended = True
        if self._failure is None:
            answer(reply.queued(self._id))
        elif self._failure.errno in _NO_ROOM:
            answer(reply.STORAGE_FULL)
        else:
            answer(reply.LOCAL_ERROR)

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._forget()

    def _store(self) -> None:
        descriptor = self._write_held(last=True)
        self._files.sync(descriptor)
        self._descriptor = None
        self._files.close(descriptor)
        self._files.link(self._tmp, self._new)
        try:
            self._files.sync_directory(self._courier.new)
        except OSError:
            # The sender will try again: what may or may not be there would be a duplicate.
            with contextlib.suppress(OSError):
                self._files.remove(self._new)
            raise
        self._forget()

    def _write_held(self, last: bool = False) -> int:
        """Write what is held; only the message's end may leave a CR that waits for its LF."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held_octets = 0
        if not last and data.endswith(b"\r"):
            data = data[:-1]
            self._chunks.append(b"\r")
            self._held_octets = 1
        if self._descriptor is None:
            self._descriptor = self._files.create(self._tmp)
            self._tmp_exists = True
        rest = memoryview(data.replace(b"\r\n", b"\n"))
        while rest:  # ends: the system takes an octet at least, or fails
            rest = rest[self._files.write(self._descriptor, rest) :]
        return self._descriptor

    def _fail(self, error: OSError) -> None:
        self._failure = error
        self._forget()
        if self._courier.on_failure is not None:
            self._courier.on_failure(error)

    def _forget(self) -> None:
        """Release the memory, the descriptor and the name in ``tmp/``, as far as possible."""
        self._chunks.clear()
        self._held_octets = 0
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                self._files.close(descriptor)
        if self._tmp_exists:
            self._tmp_exists = False
            with contextlib.suppress(OSError):
                self._files.remove(self._tmp)
