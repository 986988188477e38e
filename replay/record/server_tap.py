"""Recording inside the server: ``mailsrv serve`` with a tap on each of its connections.

What passes under TLS is recorded as plaintext, and the file's name says so.  A tap must
never stop mail: whatever goes wrong with a recording ends the recording.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mailsrv.config import file as config
from mailsrv.config.file import Config
from mailsrv.config.validation import ConfigError
from mailsrv.daemon.privileges import PrivilegeError, identity
from mailsrv.daemon.service import ServeOptions
from mailsrv.daemon.service import serve as serve_mail
from mailsrv.runtime.clock import Clock
from mailsrv.transport.transport import TransportOwner
from replay.capture.tcp_packets import CLIENT
from replay.play.sockets import unacknowledged_octets
from replay.record.capture_ring import CaptureRing, RingLimits, mark_plaintext
from replay.record.recorder import CaptureRecorder, RecordedFlow

_REFUSAL = re.compile(rb"(?:\A|\n)[45][0-9][0-9][ -]")
_CLOSING = re.compile(rb"(?:\A|\n)221 ")


class ServeError(Exception):
    """Serving cannot begin; the message says why."""


class TappedSession:
    """One connection as it is being recorded."""

    __slots__ = (
        *("_at_line", "_finished", "_closing", "_lost", "_refused", "_secured", "_sock"),
        *("recorder", "flow"),
    )

    def __init__(self, recorder: CaptureRecorder, flow: RecordedFlow, sock: socket.socket) -> None:
        self.recorder = recorder
        self.flow = flow
        self._sock = sock
        self._at_line = True
        self._finished = self._closing = self._lost = self._refused = self._secured = False

    @property
    def is_bad(self) -> bool:
        """Whether it ended badly: something was refused, the connection broke, or the client left
        in the middle.  A client that sends nothing at all only looked whether we are alive; and
        what it does after our 221 does no harm."""
        left = self._lost or self.flow.read > 1
        return self._refused or (left and not self._closing)

    def received(self, octets: bytes) -> None:
        """The server has read this."""
        if octets and self._finished and self._secured:
            return  # it comes after our close_notify, and is not plaintext
        self.flow.received(octets, self._unacknowledged())

    def sent(self, octets: bytes) -> None:
        """The server has written this."""
        self.flow.sent(octets)
        if not octets:
            self._finished = True
            return
        line = octets if self._at_line else b"-" + octets
        self._refused = self._refused or bool(_REFUSAL.search(line))
        self._closing = self._closing or bool(_CLOSING.search(line))
        self._at_line = octets.endswith(b"\n")

    def secured(self) -> None:
        """TLS has begun."""
        self._secured = True
        mark_plaintext(self.recorder)

    def lost(self) -> None:
        """The client has aborted the connection, or TLS has failed."""
        self._lost = True
        self.flow.reset(self._unacknowledged())

    def closed(self) -> None:
        """The server has closed the socket."""
        if not self._lost:
            if not self._finished:
                self.flow.sent(b"")
            self.flow.closed()

    def _unacknowledged(self) -> int:
        """Under TLS the kernel holds ciphertext: of what it means the last octet is missing."""
        held = unacknowledged_octets(self._sock)
        return min(held, 1) if self._secured else held


class ServerTap:
    """A tap of ``mailsrv`` that records each connection into a ring of captures."""

    plaintext = True

    def __init__(self, ring: CaptureRing, clock: Clock, say: Callable[[str], None]) -> None:
        self._ring = ring
        self._clock = clock
        self._say = say
        self._sessions: dict[int, TappedSession] = {}
        self._trouble = ""

    def opened(self, connection: TransportOwner, sock: socket.socket) -> None:
        """A connection was accepted."""
        try:
            server, client = sock.getsockname()[:2], sock.getpeername()[:2]
            path = self._ring.new_path(self._clock.realtime_ns(), client[0], connection.number)
            recorder = CaptureRecorder(
                path, self._clock, self._ring.session_octets_max, stays_open=False
            )
            self._ring.add(recorder)
            flow = RecordedFlow(recorder, client, server, CLIENT, connection.number)
            self._sessions[connection.number] = TappedSession(recorder, flow, sock)
            flow.opened()
            self._written(recorder)
        except Exception as fault:  # see the module
            self._give_up(connection, fault)

    def received(self, connection: TransportOwner, octets: bytes) -> None:
        """Read from the client."""
        self._note(connection, TappedSession.received, octets)

    def sent(self, connection: TransportOwner, octets: bytes) -> None:
        """Written to the client."""
        self._note(connection, TappedSession.sent, octets)

    def secured(self, connection: TransportOwner, tls: str) -> None:
        """TLS has begun."""
        self._note(connection, TappedSession.secured)

    def lost(self, connection: TransportOwner, how: str) -> None:
        """The connection broke."""
        self._note(connection, TappedSession.lost)

    def closed(self, connection: TransportOwner) -> None:
        """The connection is over."""
        self._note(connection, TappedSession.closed)
        session = self._sessions.pop(connection.number, None)
        if session is not None:
            self._put_away(session)

    def close(self) -> None:
        """The server has ended."""
        while self._sessions:
            self._put_away(self._sessions.popitem()[1])

    def _note(
        self, connection: TransportOwner, act: Callable[..., None], *arguments: bytes
    ) -> None:
        session = self._sessions.get(connection.number)
        if session is None:
            return
        try:
            act(session, *arguments)
            self._written(session.recorder)
        except Exception as fault:  # see the module
            self._give_up(connection, fault)

    def _written(self, recorder: CaptureRecorder) -> None:
        """What happened can be read from now on, whatever becomes of us."""
        recorder.file.flush()
        if not self._ring.grown(recorder):
            recorder.file.failure = (
                recorder.file.failure or "there is no room beside other sessions"
            )
        if recorder.file.failure:
            self._complain(f"{recorder.file.path.name} is incomplete: {recorder.file.failure}")

    def _give_up(self, connection: TransportOwner, fault: Exception) -> None:
        """End a recording; mail goes on."""
        why = fault.strerror if isinstance(fault, OSError) else repr(fault)
        self._complain(f"connection {connection.number} is not recorded: {why}")
        session = self._sessions.pop(connection.number, None)
        if session is not None:
            self._put_away(session)

    def _put_away(self, session: TappedSession) -> None:
        try:
            self._ring.close(session.recorder, is_bad=session.is_bad)
        except Exception as fault:  # see the module
            self._complain(f"{session.recorder.file.path.name}: {fault!r}")

    def _complain(self, sentence: str) -> None:
        """Once for each kind of trouble in a row, not for each session."""
        kind = sentence.rpartition(": ")[2]
        if kind != self._trouble:
            self._trouble = kind
            self._say(f"{sentence}; mail goes on")


def serve(file: Path, keeping: RingLimits, clock: Clock, say: Callable[[str], None]) -> int:
    """Serve as ``file`` says, and record, until a signal ends it; returns the exit status.

    Raises ServeError.
    """
    orders = ServeOptions(partial(_read, file), file)
    try:
        configured = orders.read()
        recorder = ServerTap(CaptureRing(keeping), clock, say)
        _hand_over(keeping.folder, configured)
    except ConfigError as error:
        raise ServeError("; ".join(error.complaints)) from None
    except OSError as error:
        raise ServeError(f"{keeping.folder}: {error.strerror}") from None
    say(
        f"each session goes into {keeping.folder}/, the last {keeping.keep} and the last "
        f"{keeping.keep_bad} that end badly; what TLS hides stands there as plaintext"
    )
    try:
        return serve_mail(orders, clock, os.environ, recorder)
    except ConfigError as error:
        raise ServeError("; ".join(error.complaints)) from None
    finally:
        recorder.close()


def _hand_over(folder: Path, configured: Config) -> None:
    """A server that gives up root must still be able to write there.  Raises OSError."""
    try:
        whom = identity(configured.user, configured.group)
    except PrivilegeError as error:
        raise ConfigError(str(error)) from None
    if whom is not None and os.geteuid() == 0:
        os.chown(folder, whom.uid, whom.gid, follow_symlinks=False)


def _read(file: Path) -> Config:
    loaded = config.load(file)
    config.check(loaded)
    return loaded
