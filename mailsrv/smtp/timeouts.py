"""Connection timeouts: when the next one expires, and which limit it is.

The formulas, in nanoseconds of the loop's clock (what the user reads is docs/run/timeouts.md):

- proxy header: accepted + proxy_timeout
- handshake:    its begin + handshake_timeout
- greet wait:   accepted + greet_wait
- idle:         last reply + idle_timeout                    until a command's first octet
- command:      its first octet + command_timeout            until its end
- content start: 354 + content_start_timeout                until its first octet
- content idle: last octet + content_timeout
- content rate: first octet + content_timeout + octets received / content_rate
- lookup:       question + lookup_timeout
- delivery:     final dot + delivery_timeout
- pause:        error + error_pause
- unread:       last octet taken + idle_timeout              while our output is not read
- linger:       our FIN + linger_timeout
- session:      accepted + session_timeout

At a tie the narrower limit is named: the phase's own, then the content rate, then the session.

The session's limit waits for a message that keeps its rate, and for the reply to it: a large
message over a slow line would otherwise never get through, however often it is tried.  It does not
wait for content longer than a message may be, nor for a message that began when the time was over.
Between two chunks it waits as long as the message as a whole has kept the rate.
"""

from __future__ import annotations

from enum import Enum

from mailsrv.settings import Settings
from mailsrv.units import NS_PER_S, seconds_to_ns


class Timeout(Enum):
    """The limits, narrowest first."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    PROXY = "proxy header"
    HANDSHAKE = "TLS handshake"
    GREET_WAIT = "greet wait"
    PAUSE = "pause after an error"
    IDLE = "idle"
    COMMAND = "command"
    CONTENT_START = "content start"
    CONTENT_IDLE = "content idle"
    LOOKUP = "lookup"
    DELIVERY = "delivery"
    UNREAD = "replies not read"
    LINGER = "linger"
    CONTENT_RATE = "content rate"
    SESSION = "session"


class Timeouts:
    """The timeouts of the settings in nanoseconds, computed once for a server."""

    __slots__ = ("_sentences", "content_rate_octets_s", "message_octets", "ns")

    def __init__(self, settings: Settings) -> None:
        self.content_rate_octets_s = settings.content_rate_octets_s
        self.message_octets = settings.message_octets
        seconds = {
            Timeout.PROXY: settings.proxy_timeout_s,
            Timeout.HANDSHAKE: settings.handshake_timeout_s,
            Timeout.GREET_WAIT: settings.greet_wait_s,
            Timeout.PAUSE: settings.error_pause_s,
            Timeout.IDLE: settings.idle_timeout_s,
            Timeout.COMMAND: settings.command_timeout_s,
            Timeout.CONTENT_START: settings.content_start_timeout_s,
            Timeout.CONTENT_IDLE: settings.content_timeout_s,
            Timeout.LOOKUP: settings.lookup_timeout_s,
            Timeout.DELIVERY: settings.delivery_timeout_s,
            Timeout.UNREAD: settings.idle_timeout_s,
            Timeout.LINGER: settings.linger_timeout_s,
            Timeout.SESSION: settings.session_timeout_s,
        }
        self.ns = {limit: seconds_to_ns(value) for limit, value in seconds.items()}
        self._sentences = {
            Timeout.IDLE: f"no command for {settings.idle_timeout_s:g} s",
            Timeout.COMMAND: f"command not ended after {settings.command_timeout_s:g} s",
            Timeout.CONTENT_START: f"no content for {settings.content_start_timeout_s:g} s",
            Timeout.CONTENT_IDLE: f"no content for {settings.content_timeout_s:g} s",
            Timeout.CONTENT_RATE: f"content slower than {settings.content_rate_octets_s} octets/s",
            Timeout.SESSION: f"session longer than {settings.session_timeout_s:g} s",
        }

    def sentence(self, limit: Timeout) -> str:
        """What the 421 says of a limit."""
        return self._sentences.get(limit, limit.value)


# Attributes of an Enum class are slow to look up; these are used for every connection.
_IDLE, _SESSION = Timeout.IDLE, Timeout.SESSION
_CONTENT_START, _CONTENT_IDLE = Timeout.CONTENT_START, Timeout.CONTENT_IDLE
_LINGER = Timeout.LINGER
_OF_A_MESSAGE = frozenset((Timeout.DELIVERY, _CONTENT_START, _CONTENT_IDLE))
"""Phases that go on when the session's time is over, for a message that began before."""


class ConnectionTimeouts:
    """One connection's timeouts: the phase it is in, since when, and the two limits beside it.

    While a phase lasts its deadline only moves away; unless ``timeouts`` is exchanged.
    """

    __slots__ = (
        "_content_began_ns",
        "_content_octets",
        "_content_since_ns",
        "message_due_ns",
        "phase",
        "session_due_ns",
        "since_ns",
        "timeouts",
    )

    def __init__(self, timeouts: Timeouts, now_ns: int) -> None:
        self.timeouts = timeouts
        self.session_due_ns = now_ns + timeouts.ns[_SESSION]
        self._content_began_ns = 0
        self._content_since_ns = 0
        self._content_octets = 0
        self.message_due_ns = 0
        self.phase = _IDLE
        self.since_ns = now_ns

    def enter(self, phase: Timeout, now_ns: int) -> None:
        """The phase begins, or begins anew, at ``now_ns``."""
        self.phase = phase
        self.since_ns = now_ns

    def enter_content(self, now_ns: int, octets: int = 0, began_ns: int = 0) -> None:
        """354 was sent, and ``octets`` of content had come with the command; or the first
        ``octets`` of it come now.  ``began_ns`` is the instant of its MAIL."""
        self._content_began_ns = began_ns
        self._content_since_ns, self._content_octets = now_ns, octets
        self.phase = _CONTENT_IDLE if octets else _CONTENT_START
        self.since_ns = now_ns

    def content_came(self, octets: int, now_ns: int) -> None:
        """``octets`` were read from the socket while in content."""
        self._content_octets += octets
        self.since_ns = now_ns

    def pause_message(self, began_ns: int, octets: int) -> None:
        """A chunk has ended, and ``octets`` of a message have come since MAIL at ``began_ns``."""
        if began_ns >= self.session_due_ns:
            self.message_due_ns = 0
            return
        allowed = self.timeouts.ns[_CONTENT_START] + self.timeouts.ns[_CONTENT_IDLE]
        earned_ns = octets * NS_PER_S // self.timeouts.content_rate_octets_s
        self.message_due_ns = began_ns + allowed + earned_ns

    def next(self) -> tuple[int, Timeout]:
        """The earliest deadline, and its limit."""
        limit = self.phase
        due_ns = self.since_ns + self.timeouts.ns[limit]
        if limit is _CONTENT_IDLE:
            rate_due_ns = (
                self._content_since_ns
                + self.timeouts.ns[_CONTENT_IDLE]
                + self._content_octets * NS_PER_S // self.timeouts.content_rate_octets_s
            )
            if rate_due_ns < due_ns:
                due_ns, limit = rate_due_ns, Timeout.CONTENT_RATE
        if self.phase is _LINGER or (
            self.phase in _OF_A_MESSAGE
            and self._content_octets <= self.timeouts.message_octets
            and self._content_began_ns < self.session_due_ns
        ):
            return due_ns, limit
        session_due_ns = self.session_due_ns
        if session_due_ns < self.message_due_ns:
            session_due_ns = self.message_due_ns
        if session_due_ns < due_ns:
            return session_due_ns, _SESSION
        return due_ns, limit
