"""What stands behind the time and the name of a line: octets, masks, codes, verbs.

``C`` and ``S`` are the two ends of a connection; which of them is played, the connection says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from replay.transcript import masks, notation
from replay.transcript.octets import OctetsError, to_octets
from replay.transcript.script import (
    CONTENT,
    SMTP_PORT,
    Action,
    CommandVerb,
    ExactOctets,
    Listen,
    Mask,
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


@dataclass(slots=True)
class Item:
    """A line's item: whole as it is, or octets that the following lines may go on with."""

    kind: str
    """"C", "S", and these with "~" or "?", for octets, else a verb: what a continuation must
    repeat."""
    actor: str = ""
    """Whose octets or whose verb it is; "" for an act of the played end that names none."""
    packet: int = 0
    pieces: list[bytes] = field(default_factory=list)
    masked: list[bytes | Mask] = field(default_factory=list)
    action: Action | Outcome | None = None
    named: str = ""
    """The code or verb behind "?"."""
    octets: int = 0
    """How many it stands for."""

    def content(self, *, played: bool) -> Action | Outcome | None:
        """What the item and those that go on with it make, for the end that is ``played`` or for
        the other."""
        octets = b"".join(self.pieces)
        if self.kind in ("C", "S"):
            return SendOctets(octets) if played else ExactOctets(octets)
        if self.kind.endswith("~"):
            return MaskedOctets(masks.joined(self.masked))
        if self.kind == "S?":
            return ReplyCode(int(self.named), octets)
        if self.kind == "C?":
            return CommandVerb(self.named, octets)
        return self.action


def read_item(text: str, room: int) -> tuple[Item, str]:
    """The item of ``text`` and its trailing comment; it stands for at most ``room`` octets.

    Raises ItemError.
    """
    match = _OCTETS.fullmatch(text)
    if match is not None:
        item = Item(match["actor"], match["actor"], _packet(match))
        return _run(item, match, room), ""
    if match := _MASKED.fullmatch(text):
        return _masked(match, room), ""
    match = _KIND.fullmatch(text)
    if match is not None and match["text"] is not None:
        return _kind(match, room), ""
    comment = _COMMENT.search(text)
    cut = comment.start() if comment else len(text)
    bare, remark = text[:cut].rstrip(" \t"), text[cut:].rstrip(" \t")
    if match := _KIND.fullmatch(bare):
        return _kind(match, room), remark
    if match := _PEER_VERB.fullmatch(bare):
        return _peer_verb(match), remark
    return _verb(bare), remark


def _peer_verb(match: re.Match[str]) -> Item:
    actor, verb = match["actor"], match["verb"]
    kind = f"{actor} {verb}"
    if (actor, verb) in (("S", "open"), ("C", notation.EHLO_WORD)):
        raise ItemError(0, f"expected one of: {ALLOWED}")
    if verb == notation.EHLO_WORD:
        return Item(kind, actor, _packet(match))
    return Item(kind, actor, _packet(match), action=notation.PEER_VERBS[verb]())


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


def _kind(match: re.Match[str], room: int) -> Item:
    actor, named = match["actor"], match["kind"] or ""
    if named and named.isdigit() is not (actor == "S"):
        raise ItemError(
            match.start("kind"), "a code stands behind S?, a VERB in capitals or content behind C?"
        )
    item = Item(f"{actor}?", actor, _packet(match), named=named)
    return item if match["text"] is None else _run(item, match, room)


def _masked(match: re.Match[str], room: int) -> Item:
    start = match.start("text")
    try:
        pieces = masks.from_text(match["text"])
    except OctetsError as error:
        raise ItemError(start + error.offset, str(error)) from None
    if not pieces:
        raise ItemError(start, "octets are missing here")
    _check_room(len(match["text"]), room, start)
    actor, octets = match["actor"], len(match["text"])
    return Item(f"{actor}~", actor, _packet(match), masked=list(pieces), octets=octets)


def _packet(match: re.Match[str]) -> int:
    if match["packet"] is None:
        return 0
    packet = int(match["packet"])
    if not 1 <= packet <= notation.PACKET_MAX:
        raise ItemError(
            match.start("packet"), f"a packet number lies between 1 and {notation.PACKET_MAX}"
        )
    return packet


def _run(item: Item, match: re.Match[str], room: int) -> Item:
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
    _check_room(times * len(octets), room, start)
    item.pieces = [octets * times]
    item.octets = times * len(octets)
    return item


def _check_room(octets: int, room: int, offset: int) -> None:
    if octets > room:
        raise ItemError(
            offset, f"more than {notation.OCTETS_MAX} octets in all; that is the most allowed"
        )
