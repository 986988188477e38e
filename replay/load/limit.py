"""Searches the highest rate at which a condition still holds.

The rate is doubled until the condition breaks, or the generator cannot keep its schedule; then the
gap between the last rate that held and the first that did not is halved until it is small.  A step
lasts until there is enough to judge the condition by; where that would take too long, the rate is
below all that are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mailsrv.units import NS_PER_S
from replay.counted import counted
from replay.load.arrivals import RATE_MAX
from replay.load.condition import Condition
from replay.load.plan import LoadError, Plan
from replay.load.result import LoadResult

FIRST_RATE = 50.0
PRECISION = 0.05
"""The gap that is left, as a part of the rate."""
RATE_MIN = 0.1
"""Below this nothing is searched."""
STEPS_MAX = 40
STEP_LONGEST_NS = 60 * NS_PER_S
"""How long a step lasts at most, unless it is asked for longer ones."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched: ``condition``, in steps of ``duration_ns`` or, where so many ``sessions``
    take longer, up to ``longest_ns``."""

    condition: Condition
    duration_ns: int
    sessions: int = 1
    longest_ns: int = STEP_LONGEST_NS

    def step_ns(self, rate_per_s: float) -> int:
        """How long sessions are begun in the step at this rate."""
        return max(self.duration_ns, math.ceil(self.sessions * NS_PER_S / rate_per_s))

    @property
    def lowest_rate(self) -> float:
        """The lowest rate that is tried: rounded up, so that a step has its sessions."""
        return max(RATE_MIN, self.sessions * NS_PER_S / max(self.longest_ns, self.duration_ns))

    def first_rate(self, wanted: float | None) -> float:
        """Where to begin, at the rate that is wanted if one is.  Raises LoadError."""
        if wanted is None:
            return max(FIRST_RATE, self.lowest_rate)
        if wanted < self.lowest_rate:
            seconds = max(self.longest_ns, self.duration_ns) / NS_PER_S
            raise LoadError(
                f"--rate {wanted:g}: {self.condition.text} is judged by "
                f"{counted(self.sessions, 'session')}, which at this rate take longer than a step "
                f"of {seconds:g} s; takes {self.lowest_rate:.4g} or more, or a longer --duration"
            )
        return wanted


def search_for(condition: Condition, plans: Sequence[Plan], duration_ns: int) -> Search:
    """The search for the limit of ``plans``, one round of sessions.  Raises LoadError for a bound
    that does not break under more load, and for what no session comes to."""
    if condition.operator in (">", ">="):
        raise LoadError(
            f"{condition.text!r}: holds under more load and not under less; --find-limit takes an "
            "upper bound, < or <="
        )
    if condition.bound == 0 and (condition.operator == "<" or condition.percentile):
        raise LoadError(f"{condition.text!r}: holds of no run; takes a bound above 0")
    samples = [condition.samples_of(plan) for plan in plans]
    if not any(samples):
        raise LoadError(
            f"{condition.text!r}: no session of these transcripts comes to {condition.metric}"
        )
    rounds, rest = divmod(condition.samples_needed, sum(samples))
    sessions = rounds * len(plans)
    for number in samples:
        if rest <= 0:
            break
        rest -= number
        sessions += 1
    return Search(condition, duration_ns, sessions)


@dataclass(frozen=True, slots=True)
class LimitStep:
    """A run at one rate: whether the condition held, and no session failed, and the schedule was
    kept; None where it was interrupted.  ``reason`` says in words what did not, ``measured`` the
    condition's own figure."""

    rate_per_s: float
    result: LoadResult
    holds: bool | None
    reason: str
    measured: str


@dataclass(frozen=True, slots=True)
class Limit:
    """What a search has found: the highest rate that held, 0 if none did.

    ``is_generators`` is True where the generator, not the target, kept it from going higher.  A
    search that did not come to its end was ``interrupted``, or ``trouble`` says why no further step
    could be made; there is at least one step.
    """

    condition: Condition
    steps: tuple[LimitStep, ...]
    interrupted: bool = False
    trouble: str = ""

    @property
    def rate_per_s(self) -> float:
        return max((one.rate_per_s for one in self.steps if one.holds), default=0.0)

    @property
    def is_generators(self) -> bool:
        broken = self.lowest_broken
        return broken is not None and not broken.result.kept_schedule

    @property
    def lowest_broken(self) -> LimitStep | None:
        """The step at the lowest rate that did not hold; None where all did."""
        broken = [one for one in self.steps if one.holds is False]
        return min(broken, key=lambda one: one.rate_per_s, default=None)

    @property
    def is_cut_short(self) -> bool:
        """Whether it did not come to its end."""
        return self.interrupted or bool(self.trouble)

    @property
    def best(self) -> LimitStep:
        """The step whose figures are the search's: the highest that held, or else was tried."""
        return max(self.steps, key=lambda one: (bool(one.holds), one.rate_per_s))


def find(
    search: Search,
    run_at: Callable[[float], LoadResult],
    first_rate: float = FIRST_RATE,
    told: Callable[[LimitStep], None] = lambda _: None,
) -> Limit:
    """Search by runs at one rate each; every step is ``told``.

    Raises LoadError and KeyboardInterrupt where they come before there is a step.
    """
    steps: list[LimitStep] = []
    try:
        for step in _steps(search, run_at, first_rate):
            steps.append(step)
            told(step)
    except (LoadError, KeyboardInterrupt) as error:
        if not steps:
            raise
        stopped = isinstance(error, KeyboardInterrupt)
        return Limit(search.condition, tuple(steps), stopped, "" if stopped else str(error))
    return Limit(search.condition, tuple(steps), steps[-1].result.interrupted)


def _steps(
    search: Search, run_at: Callable[[float], LoadResult], first_rate: float
) -> Iterator[LimitStep]:
    low, high, rate, lowest = 0.0, 0.0, first_rate, search.lowest_rate
    for _ in range(STEPS_MAX):
        result = run_at(rate)
        measured = search.condition.shown_value(result)
        if result.interrupted:
            yield LimitStep(rate, result, None, "", measured)
            return
        reason = _reason(search.condition, result)
        yield LimitStep(rate, result, not reason, reason, measured)
        if reason:
            high = rate
        else:
            low = rate
        if high and high - low <= PRECISION * high:
            break
        if not high and low >= RATE_MAX:
            break
        if high and high <= lowest:
            break
        rate = max((low + high) / 2, lowest) if high else min(low * 2, RATE_MAX)


def _reason(condition: Condition, result: LoadResult) -> str:
    """Why a step does not count as one that held; empty if it does."""
    if not condition.holds(result):
        return condition.shown_value(result)
    if result.tally.failed:
        return f"{counted(result.tally.failed, 'session')} failed"
    if not result.kept_schedule:
        return "the generator could not keep its schedule"
    if (samples := condition.samples(result)) < condition.samples_needed:
        return f"judged by {counted(samples, 'sample')}; it takes {condition.samples_needed:,}"
    return ""
