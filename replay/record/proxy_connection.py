"""One client's connection, passed through to a server and back octet by octet, and recorded.

Theory of operation.  Each side has a queue of what is to be written to it: octets as they were
read from the other side, an end, or a reset, each with the instant from which on it may go out.
What one read brought goes out in one write, so that boundaries survive.  While much waits for a
side that does not read, the other side is not read from either.

Before anything is written to a side, everything that it has sent is read.  So what is recorded as
sent before a reply was indeed sent before it, and what had been acknowledged by then (asked of the
kernel right after the read) is never too little: a client that is recorded as early was early.

When everything is sent the sockets stay until the other ends have acknowledged the last octets or
have refused them: only so a client that closed is told from one that half-closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import READ, WRITE
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.capture.tcp_packets import CLIENT, SEGMENT_MAX_OCTETS, SERVER
from replay.play import sockets
from replay.play.sockets import unacknowledged_octets
from replay.record.recorder import CaptureRecorder, End, RecordedFlow
from replay.smtp.proxy_header import proxy_header

CHUNK_OCTETS = SEGMENT_MAX_OCTETS
"""One read: one packet of the capture."""
WAITING_MAX_OCTETS = 256 * 1024
"""What waits for a side before the other one is no longer read from."""
WAITING_MAX_ITEMS = 4096
ROUNDS_MAX = 16
"""Rounds of reading and writing before other connections have their turn."""
CONNECT_MAX_NS = 30 * NS_PER_S
IDLE_MAX_NS = 2 * 3600 * NS_PER_S
"""Longer than any server waits; what is still there then has been forgotten by both ends."""
REFUSED_MAX_NS = 10 * NS_PER_S
"""What a client that cannot be served has to read why, and to leave."""
LINGER_STEP_NS = 5 * NS_PER_MS
LINGER_STEPS_MAX = 1000
"""Looks at whether the last octets were taken."""
LOOKS_MAX = 200
"""Looks at whether a side that has sent its FIN takes or refuses what it is sent afterwards."""


@dataclass(frozen=True, slots=True)
class ProxyRoute:
    """Where connections lead and how: what all of them share.

    ``delay_ns`` holds back what the server sends; with ``tells_client`` a PROXY header goes first.
    """

    loop: Loop
    clock: Clock
    family: socket.AddressFamily
    upstream: End
    client_recorder: CaptureRecorder
    upstream_recorder: CaptureRecorder
    delay_ns: int = 0
    tells_client: bool = False


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
        "number",
        "octets",
        "sock",
        "waiting",
        "waiting_octets",
    )

    def __init__(
        self, connection: ProxyConnection, sock: socket.socket, number: int, flow: RecordedFlow
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
        # When it may go, and what: octets, none for a FIN, None for a reset.
        self.waiting: deque[tuple[int, bytes | None]] = deque()
        self.waiting_octets = 0

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""
        self.connection.ready(self)

    def queue(self, item: bytes | None, now_ns: int) -> None:
        """Let ``item`` wait for its time."""
        if not self.gone:
            self.waiting.append((now_ns + self.delay_ns, item))
            self.waiting_octets += len(item or b"")

    @property
    def is_full(self) -> bool:
        """Whether the other side shall not be read from."""
        return self.waiting_octets >= WAITING_MAX_OCTETS or len(self.waiting) >= WAITING_MAX_ITEMS

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come from it or go to it."""
        return self.gone or (self.ended and self.fin_sent)

    def is_reset_due(self, now_ns: int) -> bool:
        """Whether a reset stands at the end of the queue, and its time has come."""
        return bool(self.waiting) and self.waiting[-1][1] is None and self.waiting[-1][0] <= now_ns

    def is_due(self, now_ns: int) -> bool:
        """Whether there is something to write now; if later, there will be a turn then."""
        if not self.waiting or not self.connected or self.gone:
            return False
        due_ns = self.waiting[0][0]
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


class ProxyConnection:
    """See the module.  ``how`` says in the end how it ended.

    The constructor raises OSError where there is no descriptor for the way on.
    """

    def __init__(
        self,
        route: ProxyRoute,
        sock: socket.socket,
        client: End,
        number: int,
    ) -> None:
        self.route = route
        self.number = number
        self.address = client
        self.began_ns = self._last_ns = route.clock.monotonic_ns()
        self.how = ""
        self._ended: Callable[[ProxyConnection], None] = _ignore
        self._steps = self._looks = 0
        self._sockname = _end(sock)
        flow = RecordedFlow(route.client_recorder, client, self._sockname, CLIENT, number)
        self.client = ProxySide(self, sock, 2 * number, flow)
        self.client.delay_ns = route.delay_ns
        self.client.connected = True
        flow.opened()
        out = socket.socket(route.family, socket.SOCK_STREAM)
        self.upstream = ProxySide(self, out, 2 * number + 1, self._upstream_flow(out))
        timers = route.loop.timers
        self._idle = timers.schedule(self.began_ns + IDLE_MAX_NS, self._check_idle)
        self._timer: Timer | None = None
        self._arm(CONNECT_MAX_NS, self._connect_too_long)

    def begin(self, ended: Callable[[ProxyConnection], None]) -> None:
        """Connect to the server; ``ended`` is called once, when both sockets are closed."""
        self._ended = ended
        self._connect()

    @property
    def duration_ns(self) -> int:
        """From the client's arrival to the last thing that happened."""
        return self._last_ns - self.began_ns

    # -- getting through --------------------------------------------------------------------------

    def _connect(self) -> None:
        out = self.upstream.sock
        out.setblocking(False)
        out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.route.tells_client:
            self.upstream.queue(self._proxy_header(), self.began_ns)
        failure = out.connect_ex(self.route.upstream)
        if failure not in (0, errno.EINPROGRESS):
            self._refused(os.strerror(failure))
        self.turn()

    def _proxy_header(self) -> bytes:
        """The client's address (the PROXY protocol, version 1)."""
        client, port = self.address
        return proxy_header(1, client, port, self._sockname)

    def _upstream_flow(self, out: socket.socket) -> RecordedFlow:
        """Our own port is known once the connection is made, or has failed."""
        near = _end(out)
        return RecordedFlow(
            self.route.upstream_recorder, near, self.route.upstream, SERVER, self.number
        )

    def _connected(self) -> None:
        upstream = self.upstream
        failure = upstream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._refused(os.strerror(failure))
            return
        self._disarm()
        upstream.connected = True
        upstream.flow = self._upstream_flow(upstream.sock)
        upstream.flow.opened()

    def _connect_too_long(self) -> None:
        self._refused(f"no answer within {CONNECT_MAX_NS // NS_PER_S} s")
        self.turn()

    def _refused(self, why: str) -> None:
        """There is no server: reply in its place."""
        self.how = f"no connection to {shown(self.route.upstream)}: {why}"
        self._arm(REFUSED_MAX_NS, lambda: self.drop(self.how))
        self.upstream.flow = self._upstream_flow(self.upstream.sock)
        self.upstream.flow.refused()
        self.upstream.close()
        now_ns = self.route.clock.monotonic_ns()
        self.client.delay_ns = 0
        self.client.queue(f"421 4.4.1 replay record: {self.how}\r\n".encode(), now_ns)
        self.client.queue(b"", now_ns)

    def _arm(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Arm the one timer of what must not take for ever."""
        self._disarm()
        deadline_ns = self.route.clock.monotonic_ns() + delay_ns
        self._timer = self.route.loop.timers.schedule(deadline_ns, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self.route.loop.timers.cancel(self._timer)

    # -- to and fro -------------------------------------------------------------------------------

    def ready(self, side: ProxySide) -> None:
        """One of the sockets is ready."""
        if side is self.upstream and not side.connected:
            self._connected()
        self.turn()

    def turn(self) -> None:
        """Read what is there and write what is due."""
        for _ in range(ROUNDS_MAX):
            moved = self._receive(self.client)
            moved |= self._receive(self.upstream)
            moved |= self._send(self.upstream)
            moved |= self._send(self.client)
            if not moved:
                break
        if self.client.is_done and self.upstream.is_done:
            self._linger()
            return
        self._watch(self.client)
        self._watch(self.upstream)
        if self._steps < LOOKS_MAX and any(map(_may_refuse, (self.client, self.upstream))):
            self._steps += 1
            self._arm(LINGER_STEP_NS, self.turn)

    def _other(self, side: ProxySide) -> ProxySide:
        return self.upstream if side is self.client else self.client

    def _may_receive(self, side: ProxySide) -> bool:
        return side.connected and not (side.ended or side.gone or self._other(side).is_full)

    def _receive(self, side: ProxySide) -> bool:
        """One read; True if it brought anything."""
        if not self._may_receive(side):
            if side.ended and not side.gone and _error(side.sock):
                self._lose(side)  # it had closed, and refuses what came afterwards
                return True
            return False
        try:
            octets = side.sock.recv(CHUNK_OCTETS)
        except BlockingIOError:
            return False
        except OSError:
            self._lose(side)
            return True
        side.flow.received(octets, unacknowledged_octets(side.sock))
        side.octets += len(octets)
        side.ended = not octets
        self._last_ns = self.route.clock.monotonic_ns()
        self._other(side).queue(octets, self._last_ns)
        return True

    def _send(self, side: ProxySide) -> bool:
        """One write; True if anything went."""
        now_ns = self.route.clock.monotonic_ns()
        if not side.is_due(now_ns):
            return False
        for _ in range(ROUNDS_MAX):  # see the module: what it sent before is read before
            if not self._receive(side):
                break
        if side.gone:
            return True
        due_ns, item = side.waiting.popleft()
        side.waiting_octets -= len(item or b"")
        if item is None:
            self._abort(side)
            return True
        try:
            written = self._write(side, item)
        except OSError:
            self._lose(side)
            return True
        if written < len(item):
            if side.is_reset_due(now_ns):  # which no full buffer holds back
                self._abort(side)
                return True
            side.waiting.appendleft((due_ns, item[written:]))
            side.waiting_octets += len(item) - written
        return bool(written) or not item

    def _abort(self, side: ProxySide) -> None:
        if _error(side.sock):
            side.flow.reset(unacknowledged_octets(side.sock))
        else:
            side.flow.reset()
        side.close(reset=True)

    def _write(self, side: ProxySide, item: bytes) -> int:
        # What a reader of this write does next may be the end of us: the file has it before.
        self.route.client_recorder.file.flush()
        self.route.upstream_recorder.file.flush()
        self._last_ns = self.route.clock.monotonic_ns()
        if not item:
            side.sock.shutdown(socket.SHUT_WR)
            side.fin_sent = True
            written = 0
        else:
            try:
                written = side.sock.send(item)
            except BlockingIOError:
                return 0
        side.flow.sent(item[:written])
        return written

    def _lose(self, side: ProxySide) -> None:
        """The far end has aborted the connection: so do we, on the other side."""
        self._last_ns = self.route.clock.monotonic_ns()
        self.how = self.how or f"reset by the {'client' if side is self.client else 'server'}"
        side.flow.reset(unacknowledged_octets(side.sock))
        side.close()
        self._other(side).queue(None, self._last_ns)

    def _watch(self, side: ProxySide) -> None:
        if side.gone:
            return
        is_due = side.is_due(self.route.clock.monotonic_ns())
        wants_room = is_due or not side.connected
        side.watch((READ if self._may_receive(side) else 0) | (WRITE if wants_room else 0))

    # -- the end ----------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Everything is sent; see whether the last octets are acknowledged."""
        self.client.watch(0)
        self.upstream.watch(0)
        held = 0
        for side in (self.client, self.upstream):
            if side.gone:
                continue
            if _error(side.sock):
                side.flow.reset(unacknowledged_octets(side.sock))
                side.close()
            else:
                held += unacknowledged_octets(side.sock)
        self._looks += 1
        if held and self._looks < LINGER_STEPS_MAX:
            self._arm(LINGER_STEP_NS, self._linger)
        else:
            self._close()

    def _close(self) -> None:
        for side in (self.client, self.upstream):
            if not side.gone:
                side.flow.acknowledged(unacknowledged_octets(side.sock))
                side.flow.closed()
            side.close()
        self.how = self.how or "closed"
        self._disarm()
        self.route.loop.timers.cancel(self._idle)
        ended, self._ended = self._ended, _ignore
        ended(self)

    def drop(self, why: str) -> None:
        """Cut both connections off."""
        self.how = self.how or why
        for side in (self.client, self.upstream):
            if not side.gone:
                if side.connected:
                    side.flow.reset()
                side.close(reset=True)
        self._close()

    def _check_idle(self) -> None:
        """The bound on a connection on which nothing passes."""
        if self._last_ns + IDLE_MAX_NS > self.route.clock.monotonic_ns():
            timers = self.route.loop.timers
            timers.reschedule(self._idle, self._last_ns + IDLE_MAX_NS)
        else:
            self.drop(f"nothing said for {IDLE_MAX_NS // NS_PER_S} s")


def _ignore(connection: ProxyConnection) -> None:
    """The end has been reported already."""


def _may_refuse(side: ProxySide) -> bool:
    """Whether it will show soon if ``side`` has closed or half-closed: something is on its way."""
    return side.ended and not side.gone and unacknowledged_octets(side.sock) > 0


def _error(sock: socket.socket) -> bool:
    """Whether the connection was aborted meanwhile."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def _end(sock: socket.socket) -> End:
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


def shown(end: End) -> str:
    """As people write it."""
    return f"[{end[0]}]:{end[1]}" if ":" in end[0] else f"{end[0]}:{end[1]}"
