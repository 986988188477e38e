"""What stands behind the time and the name of a line: octets, masks, codes, verbs.

``C`` and ``S`` are the two ends of a connection; which of them is played, the connection says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from replay.transcript import masks, notation
from replay.transcript.octets import OctetsError, to_octets
from replay.transcript.script import (
    CONTENT,
    SMTP_PORT,
    Action,
    CommandVerb,
    ExactOctets,
    Listen,
    MaskedOctets,
    Open,
    Outcome,
    ReplyCode,
    SendOctets,
)

_PACKET = r"(?:\[(?P<packet>[0-9]{1,20})\])?"
_OCTETS = re.compile(rf"(?P<actor>[CS]){_PACKET}(?:\*(?P<times>[0-9]{{1,20}}))?: (?P<text>.*)")
_MASKED = re.compile(rf"(?P<actor>[CS])~{_PACKET}: (?P<text>.*)")
_KIND = re.compile(
    rf"(?P<actor>[CS])\?{_PACKET}(?: +(?P<kind>[0-9]{{3}}|[A-Z]{{1,16}}|{CONTENT}))?"
    r"(?: +was:(?:\*(?P<times>[0-9]{1,20}))? (?P<text>.*))?"
)
_PEER_VERB = re.compile(
    rf"(?P<actor>[CS]){_PACKET} +"
    rf"(?P<verb>{'|'.join((*notation.PEER_VERBS, notation.EHLO_WORD))})"
)
_VERB = re.compile(
    rf"(?P<verb>[a-z-]+){_PACKET}(?: +(?P<side>from|at) +(?P<address>\S+))?"
    r"(?: +port +(?P<port>[0-9]{1,10}))?"
)
_COMMENT = re.compile(r"(?:^|(?<=[ \t]))#")

CACHED_MAX, CACHED_CHARACTERS_MAX = 2048, 200
"""Items that are remembered, and how long they may be: most stand in many lines, of one transcript
and of all."""
EHLO = f"S {notation.EHLO_WORD}"
_ENDS_OF_BOTH = [verb for verb, kind in notation.PEER_VERBS.items() if verb != "open"]
ALLOWED = ", ".join(
    (
        "open from ADDRESS, and then C: octets; S: octets, S~: octets with masks, S? code",
        *(f"S {verb}" for verb in (notation.EHLO_WORD, *_ENDS_OF_BOTH)),
        "or listen at ADDRESS, and then S: octets; C open, C: octets, C~: octets with masks, "
        "C? VERB, C? content",
        *(f"C {verb}" for verb in _ENDS_OF_BOTH),
        "and in both",
        *notation.PLAIN_VERBS,
    )
)


class ItemError(ValueError):
    """An item that cannot be; ``offset`` counts its characters from 0."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


class Item(NamedTuple):
    """A line's item."""

    kind: str
    """"C", "S", and these with "~" or "?", for octets, else a verb: what a line that goes on with
    it must repeat."""
    actor: str = ""
    """Whose octets or whose verb it is; "" for an act of the played end that names none."""
    packet: int = 0
    named: str = ""
    """The code or verb behind "?"."""
    pieces: masks.Pieces = ()
    """The octets, without their repetition, and masks."""
    times: int = 1
    octets: int = 0
    """How many it stands for."""
    start: int = 0
    """Where the text of these begins, in characters from 0."""
    comment: str = ""
    action: Action | None = None
    """What a departure does by it, and ``outcome`` what an expectation demands by it, if no line
    goes on with it; both None where that takes more than the line."""
    outcome: Outcome | None = None


def read_item(text: str, played: str) -> Item:
    """The item of ``text``, in a connection of which the end ``played`` ("C" or "S") is played.

    Raises ItemError.
    """
    return (_short_item if len(text) <= CACHED_CHARACTERS_MAX else _item)(text, played)


def _item(text: str, played: str) -> Item:
    item = _bare_item(text)
    says_all = item.named if item.kind.endswith("?") else item.pieces
    return completed(item, played) if says_all and item.times == 1 else item


_short_item = lru_cache(CACHED_MAX)(_item)


def completed(item: Item, played: str) -> Item:
    """``item`` with what its octets are to its step."""
    if item.actor == played:
        return item._replace(action=action([item]))
    return item._replace(outcome=outcome([item]))


def action(lines: Sequence[Item]) -> Action:
    """What the octets of a departure's lines make."""
    return SendOctets(_joined(lines))


def outcome(lines: Sequence[Item]) -> Outcome:
    """What the octets of an expectation's lines make."""
    kind, named = lines[0].kind, lines[0].named
    if kind.endswith("~"):
        return MaskedOctets(masks.joined([piece for one in lines for piece in one.pieces]))
    octets = _joined(lines)
    if kind == "S?":
        return ReplyCode(int(named), octets)
    return CommandVerb(named, octets) if kind == "C?" else ExactOctets(octets)


def _joined(lines: Sequence[Item]) -> bytes:
    pieces = [
        piece * one.times for one in lines for piece in one.pieces if isinstance(piece, bytes)
    ]
    return b"".join(pieces)


def _bare_item(text: str) -> Item:
    """The item apart from the connection that it stands in."""
    match = _OCTETS.fullmatch(text)
    if match is not None:
        return _run(match["actor"], match)
    if match := _MASKED.fullmatch(text):
        return _masked(match)
    match = _KIND.fullmatch(text)
    if match is not None and match["text"] is not None:
        return _kind(match)
    comment = _COMMENT.search(text)
    cut = comment.start() if comment else len(text)
    bare, remark = text[:cut].rstrip(" \t"), text[cut:].rstrip(" \t")
    if match := _KIND.fullmatch(bare):
        item = _kind(match)
    elif match := _PEER_VERB.fullmatch(bare):
        item = _peer_verb(match)
    else:
        item = _verb(bare)
    return item._replace(comment=remark)


def _peer_verb(match: re.Match[str]) -> Item:
    actor, verb = match["actor"], match["verb"]
    kind = f"{actor} {verb}"
    if (actor, verb) in (("S", "open"), ("C", notation.EHLO_WORD)):
        raise ItemError(0, f"expected one of: {ALLOWED}")
    if verb == notation.EHLO_WORD:
        return Item(kind, actor, _packet(match))
    return Item(kind, actor, _packet(match), outcome=notation.PEER_VERBS[verb]())


def _verb(text: str) -> Item:
    match = _VERB.fullmatch(text)
    if match is None or match["verb"] not in notation.VERBS:
        raise ItemError(0, f"expected one of: {ALLOWED}")
    verb, address, port = match["verb"], match["address"], match["port"]
    side = {"open": "from", "listen": "at"}.get(verb)
    if match["side"] != side or (port and verb != "listen"):
        raise ItemError(
            0,
            "open takes from ADDRESS, listen takes at ADDRESS and port NUMBER, and nothing else "
            "takes any of these",
        )
    action: Action
    if verb == "open":
        action = Open(address)
    elif verb == "listen":
        action = Listen(address, int(port or SMTP_PORT))
    else:
        action = notation.PLAIN_VERBS[verb]()
    return Item(verb, packet=_packet(match), action=action)


def _kind(match: re.Match[str]) -> Item:
    actor, named = match["actor"], match["kind"] or ""
    if named and named.isdigit() is not (actor == "S"):
        raise ItemError(
            match.start("kind"), "a code stands behind S?, a VERB in capitals or content behind C?"
        )
    if match["text"] is None:
        return Item(f"{actor}?", actor, _packet(match), named)
    return _run(f"{actor}?", match, named)


def _masked(match: re.Match[str]) -> Item:
    start = match.start("text")
    try:
        pieces = masks.from_text(match["text"])
    except OctetsError as error:
        raise ItemError(start + error.offset, str(error)) from None
    if not pieces:
        raise ItemError(start, "octets are missing here")
    actor, octets = match["actor"], len(match["text"])
    return Item(f"{actor}~", actor, _packet(match), "", pieces, 1, octets, start)


def _packet(match: re.Match[str]) -> int:
    if match["packet"] is None:
        return 0
    packet = int(match["packet"])
    if not 1 <= packet <= notation.PACKET_MAX:
        raise ItemError(
            match.start("packet"), f"a packet number lies between 1 and {notation.PACKET_MAX}"
        )
    return packet


def _run(kind: str, match: re.Match[str], named: str = "") -> Item:
    packet = _packet(match)
    times = 1 if match["times"] is None else int(match["times"])
    if times < 1:
        raise ItemError(match.start("times"), "a count is 1 or more")
    start = match.start("text")
    try:
        octets = to_octets(match["text"])
    except OctetsError as error:
        raise ItemError(start + error.offset, str(error)) from None
    if not octets:
        raise ItemError(start, "octets are missing here")
    return Item(kind, match["actor"], packet, named, (octets,), times, times * len(octets), start)
