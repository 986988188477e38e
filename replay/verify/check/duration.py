"""How long a check may take, told before it begins."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replay.play.conditions import Patience
from replay.transcript.claims.claim import Ends, RepliesWith, StaysOpen
from replay.transcript.script import Scenario, ScriptedConnection


class Plan(NamedTuple):
    """What is to be played: so many scenarios, ``at_once`` at a time.  ``longest_ns`` is how long
    that takes at most if each reply comes at once; one that does not come costs more."""

    scenarios: int
    at_once: int
    longest_ns: int


def longest_ns(scenario: Scenario, patience: Patience) -> int:
    """How long ``scenario`` takes at most if each reply comes at once: the sender's own silence,
    and then the one wait that a claim, or what may yet come, asks for."""
    return max(
        sum(one.anchor.ns for one in connection.departures())
        + max(patience.settle_ns, *_bounds_ns(connection, patience))
        for connection in scenario.connections
    )


def _bounds_ns(connection: ScriptedConnection, patience: Patience) -> Iterator[int]:
    """How long the claims on time have something waited for."""
    yield 0
    for claim in connection.claims:
        if isinstance(claim.statement, Ends | StaysOpen | RepliesWith) and claim.statement.within:
            yield patience.at_most_ns(claim.statement.within)


def side_by_side_ns(durations_ns: Iterable[int], at_once: int) -> int:
    """When the last is over where so many run at a time, each begun as soon as there is room."""
    ends_ns = [0] * at_once
    for duration_ns in durations_ns:
        heapq.heapreplace(ends_ns, ends_ns[0] + duration_ns)
    return max(ends_ns)
