"""The report of a run as one HTML file that needs nothing else: no network, and no script.

First the totals, then each transcript that is not as expected with its ladders, then the
others, folded.  Everything that comes from captures is escaped (``templates``).
The page is a function of the results: the same run gives the same page, durations of the real
world aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from replay.counted import counted
from replay.report.html.markup import Html
from replay.report.html.templates import render_page
from replay.report.html.transcript import VerdictBadge, article, ladders_in, verdict
from replay.transcript import transcript
from replay.transcript.duration import long_duration
from replay.transcript.octets import printable
from replay.verify.suite import AS_EXPECTED, BROKEN, DIFFERS, UNREADABLE, UPDATED, ScenarioResult


class Bounds(NamedTuple):
    """How much a page may hold.

    ``rows`` are those of the table, and parts of the page; further transcripts are only counted.
    ``ladders`` are sessions drawn, some 13 kB of page each; ``drawn_characters`` the size of the
    transcripts with ladders, of which the last may exceed it.  Transcripts not as expected come
    first, and what is left goes to the others.
    """

    rows: int = 5_000
    ladders: int = 800
    drawn_characters: int = 16_000_000


BOUNDS = Bounds()
"""Twice what the captures on file need; a browser takes about a second for such a page."""

LINKS_MAX = 12
"""To the connections of one transcript, in the table."""

_ORDER = {BROKEN: 0, UNREADABLE: 0, DIFFERS: 0, UPDATED: 1, AS_EXPECTED: 2}

Remarks = Callable[[ScenarioResult], Mapping[int, str]]
"""Returns a transcript's comments, by the line of the step that each stands above."""


def remarks_on_file(result: ScenarioResult) -> Mapping[int, str]:
    """The comments of a result's transcript; none if it cannot be read any more."""
    try:
        return transcript.remarks(transcript.read_text(result.path), str(result.path))
    except (OSError, transcript.TranscriptError):
        return {}


def without_what_is_not_drawn(
    results: Iterable[ScenarioResult], bounds: Bounds = BOUNDS
) -> Iterator[ScenarioResult]:
    """``results``, as they come, less what no page has room to draw: a run of many transcripts
    need not keep all their content."""
    room = {True: bounds.ladders, False: bounds.ladders}
    for one in results:
        is_good = one.verdict == AS_EXPECTED
        room[is_good] -= max(ladders_in(one), 1)
        yield one if room[is_good] >= 0 else replace(one, scenario=None, observed=(), delivered=())


def page(
    results: Sequence[ScenarioResult],
    *,
    title: str = "Replay report",
    remarks: Remarks = remarks_on_file,
    bounds: Bounds = BOUNDS,
) -> str:
    """The whole page.  ``results`` should hold what was played and observed
    (``suite.run_all(..., keep=True)``): where that is missing there is no ladder."""
    ordered = sorted(results, key=lambda one: _ORDER.get(one.verdict, 0))
    shown = ordered[: bounds.rows]
    names = {id(one): f"c{number}" for number, one in enumerate(shown, 1)}
    sections, undrawn = _articles(shown, names, remarks, bounds)
    rows = [_row(one, names[id(one)]) for one in shown]
    good = [one.verdict == AS_EXPECTED for one in shown]
    headings = ("Not as expected", "Updated", "As expected")
    return render_page(
        "run.html",
        title,
        script="report.js",
        sentence=_sentence(results),
        totals=_totals(results),
        to_read=[row for row, is_good in zip(rows, good, strict=True) if not is_good],
        good=[row for row, is_good in zip(rows, good, strict=True) if is_good],
        uncounted=len(results) - len(shown),
        undrawn=undrawn,
        sections=list(zip(headings, sections, strict=True)),
    )


class CaptureRow(NamedTuple):
    """A transcript in the table; ``differing`` are its connections that do, by their numbers."""

    name: str
    path: str
    shown_path: str
    story: str
    what: str
    verdict: VerdictBadge
    sessions: int
    differing: list[tuple[int, str]]
    virtual: str
    real: str


def _sentence(results: Sequence[ScenarioResult]) -> str:
    bad = sum(not one.good for one in results)
    captures = counted(len(results), "capture")
    return f"{captures}; {bad:,} not as expected." if bad else f"{captures}: all as expected."


def _totals(results: Sequence[ScenarioResult]) -> list[tuple[str, str, str]]:
    """Names, numbers, and whether these are good or bad news."""
    counts = Counter(one.verdict for one in results)
    tiles = [
        (name, f"{counts[name]:,}", "good" if name in (AS_EXPECTED, UPDATED) else "bad")
        for name in (DIFFERS, BROKEN, UNREADABLE, UPDATED, AS_EXPECTED)
        if counts[name] or name in (DIFFERS, AS_EXPECTED)
    ]
    tiles = [(name, count, kind if count != "0" else "none") for name, count, kind in tiles]
    tiles.append(("sessions", f"{sum(one.sessions for one in results):,}", "none"))
    if virtual_ns := sum(one.virtual_ns for one in results):
        tiles.append(("virtual time", long_duration(virtual_ns), "none"))
    tiles.append(("real time", long_duration(sum(one.real_ns for one in results)), "none"))
    return tiles


def _row(one: ScenarioResult, name: str) -> CaptureRow:
    differing = {difference.connection for difference in one.differences}
    connections = one.scenario.connections if one.scenario and one.observed else ()
    links = [
        (number, connection.name)
        for number, connection in enumerate(connections, 1)
        if connection.name in differing and one.sessions > 1
    ]
    return CaptureRow(
        name,
        printable(str(one.path)),
        printable("/".join(one.path.with_suffix("").parts[-2:])),
        one.story,
        one.differences[0].what if one.differences else "",
        verdict(one),
        one.sessions,
        links[:LINKS_MAX],
        long_duration(one.virtual_ns),
        long_duration(one.real_ns),
    )


def _articles(
    shown: Sequence[ScenarioResult], names: Mapping[int, str], remarks: Remarks, bounds: Bounds
) -> tuple[list[list[Html]], int]:
    """The transcripts' parts by section, and how many there was no room to draw."""
    sections: list[list[Html]] = [[], [], []]
    ladders, characters, undrawn = bounds.ladders, bounds.drawn_characters, 0
    for one in shown:
        is_drawn = ladders_in(one) <= ladders and characters > 0
        undrawn += not is_drawn
        part = article(one, names[id(one)], remarks(one) if is_drawn else None)
        if is_drawn:
            ladders -= ladders_in(one)
            characters -= len(part)
        sections[_ORDER.get(one.verdict, 0)].append(part)
    return sections, undrawn
