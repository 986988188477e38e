"""What policy looks up outside: the interfaces of DNS, reputation and the next hop, and their null
objects.

Each answers through a callback, now or later; a caller must be ready for an answer before the
call returns.  An answer that is no longer awaited is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from mailsrv.smtp.path import MailPath


class DnsStatus(StrEnum):
    """How a lookup ended.  NOERROR without records is "no data" (RFC 2308 section 2.2)."""

    NOERROR = "NOERROR"
    NXDOMAIN = "NXDOMAIN"
    SERVFAIL = "SERVFAIL"
    TIMEOUT = "TIMEOUT"


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """Records in presentation form, without the owner: ``"10 mx.example."``, ``"192.0.2.1"``."""

    status: DnsStatus
    records: tuple[str, ...] = ()


class Resolver(Protocol):
    """Looks names up."""

    def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
        """Ask for the ``rtype`` ("MX", "A", ...) records of ``name`` and call ``answer`` once."""


class Rating(NamedTuple):
    """A client's score, higher is worse, 0 is unknown; and what it comes from, for people."""

    score: int
    reasons: tuple[str, ...] = ()


class Reputation(Protocol):
    """Scores clients."""

    def ask(
        self, client: str, helo: str, reverse_path: str, answer: Callable[[Rating], None]
    ) -> None:
        """Call ``answer`` once with the client's score."""


class CalloutStatus(StrEnum):
    """What the next hop says of a recipient."""

    TAKEN = "taken"
    REFUSED = "refused"
    UNANSWERED = "unanswered"


class CalloutAnswer(NamedTuple):
    """``enhanced`` is the enhanced status code of a refusal; ``diagnostic`` the reply that decided,
    in printable ASCII, or why there was none."""

    status: CalloutStatus
    enhanced: str = ""
    diagnostic: str = ""


class Callout(Protocol):
    """Asks the next hop whether it would take a recipient."""

    def ask(self, recipient: MailPath, answer: Callable[[CalloutAnswer], None]) -> None:
        """Call ``answer`` once with what it says."""


class NoCallout:
    """The callout where there is no next hop: every recipient is taken."""

    def ask(self, recipient: MailPath, answer: Callable[[CalloutAnswer], None]) -> None:
        answer(CalloutAnswer(CalloutStatus.TAKEN))


class NoResolver:
    """The resolver where none is configured: every lookup fails at once."""

    def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
        answer(DnsAnswer(DnsStatus.SERVFAIL))


class NoReputation:
    """The reputation where none is configured: nothing is known of any client."""

    def ask(
        self, client: str, helo: str, reverse_path: str, answer: Callable[[Rating], None]
    ) -> None:
        answer(Rating(0))
