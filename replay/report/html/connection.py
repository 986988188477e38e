"""One connection's part of the report: its ladder, and its steps with all octets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from replay.counted import counted
from replay.play.observed import ObservedConnection
from replay.report.html.ladder import EVIDENCE_CLASSES, RUNGS_MAX, Drawing, draw, excerpt, whole
from replay.report.html.markup import NOTHING, Html
from replay.report.html.steps import StepPair, StepSide, first_difference, pair_up
from replay.transcript.duration import format_ns
from replay.transcript.octets import to_text
from replay.transcript.script import ScriptedConnection
from replay.verify.comparison import Difference

LONG_LADDER_RUNGS = 24
"""A longer ladder that differs is folded, below an excerpt around the first difference."""
FOLD_FROM_CHARACTERS = 240
"""Octets of one step that are longer than this are folded."""
STEP_CHARACTERS_MAX = 8_000
STEPS_CHARACTERS_MAX = 100_000
"""Of one step, and of all steps of one connection, as shown; of the rest only the count."""

_MEANINGS = {
    "proven early": "proven early",
    "confirmed": "confirmed to wait for the reply",
    "presumed": "presumed to wait for the reply",
    "own clock": "by the sender's own clock",
}


class Legend(NamedTuple):
    """What the signs of a ladder mean: how long a bar of so many pixels lasts, and which there
    are.  ``evidence`` pairs the name of a sign with its meaning."""

    bar: str
    bar_px: int
    differs: bool
    silences: bool
    evidence: list[tuple[str, str]]


class Cell(NamedTuple):
    """What one side did: words, octets as text, and a summary where these are folded."""

    words: str
    octets: str = ""
    folded: str = ""


class StepRow(NamedTuple):
    """A line of the table of steps; without ``observed`` that is the same as what was expected.
    ``left_out`` stands in its place where steps are not shown."""

    left_out: str = ""
    differs: bool = False
    at: str = ""
    when: str = ""
    who: str = ""
    expected: Cell = Cell("")
    observed: Cell | None = None
    where: str = ""
    note: str = ""


class ConnectionView(NamedTuple):
    """All that is shown of a connection; without ``heading`` it is the only one."""

    name: str
    heading: str
    is_folded: bool
    ladder: Html
    legend: Legend
    whole_title: str
    whole_ladder: Html
    step_count: int
    rows: list[StepRow]


def view(
    connection: ScriptedConnection,
    observed: ObservedConnection,
    differences: Sequence[Difference],
    remarks: Mapping[int, str],
    name: str,
    *,
    alone: bool,
) -> ConnectionView:
    """What is shown; a long ladder that differs has an excerpt around the first difference."""
    pairs = pair_up(connection, observed, differences, remarks)
    place = first_difference(pairs)
    first = None if place is None else pairs[place]
    title = "Ladder" if alone else f"Ladder of connection {connection.name}"
    description = f"{counted(len(pairs), 'step')}, expected on the left and observed on the right; "
    description += "no step differs." if first is None else "the first that differs is marked."
    description += " The table of steps below has all of it as text."
    whole_title, whole_ladder = "", NOTHING
    if place is not None and first is not None and len(pairs) > LONG_LADDER_RUNGS:
        near_title = f"{title}: the first difference"
        drawing = draw(excerpt(pairs, place), first, name, near_title, description)
        whole_ladder = draw(whole(pairs, place), first, f"{name}-all", title, description).svg
        drawn = f"the {RUNGS_MAX} nearest of" if len(pairs) > RUNGS_MAX else "all"
        whole_title = f"The ladder with {drawn} {len(pairs):,} steps"
    else:
        drawing = draw(whole(pairs, place), first, name, title, description)
    told = f": {counted(len(differences), 'difference')}" if differences else ""
    return ConnectionView(
        name,
        "" if alone else f"Connection {connection.name}{told}",
        not differences,
        drawing.svg,
        _legend(drawing, pairs),
        whole_title,
        whole_ladder,
        len(pairs),
        _rows(whole(pairs, place)),
    )


def _legend(drawing: Drawing, pairs: Sequence[StepPair]) -> Legend:
    bar_ns, bar_px = drawing.scale.bar()
    there = {one.evidence for one in pairs}
    return Legend(
        format_ns(bar_ns),
        bar_px,
        any(one.differs for one in pairs),
        bool(drawing.scale.silences),
        [(EVIDENCE_CLASSES[kind], meaning) for kind, meaning in _MEANINGS.items() if kind in there],
    )


# -- steps as text --------------------------------------------------------------------------------


def _rows(rungs: Sequence[StepPair | int]) -> list[StepRow]:
    left = STEPS_CHARACTERS_MAX
    rows: list[StepRow] = []
    for rung in rungs:
        if isinstance(rung, int):
            rows.append(StepRow(f"… {rung:,} steps are left out here"))
            continue
        row, used = _row(rung, left)
        left -= used
        rows.append(row)
    return rows


def _row(pair: StepPair, left: int) -> tuple[StepRow, int]:
    expected, used = _cell(pair.expected, left)
    observed, more = (None, 0) if _is_same(pair) else _cell(pair.observed, left - used)
    at = f"@{format_ns(pair.at_ns)}"
    where = [f"line {pair.line}"] if pair.line else []
    where += [f"packet {pair.packet}"] if pair.packet else []
    row = StepRow(
        differs=pair.differs,
        at=at,
        when="" if pair.when == at else pair.when,
        who="server" if pair.by_server else "sender",
        expected=expected,
        observed=observed,
        where=", ".join(where),
        note=pair.remark or pair.evidence,
    )
    return row, used + more


def _is_same(pair: StepPair) -> bool:
    expected, observed = pair.expected, pair.observed
    if expected is None or observed is None or pair.differs:
        return False
    return (expected.octets, expected.words) == (observed.octets, observed.words)


def _cell(side: StepSide | None, left: int) -> tuple[Cell, int]:
    """What a side shows, in full as far as there is room; and how many characters that took."""
    if side is None:
        return Cell("nothing"), 0
    if not side.octets:
        return Cell(side.words), 0
    room = max(min(STEP_CHARACTERS_MAX, left), 0)
    shown = to_text(side.octets[:room]).replace(r"\n", "\\n\n").rstrip("\n")[:room]
    unshown = len(side.octets) - room
    if unshown > 0:
        shown += f"\n… and {unshown:,} octets more"
    folded = ""
    if len(shown) > FOLD_FROM_CHARACTERS:
        lines = side.octets.count(b"\n")
        folded = f"{len(side.octets):,} octets, {lines:,} lines"
    return Cell(side.words, shown, folded), len(shown)
