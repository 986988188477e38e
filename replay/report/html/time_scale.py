"""From instants to heights: time drawn to scale, with long silences shortened and marked.

A session is busy for a millisecond and then silent for a minute: one scale cannot show both.  So
what passes between two neighbouring instants is drawn to scale up to a limit; what is longer is a
*silence*, all of which are drawn equally high, with the duration written in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import NamedTuple

from mailsrv.units import NS_PER_MS
from replay.transcript.duration import NS_PER_US

SILENCE_FROM_NS = 500 * NS_PER_MS
"""No pause under this is a silence, however short the others are."""
SILENCE_FACTOR = 8
DRIPS_MIN = 6
"""Where there are that many pauses, only so many times the middle one is a silence: a sender that
drips is not silent all the time."""

PAUSE_PX_MAX = 54
"""The height of the longest pause that is to scale."""
ALL_PAUSES_PX_MAX = 1_200
SILENCE_PX = 46

_NICE = (1, 2, 5)


class Pause(NamedTuple):
    """What passes between two instants: its height, and whether it is a shortened silence."""

    ns: int
    height_px: int
    is_silence: bool = False


@dataclass(frozen=True, slots=True)
class TimeScale:
    """How high pauses are.  ``longest_ns`` is drawn ``longest_px`` high; longer is silence."""

    longest_ns: int
    longest_px: int
    silences: bool = False
    """Whether any pause is a silence."""

    @classmethod
    def of(cls, instants_ns: Sequence[int]) -> TimeScale:
        """The scale that suits these instants, which are in order."""
        pauses = [later - earlier for earlier, later in pairwise(instants_ns) if later > earlier]
        if not pauses:
            return cls(0, 0)
        limit_ns = SILENCE_FROM_NS
        if len(pauses) >= DRIPS_MIN:
            limit_ns = max(limit_ns, SILENCE_FACTOR * median_low(pauses))
        scaled = [ns for ns in pauses if ns <= limit_ns]
        longest_ns = max(scaled, default=0)
        longest_px = PAUSE_PX_MAX
        if scaled:
            longest_px = min(PAUSE_PX_MAX, ALL_PAUSES_PX_MAX * longest_ns // sum(scaled))
        return cls(longest_ns, max(longest_px, 1), len(scaled) < len(pauses))

    def pause(self, ns: int) -> Pause:
        """The pause of ``ns`` between two instants."""
        if ns <= 0:
            return Pause(0, 0)
        if ns > self.longest_ns:
            return Pause(ns, SILENCE_PX, is_silence=True)
        return Pause(ns, (2 * ns * self.longest_px + self.longest_ns) // (2 * self.longest_ns))

    def bar(self) -> tuple[int, int]:
        """A duration of one round figure and its height in pixels, for a reader to measure by;
        (0, 0) where nothing is to scale."""
        best = 0, 0
        unit_ns = NS_PER_US
        while unit_ns <= self.longest_ns:
            for figure in _NICE:
                if figure * unit_ns <= self.longest_ns:
                    best = figure * unit_ns, self.pause(figure * unit_ns).height_px
            unit_ns *= 10
        return best
