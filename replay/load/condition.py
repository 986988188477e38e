"""Conditions on the figures of a load run: ``p99(dot) > 50ms``, ``failed > 0.1%``.

    pN(STEP) max(STEP)                  response time of a step; p99(dot, service) its service time
    p99(late)                           how late sessions of an open loop began
    failed                              failed sessions, a number or a percentage
    sessions/s messages/s               rates

Compared by ``<``, ``<=``, ``>`` or ``>=`` with a number and its unit: us, ms or s for durations,
none for rates.  A percentile or a percentage is an estimate, which takes samples; the others are
facts of the run, however short it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from replay.counted import counted
from replay.load.figures import exact_duration, number
from replay.load.plan import LoadError, Plan
from replay.load.reply_labels import CONNECT, SESSION, STEPS, TLS
from replay.load.result import LoadResult
from replay.load.tally import Latency
from replay.transcript.script import StartTls

TEXT_MAX_CHARACTERS = 100
SAMPLES_MIN = 20
SAMPLES_BEYOND = 3
"""A figure is judged by so many samples at least; of a percentile, by so many beyond it: p99 takes
300.  Of fewer, it would be the greatest of all, or near it."""
LATE = "late"
FORMS = "a condition is such as 'p99(dot) > 50ms', 'failed > 1%' or 'messages/s < 500'"

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,6})?"
_CONDITION = re.compile(rf"(\S.*?)\s*(<=|>=|<|>)\s*({_NUMBER})\s*(us|ms|s|%)?")
_DURATION = re.compile(
    r"(?:p([0-9]{1,2}(?:\.[0-9]{1,4})?|100)|(max))\(\s*([A-Za-z]+)\s*(,\s*service\s*)?\)"
)
_US = {"us": 1.0, "ms": 1000.0, "s": 1_000_000.0}
_STEPS = {step.lower(): step for step in STEPS}
_RATES = ("sessions/s", "messages/s")
_FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Condition:
    """``text`` as it was typed.  Of a duration, ``step`` and ``percentile`` (100 for the greatest)
    say which; else ``metric`` says what is compared.  ``bound`` is in microseconds, in hundredths
    or a number."""

    text: str
    metric: str
    operator: str
    bound: float
    unit: str
    percentile: float = 0
    is_service: bool = False

    def value(self, result: LoadResult) -> float | None:
        """What was measured, in the unit of ``bound``; None where nothing was."""
        tally = result.tally
        if self.percentile:
            times = self._times(result)
            if not times.count:
                return None
            return times.max_us if self.percentile == 100 else times.percentile_us(self.percentile)
        if self.metric == _FAILED:
            if self.unit != "%":
                return tally.failed
            ended = tally.good + tally.failed
            return 100 * tally.failed / ended if ended else None
        return result.sessions_per_s if self.metric == "sessions/s" else result.messages_per_s

    def _times(self, result: LoadResult) -> Latency:
        if self.metric == LATE:
            return result.tally.late
        kind = result.tally.service if self.is_service else result.tally.response
        return kind.get(self.metric, Latency())

    def holds(self, result: LoadResult) -> bool:
        """Whether it is true of a run; of what was not measured nothing is."""
        value = self.value(result)
        if value is None:
            return False
        match self.operator:
            case "<":
                return value < self.bound
            case "<=":
                return value <= self.bound
            case ">":
                return value > self.bound
            case _:
                return value >= self.bound

    @property
    def is_estimate(self) -> bool:
        """Whether more samples would make its figure another one."""
        return 0 < self.percentile < 100 or (self.metric == _FAILED and self.unit == "%")

    @property
    def samples_needed(self) -> int:
        """How many there have to be for it to be judged as an estimate."""
        beyond = 100 - self.percentile if self.percentile else 100.0
        if self.metric == _FAILED and self.unit == "%":
            beyond = self.bound
        if not 0 < beyond < 100:
            return SAMPLES_MIN
        return max(SAMPLES_MIN, math.ceil(round(100 * SAMPLES_BEYOND / beyond, 6)))

    def samples(self, result: LoadResult) -> int:
        """How many there are: of its step, or else sessions."""
        if self.percentile:
            return self._times(result).count
        return result.tally.good + result.tally.failed

    def samples_of(self, plan: Plan) -> int:
        """How many a session makes that goes as planned."""
        if not self.percentile or self.metric in (CONNECT, SESSION, LATE):
            return 1
        if self.metric == TLS:
            return sum(isinstance(act.action, StartTls) for act in plan.acts)
        return sum(reply.label == self.metric for reply in plan.replies)

    def shown_value(self, result: LoadResult) -> str:
        """What was measured, for people."""
        value = self.value(result)
        if value is None:
            return "nothing was measured"
        if self.unit in _US:
            return exact_duration(value)
        return f"{number(value)}{self.unit}"


class Judgement(Enum):
    """What came of a condition of ``--fail-if``, in words."""

    FAILS = "fails"
    CANNOT_BE_JUDGED = "cannot be judged"
    PASSES = "passes"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition of ``--fail-if`` held against a run: what was ``measured``, in words, by how
    many ``samples``."""

    condition: Condition
    outcome: Judgement
    measured: str
    samples: int

    @property
    def passes(self) -> bool:
        """False too where it cannot be judged: what has not been shown is not passed."""
        return self.outcome is Judgement.PASSES

    @property
    def judged_by(self) -> str:
        """What was measured, and by how much of what it takes."""
        if not self.samples or not self.condition.is_estimate:
            return self.measured
        told = f"{self.measured}, judged by {counted(self.samples, 'sample')}"
        few = self.samples < self.condition.samples_needed
        return told + (f", and takes {self.condition.samples_needed:,}" if few else "")


def verdicts(conditions: Iterable[Condition], result: LoadResult) -> list[Verdict]:
    """All of them held against a run.  One that came true fails however few its samples are: those
    show that much.  That one did not come true takes all of them."""
    return [
        Verdict(one, _outcome(one, result), one.shown_value(result), one.samples(result))
        for one in conditions
    ]


def _outcome(condition: Condition, result: LoadResult) -> Judgement:
    if condition.holds(result):
        return Judgement.FAILS
    few = condition.is_estimate and condition.samples(result) < condition.samples_needed
    if few or condition.value(result) is None:
        return Judgement.CANNOT_BE_JUDGED
    return Judgement.PASSES


def parse(text: str) -> Condition:
    """Raises LoadError, which names what is wrong and what is allowed."""
    found = _CONDITION.fullmatch(text.strip()) if len(text) <= TEXT_MAX_CHARACTERS else None
    if found is None:
        raise LoadError(f"{text[:TEXT_MAX_CHARACTERS]!r}: {FORMS}")
    metric, operator, number, unit = found[1], found[2], float(found[3]), found[4] or ""
    if duration := _DURATION.fullmatch(metric):
        return _duration_condition(text, duration, operator, number, unit)
    if metric == _FAILED and unit in ("", "%"):
        return Condition(text, metric, operator, number, unit)
    if metric in _RATES and not unit:
        return Condition(text, metric, operator, number, unit)
    if metric in (_FAILED, *_RATES):
        raise LoadError(f"{text!r}: {metric} has no unit {unit}")
    raise LoadError(f"{text!r}: {metric!r} is no figure of a run; {FORMS}")


def _duration_condition(
    text: str, found: re.Match[str], operator: str, number: float, unit: str
) -> Condition:
    step = LATE if found[3] == LATE else _STEPS.get(found[3].lower())
    if step is None:
        known = ", ".join([*STEPS, LATE])
        raise LoadError(f"{text!r}: {found[3]!r} is no step of a session; these are: {known}")
    if unit not in _US:
        raise LoadError(f"{text!r}: a duration has a unit, one of us, ms, s")
    percentile = 100.0 if found[2] else float(found[1])
    if not percentile:
        raise LoadError(f"{text!r}: a percentile is over 0 and at most 100")
    return Condition(text, step, operator, number * _US[unit], unit, percentile, bool(found[4]))
