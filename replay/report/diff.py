"""Shows how two runs treated each sender: totals, then the divergences, the greatest harm first.

Senders that part in the same way are shown together, since a policy that strikes one strikes many.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, zip_longest
from typing import Any

from rich.console import Console
from rich.text import Text

from replay.counted import counted
from replay.transcript.duration import format_ns, long_duration
from replay.transcript.octets import printable
from replay.verify.divergence import DiffVerdict, Divergence, RunSide

SIDE_BY_SIDE_COLUMNS = 120
"""From this width on A and B stand side by side."""
GROUPS_SHOWN_MAX, NAMES_SHOWN_MAX = 30, 10
"""Of the partings, and of the senders that part in the same way; unless all are asked for."""
WIDTH_MIN = 20
"""However narrow the terminal is."""

_BY_TIME = (
    DiffVerdict.SLOWER,
    DiffVerdict.FASTER,
    DiffVerdict.CUT_OFF_SOONER,
    DiffVerdict.CUT_OFF_LATER,
)
_STYLES = {
    DiffVerdict.SAME: "green",
    DiffVerdict.BROKEN: "bold red",
    DiffVerdict.REFUSED: "red",
    DiffVerdict.CUT_OFF: "red",
    DiffVerdict.UNANSWERED: "red",
    DiffVerdict.LOST: "red",
    DiffVerdict.DEFERRED: "yellow",
}
_DEFERRED_NOTE = (
    "What a sender does that was never deferred before, its transcript does not say: it would "
    "have to come again, and whether it does is not known."
)
_UNPROVEN_NOTE = (
    "{} more of their messages stand behind a refusal after which no sender goes on as its "
    "transcript does: nothing is known of these."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison to show: a line each about A and B, and the senders' divergences."""

    a: str
    b: str
    partings: Sequence[Divergence]
    notes: Sequence[str] = ()

    @property
    def differs(self) -> bool:
        return any(one.verdict is not DiffVerdict.SAME for one in self.partings)

    def sorted(self) -> list[Divergence]:
        """The greatest harm first; the order of the files where that is equal."""
        return sorted(self.partings, key=lambda one: one.harm)


def show(comparison: Comparison, console: Console, *, every: bool = False) -> None:
    """The totals, a table of verdicts, each kind of divergence; ``every`` leaves nothing out."""
    partings = comparison.sorted()
    for name, what in (("A", comparison.a), ("B", comparison.b)):
        console.print(Text(f"{name}  {printable(what)}"), soft_wrap=True)
    for note in comparison.notes:
        _put(_wrapped(printable(note), console.width - 2), console, style="dim")
    console.print(Text(f"\n{_sum(partings)}", style="bold"), soft_wrap=True)
    _show_verdicts(partings, console)
    apart = [one for one in partings if one.verdict is not DiffVerdict.SAME]
    groups = [list(group) for _, group in groupby(sorted(apart, key=_likeness), _likeness)]
    shown = groups if every else groups[:GROUPS_SHOWN_MAX]
    for group in shown:
        _show_group(group, console, every=every)
    if left := sum(map(len, groups[len(shown) :])):
        more = (
            f"… and {len(groups) - len(shown)} more ways to part ({counted(left, 'sender')}); --all"
        )
        console.print(Text(f"\n{more} shows them"), soft_wrap=True)
    _show_remarks(partings, console)


def as_json(comparison: Comparison) -> str:
    """The comparison as JSON: every sender, in the order of harm."""
    partings = comparison.sorted()
    verdicts = Counter(one.verdict.value for one in partings)
    whole = {
        "a": comparison.a,
        "b": comparison.b,
        "notes": list(comparison.notes),
        "senders": len(partings),
        "lose_mail": sum(one.loses_mail for one in partings),
        "verdicts": dict(verdicts),
        "partings": [_as_table(one) for one in partings],
    }
    return json.dumps(whole, indent=2)


def _as_table(parting: Divergence) -> dict[str, Any]:
    table = {one.name: getattr(parting, one.name) for one in dataclasses.fields(parting)}
    table |= {"verdict": parting.verdict.value, "loses_mail": parting.loses_mail}
    return table | {"a": parting.a._asdict(), "b": parting.b._asdict()}


# -- the sum --------------------------------------------------------------------------------------


def _sum(partings: Sequence[Divergence]) -> str:
    same = sum(one.verdict is DiffVerdict.SAME for one in partings)
    losing = sum(one.loses_mail for one in partings)
    told = [counted(len(partings), "sender"), "all the same"]
    if same < len(partings):
        again = sum(one.verdict is DiffVerdict.DEFERRED and one.lost > 0 for one in partings)
        others = len(partings) - same - losing - again
        counts = (
            (losing, "lose mail" if losing != 1 else "loses mail"),
            (again, "would have to come again"),
            (
                others,
                "differ without harm to mail" if others != 1 else "differs without harm to mail",
            ),
            (same, "the same"),
        )
        told = [told[0], ", ".join(f"{count} {what}" for count, what in counts if count)]
    a, b = (sum(getattr(one, name) for one in partings) for name in ("messages_a", "messages_b"))
    return f"{told[0]}: {told[1]} (messages accepted: {a} in A, {b} in B)"


def _show_verdicts(partings: Sequence[Divergence], console: Console) -> None:
    counts = Counter((one.lost > 0, one.verdict) for one in partings)
    width = len(str(max(counts.values())))
    for (lost, verdict), count in counts.items():  # in the order of harm, as they stand
        words = _words(verdict, lost=lost, count=count)
        console.print(Text(f"  {count:{width}}  ").append(words, _STYLES.get(verdict, "")))


# -- one way to part ------------------------------------------------------------------------------


def _likeness(one: Divergence) -> tuple[Any, ...]:
    verb = one.asked.upper().split(" ")[:2]
    gap = _gap(one.gap_ns) if one.verdict in _BY_TIME else ""
    return one.harm, one.verdict.value, one.why, verb, one.b.text, one.a.text, gap


def _show_group(group: Sequence[Divergence], console: Console, *, every: bool) -> None:
    first = group[0]
    style = _STYLES.get(first.verdict, "")
    heading = Text(f"\n{_heading(group)}", style=f"bold {style}".strip())
    console.print(heading, soft_wrap=True)
    if len(group) > 1:
        shown = group if every else group[:NAMES_SHOWN_MAX]
        names = ", ".join(_named(one) for one in shown)
        if len(group) > len(shown):
            names += f" … and {len(group) - len(shown)} more (--all shows them)"
        _put(_wrapped(names, console.width - 2), console)
    if first.verdict is DiffVerdict.BROKEN:
        return
    example = f"{_name(first)}, " if len(group) > 1 else ""
    _put(_wrapped(f"{example}{_place(first)}", console.width - 2), console, style="dim")
    labels = [_label("A", first.a), _label("B", first.b)]
    if console.width >= SIDE_BY_SIDE_COLUMNS:
        width = (console.width - 4) // 2
        sides = [
            _side(label, len(label), side, width)
            for label, side in zip(labels, (first.a, first.b), strict=True)
        ]
        both = zip_longest(*sides, fillvalue="")
        _put([f"{a:{width}}  {b}".rstrip() for a, b in both], console)
        return
    indent = max(map(len, labels))
    for label, side in zip(labels, (first.a, first.b), strict=True):
        _put(_side(label, indent, side, console.width - 2), console)


def _heading(group: Sequence[Divergence]) -> str:
    first = group[0]
    who = _name(first) if len(group) == 1 else counted(len(group), "sender")
    words = _words(first.verdict, lost=first.lost > 0, count=len(group))
    if first.verdict in _BY_TIME:
        words += f" by {_gap(first.gap_ns)}"
    why = f" ({printable(first.why)})" if first.why else ""
    return f"{who}: {words}{why}"


def _place(one: Divergence) -> str:
    """Where the runs diverge, and how far the sender had come."""
    place = f"reply {one.reply}, {printable(one.asked)}" if one.reply else "at the end"
    replies = "1 reply" if one.replies_before == 1 else f"{one.replies_before} replies"
    octets = "1 octet" if one.octets_before == 1 else f"{one.octets_before} octets"
    return f"{place}; in B after {octets} sent and {replies} heard"


def _label(name: str, side: RunSide) -> str:
    return name if side.at_ns is None else f"{name} @{format_ns(side.at_ns)}"


def _side(label: str, indent: int, side: RunSide, width: int) -> list[str]:
    """The lines of one side: its label, and the lines of its reply under each other."""
    octets = printable(side.text).replace(r"\r\n", "\\r\\n\n").splitlines() or ["nothing"]
    lines = [piece for line in octets for piece in _wrapped(line, width - indent - 1)]
    return [
        f"{'' if number else label:{indent}} {line}".rstrip() for number, line in enumerate(lines)
    ]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, WIDTH_MIN), break_on_hyphens=False)


def _put(lines: Sequence[str], console: Console, style: str = "") -> None:
    """As they are: a line that is wrapped already gets no blanks behind it."""
    for line in lines:
        console.print(Text(f"  {line}", style=style), soft_wrap=True)


def _show_remarks(partings: Sequence[Divergence], console: Console) -> None:
    remarks = []
    if any(one.verdict is DiffVerdict.DEFERRED and one.lost for one in partings):
        remarks.append(_DEFERRED_NOTE)
    if unproven := sum(one.unproven for one in partings):
        remarks.append(_UNPROVEN_NOTE.format(unproven))
    for remark in remarks:
        console.print()
        for line in _wrapped(remark, console.width):
            console.print(Text(line), soft_wrap=True)


# -- words ----------------------------------------------------------------------------------------


def _name(one: Divergence) -> str:
    return printable(f"{one.scenario} [{one.connection}]" if one.connection else one.scenario)


def _named(one: Divergence) -> str:
    """With its instant, so that it can be found."""
    at_ns = one.b.at_ns if one.b.at_ns is not None else one.a.at_ns
    return _name(one) if at_ns is None else f"{_name(one)} @{format_ns(at_ns)}"


def _words(verdict: DiffVerdict, *, lost: bool, count: int) -> str:
    """A verdict, and what it means for the mail of so many senders."""
    if not lost:
        return verdict.value
    if verdict is DiffVerdict.DEFERRED:
        return f"{verdict.value}, and would have to come again"
    return f"{verdict.value}, and {'loses' if count == 1 else 'lose'} mail"


def _gap(ns: int) -> str:
    return long_duration(abs(ns))
