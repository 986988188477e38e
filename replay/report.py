"""Shows the results of a run: to people as a table, to machines as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailsrv.units import NS_PER_S
from replay.compare import Difference
from replay.runs import AS_EXPECTED, BROKEN, DIFFERS, UPDATED, Result

PIPE_WIDTH = 160
"""Columns where nobody says how wide the paper is."""
DIFFERENCES_SHOWN_MAX = 20
"""Of one transcript; the JSON has them all."""

_STYLES = {AS_EXPECTED: "green", UPDATED: "yellow", DIFFERS: "red", BROKEN: "bold red"}

_DIFF_STYLES = {"+": "green", "-": "red", "@": "dim"}


def console() -> Console:
    """Standard output, as wide as the terminal; wide where there is none."""
    made = Console()
    return made if made.is_terminal else Console(width=PIPE_WIDTH)


def show(results: Sequence[Result], console: Console) -> None:
    """The table, the differences, the sum."""
    console.print(_table(results))
    for result in results:
        _show_trouble(result, console)
    console.print(_sum(results), style="bold", soft_wrap=True)


def as_json(results: Sequence[Result]) -> str:
    """DESIGN section 8: durations of the real world stand under keys that begin with real_."""
    return json.dumps({"scenarios": [_scenario(one) for one in results]}, indent=2)


def long_duration(ns: int) -> str:
    """A duration for people: "1 h 52 min", "4.2 s", "31 ms"."""
    seconds = ns / NS_PER_S
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _table(results: Sequence[Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("capture", no_wrap=True)
    table.add_column("story")  # the one that gives way on a narrow terminal
    for name in ("sessions", "virtual", "real"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for result in results:
        table.add_row(
            Text("/".join(result.path.with_suffix("").parts[-2:])),
            Text(result.story, no_wrap=True, overflow="ellipsis"),
            str(result.sessions),
            long_duration(result.virtual_ns),
            long_duration(result.real_ns),
            Text(result.verdict, style=_STYLES[result.verdict]),
        )
    return table


def _show_trouble(result: Result, console: Console) -> None:
    if result.verdict == AS_EXPECTED and not result.complaint:
        return
    console.print(Text(f"\n{result.path}: {result.verdict}", style=_STYLES[result.verdict]))
    if result.complaint:
        console.print(Text(f"  {result.complaint}"), soft_wrap=True)
    for difference in result.differences[:DIFFERENCES_SHOWN_MAX]:
        name = f"connection {difference.connection}, " if result.sessions > 1 else ""
        console.print(Text(_indented(f"{name}{difference}")), soft_wrap=True)
    if len(result.differences) > DIFFERENCES_SHOWN_MAX:
        console.print(Text(f"  … and {len(result.differences) - DIFFERENCES_SHOWN_MAX} more"))
    for line in result.changes[2:]:
        console.print(Text(f"  {line}", style=_DIFF_STYLES.get(line[:1], "")), soft_wrap=True)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _sum(results: Sequence[Result]) -> str:
    virtual = long_duration(sum(one.virtual_ns for one in results))
    real = long_duration(sum(one.real_ns for one in results))
    captures = f"{len(results)} capture{'s' if len(results) != 1 else ''}"
    bad = sum(not one.good for one in results)
    verdict = f"; {bad} not as expected" if bad else ""
    updated = sum(one.verdict == UPDATED for one in results)
    if updated:
        verdict += f"; {updated} updated: read each change before you commit it"
    return f"\n{captures}, {virtual} of traffic, {real}{verdict}"


def _scenario(result: Result) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "story": result.story,
        "verdict": result.verdict,
        "sessions": result.sessions,
        "virtual_ns": result.virtual_ns,
        "trace_hash": result.trace_hash,
        "real_ns": result.real_ns,
        "complaint": result.complaint,
        "differences": [_difference(one) for one in result.differences],
        "changes": list(result.changes),
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {name: getattr(difference, name) for name in Difference.__slots__}
