"""What a check may want while it deliberates, and what it gets for it.

A check is a generator: it yields one of these, is sent the answer, and returns what it found; so
it reads straight down whatever it has to wait for.  Who carries wishes and answers to and fro is
``mailsrv.policy.runner``.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from mailsrv.policy.lookups import DnsAnswer, Rating


@dataclass(frozen=True, slots=True)
class DnsLookup:
    """Wanted: the ``rtype`` records of ``name``.  Answered with a ``DnsAnswer``."""

    name: str
    rtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.rtype}"


@dataclass(frozen=True, slots=True)
class ReputationLookup:
    """Wanted: what the reputation says of the client.  Answered with a ``Rating``."""

    client: str

    def __str__(self) -> str:
        return "reputation"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Wanted: the results of all these, which run side by side.  Answered with their list."""

    deliberations: tuple[Deliberation[Any], ...]


@dataclass(frozen=True, slots=True)
class ScreeningResult:
    """Wanted: what was found out about the client since it connected (``policy.Standing``)."""


@dataclass(frozen=True, slots=True)
class LogNote:
    """Wanted: a line in the log.  Answered with None."""

    event: str
    values: Mapping[str, object]


Wanted = DnsLookup | ReputationLookup | AllOf | ScreeningResult | LogNote

T = TypeVar("T")
Deliberation: TypeAlias = Generator[Wanted, Any, T]


def look_up(name: str, rtype: str) -> Deliberation[DnsAnswer]:
    """Want one lookup; for ``yield from``."""
    answer = yield DnsLookup(name, rtype)
    assert isinstance(answer, DnsAnswer)
    return answer


def score(client: str) -> Deliberation[Rating]:
    """Want the reputation's word on ``client``; for ``yield from``."""
    rating = yield ReputationLookup(client)
    assert isinstance(rating, Rating)
    return rating
