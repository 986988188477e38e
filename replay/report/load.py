"""Shows a load run: to people as tables, to machines as JSON, to HdrHistogram's tools as .hgrm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mailsrv.units import NS_PER_S
from replay.load.condition import Verdict
from replay.load.figures import duration
from replay.load.limit import Limit
from replay.load.result import LoadResult
from replay.load.tally import PERCENTILES, TAIL_PERCENTILES, Latency, Row, Tally
from replay.report.console import show_table
from replay.report.load_words import complaints, facts, verdict_in_words, warnings
from replay.transcript.octets import printable

SCHEMA = 3
"""Of the JSON of a load run; a key that goes or changes its meaning makes it another."""
COMPLAINTS_SHOWN_MAX = 10
SKIPPED_SHOWN_MAX = 5
"""The JSON has them all."""
PERCENTILES_SHOWN = (TAIL_PERCENTILES, TAIL_PERCENTILES[:4], TAIL_PERCENTILES[:3], (50, 99), (99,))
WIDTH_MAX = 1000
"""Of latencies: the first of these that fit the terminal, however wide that is."""


def show(
    outcome: LoadResult, skipped: Sequence[str], console: Console, verdicts: Sequence[Verdict] = ()
) -> None:
    """The results as tables."""
    tally = outcome.tally
    for table in (_sums(outcome), _latencies(outcome, console), _counts(tally)):
        show_table(table, console)
    differing = complaints(tally)
    if differing:
        console.print(Text("\nnot as in the transcripts", style="bold red"))
    for count, complaint, example in differing[:COMPLAINTS_SHOWN_MAX]:
        told = f"  {count:,} x {complaint}" + (f": {example}" if example else "")
        console.print(Text(printable(told)), soft_wrap=True)
    _show_more(len(differing) - COMPLAINTS_SHOWN_MAX, console)
    for complaint, count in outcome.idle.complaints.items():
        console.print(Text(f"  {count:,} x {complaint}"), soft_wrap=True)
    for reason in skipped[:SKIPPED_SHOWN_MAX]:
        console.print(Text(f"  left out: {printable(reason)}", style="yellow"), soft_wrap=True)
    _show_more(len(skipped) - SKIPPED_SHOWN_MAX, console)
    for warning in warnings(outcome):
        console.print(Text(f"\n{warning}", style="yellow"), soft_wrap=True)
    for verdict in verdicts:
        style = "" if verdict.passes else "bold red"
        console.print(Text(f"\n{verdict_in_words(verdict)}", style=style), soft_wrap=True)


# -- for machines ---------------------------------------------------------------------------------


def as_json(
    outcome: LoadResult,
    skipped: Sequence[str],
    verdicts: Sequence[Verdict] = (),
    limit: Limit | None = None,
) -> str:
    """Latencies are in microseconds, rates per second of ``rate_seconds``."""
    tally, idle = outcome.tally, outcome.idle
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "target": outcome.target,
        "concurrency": outcome.concurrency or None,
        "rate": outcome.rate or None,
        "tls": outcome.tls or None,
        "seconds": outcome.window_ns / NS_PER_S,
        "rate_seconds": outcome.counted_ns / NS_PER_S,
        "interrupted": outcome.interrupted or bool(limit and limit.interrupted),
        "all_well": outcome.all_well and all(one.passes for one in verdicts),
        "sessions": {
            "begun": tally.begun,
            "good": tally.good,
            "failed": tally.failed,
            "per_s": round(outcome.sessions_per_s, 1),
        },
        "messages": {"accepted": tally.messages, "per_s": round(outcome.messages_per_s, 1)},
        "replies": {str(code): count for code, count in sorted(tally.replies.items())},
        "errors": dict(tally.errors.most_common()),
        "complaints": [
            {"count": count, "what": what, "example": tally.examples.get(what)}
            for what, count in tally.complaints.most_common()
        ],
        "latency_us": {step: _latency(tally.response[step]) for step in tally.steps},
        "service_us": {step: _latency(tally.service[step]) for step in tally.steps},
        "schedule": {
            "kept": outcome.kept_schedule,
            "late_us": _latency(tally.late),
            "never_begun": outcome.unbegun,
        }
        if outcome.rate
        else None,
        "idle": {
            "asked": idle.asked,
            "opened": idle.opened,
            "held": idle.held,
            "lost": idle.lost,
            "complaints": dict(idle.complaints),
        },
        "generator": {
            "processes": outcome.processes,
            "cpu_share": round(outcome.cpu_share, 3),
        },
        "interval_s": outcome.interval_ns / NS_PER_S,
        "intervals": [_row(one) for one in tally.rows],
        "failed_conditions": [
            {
                "condition": one.condition.text,
                "measured": one.measured,
                "outcome": one.outcome.value,
                "samples": one.samples,
            }
            for one in verdicts
            if not one.passes
        ],
        "limit": _limit(limit) if limit else None,
        "skipped": list(skipped),
    }
    return json.dumps(document, indent=2)


def _latency(one: Latency) -> dict[str, Any]:
    percentiles = {f"p{percent:g}": one.percentile_us(percent) for percent in TAIL_PERCENTILES}
    return {"count": one.count, **percentiles, "max": one.max_us}


def _row(row: Row) -> dict[str, Any]:
    names = (*(f"p{percent}" for percent in PERCENTILES), "max")
    response = {
        step: dict(zip(names, times, strict=True)) for step, times in row.response_us.items()
    }
    return {
        "number": row.number,
        "begun": row.begun,
        "good": row.good,
        "failed": row.failed,
        "messages": row.messages,
        "open": row.open,
        "errors": dict(row.errors),
        "latency_us": response,
        "late_us": dict(zip(names, row.late_us, strict=True)) if row.late_us else None,
    }


def _limit(limit: Limit) -> dict[str, Any]:
    steps = [
        {
            "rate_per_s": one.rate_per_s,
            "holds": one.holds,
            "measured": one.measured,
            "samples": limit.condition.samples(one.result),
            "seconds": one.result.window_ns / NS_PER_S,
            "reason": one.reason,
        }
        for one in limit.steps
    ]
    return {
        "condition": limit.condition.text,
        "samples_needed": limit.condition.samples_needed,
        "rate_per_s": limit.rate_per_s or (None if limit.is_cut_short else 0),
        "interrupted": limit.interrupted,
        "trouble": limit.trouble or None,
        "steps": steps,
    }


def write_hgrm(tally: Tally, folder: Path) -> list[Path]:
    """One file for each step's response time and one for its service time, in milliseconds.

    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    late: Mapping[str, Latency] = {"late": tally.late} if tally.late.count else {}
    for kind, latencies in (("response", tally.response), ("service", tally.service), ("", late)):
        for step, latency in latencies.items():
            path = folder / f"{step}{'.' if kind else ''}{kind}.hgrm"
            with path.open("wb") as file:
                latency.write_hgrm(file)
            written.append(path)
    return written


# -- for people -----------------------------------------------------------------------------------


def _sums(outcome: LoadResult) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, words, style in facts(outcome):
        table.add_row(name, Text(words), style=style)
    return table


def _latencies(outcome: LoadResult, console: Console) -> Table:
    """Response times, with as many percentiles as there is room for."""
    for percentiles in PERCENTILES_SHOWN:
        table = _latencies_at(outcome, percentiles)
        wanted = Measurement.get(console, console.options.update(width=WIDTH_MAX), table)
        if wanted.maximum <= console.width:
            break
    return table


def _latencies_at(outcome: LoadResult, percentiles: Sequence[float]) -> Table:
    """Response times; beside them service times where they are another thing."""
    tally = outcome.tally
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nlatency", no_wrap=True, min_width=max(map(len, tally.steps), default=0))
    for name in ("count", *(f"p{one:g}" for one in percentiles), "max"):
        table.add_column(f"\n{name}", justify="right", no_wrap=True)
    if outcome.rate:
        table.add_column("service\np99", justify="right", no_wrap=True)
    for step in tally.steps:
        one = tally.response[step]
        times = [one.percentile_us(percentile) for percentile in percentiles]
        cells = [duration(us) for us in (*times, one.max_us)]
        if outcome.rate:
            cells.append(duration(tally.service[step].percentile_us(99)))
        table.add_row(step, f"{one.count:,}", *cells)
    return table


def _counts(tally: Tally) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nreplies and errors")
    table.add_column("\ncount", justify="right")
    for code, count in sorted(tally.replies.items()):
        table.add_row(str(code) if code else "none", f"{count:,}")
    for kind, count in tally.errors.most_common():
        table.add_row(Text(kind, style="red"), f"{count:,}")
    return table


def _show_more(count: int, console: Console) -> None:
    if count > 0:
        console.print(f"  … and {count:,} more; --json FILE has all")
