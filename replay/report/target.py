"""Shows a run against a server that is there: its pacing to people, everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from replay.counted import counted
from replay.load.tally import PERCENTILES
from replay.report.console import SCHEMA, scenario_json, show_trouble
from replay.transcript.duration import long_duration
from replay.transcript.octets import printable
from replay.verify.suite import ScenarioResult
from replay.verify.target_suite import TargetRun

SHOWN_MAX = 20
"""Of the waits cut short, and of the files left out; the JSON has them all."""
US_PER_MS = 1000
BUSY_US = 1000
"""With a hundredth of the departures later than this, the machine was too busy to keep time."""


def show(run: TargetRun, results: Sequence[ScenarioResult], console: Console) -> None:
    """What stands below the table: the differences, how well time was kept, what was left out, and
    the total."""
    for result in results:
        show_trouble(result, console)
    for line in _pacing(run):
        console.print(Text(line), soft_wrap=True)
    late_us = run.pacing.lateness.percentile_us(99)
    if late_us > BUSY_US:
        busy = "this machine was too busy to keep time: see how late departures were"
        console.print(Text(busy, style="yellow"), soft_wrap=True)
    capped = [
        f"{path}, line {one.line}: waited {long_duration(one.skipped_ns)} less than it says"
        for path, one in run.pacing.capped
    ]
    _list("cut short", capped, console)
    _list("left out", run.left_out, console)
    console.print(Text(_sum(run, results), style="bold"), soft_wrap=True)


def as_json(run: TargetRun, results: Sequence[ScenarioResult]) -> str:
    """As of a run in virtual time; what is of the real world stands under keys that begin with
    real_."""
    late = run.pacing.lateness
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "target": run.target.name,
        "scenarios": [scenario_json(one) for one in results],
        "left_out": run.left_out,
        "cut_short": [
            {
                "path": str(path),
                "connection": one.connection,
                "line": one.line,
                "skipped_ns": one.skipped_ns,
            }
            for path, one in run.pacing.capped
        ],
        "real_lateness_us": {
            "departures": late.count,
            **{f"p{percent}": late.percentile_us(percent) for percent in PERCENTILES},
            "max": late.max_us,
        },
    }
    return json.dumps(document, indent=2)


def _pacing(run: TargetRun) -> list[str]:
    late, lines = run.pacing.lateness, [""]
    if late.count:
        half, nearly_all = (_ms(late.percentile_us(percent)) for percent in (50, 99))
        lines.append(
            f"{late.count} departures, later than due by {half} (half of them), "
            f"{nearly_all} (99 %), {_ms(late.max_us)} (all)"
        )
    if run.pacing.unverified:
        lines.append(
            f"{run.pacing.unverified} TLS handshakes, with whoever answered: "
            "no certificate was verified (--ca does)"
        )
    return lines


def _ms(us: int) -> str:
    return f"{us / US_PER_MS:.3f} ms"


def _list(what: str, lines: Sequence[str], console: Console) -> None:
    for line in lines[:SHOWN_MAX]:
        console.print(Text(f"{what}: {printable(line)}", style="yellow"), soft_wrap=True)
    if len(lines) > SHOWN_MAX:
        console.print(Text(f"{what}: {len(lines) - SHOWN_MAX} more", style="yellow"))


def _sum(run: TargetRun, results: Sequence[ScenarioResult]) -> str:
    took = long_duration(sum(one.real_ns for one in results))
    captures = counted(len(results), "capture")
    bad = sum(not one.good for one in results)
    left_out = f"; {len(run.left_out)} left out" if run.left_out else ""
    verdict = f"; {bad} not as expected" if bad else ""
    return f"{captures} at {printable(run.target.name)}, {took}{verdict}{left_out}"
