"""Carries the checks' wishes to the resolver and the reputation, and the answers back.

Theory of operation.  A connection has one ``PolicyRunner``.  When the client has connected, its
*screening* begins: what can be learnt from its address alone, which takes as long as it takes,
beside the greeting.  A *question* of the session is decided by checks of its own, which run at
once; where they need the screening's result they wait for it.

Each generator is driven by a ``_Run``; one that wants several others ``AllOf`` becomes their
parent and is sent their results.  An answer that comes within the call is used within the call:
a verdict that is known at once costs no trip through the loop.  An answer that comes when nobody
waits for it any more, because time is up or the client is gone, finds its *matter* over: that is
what a tree of runs is about, and what knows who wants the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mailsrv.policy.effects import (
    AllOf,
    Deliberation,
    DnsLookup,
    LogNote,
    ReputationLookup,
    ScreeningResult,
    Wanted,
)
from mailsrv.policy.lookups import DnsAnswer, DnsStatus, Rating, Reputation, Resolver
from mailsrv.policy.policy import ClientStanding, Policy
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question
from mailsrv.smtp.reply import Reply

_UNANSWERED = DnsAnswer(DnsStatus.TIMEOUT)
_UNRATED = Rating(0)


class PolicyContext:
    """Who is asked."""

    __slots__ = ("_reputation", "_resolver")

    def __init__(self, resolver: Resolver, reputation: Reputation) -> None:
        self._resolver = resolver
        self._reputation = reputation

    def ask(self, wanted: DnsLookup | ReputationLookup, answer: Callable[[Any], None]) -> None:
        """Pass ``wanted`` on to whom it concerns."""
        if isinstance(wanted, DnsLookup):
            self._resolver.lookup(wanted.name, wanted.rtype, answer)
        else:  # asked when the client connects: it has said nothing yet
            self._reputation.ask(wanted.client, "", "", answer)


def _unheard(event: str, **values: object) -> None:
    """Notes that nobody keeps."""


class PolicyRunner:
    """One connection's adviser.  ``note`` takes what is to be logged: an event and its values.

    What a check raises comes out of whatever call let the check go on: ``begin``, ``ask``,
    ``expire``, or the answer of a seam.  Before that the question at hand has been decided with
    a 451, or the screening ended with nothing known, so that nobody waits for ever.
    """

    __slots__ = (
        "_client",
        "_decided",
        "_open",
        "_panel",
        "_policy",
        "_question",
        "_screening",
        "_standing",
        "note",
    )

    def __init__(
        self,
        policy: Policy,
        panel: PolicyContext,
        client: str,
        note: Callable[..., object] = _unheard,
    ) -> None:
        self._policy = policy
        self._panel = panel
        self._client = client
        self._open: dict[_Run, Wanted] = {}  # whoever waits, and for what
        self._screening: _Matter | None = None
        self._question: _Matter | None = None
        self._decided: Callable[[Reply | None], None] | None = None
        self._standing: ClientStanding | None = None
        self.note = note

    def begin(self) -> None:
        """The client has connected: begin to find out about it."""
        screening = self._policy.screening(self._client)
        if screening is None:
            self._standing = ClientStanding()
        else:
            self._screening = _Matter(self, self._screened, ClientStanding())
            _Run(self._screening, screening, self._screening.close).proceed(None)

    def ask(self, question: Question, decided: Callable[[Reply | None], None]) -> None:
        """Let the checks decide ``question``: ``decided`` is called once, now or later, with a
        refusal or None.  A question that was still open is dropped."""
        if self._question is not None:
            self._question.drop()
        if self._standing is None and self._screening is None:
            self.begin()
        self._decided = decided
        matter = self._question = _Matter(self, self._concluded, reply.LOCAL_ERROR)
        deliberation = self._policy.deliberate(question, self._standing)
        _Run(matter, deliberation, matter.close).proceed(None)

    def expire(self) -> None:
        """Time is up: whatever is still open counts as unanswered, and what a check wants from
        now on too, so that the question is decided before this returns."""
        hurried = [one for one in (self._screening, self._question) if one is not None]
        for matter in hurried:
            matter.hurried = True
        late = [str(wanted) for _, wanted in self._asking(hurried)]
        if late:
            self.note("unanswered", wanted=", ".join(late))
        fault: Exception | None = None
        while waiting := self._asking(hurried):
            for run, wanted in waiting:
                try:
                    run.answer(_nothing(wanted))
                except Exception as one:
                    fault = fault or one
        if fault is not None:
            raise fault

    def cancel(self) -> None:
        """The client is gone: ask nothing more and call nobody.  Harmless when done twice."""
        for matter in (self._screening, self._question):
            if matter is not None:
                matter.drop()
        self._screening = self._question = self._decided = None

    # -- for the runs -----------------------------------------------------------------------------

    def put(self, wanted: Wanted, run: _Run) -> None:
        """See to it that ``run`` gets what it wants, now or later."""
        if isinstance(wanted, AllOf):
            run.spread(wanted.deliberations)
        elif isinstance(wanted, LogNote):
            self.note(wanted.event, **wanted.values)
            run.answer(None)
        elif isinstance(wanted, ScreeningResult):
            if self._standing is not None:
                run.answer(self._standing)
        elif run.matter.hurried:
            run.answer(_nothing(wanted))
        else:
            try:
                self._panel.ask(wanted, run.answer)
            except Exception:
                run.matter.fail()
                raise

    def opened(self, run: _Run, wanted: Wanted) -> None:
        """``run`` begins to wait."""
        self._open[run] = wanted

    def closed(self, run: _Run) -> None:
        """``run`` waits no more."""
        self._open.pop(run, None)

    def forget(self, matter: _Matter) -> None:
        """Nobody of ``matter`` waits any more."""
        for run in [run for run in self._open if run.matter is matter]:
            del self._open[run]

    def _asking(self, matters: list[_Matter]) -> list[tuple[_Run, DnsLookup | ReputationLookup]]:
        """Who of ``matters`` waits for a seam, and for what."""
        return [
            (run, wanted)
            for run, wanted in self._open.items()
            if isinstance(wanted, DnsLookup | ReputationLookup) and run.matter in matters
        ]

    # -- the ends ---------------------------------------------------------------------------------

    def _screened(self, standing: ClientStanding) -> None:
        self._screening, self._standing = None, standing
        for run, wanted in list(self._open.items()):
            if isinstance(wanted, ScreeningResult):
                run.answer(standing)

    def _concluded(self, verdict: Reply | None) -> None:
        decided, self._decided, self._question = self._decided, None, None
        if decided is not None:
            decided(verdict)


def _nothing(wanted: DnsLookup | ReputationLookup) -> DnsAnswer | Rating:
    return _UNANSWERED if isinstance(wanted, DnsLookup) else _UNRATED


class _Matter:
    """What a tree of runs is about.  ``failed`` is its result where a check broke."""

    __slots__ = ("_end", "_failed", "counsel", "hurried")

    def __init__(self, counsel: PolicyRunner, end: Callable[[Any], None], failed: object) -> None:
        self._end: Callable[[Any], None] | None = end
        self._failed = failed
        self.counsel = counsel
        self.hurried = False

    @property
    def over(self) -> bool:
        """True when no result is awaited any more."""
        return self._end is None

    def close(self, result: object) -> None:
        """This is the result."""
        end, self._end = self._end, None
        if end is not None:
            end(result)

    def fail(self) -> None:
        """A check broke: end with what is the result then."""
        self.counsel.forget(self)
        self.close(self._failed)

    def drop(self) -> None:
        """Nobody wants to know any more."""
        self._end = None
        self.counsel.forget(self)


_NOTHING_YET = object()


class _Run:
    """A deliberation under way; ``finished`` is called once, with what it returned."""

    __slots__ = (
        "_deliberation",
        "_early",
        "_finished",
        "_left",
        "_results",
        "matter",
    )

    def __init__(
        self, matter: _Matter, deliberation: Deliberation[Any], finished: Callable[[Any], None]
    ) -> None:
        self._deliberation = deliberation
        self._finished = finished
        self._early: object = None  # _NOTHING_YET while a wish is being put
        self._results: list[Any] = []
        self._left = 0
        self.matter = matter

    def proceed(self, answer: object) -> None:
        """Go on with ``answer`` for as long as answers come at once."""
        matter = self.matter
        counsel = matter.counsel
        while not matter.over:
            try:
                wanted = self._deliberation.send(answer)
            except StopIteration as stop:
                result = stop.value
                break
            except Exception:
                matter.fail()
                raise
            self._early = _NOTHING_YET
            counsel.opened(self, wanted)
            counsel.put(wanted, self)
            answer, self._early = self._early, None
            if answer is _NOTHING_YET:
                return
        else:
            return  # nobody wants to know
        self._finished(result)

    def answer(self, answer: object) -> None:
        """This is what was wanted; if nobody wants it any more, nothing happens."""
        self.matter.counsel.closed(self)
        if self._early is _NOTHING_YET:
            self._early = answer
        else:
            self.proceed(answer)

    def spread(self, deliberations: tuple[Deliberation[Any], ...]) -> None:
        """Run these side by side, and go on with their results."""
        self._results = [None] * len(deliberations)
        self._left = len(deliberations)
        if not deliberations:
            self.answer([])
        for place, deliberation in enumerate(deliberations):
            _Run(self.matter, deliberation, partial(self._gathered, place)).proceed(None)

    def _gathered(self, place: int, result: object) -> None:
        self._results[place] = result
        self._left -= 1
        if not self._left:
            self.answer(self._results)
