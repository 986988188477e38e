"""The servers to be loaded."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mailsrv.delivery.discard import DiscardCourier
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import SelectorPoll
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.tls_context import server_context
from replay.play.tls_client import CERTIFICATE, KEY


@pytest.fixture
def mailsrv_port() -> Iterator[int]:
    """The real server, in a thread."""
    with served() as port:
        yield port


@pytest.fixture
def starttls_port() -> Iterator[int]:
    """One that offers STARTTLS."""
    with served(tls=True) as port:
        yield port


@pytest.fixture
def implicit_tls_port() -> Iterator[int]:
    """One that speaks TLS from the first octet."""
    with served(tls=True, implicit=True) as port:
        yield port


@contextmanager
def served(*, tls: bool = False, implicit: bool = False) -> Iterator[int]:
    clock = SystemClock()
    context = server_context(CERTIFICATE, KEY) if tls else None
    server = Server(
        Settings(),
        ServerBackends(resolver=NoResolver(), courier=DiscardCourier(), tls=context),
        clock=clock,
        poll=SelectorPoll(clock),
        random=random.Random(1),
        event_log=EventLog(clock, lambda _: None),
    )
    sock = bind("127.0.0.1", 0)
    port: int = sock.getsockname()[1]
    server.listen(sock, implicit_tls=implicit)
    bell, rope = socket.socketpair()

    class Doorbell:
        number = -1

        def ready(self, events: int) -> None:
            server.loop.poll.forget(bell)
            server.stop()
            server.end_all()

    server.loop.poll.watch(bell, 1, Doorbell())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield port
    finally:
        rope.send(b"x")
        thread.join()
        bell.close()
        rope.close()
