"""A load run as it goes, on a terminal: the last interval, drawn anew when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mailsrv.units import NS_PER_S
from replay.load.figures import duration
from replay.load.tally import PERCENTILES, Row, Tally
from replay.load.workers import LoadWatcher

STEPS_SHOWN_MAX = 12
"""Those that take longest, in the order of a session."""


_P99 = PERCENTILES.index(99)


class LoadView(LoadWatcher):
    """Draws on ``console`` within ``with``, and leaves nothing behind."""

    def __init__(self, console: Console, interval_ns: int) -> None:
        self._interval_s = interval_ns / NS_PER_S
        self._console = console
        # It draws when it is told something: a thread of its own would take time for nothing.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._stack = ExitStack()

    def __enter__(self) -> LoadView:
        self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def opening(self, held: int) -> None:
        """So many idle connections are open."""
        self._live.update(Text(f"opening idle connections: {held:,}"), refresh=True)

    def row(self, row: Row, tally: Tally) -> None:
        """An interval is over."""
        self._live.update(Group(self._line(row, tally), _latencies(row)), refresh=True)

    def _line(self, row: Row, tally: Tally) -> Text:
        seconds = self._interval_s
        parts = [
            f"{(row.number + 1) * seconds:.1f} s",
            f"{row.good / seconds:,.0f} sessions/s",
            f"{row.messages / seconds:,.0f} messages/s",
            f"{row.open:,} open",
        ]
        if row.late_us:
            parts.append(f"late p99 {duration(row.late_us[_P99])}")
        line = Text(_filled(parts, self._console.width), style="bold")
        if tally.failed:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in tally.errors.most_common(3))
            line.append(f"\n{tally.failed:,} failed: {kinds}", style="bold red")
        return line


def _filled(parts: Sequence[str], width: int) -> str:
    """Lines of whole parts, as many to a line as there is room for."""
    lines = list(parts[:1])
    for part in parts[1:]:
        longer = f"{lines[-1]}  {part}"
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)


def _latencies(row: Row) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("response time")
    for name in (*(f"p{one}" for one in PERCENTILES), "max"):
        table.add_column(name, justify="right")
    slowest = sorted(row.response_us, key=lambda step: -row.response_us[step][_P99])
    shown = slowest[:STEPS_SHOWN_MAX]
    for step, times in row.response_us.items():
        if step in shown:
            table.add_row(step, *map(duration, times))
    return table
