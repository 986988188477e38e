"""The policy: which checks run at which stage, and what follows from their findings.

From the moment a client has connected it is *screened*: its reputation and its reverse name need
nothing but its address.  At MAIL the HELO name and the sender's domain are checked, side by side,
and all that was found is weighed: what the settings let count adds up to a score, with the
reputation, and a score that reaches the threshold refuses; what the settings let reject refuses
by itself.  At RCPT come the recipient table, the greylist, the next hop's word where
there is no table, and the rates.

The checks that judge a client (reputation, reverse name, HELO name) are not made for trusted
networks: no list knows them, private addresses have no public names, and the programs there say
HELO localhost.  What judges the mail (the sender's domain, the recipient) is: a bounce to a domain
that does not exist would be ours to deliver.  Beyond them there are exceptions for each check
(``exceptions``), by the client's network and reverse name, and by recipient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailsrv.policy import dnsbl, sender_checks
from mailsrv.policy.effects import (
    AllOf,
    Deliberation,
    LogNote,
    ScreeningResult,
    call_out,
    score,
)
from mailsrv.policy.exceptions import CheckExceptions
from mailsrv.policy.greylist import Greylist, GreylistDecision
from mailsrv.policy.lookups import CalloutStatus, Rating
from mailsrv.policy.networks import networks_of
from mailsrv.policy.rate_limits import Rates
from mailsrv.policy.recipients import Directory
from mailsrv.policy.sender_checks import ReverseName, SenderFault
from mailsrv.settings import CHECKS_OF_CLIENTS, Mode, Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question, Stage
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply

_CHECKS_AT_MAIL = tuple(check for check in CHECKS_OF_CLIENTS if check != "greylist")
"""The checks whose refusal may have to wait for RCPT."""


class ClientStanding:
    """What is known of a client.  ``score`` is that of its last MAIL, until then the rating's.
    ``waiting`` are the findings of that MAIL, HELO and domain, where a refusal waits for RCPT."""

    __slots__ = ("finding", "rating", "reverse_name", "score", "waiting")

    def __init__(
        self,
        rating: Rating = Rating(0),  # noqa: B008 - immutable
        reverse_name: str = "",
        finding: SenderFault | None = None,
    ) -> None:
        self.rating = rating
        self.reverse_name = reverse_name
        self.finding = finding
        self.score = rating.score
        self.waiting: tuple[SenderFault | None, SenderFault | None] | None = None


class _Rule(NamedTuple):
    """What a check's finding does, and what it counts."""

    mode: Mode
    score: int


class _Weighed(NamedTuple):
    """The verdict, and what the score is made of."""

    refusal: Reply | None
    reasons: tuple[str, ...]


def _rule(mode: Mode | bool, counts: int, threshold: int) -> _Rule | None:
    """The rule of a check; None if it is off, or would count where nothing is counted.

    A bare true means "reject", as in a configuration file.
    """
    if not mode or mode == "off" or (mode == "score" and not threshold):
        return None
    return _Rule("score" if mode == "score" else "reject", counts)


class Policy:
    """The checks that the settings ask for.

    ``directory``, ``greylist`` and ``rates`` are the objects that know; None checks nothing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        greylist: Greylist | None = None,
        directory: Directory | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._hostname = settings.hostname
        self._threshold = threshold = settings.reputation_threshold
        self._trusted = networks_of(settings.trusted_networks)
        self._lists = dnsbl.DnsLists(settings.dns_lists if self._threshold else ())
        self._helo = _rule(settings.helo_check, settings.helo_score, threshold)
        self._reverse_name = _rule(
            settings.reverse_name_check, settings.reverse_name_score, threshold
        )
        self._sender_domain = _rule(
            settings.sender_domain_check, settings.sender_domain_score, threshold
        )
        # The greylist knows pools of senders by it, and those it allows.
        self._wants_reverse_name = self._reverse_name is not None or greylist is not None
        self._exceptions = CheckExceptions.of(settings)
        self._greylist = greylist
        self._directory = directory
        self._rates = rates
        self._callout = settings.recipient_callout
        self.stages = self._stages()
        """The stages at which there is something to check; read for every connection."""

    def tolerates(self, check: str, client: str, recipients: Sequence[str] = ()) -> bool:
        """Whether a check of the protocol is not made; for the session."""
        return self._exceptions.spare(check, client, "", recipients)

    def _stages(self) -> frozenset[Stage]:
        at_sender = self._threshold, self._reverse_name, self._helo, self._sender_domain
        at_recipient = self._directory, self._greylist
        stages = set()
        if any(at_sender) or self._rates is not None:
            stages.add(Stage.SENDER)
        late = any(at_sender) and self._exceptions.by_recipient(_CHECKS_AT_MAIL)
        calling = self._callout != "off" or self._rates is not None
        if late or any(one is not None for one in at_recipient) or calling:
            stages.add(Stage.RECIPIENT)
        return frozenset(stages)

    # -- the client -------------------------------------------------------------------------------

    def screening(self, client: str) -> Deliberation[ClientStanding] | None:
        """The checks of ``client`` that need only its address; None for none."""
        if not (self._threshold or self._wants_reverse_name) or client in self._trusted:
            return None
        return self._screen(client)

    def _screen(self, client: str) -> Deliberation[ClientStanding]:
        rating, reverse_name = yield AllOf((self._rate(client), self._name(client)))
        return ClientStanding(rating, *reverse_name)

    def _rate(self, client: str) -> Deliberation[Rating]:
        if not self._threshold or self._exceptions.spare("reputation", client):
            return Rating(0)
        ratings: list[Rating] = yield AllOf((score(client), self._lists.rate(client)))
        return Rating(
            sum(one.score for one in ratings), tuple(why for one in ratings for why in one.reasons)
        )

    def _name(self, client: str) -> Deliberation[ReverseName]:
        if not self._wants_reverse_name:
            return ReverseName("", None)
        return (yield from sender_checks.reverse_name(client))

    # -- the questions ----------------------------------------------------------------------------

    def deliberate(
        self, question: Question, standing: ClientStanding | None
    ) -> Deliberation[Reply | None]:
        """Decide ``question``.  ``standing`` is None while the screening goes on."""
        if question.stage is Stage.SENDER:
            return self._sender(question, standing)
        return self._recipient(question, standing)

    def _sender(
        self, question: Question, standing: ClientStanding | None
    ) -> Deliberation[Reply | None]:
        if standing is not None:
            standing.waiting = None
            refusal = self._weigh(question, standing).refusal
            if refusal is not None and not self._waits(question, standing):
                return refusal
        helo: SenderFault | None = None
        domain: SenderFault | None
        client = question.client
        if self._helo is None or client in self._trusted or self._exceptions.spare("helo", client):
            domain = yield from self._check_domain(question)
        else:
            check_helo = sender_checks.helo(question, self._hostname)
            helo, domain = yield AllOf((check_helo, self._check_domain(question)))
        if standing is None:
            standing = yield ScreeningResult()
            assert isinstance(standing, ClientStanding)
        refusal, reasons = self._weigh(question, standing, helo, domain)
        if refusal is not None:
            if not self._waits(question, standing):
                return refusal
            standing.waiting = helo, domain
        elif reasons:
            yield LogNote("scored", {"score": standing.score, "reasons": ", ".join(reasons)})
        return None if self._rates is None else self._rates.message(client)

    def _waits(self, question: Question, standing: ClientStanding) -> bool:
        """Whether a refusal of MAIL waits for RCPT: an exception could spare a recipient."""
        return self._exceptions.wait_for_recipients(
            _CHECKS_AT_MAIL, question.client, standing.reverse_name
        )

    def _check_domain(self, question: Question) -> Deliberation[SenderFault | None]:
        if self._sender_domain is None or self._exceptions.spare("sender_domain", question.client):
            return None
        return (yield from sender_checks.sender_domain(question))

    def _recipient(
        self, question: Question, standing: ClientStanding | None
    ) -> Deliberation[Reply | None]:
        assert question.forward_path is not None
        refusal = None
        # First: a client that was refused at MAIL must not learn which recipients exist.
        if standing is not None and standing.waiting is not None:
            refusal = self._weigh(question, standing, *standing.waiting).refusal
        if refusal is None and self._directory is not None:
            refusal = self._directory.check(question.forward_path)
        if refusal is None and self._greylist is not None:
            if standing is None:
                standing = yield ScreeningResult()
                assert isinstance(standing, ClientStanding)
            refusal = self._check_greylist(self._greylist, question, standing)
        if refusal is None and self._callout != "off":
            refusal = yield from self._call_out(question.forward_path)
        if refusal is None and self._rates is not None:
            refusal = self._rates.recipient(question.client)
        return refusal

    def _call_out(self, recipient: MailPath) -> Deliberation[Reply | None]:
        """Ask the next hop, unless it is known here that the recipient exists."""
        if self._directory is not None and self._directory.knows(recipient):
            return None
        answer = yield from call_out(recipient)
        if answer.status is CalloutStatus.REFUSED:
            return reply.refused_by_next_hop(answer.enhanced, answer.diagnostic)
        if answer.status is CalloutStatus.TAKEN:
            return None
        values = {"recipient": str(recipient), "why": answer.diagnostic}
        yield LogNote("recipient not verified", values)
        return None if self._callout == "take" else reply.RECIPIENT_UNVERIFIED

    def _check_greylist(
        self, greylist: Greylist, question: Question, standing: ClientStanding
    ) -> Reply | None:
        """A client with a good reputation is not greylisted."""
        if standing.score < 0:
            return None
        triplet = (question.client, str(question.reverse_path), str(question.forward_path))
        outcome = greylist.check(triplet, helo=question.helo, reverse_name=standing.reverse_name)
        return reply.GREYLISTED if outcome == GreylistDecision.DEFER else None

    # -- weighing ---------------------------------------------------------------------------------

    def _weigh(
        self,
        question: Question,
        standing: ClientStanding,
        helo: SenderFault | None = None,
        domain: SenderFault | None = None,
    ) -> _Weighed:
        """Add up what was found, and find what it refuses: the score first, then each check.  What
        is excepted for this client and recipient counts nothing."""

        def spared(check: str) -> bool:
            path = question.forward_path
            recipients = () if path is None else (str(path),)
            return self._exceptions.spare(check, question.client, standing.reverse_name, recipients)

        total, reasons = standing.rating
        refusal = None
        for check, rule, finding in (
            ("helo", self._helo, helo),
            ("reverse_name", self._reverse_name, standing.finding),
            ("sender_domain", self._sender_domain, domain),
        ):
            if rule is None or finding is None or spared(check):
                continue
            if rule.mode == "reject":
                refusal = refusal or finding.refusal
            elif not finding.trouble:
                total += rule.score
                reasons += (f"{rule.score:+} {finding.refusal.check}",)
        standing.score = total
        if self._threshold and total >= self._threshold and not spared("reputation"):
            refusal = reply.bad_reputation(total, self._threshold, reasons)
        return _Weighed(refusal, reasons)


def needs_dns(settings: Settings) -> bool:
    """Whether any check of ``settings`` asks DNS."""
    threshold = settings.reputation_threshold
    modes = settings.sender_domain_check, settings.helo_check, settings.reverse_name_check
    return (
        any(_rule(mode, 0, threshold) is not None for mode in modes)
        or bool(threshold and settings.dns_lists)
        or settings.greylist
    )
