"""What a scenario is: senders with their departures, and what the server must answer, when.

This is the hub of ``replay``: captures are turned into it, the notation (``transcript``) writes
and reads it, every driver plays it.  It knows neither packets nor sockets nor text.

All times are integer nanoseconds.  A *departure* is one thing a sender does at one instant; its
*anchor* says what that instant hangs on.  An *expectation* is one thing the server must do.  The
steps of a connection stand in the order in which the sender experienced them, and that order
carries meaning: ``AfterReply`` refers to the last reply expected above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from replay.transcript.claims.claim import Claim

HOSTNAME_DEFAULT = "mx.example.test"
"""The host name of a server under test whose scenario sets none."""


@dataclass(frozen=True, slots=True)
class At:
    """Absolute: ``ns`` after the scenario began."""

    ns: int


@dataclass(frozen=True, slots=True)
class After:
    """The sender's own clock: ``ns`` after this connection's previous departure was scheduled.

    Chained departures hang on the schedule, not on when the previous one really went, so that
    they do not drift.
    """

    ns: int


@dataclass(frozen=True, slots=True)
class AfterReply:
    """Causal: ``ns`` after the last reply expected above has arrived whole."""

    ns: int


Anchor = At | After | AfterReply


class Evidence(Enum):
    """How sure a recorded departure's anchor is: what the acknowledgement that it carried proved,
    or a second recording of its sender, with the replies held back."""

    PROVEN_EARLY = "proven early"
    """It had not acknowledged the last reply, and so did not wait for it."""
    PRESUMED = "presumed"
    """It had acknowledged the reply, and may have waited for it."""
    CONFIRMED = "confirmed"
    """The wait moved with the reply in the second recording."""
    OWN_CLOCK = "own clock"
    """The wait did not move with the reply in the second recording."""


class _Word:
    """A value without fields: all of one class are equal.  No dataclass, since defining one takes
    0.4 ms at each start of the program (Python 3.11)."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


# -- what a sender does ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Connect.  ``client`` is the address the server is to see, as text."""

    client: str


@dataclass(frozen=True, slots=True)
class SendOctets:
    """Write these octets with one system call: one segment, as far as the network keeps it."""

    octets: bytes


class StartTls(_Word):
    """Begin a TLS handshake as its client; what is sent from here on goes through TLS, and waits
    until the handshake is done."""

    __slots__ = ()


class HalfClose(_Word):
    """Shut down writing and go on reading."""

    __slots__ = ()


class Close(_Word):
    """Close both directions."""

    __slots__ = ()


class Reset(_Word):
    """Abort with a reset segment."""

    __slots__ = ()


class StopReading(_Word):
    """Leave the server's octets in the kernel from here on."""

    __slots__ = ()


class ResumeReading(_Word):
    """Read again."""

    __slots__ = ()


class UntilClosed(_Word):
    """Do nothing more; the server must end the connection."""

    __slots__ = ()


class Abandon(_Word):
    """The record ends here; nothing after it is compared."""

    __slots__ = ()


Action = (
    Open
    | SendOctets
    | StartTls
    | HalfClose
    | Close
    | Reset
    | StopReading
    | ResumeReading
    | UntilClosed
    | Abandon
)
ENDINGS = (Close, Reset, UntilClosed, Abandon)


# -- what the server must do ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExactReply:
    """One whole reply, every line of it, to the octet."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class EhloReply(ExactReply):
    """The reply to EHLO as the scenario's settings demand it (``ehlo.ehlo_reply``): ``octets``
    follow from them, and a transcript has a word in their place."""


@dataclass(frozen=True, slots=True)
class ReplyCode:
    """One whole reply with this code, whatever its text.

    ``recorded`` keeps the reply of another server at this point, for the reader.
    """

    code: int
    recorded: bytes = b""


@dataclass(frozen=True, slots=True)
class Mask:
    """Stands for octets of a reply that may vary; ``replay.transcript.masks`` knows what fits.

    Without ``pattern`` it is anything.  What has a ``name`` is the same octets wherever that
    name stands in the scenario.
    """

    name: str = ""
    pattern: str = ""

    def __str__(self) -> str:
        if not self.pattern:
            return f"<{self.name or '*'}>"
        return f"<{self.name}:{self.pattern}>"


@dataclass(frozen=True, slots=True)
class MaskedReply:
    """One whole reply, to the octet but for its masks.

    There is at least one mask among ``pieces``; octets are never empty, nor beside octets.
    """

    pieces: tuple[bytes | Mask, ...]

    @property
    def code(self) -> int:
        """0 where the code is masked."""
        first = self.pieces[0]
        digits = first[:3] if isinstance(first, bytes) else b""
        return int(digits) if len(digits) == 3 and digits.isdigit() else 0


class ServerCloses(_Word):
    """The server ends its direction (FIN)."""

    __slots__ = ()


class ServerResets(_Word):
    """The server aborts the connection."""

    __slots__ = ()


class TlsDone(_Word):
    """The TLS handshake is done, as the sender sees it."""

    __slots__ = ()


class TlsRefused(_Word):
    """The handshake fails: by the server's alert, by its going on without TLS, or by its end."""

    __slots__ = ()


Outcome = ExactReply | ReplyCode | MaskedReply | ServerCloses | ServerResets | TlsDone | TlsRefused
REPLIES = (ExactReply, ReplyCode, MaskedReply)
ENDS = (ServerCloses, ServerResets)
HANDSHAKES = (TlsDone, TlsRefused)


# -- the steps of a connection --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Departure:
    """A sender's act.  ``line`` and ``packet`` (both from 1, 0 for unknown) are its places in the
    transcript and in the capture; ``evidence`` is what the anchor rests on, None where nothing is
    claimed."""

    anchor: Anchor
    action: Action
    line: int = field(default=0, compare=False)
    packet: int = field(default=0, compare=False)
    evidence: Evidence | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the server must do.  ``at_ns`` counts from the scenario's begin; None: any time."""

    outcome: Outcome
    at_ns: int | None = None
    line: int = field(default=0, compare=False)
    packet: int = field(default=0, compare=False)


Step = Departure | Expectation


# -- what the server accepted ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AcceptedMessage:
    """One message that the server accepted: its envelope, and what is stored of it.

    A path is written as in MAIL and RCPT, with the parameters that go on with the message:
    ``<a@example.org> BODY=8BITMIME``.  ``trace`` is the header that the server puts before the
    content (RFC 5321 section 4.4), with masks where it may vary; empty for none.  Octets and
    digest are of the content behind it, as it is stored.
    """

    reverse_path: bytes
    forward_paths: tuple[bytes, ...]
    trace: tuple[bytes | Mask, ...]
    content_octets: int
    content_sha256: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ScriptedConnection:
    """One sender's connection: its name in the file, its steps in order, and what must hold of it
    whichever server answers.

    The first step is a departure with ``Open``; the last departure is one of ``ENDINGS``.
    """

    name: str
    steps: tuple[Step, ...]
    claims: tuple[Claim, ...] = ()

    def departures(self) -> Iterator[Departure]:
        """The sender's side alone."""
        return (step for step in self.steps if isinstance(step, Departure))

    def expectations(self) -> Iterator[Expectation]:
        """The server's side alone."""
        return (step for step in self.steps if isinstance(step, Expectation))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file's worth: the header's tables as plain values, and the connections.

    ``server`` holds settings by the names of ``mailsrv.settings.Settings``; ``world`` what the
    fakes must answer (see ``replay.play.fakes.world``).  ``accepted`` are the messages that the
    server must accept in all, in order; None leaves that open.  ``claims`` are those about what
    all connections come to; ``needs`` are the keywords of EHLO without which no claim applies.
    """

    story: str
    connections: tuple[ScriptedConnection, ...]
    source: str = ""
    server: dict[str, Any] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)
    accepted: tuple[AcceptedMessage, ...] | None = None
    claims: tuple[Claim, ...] = ()
    needs: tuple[str, ...] = ()
