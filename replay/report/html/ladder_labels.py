"""The text on a rung: one line as a rule; where two sides differ, the lines that do.

A label stays short: of a megabyte of content it has the first line and a count.
"""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

from replay.counted import counted
from replay.report.html.steps import ANY_TEXT, StepPair, StepSide
from replay.transcript.duration import format_ns
from replay.transcript.octets import to_text

LINE_OCTETS_MAX = 100
"""Of one line of content; wide screens have room for about sixty."""
LINE_BEFORE_COUNT_OCTETS = 42
"""Of a line, where a count of what follows must find room beside it."""
LINES_MAX = 4
"""Of a side that differs."""
BEFORE_DIFFERENCE_OCTETS = 24
"""What stands on its line before a difference that is far to the right."""
CODE_OCTETS = 3
COMPARED_MAX = 64 * 1024
"""Octets or characters of two sides that are compared, to find where they part."""

NOTHING_SAID = "nothing"


class Label(NamedTuple):
    """A line of text; from ``mark_from`` to ``mark_to`` it differs (both 0: nowhere)."""

    text: str
    mark_from: int = 0
    mark_to: int = 0


def labels(pair: StepPair) -> tuple[list[Label], list[Label]]:
    """The lines of the expected and the observed side; none where there is nothing to show."""
    expected, observed = pair.expected, pair.observed
    if not pair.differs:
        return _plain(expected), _plain(observed)
    if expected is None or observed is None:
        return _lone(expected), _lone(observed)
    if pair.says_the_same:
        sides = [_plain(expected), _plain(observed)]
    elif expected.words or observed.words:
        sides = [_marked(one, is_code=_is_code(expected)) for one in (expected, observed)]
    else:
        place = common_length(expected.octets, observed.octets)
        sides = [_window(one.octets, place) for one in (expected, observed)]
    if pair.is_late:
        due_ns, came_ns = expected.at_ns or 0, observed.at_ns or 0
        late = f"{format_ns(abs(came_ns - due_ns))} too {'late' if came_ns > due_ns else 'early'}"
        came = f"@{format_ns(came_ns)}, {late}"
        sides[0].append(Label(f"@{format_ns(due_ns)}"))
        sides[1].append(Label(came, 0, len(came)))
    return sides[0], sides[1]


def first_line(octets: bytes) -> str:
    """The first line, cut where it is long, and how much more there is."""
    line = octets[: octets.find(b"\n", 0, LINE_OCTETS_MAX) + 1 or LINE_OCTETS_MAX]
    if len(line) == len(octets):
        return to_text(line)
    lines = octets.count(b"\n", len(line))
    is_whole = len(line) <= LINE_BEFORE_COUNT_OCTETS and line.endswith(b"\n")
    line = line[:LINE_BEFORE_COUNT_OCTETS]
    if is_whole and lines:
        return f"{to_text(line)} … +{counted(lines, 'line')}"
    return f"{to_text(line)} … +{len(octets) - len(line):,} octets"


def _plain(side: StepSide | None) -> list[Label]:
    if side is None:
        return []
    if not side.octets:
        return [Label(side.words)]
    line = first_line(side.octets)
    if _is_code(side):
        line = f"{side.words[:CODE_OCTETS]} was: {line}"
    elif side.words:
        line = f"{side.words}: {line}"
    return [Label(line)]


def _lone(side: StepSide | None) -> list[Label]:
    """A side whose other side is missing, or the missing one."""
    if side is None:
        return [Label(NOTHING_SAID, 0, len(NOTHING_SAID))]
    (line,) = _plain(side)
    return [line._replace(mark_to=len(line.text))]


def _marked(side: StepSide, *, is_code: bool) -> list[Label]:
    """A side whose words are not those of the other side, or whose code is not."""
    (line,) = _plain(side)
    return [line._replace(mark_to=CODE_OCTETS if is_code else len(line.text))]


def _is_code(expected: StepSide) -> bool:
    return expected.words.endswith(ANY_TEXT)


def _window(octets: bytes, place: int) -> list[Label]:
    """The lines from the one before ``place`` on, marked from there to the end of its line."""
    lines = octets[: COMPARED_MAX * 2].splitlines(keepends=True) or [b""]
    begin, number = 0, 0
    while number < len(lines) - 1 and begin + len(lines[number]) <= place:
        begin += len(lines[number])
        number += 1
    top = max(number - 1, 0)
    shown: list[Label] = []
    for at, line in enumerate(lines[top : top + LINES_MAX], top):
        label = Label(first_line(line))
        if at == number and begin + len(line) > place:
            label = _marked_from(line, place - begin)
        shown.append(label)
    if top:
        shown[0] = Label(f"… {shown[0].text}")
    rest = len(lines) - top - len(shown)
    if rest:
        shown[-1] = shown[-1]._replace(text=f"{shown[-1].text} … +{rest} lines")
    return shown


def _marked_from(line: bytes, place: int) -> Label:
    cut = max(place - BEFORE_DIFFERENCE_OCTETS, 0) if place > LINE_OCTETS_MAX // 3 else 0
    before = to_text(line[cut:place] + b".")[:-1]  # a space that is not at the end stays one
    if cut:
        before = f"…{before}"
    after = to_text(b"." + line[place : place + LINE_OCTETS_MAX])[1:]
    return Label(before + after, len(before), len(before) + differing_length(after, place))


def differing_length(after: str, place: int) -> int:
    """How much of a reply's line to mark, that is ``after`` from a difference on: what is left of
    the code, else all but the line end."""
    if place < CODE_OCTETS:
        return min(CODE_OCTETS - place, len(after))
    return len(after.removesuffix(r"\r\n")) or len(after)


def common_length(one: str | bytes, other: str | bytes) -> int:
    """How far two texts are the same from their beginning."""
    pairs = zip(one[:COMPARED_MAX], other[:COMPARED_MAX], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
