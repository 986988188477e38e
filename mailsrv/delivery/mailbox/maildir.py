"""Delivery into a Maildir, from the spool.

A message is written to ``tmp/``, synced and linked into ``new/``: readers see whole messages only.
Several may be linked before ``new/`` is synced, once for all: then they are on the disk under their
final names.  A link, not a rename, because a link never replaces a message that is there.

The name follows from what the spool knows of the message, so that one which is delivered again,
because the process was killed before the spool had forgotten it, is found to be there already.

The envelope goes with the message: the reverse-path as Return-Path, the recipients as Envelope-To
or, where each has a Maildir, the one as Delivered-To, the rest in our Received field.  Line ends
are stored as LF, as is the custom in Maildirs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from mailsrv.delivery.files import (
    DIRECTORY_MODE,
    Files,
    SystemFiles,
    make_directory,
    write_all,
)
from mailsrv.delivery.job import Job
from mailsrv.delivery.spool.rows import StoredMessage
from mailsrv.runtime.clock import Clock
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.trace import return_path
from mailsrv.units import NS_PER_S

HELD_OCTETS_MAX = 64 * 1024
"""Content of one message held in memory before it is written."""
ABANDONED_AFTER_S = 36 * 3600
"""What lies in ``tmp/`` for longer was left by a delivery that died: the Maildir convention."""
NAME_OCTETS_MAX = 200
"""Of a file's name: a file system takes 255, and readers add their flags."""
SWEPT_MAX = 100_000
"""Names in a directory that are looked at when the server starts."""

_UNSAFE_IN_FILE_NAME = re.compile(r"[^A-Za-z0-9.-]")


class Maildir:
    """The Maildir ``directory``, which is made if it is not there.  Raises OSError."""

    def __init__(self, directory: Path, clock: Clock, files: Files | None = None) -> None:
        self._directory = directory
        self._clock = clock
        self.files: Files = files or SystemFiles()
        self.tmp = directory / "tmp"
        self.new = directory / "new"
        self.cur = directory / "cur"
        self._make_directories()
        self._sweep()

    def begin(self, message: StoredMessage, head: bytes) -> MaildirWriter:
        """Open a writer for the content of ``message``, before which ``head`` stands."""
        return MaildirWriter(self, file_name(message), head)

    def sync(self) -> None:
        """Have the names of all finished messages on the disk: they are delivered.  Raises
        OSError."""
        self.files.sync_directory(self.new)

    def names_seen(self) -> set[str]:
        """The names in ``cur/`` without their flags, as far as there are not too many: what a
        reader has seen and moved there."""
        with contextlib.suppress(OSError), os.scandir(self.cur) as entries:
            return {entry.name.partition(":")[0] for entry in islice(entries, SWEPT_MAX)}
        return set()

    def _make_directories(self) -> None:
        make_directory(self.files, self._directory)
        for part in (self.tmp, self.new, self.cur):
            part.mkdir(DIRECTORY_MODE, exist_ok=True)
        # A synced message is still lost if the name of its directory is.
        self.files.sync_directory(self._directory)

    def _sweep(self) -> None:
        """Remove what a killed server left in ``tmp/``, once no process can be writing it."""
        oldest_ns = self._clock.realtime_ns() - ABANDONED_AFTER_S * NS_PER_S
        with contextlib.suppress(OSError), os.scandir(self.tmp) as entries:
            for entry in islice(entries, SWEPT_MAX):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime_ns < oldest_ns:
                    self.files.remove(Path(entry.path))


def file_name(message: StoredMessage) -> str:
    """The one name of ``message``, in the shape that Maildir readers expect."""
    seconds, rest_ns = divmod(message.received_ns, NS_PER_S)
    unique = f"M{rest_ns // 1000:06}Q{message.number}I{message.id}"
    name = f"{seconds}.{unique}.{message.hostname}"
    return _UNSAFE_IN_FILE_NAME.sub("_", name)[:NAME_OCTETS_MAX]


def shared_head(job: Job) -> bytes:
    """What stands before the content where there is one copy for all, and it names them all."""
    paths = [job.envelope.forward_paths[place] for place in job.places]
    return b"".join((return_path(job.envelope), envelope_to(paths), job.head))


def own_head(job: Job, recipient: MailPath) -> bytes:
    """What stands before the content of the copy for ``recipient``, which names nobody else."""
    delivered_to = f"Delivered-To: {recipient}\r\n".encode()
    return b"".join((return_path(job.envelope), delivered_to, job.head))


def envelope_to(paths: Iterable[MailPath]) -> bytes:
    """The recipients as a header field, one a line."""
    recipients = ",\r\n\t".join(map(str, paths))
    return f"Envelope-To: {recipients}\r\n".encode()


class MaildirWriter:
    """One message on its way into the Maildir.  Methods raise OSError, and ``abandon`` is then
    to be called."""

    __slots__ = (
        *("_chunks", "_descriptor", "_files", "_held_octets", "_new", "_tmp", "_tmp_exists"),
    )

    def __init__(self, maildir: Maildir, name: str, head: bytes) -> None:
        self._files = maildir.files
        self._tmp = maildir.tmp / name
        self._new = maildir.new / name
        self._chunks = [head]
        self._held_octets = len(head)
        self._descriptor = -1
        self._tmp_exists = False

    def write(self, chunk: bytes) -> None:
        """Take the next octets of the content."""
        self._chunks.append(chunk)
        self._held_octets += len(chunk)
        if self._held_octets >= HELD_OCTETS_MAX:
            self._write_held()

    def finish(self) -> None:
        """The content is whole; readers see it, and ``Maildir.sync`` delivers it."""
        self._write_held(last=True)
        self._files.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        self._files.close(descriptor)
        with contextlib.suppress(FileExistsError):  # it was delivered, and not forgotten
            self._files.link(self._tmp, self._new)
        self.abandon()

    def abandon(self) -> None:
        """Release the memory, the descriptor and the name in ``tmp/``, as far as possible."""
        self._chunks.clear()
        self._held_octets = 0
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                self._files.close(descriptor)
        if self._tmp_exists:
            self._tmp_exists = False
            with contextlib.suppress(OSError):
                self._files.remove(self._tmp)

    def _write_held(self, last: bool = False) -> None:
        """Write what is held; only the message's end may leave a CR that waits for its LF."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held_octets = 0
        if not last and data.endswith(b"\r"):
            data = data[:-1]
            self._chunks.append(b"\r")
            self._held_octets = 1
        if self._descriptor < 0:
            self._create()
        write_all(self._files, self._descriptor, data.replace(b"\r\n", b"\n"))

    def _create(self) -> None:
        try:
            self._descriptor = self._files.create(self._tmp)
        except FileExistsError:  # the process was killed while it wrote there
            self._files.remove(self._tmp)
            self._descriptor = self._files.create(self._tmp)
        self._tmp_exists = True
