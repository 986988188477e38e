"""The report of a run as one HTML file that needs nothing else: no network, and no script.

First the totals, then each transcript that is not as expected with its ladders, then the
others, folded.  Everything that comes from captures is escaped (``markup``), and should
that ever fail, the page's own policy forbids every script but the one in it and every load.
The page is a function of the results: the same run gives the same page, durations of the real
world aside.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import NamedTuple

from replay.report.html.markup import NOTHING, Html, joined, tag, text
from replay.report.html.transcript import article, ladders_in, verdict_badge
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
    headings = ("Not as expected", "Updated", "As expected")
    main = tag(
        "main",
        _summary(results, title),
        _captures(shown, names, len(results)),
        _undrawn_note(undrawn),
        *(_section(heading, parts) for heading, parts in zip(headings, sections, strict=True)),
    )
    script = _resource("report.js")
    return "<!DOCTYPE html>\n" + tag(
        "html",
        _head(title, script),
        tag("body", _symbols(), main, tag("script", Html(script))),
        lang="en",
    )


def style() -> Html:
    """The style sheet of all reports."""
    return Html(_resource("report.css"))


def _resource(name: str) -> str:
    return files("replay.report.html").joinpath(name).read_text("utf-8").strip()


def _head(title: str, script: str) -> Html:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", text(title)),
        tag("style", style()),
    )


def _symbols() -> Html:
    """Shapes that all ladders use: arrow heads and the signs of evidence."""

    def arrow(name: str) -> Html:
        head = tag("path", d="M0,0 L8,4 L0,8 z", class_=name)
        return tag(
            "marker",
            head,
            id=name,
            orient="auto",
            markerUnits="userSpaceOnUse",
            markerWidth=8,
            markerHeight=8,
            refX=8,
            refY=4,
        )

    signs = (
        tag("circle", r=4, id="confirmed", class_="sign-full"),
        tag("circle", r=3.5, id="presumed", class_="sign-empty"),
        tag("path", d="M0,-5.5 L5.5,0 L0,5.5 L-5.5,0 z", id="early", class_="sign-early"),
        tag("rect", x=-3.5, y=-3.5, width=7, height=7, id="own", class_="sign-empty"),
        tag("path", d="M-7,0 L0,-6 L7,0 L0,6 z", id="due", class_="sign-due"),
    )
    arrows = (arrow(name) for name in ("to-server", "to-sender", "to-differs"))
    defs = tag("defs", *arrows, *signs)
    return tag("svg", defs, class_="symbols", width=0, height=0, aria_hidden="true")


# -- the totals -----------------------------------------------------------------------------------


def _summary(results: Sequence[ScenarioResult], title: str) -> Html:
    counts = Counter(one.verdict for one in results)
    tiles = [
        (verdict, f"{counts[verdict]:,}", "good" if verdict in (AS_EXPECTED, UPDATED) else "bad")
        for verdict in (DIFFERS, BROKEN, UNREADABLE, UPDATED, AS_EXPECTED)
        if counts[verdict] or verdict in (DIFFERS, AS_EXPECTED)
    ]
    tiles = [(name, count, kind if count != "0" else "none") for name, count, kind in tiles]
    tiles.append(("sessions", f"{sum(one.sessions for one in results):,}", "none"))
    if virtual_ns := sum(one.virtual_ns for one in results):
        tiles.append(("virtual time", long_duration(virtual_ns), "none"))
    tiles.append(("real time", long_duration(sum(one.real_ns for one in results)), "none"))
    shown = (
        tag("div", tag("dt", text(name)), tag("dd", text(count)), class_=kind)
        for name, count, kind in tiles
    )
    bad = sum(not one.good for one in results)
    captures = f"{len(results):,} capture{'s' if len(results) != 1 else ''}"
    sentence = f"{captures}; {bad:,} not as expected." if bad else f"{captures}: all as expected."
    return tag(
        "header",
        tag("h1", text(title)),
        tag("p", text(sentence), class_="sentence"),
        tag("dl", *shown, class_="tiles"),
    )


def _captures(shown: Sequence[ScenarioResult], names: Mapping[int, str], total: int) -> Html:
    """The transcripts as tables: those as expected are folded if there are others above them."""
    to_read = [one for one in shown if one.verdict != AS_EXPECTED]
    good = [one for one in shown if one.verdict == AS_EXPECTED]
    rest = total - len(shown)
    more = tag("p", text(f"… and {rest:,} more, which are only counted.")) if rest else NOTHING
    label = tag("label", text("Filter "), tag("input", type="search", id="filter"))
    only = tag(
        "label", tag("input", type="checkbox", id="only"), text(" only what is not as expected")
    )
    filters = tag("p", label, only, class_="filters", hidden="")
    good_table = _table(good, names, "As expected")
    if good and to_read:
        summary = tag("summary", text(f"{len(good):,} as expected"))
        good_table = tag("details", summary, good_table, class_="rest")
    return tag(
        "section",
        tag("h2", text("All captures")),
        filters,
        _table(to_read, names, "Not as expected"),
        good_table,
        more,
        id="captures",
    )


def _table(some: Sequence[ScenarioResult], names: Mapping[int, str], caption: str) -> Html:
    if not some:
        return NOTHING
    heads = ("capture", "verdict", "sessions", "virtual", "real")
    head = tag("tr", *(tag("th", text(one), scope="col", class_=f"is-{one}") for one in heads))
    return tag(
        "table",
        tag("caption", text(caption)),
        tag("thead", head),
        tag("tbody", *(_row(one, names[id(one)]) for one in some)),
        class_="captures",
    )


def _row(one: ScenarioResult, name: str) -> Html:
    where = one.path.with_suffix("").parts[-2:]
    path = tag("a", text("/".join(where)), href=f"#{name}", title=printable(str(one.path)))
    cell = [path]
    if one.story:
        cell.append(tag("span", text(one.story), class_="story"))
    if one.differences:
        cell.append(tag("span", text(one.differences[0].what), class_="what"))
    return tag(
        "tr",
        tag("th", *cell, scope="row", class_="is-capture"),
        tag("td", verdict_badge(one), class_="is-verdict"),
        tag("td", _session_links(one, name), class_="is-sessions"),
        tag("td", text(long_duration(one.virtual_ns)), class_="is-virtual"),
        tag("td", text(long_duration(one.real_ns)), class_="is-real"),
        class_="good" if one.good else "bad",
    )


def _session_links(one: ScenarioResult, name: str) -> Html:
    """The number of sessions; where one of several differs, links to those that do."""
    differing = {difference.connection for difference in one.differences}
    connections = one.scenario.connections if one.scenario and one.observed else ()
    links = [
        tag("a", text(connection.name), href=f"#{name}-{number}")
        for number, connection in enumerate(connections, 1)
        if connection.name in differing and one.sessions > 1
    ]
    if not links:
        return text(str(one.sessions))
    return joined([text(f"{one.sessions}: "), joined(links[:LINKS_MAX], " ")])


# -- the transcripts ------------------------------------------------------------------------------


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


def _section(heading: str, parts: Sequence[Html]) -> Html:
    return tag("section", tag("h2", text(heading)), *parts) if parts else NOTHING


def _undrawn_note(undrawn: int) -> Html:
    if not undrawn:
        return NOTHING
    words = f"{undrawn:,} transcripts are told without their ladders, for which there was no room "
    words += "(those that differ come first): run one alone to see it drawn."
    return tag("p", text(words), class_="bound")
