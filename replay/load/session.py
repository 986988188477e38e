"""One session of a load run: a plan played over a link that never blocks.

The session writes what is due, takes the replies that have come, compares each with the plan, and
tells its observer how long everything took.  It knows neither selector nor timeouts: its driver
calls ``ready`` when the socket is, asks ``events`` what to wait for and ``deadline_ns`` until when,
looks at ``over`` and ``holding`` afterwards, and calls ``release`` for a session that is over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from selectors import EVENT_READ, EVENT_WRITE
from typing import Protocol

from mailsrv.runtime.clock import Clock
from replay.load.interval import (
    CLOSED,
    NO_HANDSHAKE,
    NO_REPLY,
    REFUSED,
    RESET,
    TIMEOUT,
    TOO_LONG,
    UNEXPECTED,
)
from replay.load.plan import Plan
from replay.load.reply_labels import CONNECT, GREETING, SESSION, TLS, UNASKED
from replay.play import sockets
from replay.play.real_link import RealLink
from replay.play.target import SocketAddress
from replay.play.tls_client import DONE
from replay.smtp.replies import REPLY_MAX_OCTETS, ReceivedReply, ReplyReader
from replay.transcript.script import Close, HalfClose, SendOctets, StartTls
from replay.transcript.script import Reset as ResetAction

_KINDS = {
    errno.ECONNREFUSED: REFUSED,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
    errno.ETIMEDOUT: TIMEOUT,
}


class SessionObserver(Protocol):
    """Receives what happens in sessions.  Durations are nanoseconds, explained in ``interval``."""

    def timed(self, step: str, service_ns: int, response_ns: int) -> None:
        """A step (``reply_labels.STEPS``) is over: a connect, a handshake, the wait for a reply,
        a good session."""

    def replied(self, label: str, reply: ReceivedReply) -> None:
        """A reply has come, to what ``label`` says."""

    def ended(self, kind: str, complaint: str, reply: ReceivedReply | None) -> None:
        """The session is over; ``kind`` is empty where it was as its transcript says.  Else
        ``complaint`` says in words what was not, and ``reply`` is the one that was wrong."""


class LoadSession:
    """``over`` becomes True when the session has ended; ``holding`` when a plan that is ``held``
    has come to its end and its connection is kept.  Then ``failure`` is empty, or says in a few
    words what was wrong.

    ``intended_ns`` is when the session was due to begin; left out, now.
    """

    __slots__ = (
        "_acts_done",
        "_clock",
        "_connect_is_timed",
        "_due_ns",
        "_is_under_tls",
        "_late_ns",
        "_link",
        "_observer",
        "_reader",
        "_replies",
        "_sent",
        "_shaking",
        "_unexpected",
        "_unsent_act",
        "began_ns",
        "deadline_ns",
        "failure",
        "holding",
        "over",
        "plan",
        "sock",
    )

    def __init__(
        self,
        plan: Plan,
        sock: socket.socket,
        clock: Clock,
        observer: SessionObserver,
        timeout_ns: int,
        intended_ns: int | None = None,
    ) -> None:
        self.plan = plan
        self.sock = sock
        self.holding = self.over = False
        self.failure = ""
        self._link = RealLink(sock, self)
        self._clock = clock
        self._observer = observer
        self._acts_done = 0
        self._replies = 0
        self._reader = ReplyReader()
        self._unexpected: tuple[str, ReceivedReply] | None = None
        self._unsent_act: int | None = None
        self._sent: dict[int, tuple[int, int]] = {}  # by act: when it was due, when it had left
        self._shaking = self._is_under_tls = self._connect_is_timed = False
        self.began_ns = self._due_ns = clock.monotonic_ns()
        self.deadline_ns = self.began_ns + timeout_ns
        self._late_ns = 0 if intended_ns is None else max(self.began_ns - intended_ns, 0)

    def connect(self, address: SocketAddress) -> None:
        """Begin to connect; a failure that is known at once ends the session."""
        self._link.connect(address)
        if not self.over and self._has_peer:
            self._time_connect()  # on loopback it is made at once

    def ready(self, events: int) -> None:
        """The socket is ready for ``events``."""
        # What waits for nothing leaves before anything is read that may have come already.
        self._link.ready(EVENT_WRITE if self._is_to_begin else events)
        if not self.over:
            if not self._connect_is_timed and self._link.connected:
                self._time_connect()
            self._go_on()

    def time_out(self) -> None:
        """End a session that takes too long."""
        if not self.connected:
            self._fail(TIMEOUT, "no answer to the connect")
        elif self._shaking:
            self._fail(TIMEOUT, "timeout in the TLS handshake")
        elif self._replies < len(self.plan.replies):
            self._fail(TIMEOUT, f"timeout before reply {self._replies + 1}")
        else:
            self._fail(TIMEOUT, "timeout before the end of the session")

    def release(self) -> None:
        """Close the socket; harmless when closed."""
        self._link.release()

    @property
    def connected(self) -> bool:
        """Whether there is, or was, a connection."""
        return self._link.connected or self._has_peer

    @property
    def _has_peer(self) -> bool:
        with contextlib.suppress(OSError):
            self.sock.getpeername()  # a link that has nothing to write is not told at once
            return True
        return False

    @property
    def events(self) -> int:
        """What to wait for on the socket: once it is connected and nothing is to be written, for
        the greeting, which saves a wake-up."""
        link = self._link
        if link.connected or link.unsent or self._is_to_begin or not self._connect_is_timed:
            return link.events
        return EVENT_READ

    def _time_connect(self) -> None:
        self._connect_is_timed = True
        self._timed(CONNECT, self.began_ns, self.began_ns, self._clock.monotonic_ns())

    def _timed(self, step: str, due_ns: int, sent_ns: int, at_ns: int) -> None:
        self._observer.timed(step, at_ns - sent_ns, at_ns - due_ns + self._late_ns)

    @property
    def _is_to_begin(self) -> bool:
        return self.plan.speaks_first and not self._acts_done

    # -- what the sender does ---------------------------------------------------------------------

    def _go_on(self) -> None:
        """Let everything depart that is due, and end the session behind the last."""
        acts, link = self.plan.acts, self._link
        while not (self.over or link.unsent or link.lost or self._shaking):
            if self._unsent_act is not None:
                self._sent[self._unsent_act] = self._due_ns, self._clock.monotonic_ns()
                self._unsent_act = None
            number = self._acts_done
            if number == len(acts):
                self._end_if_answered()
                return
            act = acts[number]
            if act.replies > self._replies:
                return
            self._acts_done += 1
            action = act.action
            if isinstance(action, SendOctets):
                self._unsent_act = number
                link.send(action.octets)
            elif isinstance(action, StartTls):
                self._shaking = True
                self._sent[number] = self._due_ns, self._clock.monotonic_ns()
                link.start_tls()
            elif isinstance(action, HalfClose):
                link.half_close()
            elif isinstance(action, Close):
                if self._is_under_tls:
                    link.half_close()  # with a close_notify; the socket is closed by the driver
                self._succeed()
            elif isinstance(action, ResetAction):
                sockets.reset_on_close(self.sock)
                self._succeed()

    def _end_if_answered(self) -> None:
        if self._replies < len(self.plan.replies) or self.plan.server_ends:
            return
        if self.plan.held:
            self.holding = True
        else:
            self._succeed()

    # -- what the server does ---------------------------------------------------------------------

    def received(self, octets: bytes) -> None:
        """Octets have come."""
        self._due_ns = now_ns = self._clock.monotonic_ns()
        for reply in self._reader.feed(octets, now_ns):
            self._take(reply)
            if self.over:
                return
        if len(self._reader.rest) > REPLY_MAX_OCTETS:
            self._fail(TOO_LONG, f"reply {self._replies + 1} has over {REPLY_MAX_OCTETS} octets")

    def _take(self, reply: ReceivedReply) -> None:
        number, code = self._replies, reply.code
        planned = self.plan.replies[number] if number < len(self.plan.replies) else None
        self._replies += 1
        self._observer.replied(planned.label if planned else UNASKED, reply)
        if planned is None:
            self._expect_nothing(number, reply)
            return
        if planned.act is None:
            if planned.label == GREETING:
                self._timed(GREETING, self.began_ns, self.began_ns, reply.at_ns)
        elif instants := self._sent.get(planned.act):
            self._timed(planned.label, *instants, reply.at_ns)
        if code == planned.code or not planned.code:
            return
        if not code:
            self._fail(NO_REPLY, f"reply {number + 1} is none", reply)
            return
        if not self._unexpected:
            self._unexpected = f"reply {number + 1}: {code} instead of {planned.code}", reply
        if code // 100 != planned.code // 100:
            self._fail(UNEXPECTED, *self._unexpected)  # what the sender would say now is unknown

    def _expect_nothing(self, number: int, reply: ReceivedReply) -> None:
        if not reply.code:
            self._fail(NO_REPLY, f"reply {number + 1} is none", reply)
            return
        complaint = f"reply {number + 1}: {reply.code} instead of nothing"
        self._fail(UNEXPECTED, *(self._unexpected or (complaint, reply)))

    def ended(self, how: str) -> None:
        """The server has ended the connection."""
        if self.over:
            return
        if self._link.lost is not None:
            self._lose(self._link.lost.errno or errno.ECONNRESET)
        elif self.holding:
            self._fail(CLOSED, "the server closed an idle connection")
        elif self.plan.server_ends and self._answered:
            self._succeed()
        else:
            self._fail(CLOSED, f"the server closed before reply {self._replies + 1}")

    def failed(self, error: OSError) -> None:
        """There is no connection."""
        number = error.errno or errno.EIO
        self._fail(_KINDS.get(number, os.strerror(number).lower()), os.strerror(number))

    def shook_hands(self, outcome: str) -> None:
        """A handshake is over."""
        if self.over:
            return
        if not self._shaking:
            self._fail(NO_HANDSHAKE, "a TLS alert where none was asked for")
        elif outcome is DONE:
            self._shaking, self._is_under_tls = False, True
            at_ns = self._clock.monotonic_ns()
            self._timed(TLS, *self._sent[self._acts_done - 1], at_ns)
            self._due_ns = at_ns
        else:
            self._fail(NO_HANDSHAKE, "the TLS handshake failed")

    @property
    def _answered(self) -> bool:
        return self._acts_done == len(self.plan.acts) and self._replies >= len(self.plan.replies)

    # -- the end ----------------------------------------------------------------------------------

    def _succeed(self) -> None:
        if self._unexpected:
            self._fail(UNEXPECTED, *self._unexpected)
            return
        self.over = True
        self._timed(SESSION, self.began_ns, self.began_ns, self._clock.monotonic_ns())
        self._observer.ended("", "", None)

    def _lose(self, number: int) -> None:
        if number == errno.ECONNRESET and self.plan.server_ends and self._answered:
            self._succeed()
            return
        kind = _KINDS.get(number, os.strerror(number).lower())
        self._fail(kind, f"{kind} before reply {self._replies + 1}")

    def _fail(self, kind: str, complaint: str, reply: ReceivedReply | None = None) -> None:
        self.failure = complaint
        self.over = True
        self._observer.ended(kind, f"{self.plan.name}: {complaint}", reply)
