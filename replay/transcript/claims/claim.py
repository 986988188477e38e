"""What a claim is: one thing that any SMTP server must, should or may do in a scenario.

Exact expectations are about ``mailsrv``; claims are about every server, so they name codes and
counts and no texts.  A claim has a strength in the words of RFC 2119 and a basis: the section of
an RFC, or the CVE of servers that broke it.  MAY is no demand: it says which replies the sender
goes on after.

Where a claim stands says what it is about: the reply expected last above it in its connection, or
the departure that is the last above it.  All times are integer nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Strength(Enum):
    """RFC 2119."""

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


class Then(Enum):
    """What follows a reply that is right."""

    GO_ON = ""
    """The session goes on."""
    END = "end"
    """The server must end the connection; the sender sends nothing more."""
    STOP = "stop"
    """The sender ends the session: what stands below does not arise."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One right answer: any of ``codes``, each of three characters: 250, 55z or 5yz, where y and
    z stand for any digit.  Without codes: the end of the connection instead of a reply."""

    codes: tuple[str, ...]
    then: Then = Then.GO_ON


@dataclass(frozen=True, slots=True)
class Bound:
    """A length of time: ``ns``, or the server's own timeout for a command."""

    ns: int = 0
    is_timeout: bool = False


@dataclass(frozen=True, slots=True)
class RepliesWith:
    """The last reply expected above comes, and is one of these; ``within`` counts from the last
    departure above."""

    alternatives: tuple[Alternative, ...]
    within: Bound | None = None


@dataclass(frozen=True, slots=True)
class RepliesNoMore:
    """Until the next departure, or to the end, no reply comes but those expected above."""


@dataclass(frozen=True, slots=True)
class RepliesAsExpected:
    """Each reply expected in this connection comes, and its code has the expected first digit;
    replies that other claims are about are left to these."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The server ends the connection, ``within`` counting from the last departure above."""

    within: Bound | None = None


@dataclass(frozen=True, slots=True)
class StaysOpen:
    """The server does not end the connection: not before the next departure, or not ``within`` so
    much of the last departure above."""

    within: Bound | None = None


@dataclass(frozen=True, slots=True)
class ShakesHands:
    """The TLS handshake is done; or, where it is ``refused``, is not."""

    refused: bool = False


@dataclass(frozen=True, slots=True)
class Accepts:
    """So many messages are accepted in all; ``most`` None is any number."""

    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class ContentHas:
    """Some accepted message has these octets in its content; or, where it ``lacks`` them, none."""

    octets: bytes
    lacks: bool = False


OfConnection = RepliesWith | RepliesNoMore | RepliesAsExpected | Ends | StaysOpen | ShakesHands
"""Statements about one connection."""
OfScenario = Accepts | ContentHas
"""Statements about what all connections come to."""
Statement = OfConnection | OfScenario


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement, how binding it is and on which ``basis``: texts such as "RFC 5321 4.1.1.4" and
    "CVE-2023-51764".  ``after`` is how many steps of its connection stand above it."""

    strength: Strength
    basis: tuple[str, ...]
    statement: Statement
    after: int = 0
    line: int = field(default=0, compare=False)


def fits(code: int, pattern: str) -> bool:
    """Whether a reply code is one of those that ``pattern`` (250, 55z, 5yz) stands for."""
    digits = str(code)
    return len(digits) == len(pattern) and all(
        wanted in "yz" or wanted == digit for wanted, digit in zip(pattern, digits, strict=True)
    )
