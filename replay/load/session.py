"""One session of a load run: a plan played over a link that never blocks.

The session writes what is due, takes the replies that have come, and compares each with the plan.
It knows neither selector nor timeouts: its driver calls ``ready`` when the socket is, asks
``events`` what to wait for, looks at ``over`` and ``holding`` afterwards, and calls ``release``
for a session that is over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from selectors import EVENT_READ, EVENT_WRITE

from mailsrv.runtime.clock import Clock
from replay.load.plan import Plan
from replay.load.tally import CLOSED, NO_REPLY, REFUSED, RESET, TIMEOUT, TOO_LONG, UNEXPECTED, Tally
from replay.play import sockets
from replay.play.real_link import RealLink
from replay.play.target import SocketAddress
from replay.smtp.replies import REPLY_MAX_OCTETS, ReceivedReply, ReplyReader
from replay.transcript.octets import to_text
from replay.transcript.script import Close, HalfClose, SendOctets
from replay.transcript.script import Reset as ResetAction

SHOWN_MAX_CHARACTERS = 100
_KINDS = {
    errno.ECONNREFUSED: REFUSED,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
    errno.ETIMEDOUT: TIMEOUT,
}


class LoadSession:
    """``over`` becomes True when the session has ended; ``holding`` when a plan that is ``held``
    has come to its end and its connection is kept.  Then ``failure`` is empty, or says in a few
    words what was wrong."""

    __slots__ = (
        "_acts_done",
        "_clock",
        "_dot_sent_ns",
        "_link",
        "_reader",
        "_replies",
        "_tally",
        "_unexpected",
        "_unsent_dot",
        "began_ns",
        "failure",
        "holding",
        "over",
        "plan",
        "sock",
    )

    def __init__(self, plan: Plan, sock: socket.socket, clock: Clock, tally: Tally) -> None:
        self.plan = plan
        self.sock = sock
        self.holding = self.over = False
        self.failure = ""
        self._link = RealLink(sock, self)
        self._clock = clock
        self._tally = tally
        self._acts_done = 0
        self._replies = 0
        self._reader = ReplyReader()
        self._unexpected: tuple[()] | tuple[str, str] = ()
        self._unsent_dot: int | None = None
        self._dot_sent_ns: dict[int, int] = {}
        self.began_ns = clock.monotonic_ns()

    def connect(self, address: SocketAddress) -> None:
        """Begin to connect; a failure that is known at once ends the session."""
        self._link.connect(address)

    def ready(self, events: int) -> None:
        """The socket is ready for ``events``."""
        # What waits for nothing leaves before anything is read that may have come already.
        self._link.ready(EVENT_WRITE if self._is_to_begin else events)
        if not self.over:
            self._go_on()

    def time_out(self) -> None:
        """End a session that takes too long."""
        if not self.connected:
            self._fail(TIMEOUT, "no answer to the connect")
        elif self._replies < len(self.plan.codes):
            self._fail(TIMEOUT, f"timeout before reply {self._replies + 1}")
        else:
            self._fail(TIMEOUT, "timeout before the end of the session")

    def release(self) -> None:
        """Close the socket; harmless when closed."""
        self._link.release()

    @property
    def connected(self) -> bool:
        """Whether there is, or was, a connection."""
        if self._link.connected:
            return True
        with contextlib.suppress(OSError):
            self.sock.getpeername()  # a link that has nothing to write is not told at once
            return True
        return False

    @property
    def events(self) -> int:
        """What to wait for on the socket: while it connects and nothing is to be written, for the
        greeting or the failure, which saves a wake-up."""
        link = self._link
        if link.connected or link.unsent or self._is_to_begin:
            return link.events
        return EVENT_READ

    @property
    def _is_to_begin(self) -> bool:
        return self.plan.speaks_first and not self._acts_done

    # -- what the sender does ---------------------------------------------------------------------

    def _go_on(self) -> None:
        """Let everything depart that is due, and end the session behind the last."""
        acts, link = self.plan.acts, self._link
        while not (self.over or link.unsent or link.lost):
            if self._unsent_dot is not None:
                self._dot_sent_ns[self._unsent_dot] = self._clock.monotonic_ns()
                self._unsent_dot = None
            number = self._acts_done
            if number == len(acts):
                self._end_if_answered()
                return
            act = acts[number]
            if act.replies > self._replies:
                return
            self._acts_done += 1
            if isinstance(act.action, SendOctets):
                self._unsent_dot = self.plan.content_ends.get(number)
                link.send(act.action.octets)
            elif isinstance(act.action, HalfClose):
                link.half_close()
            elif isinstance(act.action, Close):
                self._succeed()
            elif isinstance(act.action, ResetAction):
                sockets.reset_on_close(self.sock)
                self._succeed()

    def _end_if_answered(self) -> None:
        if self._replies < len(self.plan.codes) or self.plan.server_ends:
            return
        if self.plan.held:
            self.holding = True
        else:
            self._succeed()

    # -- what the server does ---------------------------------------------------------------------

    def received(self, octets: bytes) -> None:
        """Octets have come."""
        for reply in self._reader.feed(octets, self._clock.monotonic_ns()):
            self._take(reply)
            if self.over:
                return
        if len(self._reader.rest) > REPLY_MAX_OCTETS:
            self._fail(TOO_LONG, f"reply {self._replies + 1} has over {REPLY_MAX_OCTETS} octets")

    def _take(self, reply: ReceivedReply) -> None:
        number, code = self._replies, reply.code
        codes, tally = self.plan.codes, self._tally
        self._replies += 1
        tally.replies[code] += 1
        if not number:
            tally.greeting.record(reply.at_ns - self.began_ns)
        if self._dot_sent_ns and (sent_ns := self._dot_sent_ns.pop(number, 0)):
            tally.final_dot.record(reply.at_ns - sent_ns)
            tally.messages += 200 <= code < 300
        expected = codes[number] if number < len(codes) else None
        if code == expected or expected == 0:
            return
        shown = _shown(reply)
        if not code:
            self._fail(NO_REPLY, f"reply {number + 1} is none", shown)
            return
        wanted = "nothing" if expected is None else expected
        if not self._unexpected:
            self._unexpected = (f"reply {number + 1}: {code} instead of {wanted}", shown)
        if expected is None or code // 100 != expected // 100:
            self._fail(UNEXPECTED, *self._unexpected)  # what the sender would say now is unknown

    def ended(self, how: str) -> None:
        """The server has ended the connection."""
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
        """Nothing: no plan has a handshake."""

    @property
    def _answered(self) -> bool:
        return self._acts_done == len(self.plan.acts) and self._replies >= len(self.plan.codes)

    # -- the end ----------------------------------------------------------------------------------

    def _succeed(self) -> None:
        if self._unexpected:
            self._fail(UNEXPECTED, *self._unexpected)
            return
        self._tally.good += 1
        self._tally.session.record(self._clock.monotonic_ns() - self.began_ns)
        self.over = True

    def _lose(self, number: int) -> None:
        if number == errno.ECONNRESET and self.plan.server_ends and self._answered:
            self._succeed()
            return
        kind = _KINDS.get(number, os.strerror(number).lower())
        self._fail(kind, f"{kind} before reply {self._replies + 1}")

    def _fail(self, kind: str, complaint: str, shown: str = "") -> None:
        self.failure = complaint
        self.over = True
        self._tally.fail(kind, f"{self.plan.name}: {complaint}", shown)


def _shown(reply: ReceivedReply) -> str:
    text = to_text(reply.octets.rstrip(b"\r\n"))
    return text if len(text) <= SHOWN_MAX_CHARACTERS else text[: SHOWN_MAX_CHARACTERS - 1] + "…"
