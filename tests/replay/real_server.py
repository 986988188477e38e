"""Servers on real sockets, in threads of their own, for tests that play in real time.  No test."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator

from mailsrv.delivery.discard import DiscardCourier
from mailsrv.inbound.connection import Connection
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import SystemPoll
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.tls_context import server_context
from replay.play.target import Target, resolve
from replay.play.tls_client import CERTIFICATE, KEY

HOST = "127.0.0.1"
JOIN_S = 10


class StopsAfter:
    """Watches a server and stops it when so many connections are closed."""

    plaintext = False

    def __init__(self, connections: int) -> None:
        self._left = connections
        self.server: Server | None = None

    def opened(self, connection: Connection, sock: socket.socket) -> None: ...

    def received(self, connection: Connection, octets: bytes) -> None: ...

    def sent(self, connection: Connection, octets: bytes) -> None: ...

    def secured(self, connection: Connection, tls: str) -> None: ...

    def lost(self, connection: Connection, how: str) -> None: ...

    def closed(self, connection: Connection) -> None:
        assert self.server is not None
        self._left -= 1
        if not self._left:
            loop = self.server.loop
            loop.timers.schedule(loop.now_ns, self.server.stop)


@contextlib.contextmanager
def mailsrv(
    connections: int = 1, *, log: list[str] | None = None, **settings: object
) -> Iterator[Target]:
    """The real server, for so many connections; its certificate is the one for tests."""
    clock, tap = SystemClock(), StopsAfter(connections)
    poll = SystemPoll(clock)
    lines = [] if log is None else log
    tls = server_context(CERTIFICATE, KEY)
    server = tap.server = Server(
        Settings(**{"hostname": "mx.example.test", **settings}),  # type: ignore[arg-type]
        ServerBackends(resolver=NoResolver(), courier=DiscardCourier(), tls=tls, dsn=True),
        clock=clock,
        poll=poll,
        random=random.Random(0),
        event_log=EventLog(clock, lines.append),
        tap=tap,
    )
    listener = server.listen(bind(HOST, 0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield resolve(f"{HOST}:{listener.address[1]}")
    finally:
        thread.join(JOIN_S)
        poll.close()
    assert not thread.is_alive()


@contextlib.contextmanager
def handled_by(*handlers: Callable[[socket.socket], None]) -> Iterator[Target]:
    """A server that hands each connection in turn to one of ``handlers``, in one thread."""
    listener = socket.create_server((HOST, 0))
    faults: list[BaseException] = []

    def serve() -> None:
        with listener:
            for handler in handlers:
                sock, _ = listener.accept()
                with sock:
                    try:
                        handler(sock)
                    except BaseException as fault:
                        faults.append(fault)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield resolve(f"{HOST}:{listener.getsockname()[1]}")
    finally:
        thread.join(JOIN_S)
    assert not thread.is_alive()
    assert not faults


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the other end's FIN."""
    pieces = []
    while piece := sock.recv(64 * 1024):
        pieces.append(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def closed_port() -> Iterator[Target]:
    """A port at which nothing listens, held so that no other test takes it meanwhile."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        yield resolve(f"{HOST}:{sock.getsockname()[1]}")
