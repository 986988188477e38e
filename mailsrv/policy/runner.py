"""Runs the policy checks of one connection, and carries their effects out.

Theory of operation.  A connection has one ``PolicyRunner``.  When the client has connected, its
*screening* begins: what can be learnt from its address alone, which takes as long as it takes,
beside the greeting.  A *question* of the session is decided by checks of its own, which run at
once; where they need the screening's result they wait for it.

Each check is a generator, driven by a ``_Run``; one that yields ``AllOf`` becomes the parent of
several and is sent their results.  A tree of runs is a ``_Task``: the screening, or one question.
An answer that comes within the call is used within the call: a verdict that is known at once costs
no trip through the loop.  An answer that comes too late, because time is up or the client is gone,
finds its task over and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mailsrv.policy.effects import (
    AllOf,
    Deliberation,
    DnsLookup,
    Effect,
    LogNote,
    Lookup,
    RecipientCallout,
    ScreeningResult,
)
from mailsrv.policy.lookups import (
    Callout,
    CalloutAnswer,
    CalloutStatus,
    DnsAnswer,
    DnsStatus,
    NoCallout,
    Rating,
    Reputation,
    Resolver,
)
from mailsrv.policy.policy import ClientStanding, Policy
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question
from mailsrv.smtp.reply import Reply

_UNANSWERED = DnsAnswer(DnsStatus.TIMEOUT)
_UNRATED = Rating(0)
_NOT_SAID = CalloutAnswer(CalloutStatus.UNANSWERED, diagnostic="no answer in time")
_NO_CALLOUT = NoCallout()


class PolicyContext:
    """The resolver, the reputation and the next hop that all connections ask."""

    __slots__ = ("_callout", "_reputation", "_resolver")

    def __init__(
        self, resolver: Resolver, reputation: Reputation, callout: Callout = _NO_CALLOUT
    ) -> None:
        self._resolver = resolver
        self._reputation = reputation
        self._callout = callout

    def ask(self, effect: Lookup, answer: Callable[[Any], None]) -> None:
        """Ask whom ``effect`` is for."""
        if isinstance(effect, DnsLookup):
            self._resolver.lookup(effect.name, effect.rtype, answer)
        elif isinstance(effect, RecipientCallout):
            self._callout.ask(effect.recipient, answer)
        else:  # asked when the client connects: it has sent nothing yet
            self._reputation.ask(effect.client, "", "", answer)


def _discard(event: str, **values: object) -> None:
    """Keeps no note."""


class PolicyRunner:
    """Runs the policy checks of one connection.  ``note`` takes what is to be logged: an event and
    its values.

    What a check raises comes out of whatever call let the check go on: ``begin``, ``ask``,
    ``expire``, or the answer of a seam.  Before that the question at hand has been decided with
    a 451, or the screening ended with nothing known, so that no session waits for ever.
    """

    __slots__ = (
        "_client",
        "_context",
        "_decided",
        "_open",
        "_policy",
        "_question",
        "_screening",
        "_standing",
        "note",
    )

    def __init__(
        self,
        policy: Policy,
        context: PolicyContext,
        client: str,
        note: Callable[..., object] = _discard,
    ) -> None:
        self._policy = policy
        self._context = context
        self._client = client
        self._open: dict[_Run, Effect] = {}  # the runs that wait, and for what
        self._screening: _Task | None = None
        self._question: _Task | None = None
        self._decided: Callable[[Reply | None], None] | None = None
        self._standing: ClientStanding | None = None
        self.note = note

    def begin(self) -> None:
        """The client has connected: begin its screening."""
        screening = self._policy.screening(self._client)
        if screening is None:
            self._standing = ClientStanding()
        else:
            self._screening = _Task(self, self._screened, ClientStanding())
            _Run(self._screening, screening, self._screening.close).proceed(None)

    def ask(self, question: Question, decided: Callable[[Reply | None], None]) -> None:
        """Let the checks decide ``question``: ``decided`` is called once, now or later, with a
        refusal or None.  A question that was still open is dropped."""
        if self._question is not None:
            self._question.drop()
        if self._standing is None and self._screening is None:
            self.begin()
        self._decided = decided
        task = self._question = _Task(self, self._concluded, reply.LOCAL_ERROR)
        deliberation = self._policy.deliberate(question, self._standing)
        _Run(task, deliberation, task.close).proceed(None)

    def expire(self) -> None:
        """Time is up: every open effect counts as unanswered, and what a check yields from
        now on too, so that the question is decided before this returns."""
        expired = [one for one in (self._screening, self._question) if one is not None]
        for task in expired:
            task.expired = True
        late = [str(effect) for _, effect in self._asking(expired)]
        if late:
            self.note("unanswered", wanted=", ".join(late))
        fault: Exception | None = None
        while waiting := self._asking(expired):
            for run, effect in waiting:
                try:
                    run.answer(_nothing(effect))
                except Exception as one:
                    fault = fault or one
        if fault is not None:
            raise fault

    def cancel(self) -> None:
        """The client is gone: ask nothing more and call nothing back.  Harmless when done twice."""
        for task in (self._screening, self._question):
            if task is not None:
                task.drop()
        self._screening = self._question = self._decided = None
        self.note = _discard  # and refer to nothing that refers to this

    # -- for the runs -----------------------------------------------------------------------------

    def carry_out(self, effect: Effect, run: _Run) -> None:
        """Answer ``run``'s effect, now or later."""
        if isinstance(effect, AllOf):
            run.run_all(effect.deliberations)
        elif isinstance(effect, LogNote):
            self.note(effect.event, **effect.values)
            run.answer(None)
        elif isinstance(effect, ScreeningResult):
            if self._standing is not None:
                run.answer(self._standing)
        elif run.task.expired:
            run.answer(_nothing(effect))
        else:
            try:
                self._context.ask(effect, run.answer)
            except Exception:
                run.task.fail()
                raise

    def waits(self, run: _Run, effect: Effect) -> None:
        """``run`` begins to wait."""
        self._open[run] = effect

    def waits_no_more(self, run: _Run) -> None:
        """``run`` waits no more."""
        self._open.pop(run, None)

    def forget(self, task: _Task) -> None:
        """No run of ``task`` waits any more."""
        for run in [run for run in self._open if run.task is task]:
            del self._open[run]

    def _asking(self, tasks: list[_Task]) -> list[tuple[_Run, Lookup]]:
        """The runs of ``tasks`` that wait for an answer from outside, and for what."""
        return [
            (run, effect)
            for run, effect in self._open.items()
            if isinstance(effect, Lookup) and run.task in tasks
        ]

    # -- the ends ---------------------------------------------------------------------------------

    def _screened(self, standing: ClientStanding) -> None:
        self._screening, self._standing = None, standing
        for run, effect in list(self._open.items()):
            if isinstance(effect, ScreeningResult):
                run.answer(standing)

    def _concluded(self, verdict: Reply | None) -> None:
        decided, self._decided, self._question = self._decided, None, None
        if decided is not None:
            decided(verdict)


def _nothing(effect: Lookup) -> DnsAnswer | Rating | CalloutAnswer:
    if isinstance(effect, DnsLookup):
        return _UNANSWERED
    return _NOT_SAID if isinstance(effect, RecipientCallout) else _UNRATED


class _Task:
    """A tree of runs with one result.  ``failed`` is the result where a check broke."""

    __slots__ = ("_end", "_failed", "expired", "runner")

    def __init__(self, runner: PolicyRunner, end: Callable[[Any], None], failed: object) -> None:
        self._end: Callable[[Any], None] | None = end
        self._failed = failed
        self.runner = runner
        self.expired = False

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
        self.runner.forget(self)
        self.close(self._failed)

    def drop(self) -> None:
        """The result is not needed any more."""
        self._end = None
        self.runner.forget(self)


_NOTHING_YET = object()


class _Run:
    """A deliberation under way; ``finished`` is called once, with what it returned."""

    __slots__ = (
        "_deliberation",
        "_early",
        "_finished",
        "_left",
        "_results",
        "task",
    )

    def __init__(
        self, task: _Task, deliberation: Deliberation[Any], finished: Callable[[Any], None]
    ) -> None:
        self._deliberation = deliberation
        self._finished = finished
        self._early: object = None  # _NOTHING_YET while an effect is being carried out
        self._results: list[Any] = []
        self._left = 0
        self.task = task

    def proceed(self, answer: object) -> None:
        """Go on with ``answer`` for as long as answers come at once."""
        task = self.task
        runner = task.runner
        while not task.over:
            try:
                effect = self._deliberation.send(answer)
            except StopIteration as stop:
                result = stop.value
                break
            except Exception:
                task.fail()
                raise
            self._early = _NOTHING_YET
            runner.waits(self, effect)
            runner.carry_out(effect, self)
            answer, self._early = self._early, None
            if answer is _NOTHING_YET:
                return
        else:
            return  # the result is not needed any more
        self._finished(result)

    def answer(self, answer: object) -> None:
        """The effect is answered; nothing happens if the task is over."""
        self.task.runner.waits_no_more(self)
        if self._early is _NOTHING_YET:
            self._early = answer
        else:
            self.proceed(answer)

    def run_all(self, deliberations: tuple[Deliberation[Any], ...]) -> None:
        """Run these side by side, and go on with their results."""
        self._results = [None] * len(deliberations)
        self._left = len(deliberations)
        if not deliberations:
            self.answer([])
        for place, deliberation in enumerate(deliberations):
            _Run(self.task, deliberation, partial(self._gathered, place)).proceed(None)

    def _gathered(self, place: int, result: object) -> None:
        self._results[place] = result
        self._left -= 1
        if not self._left:
            self.answer(self._results)
