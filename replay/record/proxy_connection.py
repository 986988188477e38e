"""One client's connection, passed through to a server and back octet by octet, and recorded.

Theory of operation.  Each side has a queue of what is to be written to it: octets as they were
read from the other side, an end, or a reset, each with the instant from which on it may go out.
What one read brought goes out in one write, so that boundaries survive.  While much waits for a
side that does not read, the other side is not read from either.

Before anything is written to a side, everything that it has sent is read.  So what is recorded as
sent before a reply was indeed sent before it, and what had been acknowledged by then (asked of the
kernel right after the read) is never too little: a client that is recorded as early was early.

Where TLS is terminated (behind the 220 to STARTTLS, or from the first octet on), each side has TLS
of its own; what is read of a side counts and is recorded by its records in plaintext.  A client is
not read from between the 220 and its own TLS: what it sends there was never sent under TLS.

When everything is sent the sockets stay until the other ends have acknowledged the last octets or
have refused them: only so a client that closed is told from one that half-closed.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable

from mailsrv.runtime.poll import READ, WRITE
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.capture.tcp_packets import CLIENT, SEGMENT_MAX_OCTETS, SERVER
from replay.capture.tls.tshark import HANDSHAKE
from replay.record.proxy_side import Mark, ProxyRoute, ProxySide, item_octets
from replay.record.recorder import End, RecordedFlow
from replay.record.tls_end import StarttlsWatch, trusting_context
from replay.smtp.proxy_header import proxy_header

CHUNK_OCTETS = SEGMENT_MAX_OCTETS
"""One read: one packet of the capture."""
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
        self._starttls = None if route.tls is None else StarttlsWatch()
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
        may = side.connected and not (side.ended or side.gone or side.is_before_tls)
        return may and not self._other(side).is_full

    def _receive(self, side: ProxySide) -> bool:
        """One read; True if it brought anything."""
        if not self._may_receive(side):
            if side.ended and not side.gone and _error(side.sock):
                self._lose(side)  # it had closed, and refuses what came afterwards
                return True
            return False
        try:
            octets = side.sock.recv(CHUNK_OCTETS)
            self._last_ns = self.route.clock.monotonic_ns()
            if self._begins_with_tls(side, octets):
                self._begin_tls()
            pieces = side.decode(octets)
        except BlockingIOError:
            return False
        except ssl.SSLError as error:
            self._break_off(side, error)
            return True
        except OSError:
            self._lose(side)
            return True
        for piece in pieces:
            side.flow.received(piece, side.unacknowledged)
            side.octets += len(piece)
            side.ended = not piece
            self._other(side).queue(piece, self._last_ns)
            self._follow(side, piece)
        if side.tls is not None and side.tls.failure is not None and not side.gone:
            self._break_off(side, side.tls.failure)
        return True

    # -- TLS, where it is terminated --------------------------------------------------------------

    def _begins_with_tls(self, side: ProxySide, octets: bytes) -> bool:
        """TLS from the first octet (RFC 8314 section 3.3)."""
        nothing_before = not (self.client.octets or self.upstream.octets)
        waits = self._starttls is not None and side is self.client and nothing_before
        return waits and bool(HANDSHAKE.match(octets))

    def _follow(self, side: ProxySide, octets: bytes) -> None:
        """Look for the beginning of TLS."""
        if self._starttls is None:
            return
        if side is self.client:
            self._starttls.client_sent(octets)
        elif self._starttls.server_sent(octets):
            self._starttls = None
            self.client.queue(Mark.BEGIN_TLS, self._last_ns)
            self.client.is_before_tls = True
            self._begin_upstream_tls()

    def _begin_tls(self) -> None:
        assert self.route.tls is not None
        self._starttls = None
        self.client.begin_tls(self.route.tls, server_side=True)
        self._begin_upstream_tls()

    def _begin_upstream_tls(self) -> None:
        try:
            self.upstream.begin_tls(trusting_context(), server_side=False)
        except OSError:
            self._lose(self.upstream)

    def _name(self, side: ProxySide) -> str:
        return "client" if side is self.client else "server"

    def _send(self, side: ProxySide) -> bool:
        """One write; True if anything went."""
        now_ns = self.route.clock.monotonic_ns()
        if side.unsent:
            try:
                side.flush()
            except OSError:
                self._lose(side)
                return True
        if not side.is_due(now_ns):
            return False
        for _ in range(ROUNDS_MAX):  # see the module: what it sent before is read before
            if not self._receive(side):
                break
        if side.gone:
            return True
        if side.is_held:
            if side.is_reset_due(now_ns):
                self._abort(side)
            return side.gone
        due_ns, item = side.waiting.popleft()
        side.waiting_octets -= item_octets(item)
        if item is None:
            self._abort(side)
            return True
        try:
            if isinstance(item, Mark):
                assert self.route.tls is not None
                side.begin_tls(self.route.tls, server_side=True)
                return True
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
            side.flow.reset(side.unacknowledged)
        else:
            side.flow.reset()
        side.close(reset=True)

    def _write(self, side: ProxySide, item: bytes) -> int:
        # What a reader of this write does next may be the end of us: the file has it before.
        self.route.client_recorder.file.flush()
        self.route.upstream_recorder.file.flush()
        self._last_ns = self.route.clock.monotonic_ns()
        if not item:
            side.finish()
            side.fin_sent = True
            written = 0
        else:
            try:
                written = side.write(item)
            except BlockingIOError:
                return 0
        side.flow.sent(item[:written])
        return written

    def _break_off(self, side: ProxySide, error: ssl.SSLError) -> None:
        """TLS with a side has failed."""
        self.how = f"TLS with the {self._name(side)} failed: {error.reason or error}"
        self._lose(side)

    def _lose(self, side: ProxySide) -> None:
        """The far end has aborted the connection: so do we, on the other side."""
        self._last_ns = self.route.clock.monotonic_ns()
        self.how = self.how or f"reset by the {self._name(side)}"
        side.flow.reset(side.unacknowledged)
        side.close()
        self._other(side).queue(None, self._last_ns)

    def _watch(self, side: ProxySide) -> None:
        if side.gone:
            return
        is_due = side.is_due(self.route.clock.monotonic_ns())
        wants_room = is_due or bool(side.unsent) or not side.connected
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
                side.flow.reset(side.unacknowledged)
                side.close()
            else:
                held += side.unacknowledged
        self._looks += 1
        if held and self._looks < LINGER_STEPS_MAX:
            self._arm(LINGER_STEP_NS, self._linger)
        else:
            self._close()

    def _close(self) -> None:
        for side in (self.client, self.upstream):
            if not side.gone:
                side.flow.acknowledged(side.unacknowledged)
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
    return side.ended and not side.gone and side.unacknowledged > 0


def _error(sock: socket.socket) -> bool:
    """Whether the connection was aborted meanwhile."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def _end(sock: socket.socket) -> End:
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


def shown(end: End) -> str:
    """As people write it."""
    return f"[{end[0]}]:{end[1]}" if ":" in end[0] else f"{end[0]}:{end[1]}"
