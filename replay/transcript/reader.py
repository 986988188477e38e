"""Text -> script: reads the notation (docs/understand/notation.md), keeps where each step stands.

A line is a time column, the connection's name where there are several, and an item; a line
without a time goes on with the octets of the step above it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from replay.transcript import duration, notation
from replay.transcript.accepted import WORD, AcceptedError, AcceptedLines
from replay.transcript.claims.claim import Claim, OfScenario
from replay.transcript.claims.places import claim_faults
from replay.transcript.claims.text import WORDS, ClaimError, ClaimLines
from replay.transcript.ehlo import ehlo_reply
from replay.transcript.header import Header, header_end, parse_header
from replay.transcript.items import ALLOWED, EHLO, Item, ItemError, read_item
from replay.transcript.notation import TranscriptError
from replay.transcript.rules import faults
from replay.transcript.script import (
    AcceptedMessage,
    Action,
    After,
    AfterArrival,
    Anchor,
    At,
    Departure,
    EhloReply,
    Evidence,
    Expectation,
    Outcome,
    ScriptedConnection,
    Step,
    TlsDone,
)

_LINE = re.compile(r"(?P<time>\S*)[ \t]+(?:(?P<name>[^\s|:]+)\|[ \t]+)?(?P<item>\S.*)")
_CONTINUED_BY = {
    "C": "C: octets",
    "S": "S: octets",
    "C~": "C~: octets",
    "S~": "S~: octets",
    "C?": "C? was: octets",
    "S?": "S? was: octets",
}
_MARKS = "marks are ? and ! behind reply+T and command+T, ! and ^ behind +T"
_TIMES = "@T (since the scenario began), +T (after the departure above), {}+T"
_ROLES = {
    notation.SENDER: "begins with open, C is played and S is expected; times hang on reply+T",
    notation.RECEIVER: "begins with listen, S is played and C is expected; times hang on command+T",
}


@dataclass(slots=True)
class Placed:
    """A step and the lines it stands on (indices from 0, in order)."""

    step: Step
    lines: list[int]
    comment: str = ""
    column: int = 0
    """Of the item, from 0: where the next line's item goes."""
    name_column: int = 0
    claim_lines: list[int] = field(default_factory=list)
    """Of the claims that stand below it, before the next step of its connection."""


@dataclass(slots=True)
class Document:
    """A transcript, taken apart without loss: ``lines`` joined by LF are the text."""

    lines: list[str]
    header: Header
    connections: dict[str, list[Placed]]
    named: bool
    """Whether lines carry connection names."""
    accepted: tuple[AcceptedMessage, ...] | None
    accepted_lines: list[int]
    """Indices of the lines that say what was accepted."""
    claims: dict[str, list[Claim]]
    """By connection; those about all of them under ""."""


@dataclass(slots=True)
class _OpenStep:
    """A step whose last line is not known yet."""

    name: str
    item: Item
    anchor: Anchor | None
    """A departure's; None makes this an expectation."""
    evidence: Evidence | None
    at_ns: int | None
    lines: list[int]
    comment: str
    column: int
    name_column: int

    def close(self) -> Placed:
        item, line = self.item, self.lines[0] + 1
        content = item.content(played=self.anchor is not None)
        step: Step
        if self.anchor is not None:
            assert isinstance(content, Action)
            step = Departure(self.anchor, content, line, item.packet, self.evidence)
        else:
            assert isinstance(content, Outcome)
            step = Expectation(content, self.at_ns, line, item.packet)
        return Placed(step, self.lines, self.comment, self.column, self.name_column)


def read(text: str, path: str) -> Document:
    """Take ``text`` apart; ``path`` is for messages.  Raises TranscriptError."""
    return _Reader(text, path).read()


class _Reader:
    """Goes down the lines once."""

    def __init__(self, text: str, path: str) -> None:
        self._path = path
        self._lines = notation.text_lines(text, path)
        self._at = 0
        self._octets = 0
        self._connections: dict[str, list[Placed]] = {}
        self._named: bool | None = None
        self._open: _OpenStep | None = None
        """What lines without a time go on with; so does ``_accepting``."""
        self._header = Header("")
        self._accepting: AcceptedLines | None = None
        self._accepted: list[AcceptedLines] = []
        self._claims = ClaimLines()

    def read(self) -> Document:
        fence = header_end(self._lines, self._path)
        header = self._header = parse_header(self._lines[1:fence], self._path)
        for index in range(fence + 1, len(self._lines)):
            self._at = index
            line = self._lines[index]
            stripped = line.lstrip(" \t")
            if stripped and stripped[0] != "#":
                self._line(line)
        self._finish_step()
        self._check()
        accepted = self._all_accepted()
        lines = [line for one in self._accepted for line in one.lines]
        return Document(
            self._lines,
            header,
            self._connections,
            bool(self._named),
            accepted,
            lines,
            self._claims.by_connection,
        )

    # -- lines ------------------------------------------------------------------------------------

    def _line(self, line: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise self._fault(0, f"expected a time, spaces and an item: {ALLOWED}")
        if match["time"] == WORD or (self._accepting and not match["time"]):
            self._accepted_line(line, match)
            return
        if match["time"] in WORDS:
            self._finish_step()
            self._claim_line(match)
            return
        name = self._name(match)
        column = match.start("item")
        if match["time"]:
            self._finish_step()
            self._begin_step(match, name, column)
        else:
            self._continue_step(name, match["item"], column)

    def _name(self, match: re.Match[str]) -> str:
        name = match["name"]
        if name is None and self._named is False:  # nearly every line of nearly every file
            return notation.CONNECTION_NAME_DEFAULT
        if self._named is None:
            self._named = name is not None
        if self._named != (name is not None):
            raise self._fault(
                match.start("item"),
                "either every line carries its connection's name, as in a| C: ..., or none",
            )
        if name is None:
            return notation.CONNECTION_NAME_DEFAULT
        if not notation.CONNECTION_NAME.fullmatch(name):
            raise self._fault(
                match.start("name"), "a connection's name is 1 to 32 of a to z, 0 to 9 and -"
            )
        return str(name)

    def _begin_step(self, match: re.Match[str], name: str, column: int) -> None:
        time = match["time"]
        if name not in self._connections:
            if len(self._connections) >= notation.CONNECTIONS_MAX:
                raise self._fault(
                    0, f"too many connections; {notation.CONNECTIONS_MAX} are allowed"
                )
            self._connections[name] = []
        item, comment = self._item(match["item"], column)
        if item.kind in ("S?", "C?") and not item.named:
            what = "a reply code, as in S? 250" if item.kind == "S?" else "a verb, as in C? MAIL"
            raise self._fault(column, f"{item.kind} needs {what}")
        actors = self._actors(name, item, column)
        if item.kind == EHLO:
            item.action = self._ehlo(name)
        departs = item.actor in ("", actors.played)
        anchor, evidence = self._anchor(time, actors) if departs else (None, None)
        self._open = _OpenStep(
            name,
            item,
            anchor,
            evidence,
            None if departs else self._expectation_ns(time),
            [self._at],
            comment,
            column,
            match.start("name") if match["name"] else column,
        )

    def _actors(self, name: str, item: Item, column: int) -> notation.Actors:
        """Which end the connection plays; its first item says so."""
        steps = self._connections[name]
        if steps:
            actors = notation.actors_of(steps[0].step)
        else:
            actors = notation.RECEIVER if item.kind == "listen" else notation.SENDER
        if item.actor == actors.played and item.kind != actors.played:
            raise self._fault(column, f"in a connection that {_ROLES[actors]}")
        return actors

    def _continue_step(self, name: str, text: str, column: int) -> None:
        step = self._open
        if step is None or name != step.name:
            raise self._fault(
                0,
                "a line without a time goes on with the octets above it, in the same connection; "
                "a new step begins with a time",
            )
        item = step.item
        more, _ = self._item(text, column)
        octets = more.pieces or more.masked
        if more.kind != item.kind or not octets or more.packet or more.named:
            raise self._fault(
                column,
                f"a line without a time goes on with the {item.kind} above it, which takes "
                + _CONTINUED_BY.get(item.kind, "no more lines"),
            )
        item.pieces += more.pieces
        item.masked += more.masked
        step.lines.append(self._at)

    def _accepted_line(self, line: str, match: re.Match[str]) -> None:
        """A line about an accepted message, which belongs to no connection."""
        if match["time"]:
            self._finish_step()
            self._accepting = AcceptedLines()
            self._accepted.append(self._accepting)
        assert self._accepting is not None
        start = match.start("name") if match["name"] else match.start("item")
        try:
            self._count(self._accepting.read(line[start:], self._at), start)
        except AcceptedError as error:
            raise self._fault(start + error.offset, str(error)) from None

    def _claim_line(self, match: re.Match[str]) -> None:
        """A claim: about its connection and what stands above it there, or about the scenario."""
        start, name = match.start("item"), ""
        try:
            claim = self._claims.read(match["time"], match["item"], self._at, self._header.notation)
        except ClaimError as error:
            raise self._fault(start + error.offset, str(error)) from None
        if not isinstance(claim.statement, OfScenario):
            name = self._name(match)
            if not (placed := self._connections.get(name)):
                raise self._fault(0, "a claim stands below what it is about, in its connection")
            placed[-1].claim_lines.append(self._at)
            claim = replace(claim, after=len(placed))
        elif match["name"] is not None:
            raise self._fault(start, "this is about all connections, and names none")
        self._claims.add(name, claim)

    def _all_accepted(self) -> tuple[AcceptedMessage, ...] | None:
        """All messages, none where the text says so, and None where it says nothing."""
        if not self._accepted:
            return None
        messages = []
        for one in self._accepted:
            self._at = one.lines[0]
            if one.is_nothing and len(self._accepted) > 1:
                raise self._fault(0, "nothing is accepted, or messages are; not both")
            try:
                messages += [] if one.is_nothing else [one.message()]
            except AcceptedError as error:
                raise self._fault(error.offset, str(error)) from None
        return tuple(messages)

    def _finish_step(self) -> None:
        self._accepting = None
        if self._open is not None:
            self._connections[self._open.name].append(self._open.close())
            self._open = None

    # -- times ------------------------------------------------------------------------------------

    def _anchor(self, time: str, actors: notation.Actors) -> tuple[Anchor, Evidence | None]:
        mark = time[-1] if time[-1] in notation.MARKS else ""
        bare = time.removesuffix(mark)
        for prefix, kind in (("@", At), ("+", After), (f"{actors.arrival}+", AfterArrival)):
            if bare.startswith(prefix):
                anchor = kind(self._duration(bare, len(prefix)))
                evidence = notation.MARKS[mark].get(kind) if mark else None
                if mark and evidence is None:
                    raise self._fault(len(bare), f"{prefix} takes no {mark}; {_MARKS}")
                return anchor, evidence
        message = "a departure has no free time" if time == "*" else "this is no time"
        raise self._fault(0, f"{message}; allowed are {_TIMES.format(actors.arrival)}")

    def _expectation_ns(self, time: str) -> int | None:
        if time == "*":
            return None
        if not time.startswith("@"):
            raise self._fault(0, "what is expected has the time @T, or * for any")
        return self._duration(time, 1)

    def _duration(self, time: str, start: int) -> int:
        try:
            return duration.parse(time[start:])
        except ValueError as error:
            raise self._fault(start, str(error)) from None

    # -- items ------------------------------------------------------------------------------------

    def _item(self, text: str, column: int) -> tuple[Item, str]:
        """What stands behind the time and the name, and its trailing comment."""
        try:
            item, comment = read_item(text, notation.OCTETS_MAX - self._octets)
        except ItemError as error:
            raise self._fault(column + error.offset, str(error)) from None
        self._octets += item.octets
        return item, comment

    def _ehlo(self, name: str) -> EhloReply:
        """The reply that the header demands, as far as the connection has come."""
        steps = self._connections[name]
        under_tls = any(isinstance(getattr(one.step, "outcome", None), TlsDone) for one in steps)
        octets = ehlo_reply(self._header.server, self._header.world, under_tls=under_tls)
        self._count(len(octets), 0)
        return EhloReply(octets)

    def _count(self, octets: int, column: int) -> None:
        """So many more octets stand in the text."""
        self._octets += octets
        if self._octets > notation.OCTETS_MAX:
            raise self._fault(
                column, f"more than {notation.OCTETS_MAX} octets in all; that is the most allowed"
            )

    # -- the whole --------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self._connections:
            raise self._fault(
                0, "there is no connection; write @0 open from ADDRESS, or @0 listen at ADDRESS"
            )
        for name, placed in self._connections.items():
            steps, claims = (one.step for one in placed), self._claims.by_connection.get(name, ())
            connection = ScriptedConnection(name, tuple(steps), tuple(claims))
            for item, message in (*faults(connection), *claim_faults(connection)):
                line = item.line if item is not None else 1
                raise TranscriptError(self._path, line, 1, f"{message} (connection {name})")

    def _fault(self, column: int, message: str) -> TranscriptError:
        return TranscriptError(self._path, self._at + 1, column + 1, message)
