"""What tests of load share: a transcript, one run of it, and servers that misbehave."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mailsrv.delivery.discard import DiscardCourier
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import SystemPoll
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.tls_context import server_context
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load import runner
from replay.load.arrivals import parse
from replay.load.job import LoadJob, LoadOptions
from replay.load.plan import Plan, plans_of
from replay.load.result import LoadResult
from replay.load.runner import LoadProgress
from replay.play.target import resolve
from replay.play.tls_client import CERTIFICATE, KEY
from replay.transcript import transcript

LIMIT_NS = 100 * NS_PER_MS
GENEROUS_NS = 10 * NS_PER_S
"""For what must not fail on a busy machine; nothing waits for it."""

MESSAGE = """\
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\\r\\n
*        S? 250
+90s     C: MAIL FROM:<a@example.org>\\r\\n
         C: RCPT TO:<b@example.test>\\r\\n
+0       C: DATA\\r\\n
*        S? 250
*        S? 250
*        S? 354
reply+9s C: Subject: x\\r\\n
         C: \\r\\n
         C: .\\r\\n
*        S? 250
reply+0  C: QUIT\\r\\n
*        S? 221
*        S eof
+0       close
"""
HELLO = """\
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\\r\\n
*        S? 250
+0       close
"""


def text_of(steps: str) -> str:
    return f'+++\nstory = "x"\n+++\n{steps}'


def planned(steps: str, tls: str = "") -> tuple[list[Plan], list[str]]:
    return plans_of(transcript.parse(text_of(steps), "x.smtp"), "x.smtp", tls)


def run(
    steps: str,
    port: int,
    progress: Callable[[LoadProgress], None] | None = None,
    *,
    concurrency: int = 1,
    idle: int = 0,
    sessions: int = 1,
    duration_ns: int = GENEROUS_NS,
    timeout_ns: int = GENEROUS_NS,
    rate: str = "",
    open_limit: int = 1000,
    tls: str = "",
) -> LoadResult:
    plans, skipped = planned(steps, tls)
    assert not skipped
    schedule = parse(rate) if rate else None
    options = LoadOptions(
        concurrency, idle, duration_ns, timeout_ns, sessions, schedule, open_limit, tls
    )
    job = LoadJob(plans, resolve(f"127.0.0.1:{port}"), options)
    return runner.play(job, SystemClock(), progress)


@contextmanager
def rude_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Gives each connection to ``behave``, in a thread of its own, and closes it then."""
    listener = socket.create_server(("127.0.0.1", 0))

    def handle(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            behave(sock)

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=handle, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def lines_of(sock: socket.socket) -> Iterator[bytes]:
    with sock.makefile("rb") as file:
        yield from file


def saying(*replies: bytes) -> Callable[[socket.socket], None]:
    """Says the first at once, and the others each in answer to a line; then reads to the end."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(replies[0])
        lines = lines_of(sock)
        for reply, _ in zip(replies[1:], lines, strict=False):
            sock.sendall(reply)
        for _ in lines:
            pass

    return behave


@contextmanager
def served(*, tls: bool = False, implicit: bool = False) -> Iterator[int]:
    """The real server in a thread, on any free port."""
    clock = SystemClock()
    context = server_context(CERTIFICATE, KEY) if tls else None
    server = Server(
        Settings(),
        ServerBackends(resolver=NoResolver(), courier=DiscardCourier(), tls=context),
        clock=clock,
        poll=SystemPoll(clock),
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
