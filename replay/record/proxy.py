"""Recording without root: a proxy between senders and a server, which writes down what passes.

``record`` runs until it is told to stop.  What the senders' side looks like goes into one capture,
as if it had been taken at the server; the server's side goes into another one beside it.
"""

from __future__ import annotations

import errno
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mailsrv.config.endpoints import parse_endpoint
from mailsrv.config.validation import ConfigError
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import READ, Handler, SelectorPoll
from mailsrv.runtime.signals import SignalReader
from mailsrv.units import NS_PER_S
from replay.play.target import Target
from replay.record.proxy_connection import ProxyConnection, ProxyRoute, ProxySide, shown
from replay.record.recorder import CaptureRecorder, End

CONNECTIONS_MAX = 1000
"""Passed through at once; who comes then waits to be accepted."""
DESCRIPTORS_KEPT = 32
ACCEPTS_MAX = 64
"""Connections taken in one pass."""
EXHAUSTED_PAUSE_NS = NS_PER_S
"""How long nothing is accepted after the machine ran out of something."""
SESSIONS_LISTED_MAX = 10_000
"""Connections that the summary for machines tells one by one."""
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Say = Callable[[str], None]
"""Takes a line for people."""


class RecordError(Exception):
    """Recording cannot begin; the message says why."""


class ProxiedSession(NamedTuple):
    """One connection that was passed through."""

    number: int
    client: End
    client_octets: int
    server_octets: int
    duration_ns: int
    how: str


@dataclass(slots=True)
class RecordingResult:
    """What was recorded.  ``sessions`` holds the first ``SESSIONS_LISTED_MAX``."""

    tapes: tuple[CaptureRecorder, CaptureRecorder]
    count: int = 0
    octets: int = 0
    sessions: list[ProxiedSession] = field(default_factory=list)

    @property
    def incomplete(self) -> list[str]:
        """What is missing, in sentences."""
        return [
            f"{tape.file.path}: {tape.missing} packets are missing: {tape.file.failure}"
            for tape in self.tapes
            if tape.file.failure
        ]


class Proxy:
    """Accepts clients at ``sock``, which it closes when it stops, and passes them through."""

    def __init__(
        self,
        route: ProxyRoute,
        sock: socket.socket,
        say: Say,
        *,
        connections_max: int = CONNECTIONS_MAX,
        sessions: int = 0,
    ) -> None:
        self.number = 0  # before every side of a passage
        self.outcome = RecordingResult((route.client_tape, route.upstream_tape))
        self.passages: dict[int, ProxyConnection] = {}
        self._route = route
        self._sock = sock
        self._say = say
        self._connections_max = connections_max
        self._sessions = sessions
        self._accepted = 0
        self._accepting = False
        self._stopping = False
        self._warned: set[CaptureRecorder] = set()
        self._accept(True)
        route.loop.at_end_of_pass(self._flush)

    @property
    def done(self) -> bool:
        """True once it has stopped and nobody is left."""
        return self._stopping and not self.passages

    def ready(self, events: int) -> None:
        """Somebody is at the door."""
        for _ in range(ACCEPTS_MAX):
            if not self._has_room():
                self._accept(False)
                return
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that one has gone again
                self._exhausted(error)
                return
            sock.setblocking(False)
            self._pass_through(sock, (str(address[0]), int(address[1])))

    def stop(self) -> None:
        """Accept nobody any more; who is here may finish."""
        if not self._stopping:
            self._stopping = True
            self._accept(False)
            self._sock.close()

    def drop_all(self) -> None:
        """Cut off who is still here."""
        self.stop()
        for passage in list(self.passages.values()):
            passage.drop("cut off by us")
        self._flush()

    def fault(self, handler: Handler | None, fault: Exception) -> None:
        """A defect of ours: the connection it struck is cut off, the others go on."""
        self._say(f"a defect of ours: {fault!r}")
        if isinstance(handler, ProxySide):
            handler.passage.drop("cut off by a defect of ours")

    # -- the door ---------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        wanted = not self._sessions or self._accepted < self._sessions
        return wanted and len(self.passages) < self._connections_max

    def _accept(self, accepting: bool) -> None:
        if accepting == self._accepting:
            return
        self._accepting = accepting
        if accepting:
            self._route.loop.poll.watch(self._sock, READ, self)
        else:
            self._route.loop.poll.forget(self._sock)

    def _exhausted(self, error: OSError) -> None:
        self._say(f"nobody is accepted for a moment: {error.strerror}")
        self._accept(False)
        loop = self._route.loop
        loop.timers.schedule(loop.now_ns + EXHAUSTED_PAUSE_NS, self._go_on)

    def _go_on(self) -> None:
        if not self._stopping and self._has_room():
            self._accept(True)

    def _pass_through(self, sock: socket.socket, client: End) -> None:
        self._accepted += 1
        number = self._accepted
        try:
            passage = ProxyConnection(self._route, sock, client, number)
        except OSError as error:  # no descriptor for the way on
            self._say(f"connection {number} from {shown(client)}: {error.strerror}")
            sock.close()
            return
        self.passages[number] = passage
        passage.begin(self._ended)

    def _ended(self, passage: ProxyConnection) -> None:
        del self.passages[passage.number]
        session = ProxiedSession(
            passage.number,
            passage.address,
            passage.client.octets,
            passage.upstream.octets,
            passage.duration_ns,
            passage.how,
        )
        outcome = self.outcome
        outcome.count += 1
        outcome.octets += session.client_octets + session.server_octets
        if len(outcome.sessions) < SESSIONS_LISTED_MAX:
            outcome.sessions.append(session)
        self._say(told(session))
        if self._sessions and outcome.count >= self._sessions:
            self.stop()
        self._go_on()

    def _flush(self) -> None:
        """What happened in this pass can be read from now on, whatever becomes of us."""
        for tape in self.outcome.tapes:
            tape.file.flush()
            if tape.file.failure and tape not in self._warned:
                self._warned.add(tape)
                why = tape.file.failure
                self._say(f"{tape.file.path}: {why}: nothing more is recorded; mail goes on")


def told(session: ProxiedSession) -> str:
    """A line about a connection."""
    return (
        f"connection {session.number} from {shown(session.client)}: "
        f"{session.client_octets} octets to the server, {session.server_octets} back, "
        f"{session.duration_ns / NS_PER_S:.3f} s, {session.how}"
    )


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """What to record: from whom, for whom, into what."""

    listen: socket.socket
    upstream: Target
    path: Path
    octets_max: int
    delay_ns: int = 0
    tells_client: bool = False
    sessions: int = 0


def listen(text: str) -> socket.socket:
    """Listen at ``HOST:PORT``.  Raises RecordError."""
    try:
        endpoint = parse_endpoint(text)
        return bind(endpoint.host, endpoint.port)
    except ConfigError as error:
        raise RecordError(f"--listen {error}") from None
    except OSError as error:
        raise RecordError(f"cannot listen on {text}: {error.strerror}") from None


def upstream_path(path: Path) -> Path:
    """Where the server's side goes when the clients' side goes to ``path``."""
    return path.with_name(f"{path.stem}.upstream{path.suffix}")


def record(wanted: RecordingOptions, clock: Clock, say: Say) -> RecordingResult:
    """Record until a signal comes, or the sessions that were wanted have ended.

    Raises RecordError.
    """
    tapes = _tapes(wanted, clock)
    upstream = str(wanted.upstream.address[0]), int(wanted.upstream.address[1])
    poll = SelectorPoll(clock)
    loop = Loop(clock, poll, lambda handler, fault: proxy.fault(handler, fault))
    route = ProxyRoute(
        loop,
        clock,
        wanted.upstream.family,
        upstream,
        *tapes,
        delay_ns=wanted.delay_ns,
        tells_client=wanted.tells_client,
    )
    proxy = Proxy(
        route,
        wanted.listen,
        say,
        connections_max=_connections_max(),
        sessions=wanted.sessions,
    )
    host, port = wanted.listen.getsockname()[:2]
    say(f"listening on {shown((host, port))} for {wanted.upstream.name}; Ctrl-C ends it")
    rings = 0

    def rung(number: int) -> None:
        nonlocal rings
        rings += 1
        proxy.stop()
        if rings > 1:
            proxy.drop_all()
        elif proxy.passages:
            say(f"finishing {len(proxy.passages)} connections; once more cuts them off")

    bell = SignalReader(poll, (signal.SIGTERM, signal.SIGINT), rung)
    try:
        while not proxy.done:
            loop.run_once()
    finally:
        proxy.drop_all()
        bell.close()
        poll.close()
        for tape in tapes:
            tape.file.close()
    return proxy.outcome


def _tapes(wanted: RecordingOptions, clock: Clock) -> tuple[CaptureRecorder, CaptureRecorder]:
    made = []
    for path in (wanted.path, upstream_path(wanted.path)):
        try:
            made.append(CaptureRecorder(path, clock, wanted.octets_max))
        except OSError as error:
            for tape in made:
                tape.file.close()
                tape.file.path.unlink(missing_ok=True)
            raise RecordError(f"{path}: {error.strerror}") from None
    return made[0], made[1]


def _connections_max() -> int:
    """Each takes two descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(CONNECTIONS_MAX, (soft - DESCRIPTORS_KEPT) // 2), 1)
