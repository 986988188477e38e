"""Draws a ladder: time downward, expected beside observed, in each the sender left of the server.

Plain SVG: horizontal places are percentages and text has a fixed size, so that one drawing is
legible on a telephone and on a wide screen; what does not fit a column ends in an ellipsis.
Time is to scale between rungs; it stands still (the axis is thick) where several rungs belong to
one instant, and long silences are bands.  Colours, fonts and arrow heads come from the page's
style sheet, by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.report.html.ladder_labels import Label, labels
from replay.report.html.markup import NOTHING, Html, joined, tag, text
from replay.report.html.steps import StepPair
from replay.report.html.time_scale import Pause, TimeScale
from replay.transcript.duration import NS_PER_US, format_ns, long_duration

RUNGS_MAX = 240
"""In one ladder; of more, the middle (or what is far from the first difference) is left out."""
EXCERPT_RUNGS = 6
"""On each side of the first difference, where a ladder is long."""

LINE_PX = 17
RUNG_PX = LINE_PX + 8
HEAD_PX = 42
FOOT_PX = 10
LEFT_OUT_PX = 30
TEXT_RISE_PX = 13

AXIS = 12.6
TIME_END = 11.4
COLUMNS = ((14.6, 55.6), (58.4, 99.4))
"""Where sender and server stand in the expected and the observed column, in hundredths of the
width."""
BETWEEN = 57
"""Between expected and observed."""
LABEL_INSET = 1.2

EVIDENCE_CLASSES = {
    "proven early": "early",
    "presumed": "presumed",
    "confirmed": "confirmed",
    "own clock": "own",
}


class Drawing(NamedTuple):
    """A ladder, and the scale it was drawn to."""

    svg: Html
    scale: TimeScale


def excerpt(pairs: Sequence[StepPair], first: int) -> list[StepPair | int]:
    """What is near the first difference, with counts of what is not."""
    begin, end = max(first - EXCERPT_RUNGS, 0), min(first + EXCERPT_RUNGS + 1, len(pairs))
    return _with_counts(begin, pairs[begin:end], len(pairs) - end)


def whole(pairs: Sequence[StepPair], first: int | None) -> list[StepPair | int]:
    """All pairs, or as many as a ladder may have, with counts of the others."""
    if len(pairs) <= RUNGS_MAX:
        return list(pairs)
    half = RUNGS_MAX // 2
    if first is None or first < half:
        rest = len(pairs) - RUNGS_MAX
        return [*pairs[:half], rest, *pairs[-half:]]
    begin = min(first - half, len(pairs) - RUNGS_MAX)
    end = begin + RUNGS_MAX
    return _with_counts(begin, pairs[begin:end], len(pairs) - end)


def _with_counts(before: int, pairs: Sequence[StepPair], after: int) -> list[StepPair | int]:
    return [*([before] if before else []), *pairs, *([after] if after else [])]


def draw(
    rungs: Sequence[StepPair | int], first: StepPair | None, name: str, title: str, description: str
) -> Drawing:
    """The ladder of ``rungs`` (numbers count what is left out).

    ``name`` is unique in the page and begins every id; the rung of ``first`` has the id
    ``NAME-first``.
    """
    scale = TimeScale.of(_instants(rungs, first))
    body, height_px = _Ladder(scale, first, name).draw(rungs)
    lifelines = joined(
        tag("line", class_="life", x1=f"{x}%", x2=f"{x}%", y1=HEAD_PX - 4, y2=height_px - FOOT_PX)
        for column in COLUMNS
        for x in column
    )
    svg = tag(
        "svg",
        tag("title", text(title), id=f"{name}-title"),
        tag("desc", text(description), id=f"{name}-desc"),
        _heads(),
        lifelines,
        body,
        class_="ladder",
        width="100%",
        height=height_px,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    return Drawing(svg, scale)


def clock(ns: int) -> str:
    """An instant in at most eight characters; the exact one stands in the table of steps."""
    if ns < NS_PER_US:
        return f"{ns}ns" if ns else "0"
    if ns < NS_PER_S:
        return f"{ns / NS_PER_MS:.3f}ms" if ns < NS_PER_MS else f"{ns / NS_PER_MS:.4g}ms"[:7]
    seconds = ns / NS_PER_S
    if seconds < 1000:
        return f"{seconds:.4g}s"
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{int(seconds % 60):02d}s"


def _instants(rungs: Sequence[StepPair | int], first: StepPair | None) -> list[int]:
    """The instants that are drawn, in order.  Nothing is to scale across what is left out."""
    instants = [one.at_ns for one in rungs if isinstance(one, StepPair)]
    due_ns = _due_ns(first)
    return sorted(instants if due_ns is None else [*instants, due_ns])


def _due_ns(first: StepPair | None) -> int | None:
    """When the first difference was due, if it came at another time."""
    if first is None or first.expected is None or not first.is_late:
        return None
    return first.expected.at_ns


def _heads() -> Html:
    parts = []
    for name, (sender, server) in zip(("expected", "observed"), COLUMNS, strict=True):
        middle = (sender + server) / 2
        parts.append(tag("text", text(name), class_="column", x=f"{middle:.1f}%", y=14))
        parts.append(tag("text", text("sender"), class_="end", x=f"{sender}%", y=31))
        parts.append(tag("text", text("server"), class_="end right", x=f"{server}%", y=31))
    return joined(parts)


class _Ladder:
    """Puts one rung under the other."""

    def __init__(self, scale: TimeScale, first: StepPair | None, name: str) -> None:
        self._scale = scale
        self._first = first
        self._due_ns = _due_ns(first)
        self._name = name
        self._parts: list[Html] = []
        self._times: list[Html] = []  # over everything, the ground of what differs included
        self._y = HEAD_PX
        self._at_ns: int | None = None
        self._instant_y = HEAD_PX

    def draw(self, rungs: Sequence[StepPair | int]) -> tuple[Html, int]:
        for rung in rungs:
            if isinstance(rung, int):
                self._leave_out(rung)
                continue
            if self._due_ns is not None and rung.at_ns > self._due_ns:
                self._mark_due(self._due_ns)
            self._pass_time_until(rung.at_ns)
            self._rung(rung)
        if self._due_ns is not None:
            self._mark_due(self._due_ns)
        self._end_instant()
        return joined([*self._parts, *self._times]), self._y + FOOT_PX

    # -- time -------------------------------------------------------------------------------------

    def _pass_time_until(self, at_ns: int) -> None:
        """Go down the axis to another instant; write it there."""
        if at_ns == self._at_ns:
            return
        self._end_instant()
        if self._at_ns is not None:
            self._pause(self._scale.pause(at_ns - self._at_ns))
        self._at_ns, self._instant_y = at_ns, self._y
        label = tag(
            "text", text(clock(at_ns)), class_="time", x=f"{TIME_END}%", y=self._y + TEXT_RISE_PX
        )
        self._times.append(label)

    def _end_instant(self) -> None:
        if self._at_ns is not None:
            self._axis("instant", self._instant_y + 2, self._y)

    def _pause(self, pause: Pause) -> None:
        top = self._y
        self._y += pause.height_px
        if pause.is_silence:
            self._band("silence", top + 4, self._y - 6, f"{long_duration(pause.ns)} of silence")
        elif pause.height_px:
            self._axis("passing", top, self._y)

    def _leave_out(self, count: int) -> None:
        self._end_instant()
        self._at_ns = None
        top = self._y
        self._y += LEFT_OUT_PX
        steps = "steps are" if count != 1 else "step is"
        self._band("left-out", top + 2, self._y - 4, f"{count:,} {steps} not drawn here")

    def _axis(self, class_: str, top: int, bottom: int) -> None:
        x = f"{AXIS}%"
        self._parts.append(tag("line", class_=class_, x1=x, x2=x, y1=top, y2=bottom))

    def _band(self, class_: str, top: int, bottom: int, words: str) -> None:
        band = tag("rect", x=0, y=top, width="100%", height=bottom - top)
        label = tag("text", text(words), x=f"{BETWEEN}%", y=(top + bottom) // 2 + 4)
        self._parts.append(tag("g", band, label, class_=class_))

    def _mark_due(self, at_ns: int) -> None:
        """Where in time the first difference was expected."""
        self._due_ns = None
        self._pass_time_until(at_ns)
        is_servers, top = self._first is None or self._first.by_server, self._y
        end = COLUMNS[0][is_servers]
        mark = tag("use", href="#due", x=f"{end}%", y=top + RUNG_PX // 2)
        words, class_ = text("due here"), "due right" if is_servers else "due"
        label_at = end - 2.5 if is_servers else end + 2.5
        label = tag("text", words, class_=class_, x=f"{label_at}%", y=top + 16)
        self._parts.append(tag("g", mark, label, class_="row"))
        self._y += RUNG_PX

    # -- rungs ------------------------------------------------------------------------------------

    def _rung(self, pair: StepPair) -> None:
        expected, observed = labels(pair)
        lines = max(len(expected), len(observed), 1)
        top, self._y = self._y, self._y + LINE_PX * lines + RUNG_PX - LINE_PX
        arrow_y = self._y - 4
        parts = [tag("title", text(_tooltip(pair)))]
        if pair.differs:
            height = self._y - top
            parts.append(tag("rect", class_="ground", x=0, y=top, width="100%", height=height))
            sign = tag("text", text("≠"), class_="sign", x=f"{BETWEEN}%", y=top + TEXT_RISE_PX + 2)
            parts.append(sign)
        sides = (pair.expected, expected), (pair.observed, observed)
        for (side, shown), (sender, server) in zip(sides, COLUMNS, strict=True):
            if shown:
                parts.append(_text(shown, top, lines, sender, server))
            if side is not None and pair.on_wire:
                ends = (server, sender) if pair.by_server else (sender, server)
                x1, x2 = (f"{x}%" for x in ends)
                parts.append(tag("line", class_="arrow", x1=x1, x2=x2, y1=arrow_y, y2=arrow_y))
        if mark := EVIDENCE_CLASSES.get(pair.evidence):
            x = f"{COLUMNS[0][pair.by_server]}%"
            parts.append(tag("use", href=f"#{mark}", x=x, y=arrow_y))
        is_first = pair is self._first
        classes = ["row", "by-server" if pair.by_server else "by-sender"]
        classes += ["differs"] if pair.differs else []
        classes += ["first"] if is_first else []
        name = f"{self._name}-first" if is_first else None
        self._parts.append(tag("g", *parts, class_=" ".join(classes), id=name))


def _text(shown: Sequence[Label], top: int, lines: int, sender: float, server: float) -> Html:
    """The lines of one side; a style of HTML ends in an ellipsis what its column cuts off, which
    SVG has no means for."""
    written = [tag("div", _with_mark(one)) for one in shown]
    return tag(
        "foreignObject",
        *written,
        x=f"{sender + LABEL_INSET:.1f}%",
        y=top,
        width=f"{server - sender - 2 * LABEL_INSET:.1f}%",
        height=lines * LINE_PX,
    )


def _with_mark(label: Label) -> Html:
    begin, end = label.mark_from, label.mark_to
    if begin == end:
        return text(label.text)
    marked = text(label.text[begin:end])
    after = text(label.text[end:])
    return joined([text(label.text[:begin]), tag("span", marked, class_="mark"), after or NOTHING])


def _tooltip(pair: StepPair) -> str:
    """The text that is shown when the pointer is over a rung."""
    who = "server" if pair.by_server else "sender"
    parts = [f"{who}, @{format_ns(pair.at_ns)}", pair.when]
    parts += [f"line {pair.line}"] if pair.line else []
    parts += [f"packet {pair.packet}"] if pair.packet else []
    parts += [pair.evidence]
    return ", ".join(part for part in parts if part)
