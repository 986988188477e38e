"""Shows what is in a capture: its sessions as a list, and one of them as a ladder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.capture.conversation import GREETING_CODES, CapturedReply, Conversation
from replay.capture.oddity import Oddity, told
from replay.capture.reader import Capture
from replay.convert.anchors import Anchored, anchor_acts
from replay.counted import counted
from replay.report.console import show_table
from replay.smtp.commands import VERBS_MAX, Part, looks_like_command, outline, split
from replay.smtp.proxy_header import after_header
from replay.transcript.duration import long_duration
from replay.transcript.octets import printable, to_text
from replay.transcript.script import Evidence

ODDITIES_SHOWN_MAX = 40
SESSIONS_SHOWN_MAX = 10_000
LINES_SHOWN_MAX = 16
"""Of one segment or reply, in the ladder."""
LINE_SHOWN_MAX_OCTETS = 200
SMALL_GAP_NS, LARGE_GAP_NS = 500 * NS_PER_MS, 5 * NS_PER_S
"""Silences from which on the ladder draws a short and a long break."""
WIDE_COLUMNS = 100
"""From this width on commands have a column."""
BESIDE_ADDRESSES_COLUMNS = 68
"""What the other columns take at least: addresses are not broken if there is so much."""
MARGIN_COLUMNS = 24
"""Of a ladder: time and packet."""
NARROWEST_COLUMNS = 12
UNWRAPPED = 1_000_000
"""Octets of a line that goes to a file or a pipe: it is left whole."""

_HELO = re.compile(rb"(?i)(?:EHLO|HELO|LHLO)[ \t]+([^\r\n]*)")
_GREETING = re.compile(rb"220[ -]([^\r\n]{1,100})")
_MAIL = re.compile(rb"(?i)MAIL[ \t]+FROM[ \t]*:")
_AGENT = re.compile(rb"(?im)^(?:X-Mailer|User-Agent): ([^\r\n]{1,80})")

_EVIDENCE_STYLES = {Evidence.PROVEN_EARLY: "bold yellow", Evidence.CONFIRMED: "green"}


def show_sessions(capture: Capture, console: Console) -> None:
    """One line for each session, then the oddities, then what was left out and why."""
    found = capture.conversations
    servers = {str(one.server) for one in found}
    if found:
        show_table(_table(found, console, with_servers=len(servers) > 1), console)
        console.print()
    sessions = counted(len(found), "SMTP session")
    at_server = f" with {servers.pop()}{_who_is(found)}" if len(servers) == 1 else ""
    sentence = f"{printable(capture.name)}: {capture.packets} packets, {sessions}{at_server}"
    console.print(Text(sentence, "bold"), soft_wrap=True)
    _show_oddities("", capture.oddities, console)
    for number, one in enumerate(found, 1):
        _show_oddities(f"session {number}, ", one.oddities, console)
    for left in capture.left_out[:ODDITIES_SHOWN_MAX]:
        sentence = f"  left out: {left.flow.ends[0]} and {left.flow.ends[1]}: {left.reason}"
        console.print(Text(sentence), soft_wrap=True)
    if len(capture.left_out) > ODDITIES_SHOWN_MAX:
        console.print(f"  … and {len(capture.left_out) - ODDITIES_SHOWN_MAX} more left out")
    for reason, count in capture.more_left_out.most_common():
        console.print(Text(f"  left out besides, {count}: {reason}"), soft_wrap=True)


def _who_is(found: list[Conversation]) -> str:
    """What the one server of all sessions greets with, where that is always the same."""
    greetings = {one.replies[0].octets for one in found if one.replies}
    match = _GREETING.match(greetings.pop()) if len(greetings) == 1 else None
    if match is None:
        return ""
    return f", which says it is {printable(match[1].decode('utf-8', 'replace'))}"


def _table(found: list[Conversation], console: Console, *, with_servers: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    wide = console.width >= WIDE_COLUMNS
    table.add_column("session", justify="right", no_wrap=True)
    sides = ("client", "server") if with_servers else ("client",)
    addresses = sum(max(len(str(getattr(one, side))) for one in found) for side in sides)
    whole = console.width >= BESIDE_ADDRESSES_COLUMNS + addresses
    table.add_column("sender", no_wrap=whole, overflow="fold")
    if with_servers:
        table.add_column("server", no_wrap=whole, overflow="fold")
    shown = found[:SESSIONS_SHOWN_MAX]
    summaries = [sender_summary(one) for one in shown]
    names = [sender.name for sender in summaries]
    if with_names := any(names):
        table.add_column("says it is", min_width=len("says it is"), overflow="fold")
    if wide:
        table.add_column("commands", min_width=len("commands"), overflow="fold")
    for name in ("mails", "replies", "duration", "odd"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, (one, sender) in enumerate(zip(shown, summaries, strict=True), 1):
        numbers = sender.mails, len(one.replies)
        lasted = long_duration(one.flow.last_ns - one.opened_ns)
        ends = [str(one.client), str(one.server)] if with_servers else [str(one.client)]
        odd = str(len(one.oddities)) if one.oddities else ""
        said = [sender.name] * with_names + [sender.commands] * wide
        texts = [str(number), *ends, *said, *map(str, numbers), lasted, odd]
        table.add_row(*map(Text, texts))
    return table


def show_ladder(conversation: Conversation, console: Console) -> None:
    """The conversation in time: the sender on the left, the server indented; silences are drawn,
    and oddities stand where they happened."""
    anchored = {one.act.order: one for one in anchor_acts(conversation)}
    sides = f"{conversation.client} → {conversation.server}"
    console.print(Text(f"{'time':>13} {'packet':>8}  {sides}", "bold"), soft_wrap=True)
    previous = _Rung(-1, conversation.opened_ns, False, [], 0)
    for rung in _rungs(conversation, anchored):
        _show_gap(rung.ts_ns - previous.ts_ns, console)
        _show_rung(rung, previous, conversation.opened_ns, console)
        previous = rung
    if conversation.oddities:
        console.print()
    _show_oddities("", conversation.oddities, console)


def _show_rung(rung: _Rung, previous: _Rung, opened_ns: int, console: Console) -> None:
    """A rung; time and packet only where they are not those of the rung above."""
    place = ""
    if (rung.ts_ns, rung.packet) != (previous.ts_ns, previous.packet):
        place = f"{_seconds(rung.ts_ns - opened_ns):>13} {f'#{rung.packet}':>8}"
    arrow = "  ← " if rung.by_server else "→ "
    indent = MARGIN_COLUMNS + len(arrow)
    width = max(console.width - indent, NARROWEST_COLUMNS) if console.is_terminal else UNWRAPPED
    for number, text in enumerate(rung.lines):
        for part in Text(text, rung.style).wrap(console, width, overflow="fold"):
            line = Text()
            if number == 0 and arrow:
                line.append(f"{place:<{MARGIN_COLUMNS}}", style="dim")
                line.append(arrow, style="bold")
                arrow = ""
            else:
                line.append(" " * indent)
            console.print(line.append_text(part), soft_wrap=True)
    if rung.note:
        note = Text(rung.note, rung.note_style)
        for part in note.wrap(console, width, overflow="fold"):
            console.print(Text(" " * indent).append_text(part), soft_wrap=True)


class _Rung(NamedTuple):
    order: int
    ts_ns: int
    by_server: bool
    lines: list[str]
    packet: int
    style: str = ""
    note: str = ""
    note_style: str = ""


def _rungs(conversation: Conversation, anchored: dict[int, Anchored]) -> Iterator[_Rung]:
    first = conversation.replies[0] if conversation.replies else None
    greeting = first if first and first.code in GREETING_CODES else None
    rungs = [_act_rung(anchored[act.order], greeting) for act in conversation.acts]
    rungs += [
        _Rung(reply.order, reply.ts_ns, True, _shown(reply.octets), reply.packet, "cyan")
        for reply in conversation.replies
    ]
    if end := conversation.server_end:
        how = "reset" if end.is_reset else "closes (FIN)"
        rungs.append(_Rung(end.order, end.ts_ns, True, [how], end.packet, "magenta"))
    return iter(sorted(rungs, key=lambda one: one.order))  # in place where one packet has several


def _act_rung(one: Anchored, greeting: CapturedReply | None) -> _Rung:
    act = one.act
    lines = _shown(act.octets) if act.kind == "send" else [act.kind]
    style = "" if act.kind == "send" else "magenta"
    evidence = one.evidence
    note, note_style = "", _EVIDENCE_STYLES.get(evidence, "")
    if evidence is Evidence.PROVEN_EARLY:
        note = f"↑ {evidence.value}: {one.because}"
    elif greeting and act.kind == "send" and act.order < greeting.order:
        note = f"↑ before the greeting (packet {greeting.packet})"
        note_style = _EVIDENCE_STYLES[Evidence.PROVEN_EARLY]
    return _Rung(act.order, act.ts_ns, False, lines, act.packet, style, note, note_style)


def _show_gap(gap_ns: int, console: Console) -> None:
    margin = " " * (MARGIN_COLUMNS - 1)
    if gap_ns >= LARGE_GAP_NS:
        lasted = f"{margin}┊ {long_duration(gap_ns)} of silence"
        console.print(Text(f"{margin}┊\n{lasted}\n{margin}┊", "yellow"))
    elif gap_ns >= SMALL_GAP_NS:
        console.print(Text(f"{margin}┊ {long_duration(gap_ns)}", "dim"))


def _show_oddities(where: str, oddities: list[Oddity], console: Console) -> None:
    for oddity in oddities[:ODDITIES_SHOWN_MAX]:
        sentence = f"  odd: {where}{told(oddity)}"
        console.print(Text(printable(sentence), "yellow"), soft_wrap=True)
    if len(oddities) > ODDITIES_SHOWN_MAX:
        console.print(f"  … and {len(oddities) - ODDITIES_SHOWN_MAX} more oddities")


class SenderSummary(NamedTuple):
    """What a sender says it is (its greeting, its program), its commands in a line, and how many
    messages it begins."""

    name: str
    commands: str
    mails: int


def sender_summary(conversation: Conversation) -> SenderSummary:
    """What a sender sent, in few words."""
    octets = after_header(b"".join(act.octets for act in conversation.acts))
    verbs: list[str] = []
    mails, helo = 0, None
    for part in _parts(conversation, octets):
        if part.kind == "command":
            line = part.command.line
            mails += bool(_MAIL.match(line))
            helo = helo or _HELO.match(line)
            if len(verbs) < VERBS_MAX:
                verbs.append(part.command.verb)
    words = [
        one[1].decode("utf-8", "backslashreplace") for one in (helo, _AGENT.search(octets)) if one
    ]
    return SenderSummary(printable(", ".join(words)), outline(verbs), mails)


def _parts(conversation: Conversation, octets: bytes) -> Iterator[Part]:
    """A sender's octets taken apart, with what the replies tell of them."""
    codes = [reply.code for reply in conversation.replies[1:]]
    kinds = {oddity.kind for oddity in conversation.oddities}
    if conversation.mid_stream or kinds & {"not-a-reply", "unterminated-reply"}:
        codes = []  # which reply is of which command cannot be told
    joined_late = conversation.mid_stream and conversation.flow.opener is None
    within = joined_late and not looks_like_command(octets)
    return split(octets, codes, begins_within_content=within)


def _shown(octets: bytes) -> list[str]:
    """The octets, broken where their lines end, the middle of many left out."""
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


def _seconds(ns: int) -> str:
    return f"{ns / NS_PER_S:.6f} s"
