"""One transcript's part of the report: what differs, its ladders, its steps with all octets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from replay.counted import counted
from replay.report.html.connection import ConnectionView, view
from replay.report.html.ladder_labels import CODE_OCTETS, common_length, differing_length
from replay.report.html.markup import Html
from replay.report.html.templates import render
from replay.transcript.duration import format_ns, long_duration
from replay.verify.comparison import Difference
from replay.verify.suite import AS_EXPECTED, DIFFERS, UPDATED, ScenarioResult

CONNECTIONS_MAX = 50
"""Of one transcript, with ladders: those that differ are preferred."""
DIFFERENCES_OPEN_MAX = 3
DIFFERENCES_SHOWN_MAX = 50
"""Differences of one transcript: those listed above its ladders, and all that are listed."""
_SIGNS = {AS_EXPECTED: "✓", DIFFERS: "≠", UPDATED: "±"}
LINE_END = r"\r\n"
LOG_LINES_MAX = 200
CHANGES_MAX = 2_000


class VerdictBadge(NamedTuple):
    """A verdict with a sign of its own, for readers who see no colours."""

    kind: str
    sign: str
    words: str


class DifferenceSide(NamedTuple):
    """What was expected, or observed: the text, from which ``marked`` differs."""

    label: str
    before: str
    marked: str
    after: str


class DifferenceView(NamedTuple):
    """One difference: what, where, and both sides."""

    what: str
    where: str
    sides: tuple[DifferenceSide, DifferenceSide]


def article(result: ScenarioResult, name: str, remarks: Mapping[int, str] | None) -> Html:
    """A transcript's part under a heading of its own, folded where it is as expected.

    ``remarks`` are its comments by the line of the step below them; None leaves ladders and steps
    out.  ``name`` is unique in the page and begins every id.
    """
    found = result.differences
    several = result.sessions > 1
    shown = [_difference(one, several=several) for one in found[:DIFFERENCES_SHOWN_MAX]]
    connections, left = _connections(result, name, remarks)
    return render(
        "article.html",
        name=name,
        path=str(result.path),
        story=result.story,
        verdict=verdict(result),
        is_folded=result.verdict == AS_EXPECTED and not result.complaint,
        facts=_facts(result),
        complaint=result.complaint,
        first=shown[:DIFFERENCES_OPEN_MAX],
        more=shown[DIFFERENCES_OPEN_MAX:],
        more_count=len(found) - DIFFERENCES_OPEN_MAX,
        unshown=len(found) - DIFFERENCES_SHOWN_MAX,
        changes=_changes(result),
        connections=connections,
        connections_left=left,
        log=_log(result) if found or result.complaint else "",
    )


def verdict(result: ScenarioResult) -> VerdictBadge:
    """How a result's verdict is shown."""
    sign = _SIGNS.get(result.verdict, "!")
    return VerdictBadge("good" if result.good else "bad", sign, result.verdict)


def _connections(
    result: ScenarioResult, name: str, remarks: Mapping[int, str] | None
) -> tuple[list[ConnectionView], int]:
    """What is shown of connections, and how many are left out: those that differ come first."""
    scenario = result.scenario
    if remarks is None or scenario is None:
        return [], 0
    played = list(enumerate(zip(scenario.connections, result.observed, strict=False), 1))
    differing = {one.connection for one in result.differences}
    chosen = sorted(played, key=lambda one: one[1][0].name not in differing)[:CONNECTIONS_MAX]
    views: list[ConnectionView] = []
    for number, (connection, observed) in sorted(chosen, key=lambda one: one[0]):
        own = [one for one in result.differences if one.connection == connection.name]
        place = f"{name}-{number}"
        alone = len(played) == 1
        views.append(view(connection, observed, own, remarks, place, alone=alone))
    return views, len(played) - len(chosen)


def ladders_in(result: ScenarioResult) -> int:
    """How many of a result's connections an article draws as ladders."""
    return min(len(result.observed), CONNECTIONS_MAX)


# -- what there is to read before the ladders -----------------------------------------------------


def _facts(result: ScenarioResult) -> list[tuple[str, str]]:
    facts = []
    if result.scenario and result.scenario.source:
        facts.append(("source", result.scenario.source))
    facts.append(("sessions", str(result.sessions)))
    if result.virtual_ns:
        facts.append(("virtual time", long_duration(result.virtual_ns)))
    facts.append(("real time", long_duration(result.real_ns)))
    if result.trace_hash:
        facts.append(("trace", result.trace_hash[:16]))
    return facts


def _difference(one: Difference, *, several: bool) -> DifferenceView:
    where = [f"connection {one.connection}"] if several and one.connection else []
    where += [f"line {one.line}"] if one.line else []
    where += [f"packet {one.packet}"] if one.packet else []
    place = _first_other(one)
    sides = (
        _side("expected", one.expected_at_ns, one.expected, place),
        _side("observed", one.observed_at_ns, one.observed, place),
    )
    return DifferenceView(one.what, ", ".join(where), sides)


def _side(label: str, at_ns: int | None, shown: str | None, place: int | None) -> DifferenceSide:
    """One side of a difference, marked from ``place`` to the end of that line."""
    when = "" if at_ns is None else f" @{format_ns(at_ns)}"
    shown = shown or "nothing"
    before, marked, after = shown, "", ""
    if place is not None:
        end = shown.find(LINE_END, place)
        line = shown[place:] if end < 0 else shown[place : end + len(LINE_END)]
        end = place + differing_length(line, place)
        before, marked, after = shown[:place], shown[place:end], shown[end:]
    return DifferenceSide(f"{label}{when}", _broken(before), marked, _broken(after).rstrip("\n"))


def _broken(shown: str) -> str:
    """Visible text with each line on a line of its own."""
    return shown.replace(LINE_END, f"{LINE_END}\n")


def _first_other(one: Difference) -> int | None:
    """Where two exact replies begin to differ; None where that would not help."""
    if one.expected is None or one.observed is None or not one.expected[:3].isdigit():
        return None
    place = common_length(one.expected, one.observed)
    place = 0 if place < CODE_OCTETS else place
    return place if place < max(len(one.expected), len(one.observed)) else None


def _changes(result: ScenarioResult) -> list[tuple[str, list[tuple[str, str]]]]:
    """What an update wrote: a title, and lines with the element that each stands in."""
    kinds = {"+": "ins", "-": "del"}
    shown = []
    for change in result.changes:
        many = counted(change.expectations, "expectation")
        lines = [(kinds.get(one[:1], "span"), one) for one in change.diff[:CHANGES_MAX]]
        shown.append((f"{change.kind}: {many}", lines))
    return shown


def _log(result: ScenarioResult) -> str:
    lines = list(result.log[:LOG_LINES_MAX])
    if len(result.log) > LOG_LINES_MAX:
        lines.append(f"… and {len(result.log) - LOG_LINES_MAX} more lines")
    return "\n".join(lines)
