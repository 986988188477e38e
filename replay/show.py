"""Shows what is in a capture: its sessions as a list, and one of them as a ladder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.anchors import Anchored, Evidence, anchor_acts
from replay.conversation import Capture, Conversation
from replay.octets import to_text
from replay.oddity import Oddity
from replay.report import long_duration

ODDITIES_SHOWN_MAX = 40
SESSIONS_SHOWN_MAX = 10_000
LINES_SHOWN_MAX = 16
"""Of one segment or reply, in the ladder."""
LINE_SHOWN_MAX_OCTETS = 200
SMALL_GAP_NS, LARGE_GAP_NS = 500 * NS_PER_MS, 5 * NS_PER_S
"""Silences from which on the ladder draws a short and a long break."""

_HELO = re.compile(rb"(?im)^(?:EHLO|HELO) ([^\r\n]*)")
_MAIL = re.compile(rb"(?im)^MAIL FROM:")
_AGENT = re.compile(rb"(?im)^(?:X-Mailer|User-Agent): ([^\r\n]{1,80})")

_EVIDENCE_STYLES = {Evidence.PROVEN_EARLY: "bold yellow", Evidence.CONFIRMED: "green"}


def show_sessions(capture: Capture, console: Console) -> None:
    """A line a session, then what is odd, then what was left out and why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", justify="right", no_wrap=True)
    table.add_column("sender → server")
    table.add_column("says it is", overflow="fold")
    for name in ("mails", "replies", "duration", "oddities"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, one in enumerate(capture.conversations[:SESSIONS_SHOWN_MAX], 1):
        last_ns = one.flow.last_ns
        table.add_row(
            str(number),
            f"{one.client} → {one.server}",
            Text(_who(one)),
            str(len(_MAIL.findall(_sent(one)))),
            str(len(one.replies)),
            long_duration(last_ns - one.opened_ns),
            str(len(one.oddities)),
        )
    console.print(table)
    found = len(capture.conversations)
    console.print(
        f"\n{capture.name}: {capture.packets} packets, {found} SMTP sessions", style="bold"
    )
    _show_oddities("", capture.oddities, console)
    for number, one in enumerate(capture.conversations, 1):
        _show_oddities(f"session {number}, ", one.oddities, console)
        if one.cut_short:
            console.print(Text(f"  session {number} can be used in part: {one.cut_short}"))
    for left in capture.left_out[:ODDITIES_SHOWN_MAX]:
        console.print(
            Text(f"  left out: {left.flow.ends[0]} and {left.flow.ends[1]}: {left.reason}")
        )


def show_ladder(conversation: Conversation, console: Console) -> None:
    """Who said what, when; silences drawn to be seen."""
    anchored = {one.act.order: one for one in anchor_acts(conversation)}
    sides = f"{conversation.client} (sender)        {conversation.server} (server)"
    console.print(Text(sides, style="bold"))
    previous_ns = conversation.opened_ns
    for rung in _rungs(conversation, anchored):
        _show_gap(rung.ts_ns - previous_ns, console)
        previous_ns = rung.ts_ns
        line = Text(f"{_seconds(rung.ts_ns - conversation.opened_ns):>14}  ", style="dim")
        line.append(f"{rung.arrow} ", style="bold")
        first, *more = rung.lines
        line.append(first, style=rung.style)
        line.append(f"  #{rung.packet}", style="dim")
        if rung.note:
            line.append(f"  {rung.note}", style=rung.note_style)
        console.print(line, soft_wrap=True)
        for text in more:
            console.print(Text(f"{'':>18}{text}", style=rung.style), soft_wrap=True)
    _show_oddities("", conversation.oddities, console)
    if conversation.cut_short:
        console.print(Text(f"  can be used in part: {conversation.cut_short}"))


class _Rung(NamedTuple):
    order: int
    ts_ns: int
    arrow: str
    lines: list[str]
    packet: int
    style: str = ""
    note: str = ""
    note_style: str = ""


def _rungs(conversation: Conversation, anchored: dict[int, Anchored]) -> Iterator[_Rung]:
    rungs = [_act_rung(anchored[act.order]) for act in conversation.acts]
    rungs += [
        _Rung(reply.order, reply.ts_ns, "←", _shown(reply.octets), reply.packet, "cyan")
        for reply in conversation.replies
    ]
    if end := conversation.server_end:
        how = "reset" if end.is_reset else "closes (FIN)"
        rungs.append(_Rung(end.order, end.ts_ns, "←", [how], end.packet, "magenta"))
    return iter(sorted(rungs))


def _act_rung(one: Anchored) -> _Rung:
    act = one.act
    lines = _shown(act.octets) if act.kind == "send" else [act.kind]
    style = "" if act.kind == "send" else "magenta"
    evidence = one.evidence
    note = f"[{evidence.value}: {one.because}]" if evidence is Evidence.PROVEN_EARLY else ""
    return _Rung(
        act.order,
        act.ts_ns,
        "→",
        lines,
        act.packet,
        style,
        note,
        _EVIDENCE_STYLES.get(evidence, ""),
    )


def _show_gap(gap_ns: int, console: Console) -> None:
    if gap_ns >= LARGE_GAP_NS:
        console.print(
            Text(f"{'':>14}  ┊\n{'':>14}  ┊ {long_duration(gap_ns)} of silence", "yellow")
        )
        console.print(Text(f"{'':>14}  ┊", "yellow"))
    elif gap_ns >= SMALL_GAP_NS:
        console.print(Text(f"{'':>14}  ┊ {long_duration(gap_ns)}", "dim"))


def _show_oddities(where: str, oddities: list[Oddity], console: Console) -> None:
    for oddity in oddities[:ODDITIES_SHOWN_MAX]:
        packet = f"packet {oddity.packet}: " if oddity.packet else ""
        console.print(Text(f"  odd: {where}{packet}{oddity.sentence}", "yellow"), soft_wrap=True)
    if len(oddities) > ODDITIES_SHOWN_MAX:
        console.print(f"  … and {len(oddities) - ODDITIES_SHOWN_MAX} more oddities")


def _sent(conversation: Conversation) -> bytes:
    return b"".join(act.octets for act in conversation.acts)


def _who(conversation: Conversation) -> str:
    sent = _sent(conversation)
    helo, agent = _HELO.search(sent), _AGENT.search(sent)
    words = [found[1].decode("utf-8", "backslashreplace") for found in (helo, agent) if found]
    return _printable(", ".join(words))


def _shown(octets: bytes) -> list[str]:
    """The octets, a line of theirs a line, the middle of many left out."""
    lines = octets.splitlines(keepends=True)
    left_out = len(lines) - LINES_SHOWN_MAX
    if left_out > 0:
        half = LINES_SHOWN_MAX // 2
        shown = [_line(one) for one in lines[:half]]
        shown.append(f"… {left_out} lines left out …")
        return shown + [_line(one) for one in lines[-half:]]
    return [_line(one) for one in lines]


def _line(octets: bytes) -> str:
    more = len(octets) - LINE_SHOWN_MAX_OCTETS
    text = to_text(octets[:LINE_SHOWN_MAX_OCTETS])
    return f"{text} … and {more} octets more" if more > 0 else text


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)


def _seconds(ns: int) -> str:
    return f"{ns / NS_PER_S:.6f} s"
