"""One of the two sockets of a proxied connection: its queue, its bounds, and TLS on it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from replay.play import sockets
from replay.play.sockets import unacknowledged_octets
from replay.record.recorder import CaptureRecorder, End, RecordedFlow
from replay.record.tls_end import TlsEnd

WAITING_MAX_OCTETS = 256 * 1024
"""What waits for a side before the other one is no longer read from."""
WAITING_MAX_ITEMS = 4096


@dataclass(frozen=True, slots=True)
class ProxyRoute:
    """Where connections lead and how: what all of them share.

    ``delay_ns`` holds back what the server sends; with ``tells_client`` a PROXY header goes first.
    ``tls`` is what clients shake hands with, where TLS is terminated.
    """

    loop: Loop
    clock: Clock
    family: socket.AddressFamily
    upstream: End
    client_recorder: CaptureRecorder
    upstream_recorder: CaptureRecorder
    delay_ns: int = 0
    tells_client: bool = False
    tls: ssl.SSLContext | None = None


class SideOwner(Protocol):
    """The proxied connection, as one of its sides sees it."""

    @property
    def route(self) -> ProxyRoute:
        """What all connections share."""

    def ready(self, side: ProxySide) -> None:
        """The poll found the side's socket ready."""

    def turn(self) -> None:
        """Read what is there and write what is due."""

    def drop(self, why: str) -> None:
        """Cut both sides off."""


class Mark(Enum):
    """Something in a queue that is no octets."""

    BEGIN_TLS = 1


Item = bytes | Mark | None
"""What waits to be written: octets, none for a FIN, None for a reset."""


class ProxySide:
    """One of the two sockets of a proxied connection, and what waits to be written to it."""

    __slots__ = (
        "_alarm",
        "connected",
        "connection",
        "delay_ns",
        "ended",
        "events",
        "fin_sent",
        "flow",
        "gone",
        "is_before_tls",
        "number",
        "octets",
        "sock",
        "tls",
        "unsent",
        "waiting",
        "waiting_octets",
    )

    def __init__(
        self, connection: SideOwner, sock: socket.socket, number: int, flow: RecordedFlow
    ) -> None:
        self.connection = connection
        self._alarm: Timer | None = None
        self.sock = sock
        self.number = number
        self.flow = flow
        self.delay_ns = 0  # of what goes to this side
        self.events = 0
        self.connected = False
        self.ended = False  # it has sent its FIN
        self.fin_sent = False  # it was sent ours
        self.gone = False  # reset, closed or never there
        self.octets = 0  # read from it
        self.waiting: deque[tuple[int, Item]] = deque()  # when it may go, and what
        self.waiting_octets = 0
        self.tls: TlsEnd | None = None
        self.is_before_tls = False  # what comes next is TLS: it is read when that has begun
        self.unsent = b""  # of TLS: octets that the kernel has not taken

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""
        self.connection.ready(self)

    def queue(self, item: Item, now_ns: int) -> None:
        """Let ``item`` wait for its time."""
        if not self.gone:
            self.waiting.append((now_ns + self.delay_ns, item))
            self.waiting_octets += item_octets(item)

    # -- octets, under TLS where it is terminated -------------------------------------------------

    def begin_tls(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        """What is read and written from here on is TLS.  Raises OSError."""
        self.is_before_tls = False
        self.tls = TlsEnd(context, server_side=server_side)
        self.flush()

    def decode(self, octets: bytes) -> list[bytes]:
        """What a read means: itself, or under TLS each record, none for the end of the stream.

        Raises ssl.SSLError, and OSError where the answer cannot be written.
        """
        if self.tls is None or not octets:
            return [octets]
        try:
            return self.tls.feed(octets)
        finally:
            self.flush()

    def write(self, octets: bytes) -> int:
        """Write, with one call; returns how many octets are done with.  Raises OSError."""
        if self.tls is None:
            return self.sock.send(octets)
        self.tls.encrypt(octets)
        self.flush()
        return len(octets)

    def finish(self) -> None:
        """Send a FIN.  Raises OSError."""
        if self.tls is not None:
            self.tls.end()
            self.flush()
        self.sock.shutdown(socket.SHUT_WR)

    def flush(self) -> None:
        """Write what TLS has left to write, as far as the kernel takes it.  Raises OSError."""
        if self.tls is not None:
            self.unsent += self.tls.take()
            if self.unsent:
                with contextlib.suppress(BlockingIOError):
                    self.unsent = self.unsent[self.sock.send(self.unsent) :]

    @property
    def unacknowledged(self) -> int:
        """Of what was written, the octets that the other end has not acknowledged.  Under TLS
        these are ciphertext: of what it means the last octet is missing."""
        held = unacknowledged_octets(self.sock)
        return held if self.tls is None else min(held, 1)

    # -- what waits -------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether the other side shall not be read from."""
        octets = self.waiting_octets + len(self.unsent)
        return octets >= WAITING_MAX_OCTETS or len(self.waiting) >= WAITING_MAX_ITEMS

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come from it or go to it."""
        return self.gone or (self.ended and self.fin_sent)

    def is_reset_due(self, now_ns: int) -> bool:
        """Whether a reset stands at the end of the queue, and its time has come."""
        return bool(self.waiting) and self.waiting[-1][1] is None and self.waiting[-1][0] <= now_ns

    @property
    def is_held(self) -> bool:
        """Whether TLS is not ready for what waits, unless that ends in a reset."""
        return bool(self.unsent) or (self.tls is not None and not self.tls.done)

    def is_due(self, now_ns: int) -> bool:
        """Whether there is something to write now; if later, there will be a turn then."""
        if not self.waiting or not self.connected or self.gone:
            return False
        if self.is_held and self.waiting[-1][1] is not None:
            return False
        due_ns = self.waiting[-1 if self.is_held else 0][0]
        if due_ns <= now_ns:
            return True
        timers = self.connection.route.loop.timers
        if self._alarm is None:
            self._alarm = timers.schedule(due_ns, self.connection.turn)
        elif not self._alarm.pending:
            timers.reschedule(self._alarm, due_ns)
        return False

    def watch(self, events: int) -> None:
        """Watch the socket for ``events``."""
        poll = self.connection.route.loop.poll
        if events == self.events:
            return
        if not events:
            poll.forget(self.sock)
        elif self.events:
            poll.change(self.sock, events, self)
        else:
            poll.watch(self.sock, events, self)
        self.events = events

    def close(self, *, reset: bool = False) -> None:
        """Close; harmless when closed."""
        self.watch(0)
        self.gone = True
        self.waiting.clear()
        self.waiting_octets = 0
        if self._alarm is not None:
            self.connection.route.loop.timers.cancel(self._alarm)
        with contextlib.suppress(OSError):
            if reset:
                sockets.reset_on_close(self.sock)
            self.sock.close()


def item_octets(item: Item) -> int:
    """How much of the queue's room an item takes."""
    return len(item) if isinstance(item, bytes) else 0
