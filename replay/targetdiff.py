"""Two real servers under the same senders, one after the other, in real time."""

from __future__ import annotations

from mailsrv.clock import Clock
from replay import realtime
from replay.diff import Parting, compare_runs
from replay.realtime import Options
from replay.script import Scenario
from replay.target import Target, TargetError


def diff_targets(
    name: str,
    scenario: Scenario,
    targets: tuple[Target, Target],
    options: Options,
    clock: Clock,
    *,
    tolerance_ns: int,
) -> list[Parting]:
    """Play ``scenario`` at both servers, and compare what becomes of each sender.

    What each server calls itself, ids and dates are not compared; replies may come
    ``tolerance_ns`` apart.  Raises TargetError for a server that cannot be reached at all.
    """
    runs = [realtime.play(scenario, target, options, clock) for target in targets]
    for target, run in zip(targets, runs, strict=True):
        if run.unreachable:
            raise TargetError(f"{target.name}: {run.unreachable}")
    return compare_runs(
        name, scenario, (runs[0].connections, runs[1].connections), tolerance_ns=tolerance_ns
    )
