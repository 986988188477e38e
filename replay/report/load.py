"""Shows a load run: its progress, and its results to people as tables and to machines as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailsrv.units import NS_PER_S
from replay.load.runner import LoadProgress
from replay.load.tally import PERCENTILES, Latency, LoadResult, Tally

COMPLAINTS_SHOWN_MAX = 10
SKIPPED_SHOWN_MAX = 5
"""The JSON has them all."""
BUSY_SHARE = 0.9
"""A generator that uses more of its processor than this measures itself."""
_LINE_MAX_CHARACTERS = 79


def show(outcome: LoadResult, skipped: Sequence[str], console: Console) -> None:
    """The results as tables."""
    tally = outcome.tally
    console.print(_sums(outcome))
    console.print(_latencies(tally))
    console.print(_counts(tally))
    if tally.complaints:
        console.print(Text("\nnot as in the transcripts", style="bold red"))
    for complaint, count in tally.complaints.most_common(COMPLAINTS_SHOWN_MAX):
        example = tally.examples.get(complaint)
        shown = f"  {count:,} x {complaint}" + (f": {example}" if example else "")
        console.print(Text(shown), soft_wrap=True)
    _show_more(len(tally.complaints) - COMPLAINTS_SHOWN_MAX, console)
    for complaint, count in outcome.idle.complaints.items():
        console.print(Text(f"  {count:,} x {complaint}"), soft_wrap=True)
    for reason in skipped[:SKIPPED_SHOWN_MAX]:
        console.print(Text(f"  left out: {reason}", style="yellow"), soft_wrap=True)
    _show_more(len(skipped) - SKIPPED_SHOWN_MAX, console)
    if outcome.cpu_share > BUSY_SHARE:
        console.print(
            f"\nthe generator used {outcome.cpu_share:.0%} of a processor: these may be its own "
            "limits, not the target's",
            style="yellow",
            soft_wrap=True,
        )
    if outcome.interrupted:
        console.print("\ninterrupted: this is what there is so far", style="yellow")


def is_live(stream: TextIO) -> bool:
    """Whether a line can be written over there; NO_COLOR also asks for plain output."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def as_json(outcome: LoadResult, skipped: Sequence[str]) -> str:
    """Latencies are in microseconds, rates per second of ``seconds``."""
    tally, idle = outcome.tally, outcome.idle
    document = {
        "target": outcome.target,
        "concurrency": outcome.concurrency,
        "seconds": outcome.window_ns / NS_PER_S,
        "interrupted": outcome.interrupted,
        "sessions": {
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
        "latency_us": {name: _latency(one) for name, one in _latency_kinds(tally)},
        "idle": {
            "asked": idle.asked,
            "opened": idle.opened,
            "held": idle.held,
            "lost": idle.lost,
            "complaints": dict(idle.complaints),
        },
        "generator": {"cpu_share": round(outcome.cpu_share, 3)},
        "skipped": list(skipped),
    }
    return json.dumps(document, indent=2)


class LiveLine:
    """One line on a terminal that shows how far a run is, written over and over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before = (0, 0)

    def __call__(self, progress: LoadProgress) -> None:
        then_ns, then = self._before
        since_ns = progress.elapsed_ns - then_ns
        rate = (progress.sessions - then) * NS_PER_S / since_ns if since_ns > 0 else 0
        self._before = (progress.elapsed_ns, progress.sessions)
        parts = [f"{progress.phase} {progress.elapsed_ns / NS_PER_S:.1f} s"]
        parts += [f"{rate:,.0f} sessions/s", f"{progress.sessions:,} sessions"]
        parts += [f"{progress.failed:,} failed"] if progress.failed else []
        parts += [f"{progress.held:,} idle"] if progress.held else []
        self._write("  ".join(parts))

    def clear(self) -> None:
        """Leave an empty line."""
        self._write("")
        self._stream.write("\r")
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write("\r" + text[:_LINE_MAX_CHARACTERS].ljust(_LINE_MAX_CHARACTERS))
        self._stream.flush()


def duration(us: int) -> str:
    """Microseconds for people: "870 us", "12.3 ms", "1.25 s"."""
    if us < 1000:
        return f"{us} us"
    return f"{us / 1000:.1f} ms" if us < 1_000_000 else f"{us / 1_000_000:.2f} s"


def _sums(outcome: LoadResult) -> Table:
    tally, idle = outcome.tally, outcome.idle
    table = Table(box=None, pad_edge=False, show_header=False)
    seconds = outcome.window_ns / NS_PER_S
    table.add_row("target", f"{outcome.target}, {outcome.concurrency} at once, {seconds:.1f} s")
    table.add_row("sessions", f"{tally.good:,} good, {outcome.sessions_per_s:,.0f}/s", style="bold")
    if tally.failed:
        table.add_row("failed", f"{tally.failed:,}", style="bold red")
    if tally.messages:
        table.add_row("messages", f"{tally.messages:,} accepted, {outcome.messages_per_s:,.0f}/s")
    if idle.asked:
        style = "" if idle.complete else "bold red"
        held = f"{idle.held:,} of {idle.asked:,} held to the end"
        table.add_row("idle", held + (f", {idle.lost:,} lost" if idle.lost else ""), style=style)
    table.add_row("generator", f"{outcome.cpu_share:.0%} of a processor")
    return table


def _latencies(tally: Tally) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nlatency")
    for name in ("count", *(f"p{one}" for one in PERCENTILES), "max"):
        table.add_column(f"\n{name}", justify="right", no_wrap=True)
    for name, one in _latency_kinds(tally):
        if one.count:
            times = [one.percentile_us(percentile) for percentile in PERCENTILES]
            shown = [duration(us) for us in (*times, one.max_us)]
            table.add_row(name.replace("_", " "), f"{one.count:,}", *shown)
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
        console.print(f"  … and {count} more")


def _latency_kinds(tally: Tally) -> list[tuple[str, Latency]]:
    return [
        ("greeting", tally.greeting),
        ("final_dot", tally.final_dot),
        ("session", tally.session),
    ]


def _latency(one: Latency) -> dict[str, Any]:
    percentiles = {f"p{percent}": one.percentile_us(percent) for percent in PERCENTILES}
    return {"count": one.count, **percentiles, "max": one.max_us}
