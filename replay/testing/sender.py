"""The scripted client: plays a sender that a test describes, over a real socket.

A script is an iterable of steps; a step is called with ``expect`` and ``send``:

    def greets(expect, send):
        expect(220)
        send("EHLO client.example")
        assert "PIPELINING" in expect(250).text

    def leaves(expect, send):
        send("QUIT", pause=0.05)
        expect(221)

    session("127.0.0.1", 2525, [greets, leaves])

``replay.testing.virtual_server`` plays the same scripts in virtual time.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from mailsrv.runtime.clock import Clock, SystemClock
from mailsrv.units import NS_PER_S, seconds_to_ns
from replay.smtp.replies import ReceivedReply, ReplyReader
from replay.transcript.duration import DURATION_NS_MAX, format_ns

TIMEOUT_S = 30.0
"""How long ``session`` waits for a connection, a reply, or room to write."""
PAUSE_MAX_S = DURATION_NS_MAX // NS_PER_S
LINGER_MAX_OCTETS = 1024 * 1024
"""How much is read after the last step, for the server's end, before closing all the same."""
_READ_OCTETS = 64 * 1024


class Unexpected(AssertionError):
    """The server did something else than the script expects."""


class Expect(Protocol):
    """Takes the next reply.  Raises TypeError for a code that is no number."""

    def __call__(self, code: int) -> ReceivedReply:
        """Wait for one whole reply, all of its lines, and give it; its ``at_ns`` counts from
        when the connection was opened.  Raises Unexpected for another code, and when no reply
        comes."""


class Send(Protocol):
    """Speaks.  Raises TypeError or ValueError, before anything is sent, for what cannot be."""

    def __call__(self, line: str | bytes, pause: float = 0) -> None:
        """Let ``pause`` seconds go by on the sender's clock, then write ``line``: text with a
        CRLF behind it, octets exactly as given.  A server that has ended the connection is no
        error here: the next ``expect`` tells."""


Step = Callable[[Expect, Send], object]
Script = Iterable[Step]


def session(
    host: str,
    port: int,
    script: Script,
    *,
    timeout_s: float = TIMEOUT_S,
    clock: Clock | None = None,
) -> list[ReceivedReply]:
    """Play ``script`` against the server at ``host`` and ``port``; gives all of its replies.

    Nothing waits longer than ``timeout_s`` seconds, pauses aside.  A pause ends early when the
    server ends the connection.  Raises Unexpected, and OSError if there is no connection.
    """
    wire = _Wire(host, port, timeout_s, clock or SystemClock())
    try:
        for step in script:
            step(wire.expect, wire.send)
        wire.finish()
    finally:
        wire.close()
    return wire.replies


def wire_octets(line: str | bytes) -> bytes:
    """What ``send`` writes for ``line``.  Raises TypeError, or ValueError for a doubled CRLF."""
    __tracebackhide__ = True
    if isinstance(line, bytes):
        return line
    if not isinstance(line, str):
        raise TypeError(f"send takes a line as text, or octets as bytes, not {line!r}")
    if line.endswith("\n"):
        raise ValueError(
            f"send({line!r}): text gets its CRLF by itself; leave it out, "
            f"or pass bytes, which go out as they are"
        )
    return line.encode("utf-8") + b"\r\n"


def wait_ns(seconds: float, what: str = "a pause") -> int:
    """``seconds`` of virtual or real time in nanoseconds.  Raises TypeError or ValueError."""
    __tracebackhide__ = True
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{what} is a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= PAUSE_MAX_S:  # nan is neither
        raise ValueError(f"{what} is a number of seconds from 0 to {PAUSE_MAX_S}, not {seconds}")
    return seconds_to_ns(seconds)


def check_code(code: int) -> None:
    """Raise TypeError for an expected code that no reply can have."""
    __tracebackhide__ = True
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"expect takes a reply code as a number, such as 250, not {code!r}")


def check(code: int, reply: ReceivedReply, who: str = "") -> ReceivedReply:
    """``reply``, if it has this code; ``who`` heard it.  Raises Unexpected."""
    __tracebackhide__ = True
    if reply.code != code:
        raise Unexpected(f"{who}expected {code}, came at {format_ns(reply.at_ns)}: {reply.text}")
    return reply


class _Wire:
    """The socket.  Waiting is waiting on it, with a deadline."""

    def __init__(self, host: str, port: int, timeout_s: float, clock: Clock) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._sock = socket.create_connection((host, port), timeout_s)
        self._began_ns = clock.monotonic_ns()
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._sock, selectors.EVENT_READ)
        self._reader = ReplyReader()
        self._unread: deque[ReceivedReply] = deque()
        self._end = ""
        self.replies: list[ReceivedReply] = []

    def expect(self, code: int) -> ReceivedReply:
        """See ``Expect``."""
        __tracebackhide__ = True
        check_code(code)
        deadline_ns = self._deadline_ns(self._timeout_s)
        while not self._unread:
            if self._end:
                raise Unexpected(f"expected {code}, {self._end}")
            if not self._wait(deadline_ns):
                raise Unexpected(
                    f"expected {code}, nothing came within {self._timeout_s:g} s, "
                    f"at {format_ns(self._now_ns())}"
                )
        return check(code, self._unread.popleft())

    def send(self, line: str | bytes, pause: float = 0) -> None:
        """See ``Send``."""
        __tracebackhide__ = True
        octets = memoryview(wire_octets(line))
        deadline_ns = self._now_ns() + wait_ns(pause)
        while not self._end and self._wait(deadline_ns):
            pass
        deadline_ns = self._deadline_ns(self._timeout_s)
        while octets and not self._end:
            try:
                octets = octets[self._sock.send(octets) :]
            except BlockingIOError:
                if not self._wait(deadline_ns, selectors.EVENT_READ | selectors.EVENT_WRITE):
                    raise Unexpected(
                        f"the server took no octets for {self._timeout_s:g} s"
                    ) from None
            except OSError:
                return  # it has gone; what it said before is still to be read, and then its end

    def finish(self) -> None:
        """Send our FIN and read to the server's, so that closing sends no reset."""
        with contextlib.suppress(OSError):  # the server has reset the connection already
            self._sock.shutdown(socket.SHUT_WR)
        deadline_ns = self._deadline_ns(self._timeout_s)
        octets = 0
        while not self._end and octets < LINGER_MAX_OCTETS and self._wait(deadline_ns):
            octets = sum(len(reply.octets) for reply in self.replies) + len(self._reader.rest)

    def close(self) -> None:
        """Release the socket."""
        self._selector.close()
        self._sock.close()

    def _wait(self, deadline_ns: int, events: int = selectors.EVENT_READ) -> bool:
        """Wait until the socket is ready and keep what has arrived; False at the deadline."""
        left_ns = deadline_ns - self._now_ns()
        if left_ns <= 0:
            return False
        self._selector.modify(self._sock, events)
        if self._selector.select(left_ns / NS_PER_S):
            self._take_in()
        return True

    def _take_in(self) -> None:
        try:
            octets = self._sock.recv(_READ_OCTETS)
        except BlockingIOError:
            return
        except OSError as error:
            self._end = self._ended(error)
            return
        if not octets:
            self._end = f"the server ended the connection at {format_ns(self._now_ns())}"
            return
        replies = self._reader.feed(octets, self._now_ns())
        self._unread += replies
        self.replies += replies

    def _ended(self, error: OSError) -> str:
        return f"the connection was lost at {format_ns(self._now_ns())}: {error.strerror}"

    def _now_ns(self) -> int:
        return self._clock.monotonic_ns() - self._began_ns

    def _deadline_ns(self, seconds: float) -> int:
        return self._now_ns() + seconds_to_ns(seconds)
