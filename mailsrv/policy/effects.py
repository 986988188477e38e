"""Effects: what a check asks for while it runs.

A check is a generator: it yields an effect, is sent the answer, and returns what it found; so its
code reads straight down, whatever it has to wait for.  ``mailsrv.policy.runner`` carries the
effects out and sends the answers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from mailsrv.policy.lookups import CalloutAnswer, DnsAnswer, Rating
from mailsrv.smtp.path import MailPath


@dataclass(frozen=True, slots=True)
class DnsLookup:
    """Look up the ``rtype`` records of ``name``.  Answered with a ``DnsAnswer``."""

    name: str
    rtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.rtype}"


@dataclass(frozen=True, slots=True)
class ReputationLookup:
    """Ask for the reputation of the client.  Answered with a ``Rating``."""

    client: str

    def __str__(self) -> str:
        return "reputation"


@dataclass(frozen=True, slots=True)
class RecipientCallout:
    """Ask the next hop whether it would take ``recipient``.  Answered with a ``CalloutAnswer``."""

    recipient: MailPath

    def __str__(self) -> str:
        return "callout"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Run these side by side.  Answered with their list."""

    deliberations: tuple[Deliberation[Any], ...]


@dataclass(frozen=True, slots=True)
class ScreeningResult:
    """Wait for what was found out about the client since it connected.  Answered with a
    ``policy.ClientStanding``."""


@dataclass(frozen=True, slots=True)
class LogNote:
    """Write a line to the log.  Answered with None."""

    event: str
    values: Mapping[str, object]


Lookup = DnsLookup | ReputationLookup | RecipientCallout
"""What is asked outside, and may stay unanswered."""
Effect = Lookup | AllOf | ScreeningResult | LogNote

T = TypeVar("T")
Deliberation: TypeAlias = Generator[Effect, Any, T]


def look_up(name: str, rtype: str) -> Deliberation[DnsAnswer]:
    """Look one name up; for ``yield from``."""
    answer = yield DnsLookup(name, rtype)
    assert isinstance(answer, DnsAnswer)
    return answer


def score(client: str) -> Deliberation[Rating]:
    """Ask for the reputation of ``client``; for ``yield from``."""
    rating = yield ReputationLookup(client)
    assert isinstance(rating, Rating)
    return rating


def call_out(recipient: MailPath) -> Deliberation[CalloutAnswer]:
    """Ask the next hop about ``recipient``; for ``yield from``."""
    answer = yield RecipientCallout(recipient)
    assert isinstance(answer, CalloutAnswer)
    return answer
