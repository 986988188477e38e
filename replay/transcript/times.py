"""The time column of a line: when a departure leaves, and when what is expected must come.

Few times stand in many lines, of one transcript and of all, so each is read once.
"""

from __future__ import annotations

from functools import lru_cache

from replay.transcript import duration, notation
from replay.transcript.script import After, AfterArrival, Anchor, At, Evidence

CACHED_MAX = 2048
"""Times that are remembered; each has a few dozen characters at most."""
_MARKS = "marks are ? and ! behind reply+T and command+T, ! and ^ behind +T"
_TIMES = "@T (since the scenario began), +T (after the departure above), {}+T"


class TimeError(ValueError):
    """A time that cannot be; ``offset`` counts its characters from 0."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


@lru_cache(CACHED_MAX)
def read_anchor(time: str, arrival: str) -> tuple[Anchor, Evidence | None]:
    """What a departure's time hangs on, and how sure that is; ``arrival`` is the word for what it
    may wait for.  Raises TimeError."""
    mark = time[-1] if time[-1] in notation.MARKS else ""
    bare = time.removesuffix(mark)
    for prefix, kind in (("@", At), ("+", After), (f"{arrival}+", AfterArrival)):
        if bare.startswith(prefix):
            anchor = kind(_duration(bare, len(prefix)))
            evidence = notation.MARKS[mark].get(kind) if mark else None
            if mark and evidence is None:
                raise TimeError(len(bare), f"{prefix} takes no {mark}; {_MARKS}")
            return anchor, evidence
    message = "a departure has no free time" if time == "*" else "this is no time"
    raise TimeError(0, f"{message}; allowed are {_TIMES.format(arrival)}")


@lru_cache(CACHED_MAX)
def read_instant(time: str) -> int | None:
    """When what is expected must come, in nanoseconds since the scenario began; None for any time.
    Raises TimeError."""
    if time == "*":
        return None
    if not time.startswith("@"):
        raise TimeError(0, "what is expected has the time @T, or * for any")
    return _duration(time, 1)


def _duration(time: str, start: int) -> int:
    try:
        return duration.parse(time[start:])
    except ValueError as error:
        raise TimeError(start, str(error)) from None
