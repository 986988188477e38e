"""What a finished load run has to tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load.tally import Tally

LATENESS_MAX_NS = 10 * NS_PER_MS
"""In an open loop 99 of 100 sessions begin at most so late, or the schedule was not kept."""
_LATENESS_PERCENTILE = 99
_NS_PER_US = 1000


@dataclass(frozen=True, slots=True)
class Idle:
    """Connections held beside the load: ``asked`` for, ``opened``, and ``lost`` of these.

    ``complaints`` say, with numbers, why some were not opened or were lost.
    """

    asked: int = 0
    opened: int = 0
    lost: int = 0
    complaints: Mapping[str, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return self.opened - self.lost

    @property
    def complete(self) -> bool:
        return self.held == self.asked


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """What one generating process knows at its end, beside its intervals.

    ``window_ns`` is the time that counts: from the first session until no more were begun.
    ``in_window`` and ``messages_in_window`` count what was good and finished in it; ``cpu_ns`` is
    what the process itself used in that time.  ``unbegun`` counts sessions that were due and never
    begun.
    """

    idle: Idle = field(default_factory=Idle)
    window_ns: int = 0
    in_window: int = 0
    messages_in_window: int = 0
    cpu_ns: int = 0
    unbegun: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A finished run.

    ``rate`` is the schedule of an open loop as it was typed, empty for a closed loop, which had
    ``concurrency`` sessions in progress at all times.  The other fields are those of
    ``ProcessEnd``, over ``processes``.  Rates are made of what finished in the window; sessions
    that finished later are in ``tally`` alone.
    """

    target: str
    concurrency: int
    tally: Tally
    idle: Idle
    window_ns: int
    in_window: int
    messages_in_window: int
    cpu_ns: int
    interrupted: bool = False
    rate: str = ""
    tls: str = ""
    processes: int = 1
    unbegun: int = 0
    interval_ns: int = NS_PER_S
    lateness_max_ns: int = LATENESS_MAX_NS

    @property
    def all_well(self) -> bool:
        """True where no session failed, every idle connection is still there, and the schedule
        was kept."""
        return not self.tally.failed and self.idle.complete and self.kept_schedule

    @property
    def kept_schedule(self) -> bool:
        """False where sessions of an open loop began late, or never: then the figures are of
        another load than was asked for."""
        if not self.rate:
            return True
        late_us = self.tally.late.percentile_us(_LATENESS_PERCENTILE)
        return not self.unbegun and late_us * _NS_PER_US <= self.lateness_max_ns

    @property
    def sessions_per_s(self) -> float:
        return self.in_window * NS_PER_S / self.window_ns if self.window_ns else 0.0

    @property
    def messages_per_s(self) -> float:
        return self.messages_in_window * NS_PER_S / self.window_ns if self.window_ns else 0.0

    @property
    def cpu_share(self) -> float:
        """Of one processor for each process, 0 to 1: near 1, the generator is the limit and not
        the target."""
        return self.cpu_ns / self.window_ns / self.processes if self.window_ns else 0.0


def sum_of_ends(ends: Sequence[ProcessEnd], *, interrupted: bool) -> ProcessEnd:
    """What all processes know together; the window is the longest."""
    complaints = Counter[str]()
    for end in ends:
        complaints.update(end.idle.complaints)
    idle = Idle(
        sum(end.idle.asked for end in ends),
        sum(end.idle.opened for end in ends),
        sum(end.idle.lost for end in ends),
        dict(complaints),
    )
    return ProcessEnd(
        idle,
        max((end.window_ns for end in ends), default=0),
        sum(end.in_window for end in ends),
        sum(end.messages_in_window for end in ends),
        sum(end.cpu_ns for end in ends),
        sum(end.unbegun for end in ends),
        interrupted or any(end.interrupted for end in ends),
    )
