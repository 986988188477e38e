"""One message on its way into the spool: in memory while it is small and memory is not scarce,
else in a file, which is open only while it is written to: content on its way takes no descriptor.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mailsrv.delivery.files import Files, write_all
from mailsrv.delivery.spool.failures import Failure
from mailsrv.delivery.spool.rows import NewMessage
from mailsrv.delivery.spool.stored_envelope import to_json
from mailsrv.smtp import reply
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.reply import Reply

ROW_OCTETS_MAX = 64 * 1024
"""Content that is kept in the database; a row of 256 KiB makes commits of 276 ms."""

Answer = Callable[[Reply], None]


class Memory(Protocol):
    """Counts the octets that are held; while they are ``scarce``, contents go into files."""

    @property
    def scarce(self) -> bool:
        """True while memory should not be held."""

    def hold(self, octets: int) -> None:
        """So many octets more are held; fewer, if negative."""


class EnoughMemory:
    """Memory that is never scarce."""

    __slots__ = ()
    scarce = False

    def hold(self, octets: int) -> None:
        """Nothing is counted."""


class SinkOwner(Protocol):
    """What a sink needs of its spool."""

    files: Files
    memory: Memory
    hostname: str
    received_fields_max: int
    open_contents: int
    open_octets: int

    def has_room(self) -> bool:
        """Whether there is room for what is being received.  Raises OSError."""

    def content_path(self, id_: str) -> Path:
        """The file of a large content."""

    def enqueue(self, sink: SpoolSink, answer: Answer) -> None:
        """Store a whole message with the next transaction, and answer then."""

    def refusal(self, error: Failure) -> Reply:
        """Note why a message cannot be stored; returns the reply to its sender."""

    def realtime_ns(self) -> int:
        """The time of day."""


class SpoolSink:
    """One message on its way into the spool."""

    __slots__ = (
        *("_ended", "_held", "_hops", "_memory", "_received_ns", "_spool"),
        *("envelope", "failure", "in_file", "octets"),
    )

    def __init__(self, spool: SinkOwner, envelope: Envelope) -> None:
        self._spool = spool
        self._memory = spool.memory
        self._held = bytearray()  # one piece, however small those are that it comes in
        self._ended = False
        self._received_ns = 0
        self._hops = -1
        self.envelope = envelope
        self.failure: Reply | None = None
        """Why it cannot be stored."""
        self.in_file = False
        self.octets = 0
        """Of content, so far."""

    def write(self, chunk: bytes) -> None:
        if self.failure is not None or self._ended:
            return
        self._held += chunk
        self._memory.hold(len(chunk))
        self.octets += len(chunk)
        self._spool.open_octets += len(chunk)
        if len(self._held) > ROW_OCTETS_MAX or self._memory.scarce:
            self._count_hops()
            self.attempt(self._write_held)

    def finish(self, answer: Answer) -> None:
        if not self._ended:
            self._ended = True
            self._spool.open_contents -= 1
            self._count_hops()
            self.attempt(self._write_held if self.in_file else self._see_room)
        if self.failure is not None:
            answer(self.failure)
        else:
            self._received_ns = self._spool.realtime_ns()
            self._spool.enqueue(self, answer)

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._spool.open_contents -= 1
            self._discard()

    # -- for the spool ----------------------------------------------------------------------------

    def row(self) -> NewMessage:
        """What the database stores."""
        content = None if self.in_file else bytes(self._held)
        return NewMessage(
            self.envelope.id,
            self._received_ns,
            self._spool.hostname,
            self.octets,
            to_json(self.envelope),
            content,
        )

    def sync(self) -> None:
        """Have the file on the disk, all but its name.  Raises OSError."""
        files = self._spool.files
        descriptor = files.reopen(self._path)
        try:
            files.sync(descriptor)
        finally:
            files.close(descriptor)

    def release(self) -> None:
        """It is stored: nothing more is to be kept for it."""
        self._spool.open_octets -= self.octets
        self._take_held()

    def fail(self, error: Failure) -> None:
        """It cannot be stored: ``failure`` is the reply."""
        self.failure = self._spool.refusal(error)
        self._discard()

    def attempt(self, act: Callable[[], None]) -> None:
        """Call ``act``, whose OSError is the message's failure; nothing if it has failed."""
        if self.failure is None:
            try:
                act()
            except OSError as error:
                self.fail(error)

    def _discard(self) -> None:
        """Release memory and file, as far as possible."""
        self.release()
        self.octets = 0
        if self.in_file:
            with contextlib.suppress(OSError):
                self._spool.files.remove(self._path)

    def _count_hops(self) -> None:
        """Refuse a message that went round in a circle (RFC 5321 section 6.3); its header is looked
        for in what is held at first.  In a circle are we, too, and we write the name like this."""
        if self._hops >= 0:
            return
        held = self._held
        end = held.find(b"\r\n\r\n")
        fields = held.count(b"\nReceived:", 0, end if end >= 0 else len(held))
        self._hops = fields + held.startswith(b"Received:")
        if self._hops > self._spool.received_fields_max and self.failure is None:
            self.failure = reply.TOO_MANY_HOPS
            self._discard()

    @property
    def _path(self) -> Path:
        return self._spool.content_path(self.envelope.id)

    def _take_held(self) -> bytearray:
        held, self._held = self._held, bytearray()
        self._memory.hold(-len(held))
        return held

    def _see_room(self) -> None:
        if not self._spool.has_room():
            raise OSError(errno.ENOSPC, "the spool is full, or its disk nearly")

    def _write_held(self) -> None:
        self._see_room()
        files = self._spool.files
        descriptor = files.reopen(self._path) if self.in_file else files.create(self._path)
        self.in_file = True
        try:
            write_all(files, descriptor, self._take_held())
        finally:
            files.close(descriptor)
