"""A proxy that records in virtual time, with hand-driven sockets at both of its ends.  No test.

Loopback delivers within the sending call, so what is ready now is all there is at an instant.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.loop import Loop
from mailsrv.units import NS_PER_MS
from replay.capture.flow import Flow, Piece, StreamEnd
from replay.capture.oddity import Oddity
from replay.capture.pcap import read_records
from replay.capture.reassembly import reassemble
from replay.capture.segments import decode
from replay.play.mailsrv_harness import VirtualPoll
from replay.record.proxy import Proxy
from replay.record.proxy_side import ProxyRoute
from replay.record.recorder import CaptureRecorder

BEGIN_S = 1_700_000_000
PASSES_MAX = 10_000
ALL = 1 << 20


class Witness(FakeClock):
    """A clock that tells who wants to know whenever it is read: something may happen, or be
    looked at, in the middle of a turn."""

    def __init__(self, start: float) -> None:
        super().__init__(start)
        self.read: Callable[[], None] = lambda: None

    def monotonic_ns(self) -> int:
        self.read()
        return super().monotonic_ns()


class Stage:
    """Senders, the proxy, and the server behind it.  ``said`` is what the proxy tells people."""

    def __init__(
        self,
        folder: Path,
        *,
        octets_max: int = 1 << 30,
        delay_ms: float = 0,
        tells_client: bool = False,
        upstream: tuple[str, int] | None = None,
        family: socket.AddressFamily = socket.AF_INET,
        tls: ssl.SSLContext | None = None,
        **limits: Any,
    ) -> None:
        self.clock = Witness(BEGIN_S)
        self.poll = VirtualPoll()
        self.faults: list[Exception] = []
        self.loop = Loop(self.clock, self.poll, lambda handler, fault: self.faults.append(fault))
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self.server = bind(host, 0)
        self.recorders = (
            CaptureRecorder(folder / "x.pcap", self.clock, octets_max),
            CaptureRecorder(folder / "x.upstream.pcap", self.clock, octets_max),
        )
        at = upstream or self.server.getsockname()[:2]
        route = ProxyRoute(
            self.loop,
            self.clock,
            family,
            at,
            *self.recorders,
            delay_ns=round(delay_ms * NS_PER_MS),
            tells_client=tells_client,
            tls=tls,
        )
        self.said: list[str] = []
        door = bind(host, 0)
        self.address = door.getsockname()
        self.proxy = Proxy(route, door, self.said.append, **limits)
        self._sockets: list[socket.socket] = [self.server]

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A sender and the server's end of what it gets."""
        sender = self.call()
        self.settle()
        return sender, self.accept()

    def call(self) -> socket.socket:
        """A sender; nothing has happened yet."""
        sender = socket.socket(self.server.family)
        self._sockets.append(sender)
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender.connect(self.address)
        sender.setblocking(False)
        return sender

    def accept(self) -> socket.socket:
        server, _ = self.server.accept()
        self._sockets.append(server)
        server.setblocking(False)
        return server

    def settle(self) -> None:
        """Let the proxy do all it can at this instant."""
        for _ in range(PASSES_MAX):
            self.loop.dispatch(None)
            if not self.poll.found:
                assert self.faults == []
                return
        raise AssertionError("the proxy never comes to rest")

    def wait(self, ms: float) -> None:
        """Let time pass, and what it brings."""
        self.settle()
        until_ns = self.clock.monotonic_ns() + round(ms * NS_PER_MS)
        while (wake_ns := self.loop.timers.next_wake_ns) is not None and wake_ns <= until_ns:
            self.clock.advance_to_ns(max(wake_ns, self.clock.monotonic_ns()))
            self.loop.expire()
            self.settle()
        self.clock.advance_to_ns(until_ns)

    def end(self) -> None:
        """Stop, and see that nothing is left."""
        self.proxy.drop_all()
        for sock in self._sockets:
            sock.close()
        for recorder in self.recorders:
            recorder.file.close()
        left = len(self.loop.timers), self.poll.watched, len(self.proxy.connections)
        self.poll.close()
        assert left == (0, 0, 0)


def take(sock: socket.socket) -> bytes:
    """What has arrived."""
    try:
        return sock.recv(ALL)
    except BlockingIOError:
        return b"(nothing)"


def reset(sock: socket.socket) -> None:
    """Abort the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def flows(path: Path) -> tuple[list[Flow], list[Oddity]]:
    """The connections in a capture, and what is odd about it and them."""
    oddities: list[Oddity] = []
    found = reassemble(decode(read_records(path, oddities), oddities), oddities)
    return found, oddities + [oddity for flow in found for oddity in flow.oddities]


def events(path: Path) -> list[tuple[int, bytes | str]]:
    """What the one connection in a capture shows: who, and octets, "FIN" or "RST"."""
    (flow,), oddities = flows(path)
    assert oddities == []
    assert flow.opener == 0
    shown: list[tuple[int, bytes | str]] = []
    for event in flow.events:
        if isinstance(event, Piece):
            shown.append((event.side, event.octets))
        elif isinstance(event, StreamEnd):
            shown.append((event.side, "RST" if event.is_reset else "FIN"))
    return shown


@contextlib.contextmanager
def stage(folder: Path, **options: Any) -> Any:
    """A stage, taken down at the end."""
    made = Stage(folder, **options)
    try:
        yield made
    finally:
        made.end()
