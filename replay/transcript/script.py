"""What a scenario is: ends of connections that are played, and what the other ends must do, when.

A connection is played as its *sender*, against the server under test, or as its *receiver*: then
the server under test is the client, which delivers a message to its next hop.

This is the hub of ``replay``: captures are turned into it, the notation (``transcript``) writes
and reads it, every driver plays it.  It knows neither packets nor sockets nor text.

All times are integer nanoseconds.  A *departure* is one thing that the played end does at one
instant; its *anchor* says what that instant hangs on.  An *expectation* is one thing that its peer
must do.  The steps of a connection stand in the order in which the played end experienced them,
and that order carries meaning: ``AfterArrival`` refers to what is expected last above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from replay.smtp.commands import CONTENT as CONTENT
from replay.transcript.claims.claim import Claim

SMTP_PORT = 25
HOSTNAME_DEFAULT = "mx.example.test"
"""The host name of a server under test whose scenario sets none."""


@dataclass(frozen=True, slots=True)
class At:
    """Absolute: ``ns`` after the scenario began."""

    ns: int


@dataclass(frozen=True, slots=True)
class After:
    """The played end's own clock: ``ns`` after this connection's previous departure was scheduled.

    Chained departures hang on the schedule, not on when the previous one really went, so that
    they do not drift.  For a receiver the client's connecting counts as a departure.
    """

    ns: int


@dataclass(frozen=True, slots=True)
class AfterArrival:
    """Causal: ``ns`` after the last reply, command or content expected above has arrived whole, or
    after the client has connected."""

    ns: int


Anchor = At | After | AfterArrival


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


# -- what the played end does ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Connect.  ``client`` is the address the server is to see, as text."""

    client: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Accept one connection at this address (text) and port, from here on."""

    address: str
    port: int = SMTP_PORT


@dataclass(frozen=True, slots=True)
class SendOctets:
    """Write these octets with one system call: one segment, as far as the network keeps it."""

    octets: bytes


class StartTls(_Word):
    """Begin a TLS handshake, as its client or, for a receiver, as its server; what is sent from
    here on goes through TLS, and waits until the handshake is done."""

    __slots__ = ()


class HalfClose(_Word):
    """Shut down writing and go on reading."""

    __slots__ = ()


class HalfCloseAtOnce(HalfClose):
    """Shut down writing in one flight with the octets sent right above: the server finds both."""

    __slots__ = ()


class Close(_Word):
    """Close both directions."""

    __slots__ = ()


class Reset(_Word):
    """Abort with a reset segment."""

    __slots__ = ()


class StopReading(_Word):
    """Leave the peer's octets in the kernel from here on."""

    __slots__ = ()


class ResumeReading(_Word):
    """Read again."""

    __slots__ = ()


class UntilClosed(_Word):
    """Do nothing more; the peer must end the connection."""

    __slots__ = ()


class Abandon(_Word):
    """The record ends here; nothing after it is compared."""

    __slots__ = ()


Action = (
    Open
    | Listen
    | SendOctets
    | StartTls
    | HalfClose
    | HalfCloseAtOnce
    | Close
    | Reset
    | StopReading
    | ResumeReading
    | UntilClosed
    | Abandon
)
ENDINGS = (Close, Reset, UntilClosed, Abandon)


# -- what the peer must do ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExactOctets:
    """One whole reply, every line of it, to the octet; of a client one whole command, content of a
    message, or chunk with its BDAT."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class EhloReply(ExactOctets):
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
class CommandVerb:
    """One whole command with this verb (in capitals), whatever stands behind it, or the whole
    content of a message (``CONTENT``).

    ``recorded`` keeps what another client said at this point, for the reader.
    """

    verb: str
    recorded: bytes = b""


@dataclass(frozen=True, slots=True)
class Mask:
    """Stands for octets that may vary; ``replay.transcript.masks`` knows what fits.

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
class MaskedOctets:
    """The same as ``ExactOctets``, but for its masks.

    There is at least one mask among ``pieces``; octets are never empty, nor beside octets.
    """

    pieces: tuple[bytes | Mask, ...]

    @property
    def code(self) -> int:
        """Of a reply; 0 where the code is masked."""
        first = self.pieces[0]
        digits = first[:3] if isinstance(first, bytes) else b""
        return int(digits) if len(digits) == 3 and digits.isdigit() else 0


class PeerOpens(_Word):
    """The client connects."""

    __slots__ = ()


class PeerCloses(_Word):
    """The peer ends its direction (FIN)."""

    __slots__ = ()


class PeerResets(_Word):
    """The peer aborts the connection."""

    __slots__ = ()


class TlsDone(_Word):
    """The TLS handshake is done, as the played end sees it."""

    __slots__ = ()


class TlsRefused(_Word):
    """The handshake fails: by the peer's alert, by its going on without TLS, or by its end."""

    __slots__ = ()


Outcome = (
    ExactOctets
    | ReplyCode
    | CommandVerb
    | MaskedOctets
    | PeerOpens
    | PeerCloses
    | PeerResets
    | TlsDone
    | TlsRefused
)
UTTERANCES = (ExactOctets, ReplyCode, CommandVerb, MaskedOctets)
"""Outcomes in which the peer says something whole."""
ARRIVALS = (*UTTERANCES, PeerOpens)
"""Outcomes that ``AfterArrival`` may refer to."""
ENDS = (PeerCloses, PeerResets)
HANDSHAKES = (TlsDone, TlsRefused)


def expected_code(outcome: Outcome) -> int:
    """The code of an expected reply; 0 where it is masked, is none, or no reply is expected."""
    if isinstance(outcome, ReplyCode | MaskedOctets):
        return outcome.code
    digits = outcome.octets[:3] if isinstance(outcome, ExactOctets) else b""
    return int(digits) if len(digits) == 3 and digits.isdigit() else 0


# -- the steps of a connection --------------------------------------------------------------------

# Values like the others, and never changed.  They are made by the thousand, and a frozen one takes
# four times as long to make.


@dataclass(slots=True, unsafe_hash=True)
class Departure:
    """An act of the played end.  ``line`` and ``packet`` (both from 1, 0 for unknown) are its
    places in the transcript and in the capture; ``evidence`` is what the anchor rests on, None
    where nothing is claimed."""

    anchor: Anchor
    action: Action
    line: int = field(default=0, compare=False)
    packet: int = field(default=0, compare=False)
    evidence: Evidence | None = field(default=None, compare=False)


@dataclass(slots=True, unsafe_hash=True)
class Expectation:
    """What the peer must do.  ``at_ns`` counts from the scenario's begin; None: any time."""

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
    """One connection: its name in the file, its steps in order, and what must hold of it whichever
    server answers.

    The first step is a departure with ``Open``, or with ``Listen`` where the receiver is played;
    the last departure is one of ``ENDINGS``.
    """

    name: str
    steps: tuple[Step, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def plays_receiver(self) -> bool:
        """Whether the server is played, and the client is under test."""
        return plays_receiver(self.steps[0]) if self.steps else False

    def departures(self) -> Iterator[Departure]:
        """The played end alone."""
        return (step for step in self.steps if isinstance(step, Departure))

    def expectations(self) -> Iterator[Expectation]:
        """Its peer alone."""
        return (step for step in self.steps if isinstance(step, Expectation))


def plays_receiver(first: Step) -> bool:
    """Whether a connection that begins with this step plays the receiver."""
    return isinstance(first, Departure) and isinstance(first.action, Listen)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file's worth: the header's tables as plain values, and the connections.

    ``server`` holds settings by the names of ``mailsrv.settings.Settings``; ``world`` what the
    fakes must answer (see ``replay.play.fakes.world``).  ``accepted`` are the messages that the
    server must accept in all, in order; None leaves that open.  ``claims`` are those about what
    all connections come to; ``needs`` are the keywords of EHLO without which no claim applies.
    ``target`` names the server that this is about, if there is one: ``mailsrv``.
    """

    story: str
    connections: tuple[ScriptedConnection, ...]
    source: str = ""
    server: dict[str, Any] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)
    accepted: tuple[AcceptedMessage, ...] | None = None
    claims: tuple[Claim, ...] = ()
    needs: tuple[str, ...] = ()
    target: str = ""

    @property
    def plays_receivers(self) -> bool:
        """Whether any of its connections plays a receiver."""
        return any(connection.plays_receiver for connection in self.connections)
