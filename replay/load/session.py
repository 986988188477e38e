"""One session of a load run: a plan played over a socket that never blocks.

The session writes what is due, reads what has come, and sets each reply beside the plan.  It
knows neither selector nor timeouts: whoever drives it calls ``ready`` when the socket is, asks
``writing`` what to wait for, looks at ``over`` and ``holding`` afterwards, and closes the socket of
a session that is over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from mailsrv.runtime.clock import Clock
from replay.load.plan import Plan
from replay.load.tally import CLOSED, NO_REPLY, REFUSED, RESET, TIMEOUT, TOO_LONG, UNEXPECTED, Tally
from replay.smtp.replies import REPLY_MAX_OCTETS, ReceivedReply, ReplyReader
from replay.transcript.octets import to_text
from replay.transcript.script import Close, HalfClose, SendOctets
from replay.transcript.script import Reset as ResetAction

SHOWN_MAX_CHARACTERS = 100
_READ_OCTETS = 64 * 1024
_LINGER_RESET = struct.pack("ii", 1, 0)
_START_MAIL_INPUT = 354
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
        "_reader",
        "_replies",
        "_tally",
        "_unexpected",
        "_unsent",
        "began_ns",
        "connected",
        "failure",
        "holding",
        "over",
        "plan",
        "sock",
    )

    def __init__(self, plan: Plan, sock: socket.socket, clock: Clock, tally: Tally) -> None:
        self.plan = plan
        self.sock = sock
        self.connected = self.holding = self.over = False
        self.failure = ""
        self._clock = clock
        self._tally = tally
        self._acts_done = 0
        self._replies = 0
        self._reader = ReplyReader()
        self._unsent: bytes | memoryview = b""
        self._unexpected: tuple[()] | tuple[str, str] = ()
        self._dot_sent_ns: dict[int, int] = {}
        self.began_ns = clock.monotonic_ns()

    def connect(self, address: tuple[str | int | bytes, ...]) -> None:
        """Begin to connect; a failure that is known at once ends the session."""
        number = self.sock.connect_ex(address)
        self.connected = number == 0
        if number not in (0, errno.EINPROGRESS):
            self._fail_with(number)

    def ready(self) -> None:
        """The socket can be read or written."""
        try:
            if self.plan.speaks_first and not self._acts_done:
                self._begin_speaking()
            if not self.over:
                self._write()
                self._read()
                self._go_on()
        except OSError as error:
            self._fail_with(error.errno or errno.EIO)

    def time_out(self) -> None:
        """End a session that takes too long."""
        with contextlib.suppress(OSError):
            self.sock.getpeername()
            self.connected = True
        if not self.connected:
            self._fail(TIMEOUT, "no answer to the connect")
        elif self._replies < len(self.plan.codes):
            self._fail(TIMEOUT, f"timeout before reply {self._replies + 1}")
        else:
            self._fail(TIMEOUT, "timeout before the end of the session")

    @property
    def writing(self) -> bool:
        """True while the socket must become writable for the session to go on."""
        return bool(self._unsent) or (self.plan.speaks_first and not self._acts_done)

    # -- what the sender does ---------------------------------------------------------------------

    def _begin_speaking(self) -> None:
        """Say what waits for nothing, before anything that may have come already is read."""
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        self.connected = True
        self._go_on()

    def _go_on(self) -> None:
        """Let everything depart that is due, and end the session behind the last."""
        acts = self.plan.acts
        while not self.over and not self._unsent:
            number = self._acts_done
            if number == len(acts):
                self._end_if_answered()
                return
            act = acts[number]
            if act.replies > self._replies:
                return
            self._acts_done += 1
            if isinstance(act.action, SendOctets):
                self._unsent = act.action.octets
                self._write()
            elif isinstance(act.action, HalfClose):
                self.sock.shutdown(socket.SHUT_WR)
            elif isinstance(act.action, Close):
                self._succeed()
            elif isinstance(act.action, ResetAction):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                self._succeed()

    def _write(self) -> None:
        """Write what is unsent, as far as the kernel takes it."""
        if not self._unsent:
            return
        with contextlib.suppress(BlockingIOError):
            written = self.sock.send(self._unsent)
            self._unsent = memoryview(self._unsent)[written:]
        reply = self.plan.content_ends.get(self._acts_done - 1)
        if reply is not None and not self._unsent:
            self._dot_sent_ns[reply] = self._clock.monotonic_ns()

    def _end_if_answered(self) -> None:
        if self._replies < len(self.plan.codes) or self.plan.server_ends:
            return
        if self.plan.held:
            self.holding = True
        else:
            self._succeed()

    # -- what the server does ---------------------------------------------------------------------

    def _read(self) -> None:
        try:
            octets = self.sock.recv(_READ_OCTETS)
        except BlockingIOError:
            self.connected = True  # ready, and no error: this was the connection
            return
        self.connected = True
        now_ns = self._clock.monotonic_ns()
        if not octets:
            self._server_ended()
            return
        for reply in self._reader.feed(octets, now_ns):
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

    def _server_ended(self) -> None:
        if self.holding:
            self._fail(CLOSED, "the server closed an idle connection")
        elif self.plan.server_ends and self._answered:
            self._succeed()
        else:
            self._fail(CLOSED, f"the server closed before reply {self._replies + 1}")

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

    def _fail_with(self, number: int) -> None:
        if number == errno.ECONNRESET and self.plan.server_ends and self._answered:
            self._succeed()
            return
        kind = _KINDS.get(number, os.strerror(number).lower())
        self.connected = self.connected or kind == RESET
        if self.connected:
            self._fail(kind, f"{kind} before reply {self._replies + 1}")
        else:
            self._fail(kind, os.strerror(number))

    def _fail(self, kind: str, complaint: str, shown: str = "") -> None:
        self.failure = complaint
        self.over = True
        self._tally.fail(kind, f"{self.plan.name}: {complaint}", shown)


def _shown(reply: ReceivedReply) -> str:
    text = to_text(reply.octets.rstrip(b"\r\n"))
    return text if len(text) <= SHOWN_MAX_CHARACTERS else text[: SHOWN_MAX_CHARACTERS - 1] + "…"
