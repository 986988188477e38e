"""The three edges of the network that a test may fake: DNS, reputation and delivery.

Everything else runs for real.  Each answers through a callback, now or later; a caller must be
ready for an answer before the call returns.  An answer that nobody awaits any more is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from mailsrv.envelope import Envelope
from mailsrv.reply import Reply


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


class Sink(Protocol):
    """Takes one message's content, unstuffed, as it arrives."""

    def write(self, chunk: bytes) -> None:
        """Take the next octets.  A failure is kept and told by ``finish``; it never raises."""

    def finish(self, answer: Callable[[Reply], None]) -> None:
        """The content is whole.  ``answer`` gets the reply to the final dot: a 250 only when
        the message can no longer be lost."""

    def abort(self) -> None:
        """The message will not be finished: forget it.  Harmless after ``finish`` or twice."""


class Courier(Protocol):
    """Carries accepted messages on."""

    def begin(self, envelope: Envelope) -> Sink:
        """Open a sink for the content of ``envelope``."""
