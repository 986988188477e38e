"""What a load run is to do, as a value that can be given to other processes, each for its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load.arrivals import Rate
from replay.load.plan import Plan
from replay.load.result import LATENESS_MAX_NS
from replay.play.target import Target, loopback_clients

OPEN_MAX = 10_000
"""Connections of an open loop that are open at one time; sessions that find no room are late."""
INTERVAL_MIN_NS = 500 * NS_PER_MS
INTERVALS_MAX = 600
"""In one run: what is told over time has at most so many points."""
SEED = 1
"""Of a Poisson schedule: the same run has the same arrivals."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How much of it.

    ``rate`` makes an open loop with at most ``open_max`` connections at one time; without it, so
    many as ``concurrency`` says are in progress at all times.  ``sessions`` ends a run early; 0
    does not.  ``clients`` is the number of client addresses, where the target is on loopback.
    """

    concurrency: int = 10
    idle: int = 0
    duration_ns: int = 10 * NS_PER_S
    timeout_ns: int = 30 * NS_PER_S
    sessions: int = 0
    rate: Rate | None = None
    open_limit: int = OPEN_MAX
    tls: str = ""
    clients: int = 1000
    lateness_max_ns: int = LATENESS_MAX_NS

    @property
    def open_max(self) -> int:
        """Connections that may be open at one time, the idle ones not counted."""
        return self.open_limit if self.rate else self.concurrency


@dataclass(frozen=True, slots=True)
class LoadJob:
    """A run: ``plans`` one round of sessions, in order; ``share`` which part of it is whose.

    Of ``shares`` processes each plays every so many-th session of the same schedule.
    """

    plans: Sequence[Plan]
    target: Target
    options: LoadOptions = field(default_factory=LoadOptions)
    share: int = 0
    shares: int = 1

    @property
    def interval_ns(self) -> int:
        return max(INTERVAL_MIN_NS, self.options.duration_ns // INTERVALS_MAX)

    def split(self, shares: int) -> list[LoadJob]:
        """The parts of several processes; whatever is counted is counted once among them."""
        options = self.options
        parts = []
        for share in range(shares):
            own = replace(
                options,
                concurrency=_part(options.concurrency, share, shares),
                idle=_part(options.idle, share, shares),
                sessions=_part(options.sessions, share, shares),
                open_limit=_part(options.open_limit, share, shares),
            )
            parts.append(replace(self, options=own, share=share, shares=shares))
        return parts

    def plans_of_share(self) -> Iterator[Plan]:
        """What this process plays, without an end."""
        plans = list(self.plans)
        if self.options.rate and not self.options.rate.segments:
            plans.sort(key=lambda plan: plan.opens_ns)
        return islice(cycle(plans), self.share, None, self.shares)

    def arrivals_of_share(self) -> Iterator[int]:
        """When they begin in an open loop, in nanoseconds from the beginning."""
        rate = self.options.rate
        if rate is None:
            return iter(())
        due = rate.arrivals(self.options.duration_ns, self.plans, SEED)
        return islice(due, self.share, None, self.shares)

    def client_addresses(self) -> Iterator[str]:
        """Where this process's clients bind, without an end; "" leaves it to the kernel."""
        addresses = loopback_clients(self.target, self.options.clients)
        return islice(addresses, self.share, None, self.shares)


def _part(whole: int, share: int, shares: int) -> int:
    return whole // shares + (share < whole % shares)
