"""Who may send what to whom: each check turns a question into a verdict, without I/O.

A check is a generator: it yields what it wants to know (``Lookup``, ``Score``), is sent the
answer, and returns a ``Reply`` to refuse or None for "no objection"; so it reads straight down
whatever it has to wait for.  ``Policy`` runs the checks of a stage in turn; the first refusal is
the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from mailsrv import reply
from mailsrv.greylist import Greylist, Outcome
from mailsrv.question import Question, Stage
from mailsrv.reply import Reply
from mailsrv.seams import DnsAnswer, DnsStatus, Rating
from mailsrv.settings import Settings


@dataclass(frozen=True, slots=True)
class Lookup:
    """Wanted: the ``rtype`` records of ``name``.  Answered with a ``DnsAnswer``."""

    name: str
    rtype: str


@dataclass(frozen=True, slots=True)
class Score:
    """Wanted: the reputation of the client.  Answered with a ``Rating``."""

    client: str
    helo: str
    reverse_path: str


Wanted = Lookup | Score
Verdict = Reply | None
Deliberation = Generator[Wanted, DnsAnswer | Rating, Verdict]
Check = Callable[[Question], Deliberation]


class Policy:
    """The checks that the settings ask for, by stage."""

    def __init__(self, settings: Settings, greylist: Greylist | None = None) -> None:
        self._checks: dict[Stage, list[Check]] = {}
        if settings.reputation_threshold:
            self._add(Stage.SENDER, _reputation(settings.reputation_threshold))
        if settings.sender_domain_check != "off":
            self._add(Stage.SENDER, sender_domain)
        if greylist is not None:
            self._add(Stage.RECIPIENT, _greylist(greylist))

    def _add(self, stage: Stage, check: Check) -> None:
        self._checks.setdefault(stage, []).append(check)

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages at which there is something to check."""
        return frozenset(self._checks)

    def deliberate(self, question: Question) -> Deliberation:
        """Run the checks for ``question``; the first refusal ends them."""
        for check in self._checks.get(question.stage, ()):
            verdict = yield from check(question)
            if verdict is not None:
                return verdict
        return None


def sender_domain(question: Question) -> Deliberation:
    """The sender's domain must be able to take replies: MX, else A or AAAA (RFC 5321 section 5.1).

    A null MX says that it never will (RFC 7505 section 4.2).  A resolver in trouble refuses for
    the moment: that is nobody's fault.
    """
    domain = question.reverse_path.domain
    if not domain or domain.startswith("["):
        return None  # the null reverse-path, and address literals, need no DNS
    for rtype in ("MX", "A", "AAAA"):
        answer = yield Lookup(domain, rtype)
        assert isinstance(answer, DnsAnswer)
        if answer.status is DnsStatus.NXDOMAIN:
            return reply.SENDER_DOMAIN_UNKNOWN
        if answer.status is not DnsStatus.NOERROR:
            return reply.RESOLVER_TROUBLE
        if rtype == "MX" and [record.split()[1:] for record in answer.records] == [["."]]:
            return reply.SENDER_NULL_MX
        if answer.records:
            return None
    return reply.SENDER_DOMAIN_UNKNOWN


def _reputation(threshold: int) -> Check:
    def reputation(question: Question) -> Deliberation:
        rating = yield Score(question.client, question.helo, str(question.reverse_path))
        assert isinstance(rating, Rating)
        return reply.BAD_REPUTATION if rating.score >= threshold else None

    return reputation


def _greylist(greylist: Greylist) -> Check:
    def greylisted(question: Question) -> Deliberation:
        yield from ()  # a generator like the others, though it never has to wait
        triplet = (question.client, str(question.reverse_path), str(question.forward_path))
        return reply.GREYLISTED if greylist.check(triplet) == Outcome.DEFER else None

    return greylisted
