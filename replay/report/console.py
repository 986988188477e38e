"""Shows the results of a run: differences and total to people, all of it to machines as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from replay.counted import counted
from replay.transcript.duration import long_duration
from replay.transcript.octets import printable
from replay.verify.comparison import Difference
from replay.verify.suite import AS_EXPECTED, BROKEN, DIFFERS, UNREADABLE, UPDATED, ScenarioResult

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
"""Of the JSON of a run; a key that goes or changes its meaning makes it another."""
PIPE_WIDTH = 160
"""Columns where there is no terminal and no COLUMNS."""
DIFFERENCES_SHOWN_MAX = 20
"""Of one transcript; the JSON has them all."""

STYLES = {
    AS_EXPECTED: "green",
    UPDATED: "yellow",
    DIFFERS: "red",
    BROKEN: "bold red",
    UNREADABLE: "bold red",
}

_DIFF_STYLES = {"+": "green", "-": "red", "@": "dim"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # the program ends with the status that the shell expects


def make_console(*, stderr: bool = False) -> Console:
    """Standard output or error, as wide as the terminal; ``PIPE_WIDTH`` where there is none.

    With NO_COLOR set (https://no-color.org) no escape codes are written at all, bold included.
    """
    made = _Console(stderr=stderr)
    if os.environ.get("NO_COLOR"):
        made = _Console(stderr=stderr, color_system=None)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def can_redraw(console: Console) -> bool:
    """Whether a line can be written over another: a bar of progress needs that."""
    return console.is_terminal and console.color_system is not None


def print_line(line: str, console: Console, style: str = "", styled_from: int = 0) -> None:
    """Print a line as it is, whatever the width, and from a column on in a style; what is not
    styled goes past rich, which takes as long for a line as many a transcript takes to be played.
    """
    if console.color_system is None:
        console.file.write(f"{line}\n")
        return
    text = Text(line)
    text.stylize(style, styled_from)
    console.print(text, soft_wrap=True)


def show_table(table: Table, console: Console) -> None:
    """Print ``table``, without the blanks behind each line where it is no terminal."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print_line(line.rstrip(), console)


def show(results: Sequence[ScenarioResult], console: Console) -> None:
    """What stands below the table: the differences, and the total."""
    for result in results:
        show_trouble(result, console)
    # Without emoji, the table of which is dear to load.
    console.print(_total(results), style="bold", soft_wrap=True, emoji=False)


def as_json(results: Sequence[ScenarioResult]) -> str:
    """The results as JSON; durations of the real world stand under keys that begin with real_."""
    document = {"schema": SCHEMA, "scenarios": [scenario_json(one) for one in results]}
    return json.dumps(document, indent=2)


def capture_name(path: Path) -> str:
    """A transcript in a table: its folder and its name."""
    return printable("/".join(path.with_suffix("").parts[-2:]))


def show_trouble(result: ScenarioResult, console: Console) -> None:
    """Differences, changes and complaints of a transcript; one that is unreadable is an error and
    goes to standard error."""
    if result.verdict == UNREADABLE or (result.verdict == AS_EXPECTED and not result.complaint):
        return
    name = printable(str(result.path))
    print_line(f"\n{name}: {result.verdict}", console, STYLES[result.verdict])
    if result.complaint:
        print_line(_indented(result.complaint), console)
    for difference in result.differences[:DIFFERENCES_SHOWN_MAX]:
        name = (
            f"connection {difference.connection}, "
            if difference.connection and result.sessions > 1
            else ""
        )
        print_line(_indented(f"{name}{difference}"), console)
    if len(result.differences) > DIFFERENCES_SHOWN_MAX:
        print_line(f"  … and {len(result.differences) - DIFFERENCES_SHOWN_MAX} more", console)
    for change in result.changes:
        print_line(f"  {change.expectations} {change.kind}:", console, "bold")
        for line in change.diff:
            print_line(_indented(line), console, _DIFF_STYLES.get(line[:1], ""))


def _indented(text: str) -> str:
    return "\n".join(f"  {printable(line.expandtabs())}" for line in text.splitlines())


def _total(results: Sequence[ScenarioResult]) -> str:
    virtual = long_duration(sum(one.virtual_ns for one in results))
    real = long_duration(sum(one.real_ns for one in results))
    captures = counted(len(results), "capture")
    bad = sum(not one.good for one in results)
    verdict = f"; {bad} not as expected" if bad else ""
    if updated := sum(bool(one.changes) for one in results):
        verdict += f"; {updated} updated ({_changed(results)}"
    return f"\n{captures}, {virtual} of traffic, {real}{verdict}"


def _changed(results: Sequence[ScenarioResult]) -> str:
    """How many expectations were changed, and what to do about it."""
    counts = Counter[str]()
    for result in results:
        counts.update({change.kind: change.expectations for change in result.changes})
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{told}){': read each fix before you commit it' if counts['fixed'] else ''}"


def scenario_json(result: ScenarioResult) -> dict[str, Any]:
    """One transcript's part of the JSON."""
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
        "changes": [one._asdict() for one in result.changes],
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {name: getattr(difference, name) for name in Difference.__slots__}
