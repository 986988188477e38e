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

    ``window_ns`` runs from the first session until no more were begun, and ``cpu_ns`` is what the
    process itself used in that time.  ``counted_ns`` is the time that rates are made of: in an open
    loop it runs on until the last good session has ended, if that is later.  ``good_counted`` and
    ``messages_counted`` count what was good and finished in it.  ``unbegun`` counts sessions that
    were due and never begun.
    """

    idle: Idle = field(default_factory=Idle)
    window_ns: int = 0
    counted_ns: int = 0
    good_counted: int = 0
    messages_counted: int = 0
    cpu_ns: int = 0
    unbegun: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A finished run.

    ``rate`` is the schedule of an open loop as it was typed, empty for a closed loop, which had
    ``concurrency`` sessions in progress at all times.  The other fields are those of
    ``ProcessEnd``, over ``processes``.  Rates are made of what finished in ``counted_ns``: of a
    closed loop that is the window, in which sessions were in progress at all times, and what
    finished later is in ``tally`` alone.  Of an open loop it is as long as good sessions ended: a
    server that answers what it owes only when no more is asked has answered no sooner.
    ``began_ns`` is when it began, in nanoseconds since 1970; 0 where that is not known.
    """

    target: str
    concurrency: int
    tally: Tally
    idle: Idle
    window_ns: int
    counted_ns: int
    good_counted: int
    messages_counted: int
    cpu_ns: int
    interrupted: bool = False
    rate: str = ""
    tls: str = ""
    processes: int = 1
    unbegun: int = 0
    interval_ns: int = NS_PER_S
    lateness_max_ns: int = LATENESS_MAX_NS
    began_ns: int = 0

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
        return self.good_counted * NS_PER_S / self.counted_ns if self.counted_ns else 0.0

    @property
    def messages_per_s(self) -> float:
        return self.messages_counted * NS_PER_S / self.counted_ns if self.counted_ns else 0.0

    @property
    def cpu_share(self) -> float:
        """Of one processor for each process, 0 to 1: near 1, the generator is the limit and not
        the target."""
        return self.cpu_ns / self.window_ns / self.processes if self.window_ns else 0.0


def sum_of_ends(ends: Sequence[ProcessEnd], *, interrupted: bool) -> ProcessEnd:
    """What all processes know together; of times, the longest."""
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
        max((end.counted_ns for end in ends), default=0),
        sum(end.good_counted for end in ends),
        sum(end.messages_counted for end in ends),
        sum(end.cpu_ns for end in ends),
        sum(end.unbegun for end in ends),
        interrupted or any(end.interrupted for end in ends),
    )
