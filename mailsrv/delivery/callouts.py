"""Asks the next hop about recipients before they are taken, and remembers what it said.

Theory of operation.  Where no table says who exists, a recipient that the next hop would refuse
must be refused at RCPT: once accepted it could only be returned, to a sender that may be forged.
So the next hop is sent MAIL, with a null reverse-path, and RCPT, over the same connections as mail,
and no message.  Those who ask about the same recipient at the same time wait for the same answer.
Answers are kept: a good one for long, a refusal for a shorter time, and that there was none for a
moment, so that a next hop in trouble is not asked by every client anew.

What is kept and what is under way is bounded, whatever clients ask: beyond a bound the oldest
answer is forgotten, and a recipient is not asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from mailsrv.delivery.job import Job
from mailsrv.delivery.queue.ways import Way
from mailsrv.delivery.spool.rows import StoredMessage
from mailsrv.policy.lookups import CalloutAnswer, CalloutStatus
from mailsrv.policy.recipients import domain_key, local_key
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import NULL_PATH, MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_S, seconds_to_ns

ANSWERS_MAX = 20_000
"""Answers kept; beyond them the one that was asked for least lately goes."""
UNDER_WAY_MAX = 32
"""Recipients that are being asked about."""
WAITING_MAX = 100
"""Clients that wait for the same answer, those that have given up among them."""
UNANSWERED_NS = 30 * NS_PER_S
"""How long it is remembered that there was no answer."""

Answer = Callable[[CalloutAnswer], None]
Find = Callable[[MailPath], Way | None]
"""Returns the way to the next hop for a recipient; None where there is nothing to ask."""

TAKEN = CalloutAnswer(CalloutStatus.TAKEN)
_TOO_MANY = CalloutAnswer(
    CalloutStatus.UNANSWERED, diagnostic=f"{UNDER_WAY_MAX} recipients are being asked about"
)
_CROWD = CalloutAnswer(
    CalloutStatus.UNANSWERED, diagnostic=f"{WAITING_MAX} clients wait for the next hop's answer"
)


class Callouts:
    """See the module.  ``now_ns`` reads a clock that never goes back; ``find``, and how long what
    is said is kept, are exchanged by ``configure``."""

    def __init__(self, now_ns: Callable[[], int], find: Find = lambda recipient: None) -> None:
        self._now_ns = now_ns
        self._find = find
        self._kept_ns = {CalloutStatus.UNANSWERED: UNANSWERED_NS}
        self._answers: dict[str, tuple[int, CalloutAnswer]] = {}  # least lately asked for first
        self._waiting: dict[str, list[Answer]] = {}

    def configure(self, find: Find, taken_s: float, refused_s: float) -> None:
        """Ask where ``find`` says, and keep answers for so long, from now on."""
        self._find = find
        self._kept_ns[CalloutStatus.TAKEN] = seconds_to_ns(taken_s)
        self._kept_ns[CalloutStatus.REFUSED] = seconds_to_ns(refused_s)

    @property
    def under_way(self) -> int:
        """Recipients that are being asked about."""
        return len(self._waiting)

    def __len__(self) -> int:
        """The number of answers held, those that have expired unnoticed included."""
        return len(self._answers)

    def ask(self, recipient: MailPath, answer: Answer) -> None:
        """Call ``answer`` once with what the next hop says, now or later."""
        way = self._find(recipient)
        if way is None:
            answer(TAKEN)
            return
        address = f"{local_key(recipient.local)}@{domain_key(recipient.domain)}"
        key = f"{way.name} {address}"
        known = self._known(key)
        if known is not None:
            answer(known)
        elif key in self._waiting:
            if len(self._waiting[key]) < WAITING_MAX:
                self._waiting[key].append(answer)
            else:
                answer(_CROWD)
        elif len(self._waiting) >= UNDER_WAY_MAX:
            answer(_TOO_MANY)
        else:
            self._waiting[key] = [answer]
            way.out.deliver(_probe(recipient), partial(self._answered, key))

    def _known(self, key: str) -> CalloutAnswer | None:
        kept = self._answers.pop(key, None)
        if kept is None or kept[0] <= self._now_ns():
            return None
        self._answers[key] = kept
        return kept[1]

    def _answered(self, key: str, outcomes: Sequence[Outcome]) -> None:
        answer = _meaning(outcomes[0])
        if len(self._answers) >= ANSWERS_MAX:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = self._now_ns() + self._kept_ns.get(answer.status, 0), answer
        fault: Exception | None = None
        for waiting in self._waiting.pop(key):
            try:
                waiting(answer)
            except Exception as one:  # a defect of one client's checks is not the others'
                fault = fault or one
        if fault is not None:
            raise fault


def _meaning(outcome: Outcome) -> CalloutAnswer:
    """A delay says nothing of the recipient; a failure would be one of the message too."""
    if outcome.kind is OutcomeKind.FAILED:
        return CalloutAnswer(CalloutStatus.REFUSED, outcome.status, outcome.diagnostic)
    if outcome.kind is OutcomeKind.DEFERRED:
        return CalloutAnswer(CalloutStatus.UNANSWERED, diagnostic=outcome.diagnostic)
    return TAKEN


def _probe(recipient: MailPath) -> Job:
    """A job without a message."""
    envelope = Envelope(
        client="",
        helo="",
        protocol="",
        id="",
        reverse_path=NULL_PATH,
        forward_paths=[recipient],
    )
    nothing = StoredMessage(0, "", 0, "", 0, "", in_file=False)
    return Job(nothing, envelope, (0,), b"", _no_content, probe=True)


def _no_content() -> Iterator[bytes]:
    return iter(())
