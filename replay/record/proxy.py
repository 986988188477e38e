"""Recording without root: a proxy between senders and a server, which records what passes.

``record`` runs until it is told to stop.  What the senders' side looks like goes into one capture,
as if it had been taken at the server; the server's side goes into another one beside it.
"""

from __future__ import annotations

import resource
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mailsrv.config.endpoints import parse_endpoint
from mailsrv.config.validation import ConfigError
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.listener import Listener, bind
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import Handler, SystemPoll
from mailsrv.runtime.signals import SignalReader
from mailsrv.transport.tls_context import TlsError, server_context
from mailsrv.units import NS_PER_S
from replay.play.target import Target
from replay.record.proxy_connection import ProxyConnection, shown
from replay.record.proxy_side import ProxyRoute, ProxySide
from replay.record.recorder import CaptureRecorder, End

CONNECTIONS_MAX = 1000
"""Passed through at once; further clients wait to be accepted."""
DESCRIPTORS_KEPT = 32
SESSIONS_LISTED_MAX = 10_000
"""Connections that the summary for machines tells one by one."""

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

    recorders: tuple[CaptureRecorder, CaptureRecorder]
    count: int = 0
    octets: int = 0
    sessions: list[ProxiedSession] = field(default_factory=list)

    @property
    def incomplete(self) -> list[str]:
        """What is missing, in sentences."""
        return [
            f"{recorder.file.path}: {recorder.missing} packets are missing: {recorder.file.failure}"
            for recorder in self.recorders
            if recorder.file.failure
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
        self.outcome = RecordingResult((route.client_recorder, route.upstream_recorder))
        self.connections: dict[int, ProxyConnection] = {}
        self._route = route
        self._say = say
        self._connections_max = connections_max
        self._sessions = sessions
        self._accepted = 0
        self._stopping = False
        self._warned: set[CaptureRecorder] = set()
        self._listener = Listener(route.loop, sock, self._pass_through, self._exhausted)
        route.loop.at_end_of_pass(self._flush)

    @property
    def done(self) -> bool:
        """True once it has stopped and no connection is left."""
        return self._stopping and not self.connections

    def stop(self) -> None:
        """Accept no more; connections that are open may finish."""
        if not self._stopping:
            self._stopping = True
            self._listener.pause()
            self._listener.close()

    def drop_all(self) -> None:
        """Cut off the connections that are left."""
        self.stop()
        for connection in list(self.connections.values()):
            connection.drop("cut off by us")
        self._flush()

    def fault(self, handler: Handler | None, fault: Exception) -> None:
        """A defect of ours: the connection it struck is cut off, the others go on."""
        self._say(f"a defect of ours: {fault!r}")
        if isinstance(handler, ProxySide):
            handler.connection.drop("cut off by a defect of ours")

    # -- connections ------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        wanted = not self._sessions or self._accepted < self._sessions
        return wanted and len(self.connections) < self._connections_max

    def _regulate(self) -> None:
        """Accept while there is room."""
        if self._has_room():
            self._listener.resume()
        else:
            self._listener.pause()

    def _exhausted(self, error: OSError) -> None:
        self._say(f"nobody is accepted for a moment: {error.strerror}")

    def _pass_through(self, sock: socket.socket, client: End) -> None:
        self._accepted += 1
        number = self._accepted
        try:
            connection = ProxyConnection(self._route, sock, client, number)
        except OSError as error:  # no descriptor for the way on
            self._say(f"connection {number} from {shown(client)}: {error.strerror}")
            sock.close()
        else:
            self.connections[number] = connection
            connection.begin(self._ended)
        self._regulate()

    def _ended(self, connection: ProxyConnection) -> None:
        del self.connections[connection.number]
        session = ProxiedSession(
            connection.number,
            connection.address,
            connection.client.octets,
            connection.upstream.octets,
            connection.duration_ns,
            connection.how,
        )
        outcome = self.outcome
        outcome.count += 1
        outcome.octets += session.client_octets + session.server_octets
        if len(outcome.sessions) < SESSIONS_LISTED_MAX:
            outcome.sessions.append(session)
        self._say(told(session))
        if self._sessions and outcome.count >= self._sessions:
            self.stop()
        self._regulate()

    def _flush(self) -> None:
        """What happened in this pass is in the files from now on, whatever happens to us."""
        for recorder in self.outcome.recorders:
            recorder.file.flush()
            if recorder.file.failure and recorder not in self._warned:
                self._warned.add(recorder)
                why = recorder.file.failure
                self._say(f"{recorder.file.path}: {why}: nothing more is recorded; mail goes on")


def told(session: ProxiedSession) -> str:
    """A line about a connection."""
    return (
        f"connection {session.number} from {shown(session.client)}: "
        f"{session.client_octets} octets to the server, {session.server_octets} back, "
        f"{session.duration_ns / NS_PER_S:.3f} s, {session.how}"
    )


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """What to record: where clients connect, the server they go to, and the file.

    ``tls`` is what clients shake hands with, where TLS is terminated; left out, it passes.
    """

    listen: socket.socket
    upstream: Target
    path: Path
    octets_max: int
    delay_ns: int = 0
    tells_client: bool = False
    sessions: int = 0
    tls: ssl.SSLContext | None = None


def listen(text: str) -> socket.socket:
    """Listen at ``HOST:PORT``.  Raises RecordError."""
    try:
        endpoint = parse_endpoint(text)
        return bind(endpoint.host, endpoint.port)
    except ConfigError as error:
        raise RecordError(f"--listen {error}") from None
    except OSError as error:
        raise RecordError(f"cannot listen on {text}: {error.strerror}") from None


def own_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """What clients shake hands with; both are PEM.  Raises RecordError."""
    try:
        return server_context(certificate, key)
    except TlsError as error:
        raise RecordError(f"--terminate-tls {error}") from None


def upstream_path(path: Path) -> Path:
    """Where the server's side goes when the clients' side goes to ``path``."""
    return path.with_name(f"{path.stem}.upstream{path.suffix}")


def record(wanted: RecordingOptions, clock: Clock, say: Say) -> RecordingResult:
    """Record until a signal comes, or the sessions that were wanted have ended.

    Raises RecordError.
    """
    recorders = _recorders(wanted, clock)
    upstream = str(wanted.upstream.address[0]), int(wanted.upstream.address[1])
    poll = SystemPoll(clock)
    loop = Loop(clock, poll, lambda handler, fault: proxy.fault(handler, fault))
    route = ProxyRoute(
        loop,
        clock,
        wanted.upstream.family,
        upstream,
        *recorders,
        delay_ns=wanted.delay_ns,
        tells_client=wanted.tells_client,
        tls=wanted.tls,
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
    signals = 0

    def signalled(number: int) -> None:
        nonlocal signals
        signals += 1
        proxy.stop()
        if signals > 1:
            proxy.drop_all()
        elif proxy.connections:
            say(f"finishing {len(proxy.connections)} connections; once more cuts them off")

    signal_reader = SignalReader(poll, (signal.SIGTERM, signal.SIGINT), signalled)
    try:
        while not proxy.done:
            loop.run_once()
    finally:
        proxy.drop_all()
        signal_reader.close()
        poll.close()
        for recorder in recorders:
            recorder.file.close()
    return proxy.outcome


def _recorders(wanted: RecordingOptions, clock: Clock) -> tuple[CaptureRecorder, CaptureRecorder]:
    made = []
    for path in (wanted.path, upstream_path(wanted.path)):
        try:
            made.append(CaptureRecorder(path, clock, wanted.octets_max))
        except OSError as error:
            for recorder in made:
                recorder.file.close()
                recorder.file.path.unlink(missing_ok=True)
            raise RecordError(f"{path}: {error.strerror}") from None
    return made[0], made[1]


def _connections_max() -> int:
    """Each takes two descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(CONNECTIONS_MAX, (soft - DESCRIPTORS_KEPT) // 2), 1)
