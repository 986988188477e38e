"""Searches the highest rate at which a condition still holds.

The rate is doubled until the condition breaks, or the generator cannot keep its schedule; then the
gap between the last rate that held and the first that did not is halved until it is small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replay.load.arrivals import RATE_MAX
from replay.load.condition import Condition
from replay.load.result import LoadResult

FIRST_RATE = 50.0
PRECISION = 0.05
"""The gap that is left, as a part of the rate."""
RATE_MIN = 0.1
"""Below this nothing is searched."""
STEPS_MAX = 40


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
    condition: Condition,
    run_at: Callable[[float], LoadResult],
    first_rate: float = FIRST_RATE,
    told: Callable[[LimitStep], None] = lambda _: None,
) -> Limit:
    """Search by runs at one rate each; every step is ``told``."""
    steps: list[LimitStep] = []
    low, high, rate = 0.0, 0.0, first_rate
    while len(steps) < STEPS_MAX:
        result = run_at(rate)
        reason = _reason(condition, result)
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
        if high and high <= RATE_MIN:
            break
        rate = max((low + high) / 2, RATE_MIN) if high else min(low * 2, RATE_MAX)
    return Limit(condition, tuple(steps))


def _reason(condition: Condition, result: LoadResult) -> str:
    """Why a step does not count as one that held; empty if it does."""
    if result.interrupted:
        return "interrupted"
    if not condition.holds(result):
        return condition.shown_value(result)
    if result.tally.failed:
        return f"{result.tally.failed:,} sessions failed"
    return "" if result.kept_schedule else "the generator could not keep its schedule"
