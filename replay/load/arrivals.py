"""When the sessions of an open loop begin: instants from the run's beginning, told in advance.

    200              200 a second, evenly
    10-200           from 10 to 200 a second, rising evenly over the run
    50,100,200       three steps of equal length; a step may be a ramp
    poisson:RATES    the same rates, but arrivals independent of each other
    captures         when the connections of the transcripts were opened, again and again
    captures*4       four times as fast

A schedule does not wait for the server: a session that is answered late makes none after it later.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from mailsrv.units import NS_PER_S
from replay.load.plan import LoadError, Plan

RATE_MAX = 1_000_000
SEGMENTS_MAX = 100
RATE_FORMS = (
    "a rate is N, A-B, a list of these with commas, poisson: before it, or captures[*SPEED]"
)

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SEGMENT = re.compile(rf"({_NUMBER})(?:-({_NUMBER}))?")
_CAPTURED = "captures"
_CAPTURES = re.compile(rf"{_CAPTURED}(?:\*({_NUMBER}))?")
_POISSON = "poisson:"


@dataclass(frozen=True, slots=True)
class Rate:
    """What ``--rate`` says.  ``segments`` are pairs of rates a second, each for an equal part of
    the run; where there are none, the transcripts' own instants hold, ``speed`` times as fast."""

    text: str
    segments: tuple[tuple[float, float], ...] = ()
    is_poisson: bool = False
    speed: float = 1

    def arrivals(self, duration_ns: int, plans: Sequence[Plan], seed: int) -> Iterator[int]:
        """Instants in nanoseconds, in order, all before ``duration_ns``."""
        if not self.segments:
            return _as_captured(plans, self.speed, duration_ns)
        levels = _random_levels(seed) if self.is_poisson else map(float, count())
        return _at_levels(self.segments, duration_ns, levels)


def parse(text: str) -> Rate:
    """Raises LoadError, which names what is allowed."""
    if found := _CAPTURES.fullmatch(text):
        speed = float(found[1] or 1)
        if not 0.001 <= speed <= RATE_MAX:
            raise LoadError(f"{text!r}: a speed is from 0.001 to {RATE_MAX}")
        return Rate(text, speed=speed)
    rates = text.removeprefix(_POISSON)
    parts = rates.split(",", SEGMENTS_MAX)
    segments = []
    for part in parts:
        found = _SEGMENT.fullmatch(part)
        if found is None or len(parts) > SEGMENTS_MAX:
            raise LoadError(f"{text!r}: {RATE_FORMS}")
        first = float(found[1])
        segments.append((first, float(found[2]) if found[2] else first))
    if max(map(max, segments)) > RATE_MAX or not any(map(any, segments)):
        raise LoadError(f"{text!r}: a rate is over 0 and at most {RATE_MAX} a second")
    return Rate(text, tuple(segments), text.startswith(_POISSON))


def constant(per_s: float) -> Rate:
    """The same rate throughout."""
    return Rate(f"{per_s:.10g}", ((per_s, per_s),))


def in_words(text: str) -> str:
    """What a ``--rate`` that was typed as ``text`` means: "200 sessions/s"."""
    if text.startswith(_CAPTURED):
        speed = text.partition("*")[2]
        return "the captures' own pace" + (f", {speed} times as fast" if speed else "")
    if text.startswith(_POISSON):
        return f"{text.removeprefix(_POISSON)} sessions/s, independent of each other (Poisson)"
    return f"{text} sessions/s"


def _random_levels(seed: int) -> Iterator[float]:
    """Of a Poisson process: gaps between arrivals are exponential."""
    dice, level = random.Random(seed), 0.0
    while True:
        level += dice.expovariate(1)
        yield level


def _at_levels(
    segments: Sequence[tuple[float, float]], duration_ns: int, levels: Iterator[float]
) -> Iterator[int]:
    """When so many arrivals are due: the inverse of the rate's integral."""
    length_s = duration_ns / NS_PER_S / len(segments)
    level = next(levels)
    done = 0.0
    for number, (first, last) in enumerate(segments):
        area = (first + last) / 2 * length_s
        while level < done + area:
            at_s = _solve(first, (last - first) / length_s, level - done)
            yield min(round((number * length_s + at_s) * NS_PER_S), duration_ns - 1)
            level = next(levels)
        done += area


def _solve(first: float, slope: float, area: float) -> float:
    """The time after which ``first + slope * t`` has covered ``area``."""
    root = math.sqrt(max(first * first + 2 * slope * area, 0.0))
    return 2 * area / (first + root) if first + root else 0.0


def _as_captured(plans: Sequence[Plan], speed: float, duration_ns: int) -> Iterator[int]:
    """The instants at which the plans' connections were opened, in rounds without a gap: behind
    the last, the mean distance of the others passes."""
    opened = sorted(plan.opens_ns for plan in plans)
    gaps = [later - earlier for earlier, later in pairwise(opened)]
    mean_ns = sum(gaps) // len(gaps) if gaps else 0
    round_ns = opened[-1] - opened[0] + mean_ns
    if round_ns <= 0:
        raise LoadError(
            "--rate captures: these transcripts have one connection each, or open all at once, and "
            "so no pace to keep"
        )
    for number in count():
        for at_ns in opened:
            due_ns = round((number * round_ns + at_ns - opened[0]) / speed)
            if due_ns >= duration_ns:
                return
            yield due_ns
