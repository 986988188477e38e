"""A scripted sender: what a test lets it do, over a real socket and in virtual time alike.

A script is an iterable of steps.  A step is called with what it names as its parameters: any of
``STEP_VERBS``, or ``sender`` for all of it.

    def slow_loris(expect, send):
        expect("220")
        send("HELO test.invalid")
        expect("250")
        send("MAIL FROM:<probe@test.invalid>", pause=120)
        expect("250")
        expect("421")

    session("127.0.0.1", 2525, [slow_loris])    # replay.testing.real_sender
    server.session([slow_loris])                # replay.testing.virtual_server
"""

from __future__ import annotations

import inspect
import ipaddress
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from mailsrv.units import NS_PER_S, seconds_to_ns
from replay.play.tls_client import DONE
from replay.smtp.replies import ReceivedReply, ReplyReader
from replay.transcript.duration import DURATION_NS_MAX, format_ns

PAUSE_MAX_S = DURATION_NS_MAX // NS_PER_S
STEP_VERBS = (
    *("expect", "send", "wait", "silence", "expect_close", "starttls"),
    *("half_close", "close", "reset", "stop_reading", "resume_reading"),
)
"""Methods of a sender that a step may name."""


class Unexpected(AssertionError):
    """The server did something else than the script expects."""


class Expect(Protocol):
    """``Sender.expect``, as a step takes it."""

    def __call__(self, code: int | str) -> ReceivedReply: ...


class Send(Protocol):
    """``Sender.send``, as a step takes it."""

    def __call__(self, line: str | bytes, pause: float = 0) -> None: ...


RECEIVED_OCTETS_MAX = 64 * 1024 * 1024
"""From a server to one sender: no test reads on for ever."""
CLIENT = "192.0.2.1"
"""The address that the server sees, unless a sender says otherwise."""

Step = Callable[..., object]
Script = Iterable[Step]


class Sender(ABC):
    """One connection; it is open when this is made.

    ``replies`` keeps everything that has come.  All instants count from the opening, in
    nanoseconds.  What cannot be done, such as a negative pause or a text that brings its own
    CRLF, raises TypeError or ValueError before anything is sent.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._inbox = Inbox(lambda: self.elapsed_ns)
        self._has_shaken = False

    @property
    def replies(self) -> list[ReceivedReply]:
        """All replies that have come, those not expected yet included."""
        return self._inbox.replies

    @property
    @abstractmethod
    def elapsed_ns(self) -> int:
        """Nanoseconds since the connection was opened."""

    def play(self, script: Script) -> None:
        """Play the steps of ``script`` one after another."""
        __tracebackhide__ = True
        for step in script:
            step(**{name: self._verb(name) for name in _names(step)})

    # -- a script's words -------------------------------------------------------------------------

    def expect(self, code: int | str) -> ReceivedReply:
        """Wait for one whole reply, all of its lines, and return it; it prints as its text.

        ``code`` is a number or its three digits.  Raises Unexpected for another code, and when no
        reply can come any more, or none has come in time.
        """
        __tracebackhide__ = True
        wanted = _reply_code(code)
        inbox, since_ns = self._inbox, self.elapsed_ns
        while not inbox.unread:
            if inbox.end:
                raise Unexpected(f"{self} expected {code}, but {inbox.how_it_ended}")
            self._await(f"a reply {code}", since_ns)
        reply = inbox.unread.popleft()
        if reply.code != wanted:
            raise Unexpected(
                f"{self._name} expected {code}, came at {format_ns(reply.at_ns)}: {reply}"
            )
        return reply

    def send(self, line: str | bytes, pause: float = 0) -> None:
        """Send ``line``, text with a CRLF behind it or octets exactly as given; then let ``pause``
        seconds pass, in which replies are taken, each with its own instant.

        A server that has ended the connection is no error here: the next ``expect`` tells.
        """
        __tracebackhide__ = True
        octets, pause_ns = line_octets(line), wait_ns(pause)
        self._send(octets)
        self._pass(pause_ns)

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass, in which replies are taken, each with its own instant."""
        __tracebackhide__ = True
        self._pass(wait_ns(seconds))

    def silence(self, seconds: float) -> None:
        """Send nothing for so long.  Raises Unexpected if a reply comes or the server leaves."""
        __tracebackhide__ = True
        self._pass(wait_ns(seconds))
        self._refuse_reply("silence")
        if self._inbox.end:
            raise Unexpected(f"{self} expected silence, but {self._inbox.how_it_ended}")

    def expect_close(self) -> int:
        """Wait for the server to end its direction, and return the instant at which it did.

        Raises Unexpected if a reply comes before, or the server resets the connection.
        """
        __tracebackhide__ = True
        inbox, since_ns = self._inbox, self.elapsed_ns
        while not inbox.end and not inbox.unread:
            self._await("the server to close", since_ns)
        self._refuse_reply("the server to close")
        if inbox.end != "eof":
            raise Unexpected(f"{self} expected the server to close, but {inbox.how_it_ended}")
        return inbox.end_at_ns

    def starttls(self) -> None:
        """Shake hands, and from here on speak under TLS.

        Raises Unexpected if the server refuses, ends the connection, or never answers.
        """
        __tracebackhide__ = True
        if self._has_shaken:
            raise ValueError("a connection has one TLS handshake")
        self._has_shaken = True
        self._start_tls()
        inbox, since_ns = self._inbox, self.elapsed_ns
        while not inbox.handshake:
            self._await("the TLS handshake", since_ns)
        if inbox.handshake != DONE:
            end = f", {inbox.how_it_ended}" if inbox.end else ""
            raise Unexpected(f"{self} expected a TLS handshake, but it was refused{end}")

    @abstractmethod
    def half_close(self) -> None:
        """Shut down writing and go on reading."""

    @abstractmethod
    def close(self) -> None:
        """Close both directions."""

    @abstractmethod
    def reset(self) -> None:
        """Abort with a TCP reset."""

    @abstractmethod
    def stop_reading(self) -> None:
        """Leave what the server sends in the kernel."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read again."""

    # -- time and octets, for each kind of sender -------------------------------------------------

    @abstractmethod
    def _send(self, octets: bytes) -> None:
        """Write ``octets``, under TLS where that has begun."""

    @abstractmethod
    def _start_tls(self) -> None:
        """Begin a handshake."""

    @abstractmethod
    def _pass(self, ns: int) -> None:
        """Let time pass, and take what comes meanwhile."""

    @abstractmethod
    def _await(self, what: str, since_ns: int) -> None:
        """Let the next thing happen.  Raises Unexpected where ``what`` can come no more, or has
        been waited for long enough."""

    # -- inside -----------------------------------------------------------------------------------

    def _refuse_reply(self, instead_of: str) -> None:
        __tracebackhide__ = True
        if self._inbox.unread:
            reply = self._inbox.unread[0]
            came = f"came at {format_ns(reply.at_ns)}: {reply}"
            raise Unexpected(f"{self} expected {instead_of}, {came}")

    def _verb(self, name: str) -> object:
        return self if name == "sender" else getattr(self, name)

    def __str__(self) -> str:
        return f"{self._name} at {format_ns(self.elapsed_ns)}"


class Inbox:
    """What has come from the server: a link's listener (``replay.play.real_link``).

    ``unread`` holds the replies that no step has taken.  ``end`` is "eof", "reset" or "" while
    the server has not ended the connection, ``handshake`` the outcome of a TLS handshake.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._reader = ReplyReader()
        self.unread: deque[ReceivedReply] = deque()
        self.replies: list[ReceivedReply] = []
        self.octets = 0
        self.end = self.handshake = ""
        self.end_at_ns = 0

    def received(self, octets: bytes) -> None:
        replies = self._reader.feed(octets, self._now_ns())
        self.octets += len(octets)
        if self.octets > RECEIVED_OCTETS_MAX:
            raise Unexpected(f"the server sends more than {RECEIVED_OCTETS_MAX} octets")
        self.unread += replies
        self.replies += replies

    def ended(self, how: str) -> None:
        self.end, self.end_at_ns = how, self._now_ns()

    def shook_hands(self, outcome: str) -> None:
        self.handshake = outcome

    def failed(self, error: OSError) -> None:
        """Nothing: a sender is made of a connection."""

    @property
    def how_it_ended(self) -> str:
        did = "reset" if self.end == "reset" else "ended"
        return f"the server {did} the connection at {format_ns(self.end_at_ns)}"


def wait_ns(seconds: float, what: str = "a pause") -> int:
    """``seconds`` of virtual or real time in nanoseconds.  Raises TypeError or ValueError."""
    __tracebackhide__ = True
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{what} is a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= PAUSE_MAX_S:  # nan is neither
        raise ValueError(f"{what} is a number of seconds from 0 to {PAUSE_MAX_S}, not {seconds}")
    return seconds_to_ns(seconds)


def check_address(client: object) -> None:
    """Raises ValueError for what is no address to come from."""
    __tracebackhide__ = True
    try:
        ipaddress.ip_address(client if isinstance(client, str) else "")
    except ValueError:
        message = f"a sender comes from an IPv4 or IPv6 address, such as {CLIENT}, not {client!r}"
        raise ValueError(message) from None


def line_octets(line: str | bytes) -> bytes:
    """Text with its CRLF, or octets as they are.  Raises TypeError or ValueError."""
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


def _reply_code(code: int | str) -> int:
    __tracebackhide__ = True
    if isinstance(code, int) and not isinstance(code, bool):
        return code
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        return int(code)
    raise TypeError(f"expect takes a reply code, such as 250 or '250', not {code!r}")


def _names(step: Step) -> list[str]:
    """What ``step`` wants to be called with."""
    __tracebackhide__ = True
    names = []
    for name, parameter in inspect.signature(step).parameters.items():
        if name in STEP_VERBS or name == "sender":
            names.append(name)
        elif parameter.default is parameter.empty:
            allowed = ", ".join(STEP_VERBS)
            raise TypeError(f"a step takes sender, or any of {allowed}, and not {name!r}")
    return names
