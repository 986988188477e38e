"""Searches the highest rate at which a condition still holds.

The rate is doubled until the condition breaks, or the generator cannot keep its schedule; then the
gap between the last rate that held and the first that did not is halved until it is small.  A step
lasts until there is enough to judge the condition by; where that would take too long, the rate is
below all that are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        """How long the step at this rate lasts."""
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
    kept.  ``reason`` says in words what did not."""

    rate_per_s: float
    result: LoadResult
    holds: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Limit:
    """What a search has found: the highest rate that held, 0 if none did.

    ``is_generators`` is True where the generator, not the target, kept it from going higher.
    """

    condition: Condition
    steps: tuple[LimitStep, ...]

    @property
    def rate_per_s(self) -> float:
        return max((one.rate_per_s for one in self.steps if one.holds), default=0.0)

    @property
    def is_generators(self) -> bool:
        broken = [one for one in self.steps if not one.holds]
        return bool(broken) and not min(broken, key=lambda one: one.rate_per_s).result.kept_schedule

    @property
    def interrupted(self) -> bool:
        return bool(self.steps) and self.steps[-1].result.interrupted


def find(
    search: Search,
    run_at: Callable[[float], LoadResult],
    first_rate: float = FIRST_RATE,
    told: Callable[[LimitStep], None] = lambda _: None,
) -> Limit:
    """Search by runs at one rate each; every step is ``told``."""
    steps: list[LimitStep] = []
    low, high, rate, lowest = 0.0, 0.0, first_rate, search.lowest_rate
    while len(steps) < STEPS_MAX:
        result = run_at(rate)
        reason = _reason(search.condition, result)
        steps.append(LimitStep(rate, result, not reason, reason))
        told(steps[-1])
        if result.interrupted:
            break
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
    return Limit(search.condition, tuple(steps))


def _reason(condition: Condition, result: LoadResult) -> str:
    """Why a step does not count as one that held; empty if it does."""
    if result.interrupted:
        return "interrupted"
    if not condition.holds(result):
        return condition.shown_value(result)
    if result.tally.failed:
        return f"{counted(result.tally.failed, 'session')} failed"
    if not result.kept_schedule:
        return "the generator could not keep its schedule"
    if (samples := condition.samples(result)) < condition.samples_needed:
        return f"judged by {counted(samples, 'sample')}; it takes {condition.samples_needed:,}"
    return ""
