"""Text -> script: reads the notation (docs/understand/notation.md), keeps where each step stands.

A line is a time column, the connection's name where there are several, and an item; a line
without a time goes on with the octets of the step above it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from replay.transcript import notation
from replay.transcript.accepted import WORD, AcceptedError, AcceptedLines
from replay.transcript.claims.claim import Claim, OfScenario
from replay.transcript.claims.places import claim_faults
from replay.transcript.claims.text import WORDS, ClaimError, ClaimLines
from replay.transcript.ehlo import ehlo_reply
from replay.transcript.header import Header, header_end, parse_header
from replay.transcript.items import (
    ALLOWED,
    EHLO,
    Item,
    ItemError,
    action,
    completed,
    outcome,
    read_item,
)
from replay.transcript.notation import TranscriptError
from replay.transcript.rules import faults
from replay.transcript.script import (
    AcceptedMessage,
    Departure,
    EhloReply,
    Expectation,
    ScriptedConnection,
    Step,
    TlsDone,
)
from replay.transcript.times import TimeError, read_anchor, read_instant

# Nothing or a comment, which have no groups, or time, name and item.
_LINE = re.compile(r"[ \t]*+(?:#.*)?|(\S*)[ \t]+(?:([^\s|:]+)\|[ \t]+)?(\S.*)")
_NAME, _ITEM = 2, 3
"""Groups of it."""
_NOT_OF_STEPS = {WORD, *WORDS}
"""What stands in the place of a time where a line belongs to no step."""
_CONTINUED_BY = {
    "C": "C: octets",
    "S": "S: octets",
    "C~": "C~: octets",
    "S~": "S~: octets",
    "C?": "C? was: octets",
    "S?": "S? was: octets",
}
_ROLES = {
    notation.SENDER: "begins with open, C is played and S is expected; times hang on reply+T",
    notation.RECEIVER: "begins with listen, S is played and C is expected; times hang on command+T",
}


@dataclass(slots=True)
class Placed:
    """A step and the lines it stands on (indices from 0, in order)."""

    step: Step
    lines: list[int]
    comment: str
    column: int
    """Of the item, from 0: where the next line's item goes."""
    name_column: int
    claim_lines: list[int]
    """Of the claims that stand below it, before the next step of its connection."""


@dataclass(slots=True)
class Document:
    """A transcript, taken apart without loss: ``lines`` joined by LF are the text."""

    lines: list[str]
    header: Header
    connections: dict[str, ScriptedConnection]
    named: bool
    """Whether lines carry connection names."""
    accepted: tuple[AcceptedMessage, ...] | None
    accepted_lines: list[int]
    """Indices of the lines that say what was accepted."""
    claims: tuple[Claim, ...]
    """Those about all connections."""
    more_lines: dict[int, list[int]]
    """The lines that go on with a step, by its first line."""
    claim_lines: dict[int, list[int]]
    """The lines of the claims below a step, by its first line."""

    def placed(self, name: str) -> list[Placed]:
        """The steps of a connection, each with its place."""
        return [self._placed(step) for step in self.connections[name].steps]

    def _placed(self, step: Step) -> Placed:
        index = step.line - 1
        match = _LINE.fullmatch(self.lines[index])
        assert match is not None
        column, name_column = match.start(3), match.start(2)
        return Placed(
            step,
            [index, *self.more_lines.get(index, ())],
            read_item(match[3], notation.SENDER.played).comment,
            column,
            column if name_column < 0 else name_column,
            self.claim_lines.get(index, []),
        )


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
        self._steps: dict[str, list[Step]] = {}
        self._actors: dict[str, notation.Actors] = {}
        self._named: bool | None = None
        self._open: tuple[str, Item] | None = None
        """The connection of the latest step and its item, with which lines without a time go on,
        as they do with ``_accepting``; ``_more`` are their items."""
        self._more: list[Item] = []
        self._lines_of_more: list[int] = []
        self._header = Header("")
        self._accepting: AcceptedLines | None = None
        self._accepted: list[AcceptedLines] = []
        self._claims = ClaimLines()
        self._under_tls: dict[str, tuple[int, bool]] = {}
        """By connection: how many of its steps were looked at, and whether TLS begins there."""
        self._more_lines: dict[int, list[int]] = {}
        self._claim_lines: dict[int, list[int]] = {}

    def read(self) -> Document:
        fence = header_end(self._lines, self._path)
        header = self._header = parse_header(self._lines[1:fence], self._path)
        for index, line in enumerate(self._lines[fence + 1 :], fence + 1):
            self._at = index
            match = _LINE.fullmatch(line)
            if match is None:
                raise self._fault(0, f"expected a time, spaces and an item: {ALLOWED}")
            time, name, text = match.groups()
            if text is None:
                continue
            if time in _NOT_OF_STEPS or (self._accepting and not time):
                self._line_beside_steps(time, name, text)
                continue
            if name is not None or self._named is not False:  # hardly any line
                name = self._name(name)
            if time:
                self._begin_step(time, name or notation.CONNECTION_NAME_DEFAULT, text)
            else:
                self._continue_step(name or notation.CONNECTION_NAME_DEFAULT, text)
        self._finish_step()
        connections = self._connections()
        accepted = self._all_accepted()
        return Document(
            self._lines,
            header,
            connections,
            bool(self._named),
            accepted,
            [line for one in self._accepted for line in one.lines],
            tuple(self._claims.by_connection.get("", ())),
            self._more_lines,
            self._claim_lines,
        )

    # -- lines ------------------------------------------------------------------------------------

    def _name(self, name: str | None) -> str | None:
        if self._named is None:
            self._named = name is not None
        if self._named != (name is not None):
            raise self._fault(
                self._column(_ITEM),
                "either every line carries its connection's name, as in a| C: ..., or none",
            )
        if name is not None and not notation.CONNECTION_NAME.fullmatch(name):
            raise self._fault(
                self._column(_NAME), "a connection's name is 1 to 32 of a to z, 0 to 9 and -"
            )
        return name

    def _begin_step(self, time: str, name: str, text: str) -> None:
        if self._more or self._accepting:
            self._finish_step()
        actors = self._actors.get(name) or self._begin_connection(name, text)
        item = self._item(text, actors.played)
        if item.action is None and item.outcome is None:
            item = self._completed(item, name, actors)
        if item.actor == actors.played and item.kind != actors.played:
            raise self._fault(self._column(_ITEM), f"in a connection that {_ROLES[actors]}")
        step: Step
        try:
            if item.action is not None:
                anchor, evidence = read_anchor(time, actors.arrival)
                step = Departure(anchor, item.action, self._at + 1, item.packet, evidence)
            else:
                assert item.outcome is not None
                step = Expectation(item.outcome, read_instant(time), self._at + 1, item.packet)
        except TimeError as error:
            raise self._fault(error.offset, str(error)) from None
        self._steps[name].append(step)
        self._open = name, item

    def _begin_connection(self, name: str, text: str) -> notation.Actors:
        """The two ends of a connection; which of them is played, its first item says."""
        if len(self._actors) >= notation.CONNECTIONS_MAX:
            raise self._fault(0, f"too many connections; {notation.CONNECTIONS_MAX} are allowed")
        actors = notation.RECEIVER if text.startswith("listen") else notation.SENDER
        self._actors[name], self._steps[name] = actors, []
        return actors

    def _completed(self, item: Item, name: str, actors: notation.Actors) -> Item:
        """An item of which the line alone does not say what it is to its step."""
        if item.kind == EHLO:
            return item._replace(outcome=self._ehlo(name))
        if item.kind.endswith("?") and not item.named:
            what = "a reply code, as in S? 250" if item.kind == "S?" else "a verb, as in C? MAIL"
            raise self._fault(self._column(_ITEM), f"{item.kind} needs {what}")
        return completed(item, actors.played)

    def _continue_step(self, name: str, text: str) -> None:
        if self._open is None or name != self._open[0]:
            raise self._fault(
                0,
                "a line without a time goes on with the octets above it, in the same connection; "
                "a new step begins with a time",
            )
        first, more = self._open[1], self._item(text, self._actors[name].played)
        if first.kind != more.kind or not more.pieces or more.packet or more.named:
            raise self._fault(
                self._column(_ITEM),
                f"a line without a time goes on with the {first.kind} above it, which takes "
                + _CONTINUED_BY.get(first.kind, "no more lines"),
            )
        self._more.append(more)
        self._lines_of_more.append(self._at)

    def _line_beside_steps(self, time: str, name: str | None, text: str) -> None:
        if time in WORDS:
            self._finish_step()
            self._claim_line(time, name, text)
        else:
            self._accepted_line(time, name)

    def _accepted_line(self, time: str, name: str | None) -> None:
        """A line about an accepted message, which belongs to no connection."""
        if time:
            self._finish_step()
            self._accepting = AcceptedLines()
            self._accepted.append(self._accepting)
        assert self._accepting is not None
        start = self._column(_NAME if name else _ITEM)
        try:
            self._count(self._accepting.read(self._lines[self._at][start:], self._at), start)
        except AcceptedError as error:
            raise self._fault(start + error.offset, str(error)) from None

    def _claim_line(self, word: str, named: str | None, item: str) -> None:
        """A claim: about its connection and what stands above it there, or about the scenario."""
        start, name = self._column(_ITEM), ""
        try:
            claim = self._claims.read(word, item, self._at, self._header.notation)
        except ClaimError as error:
            raise self._fault(start + error.offset, str(error)) from None
        if not isinstance(claim.statement, OfScenario):
            name = self._name(named) or notation.CONNECTION_NAME_DEFAULT
            if not (steps := self._steps.get(name)):
                raise self._fault(0, "a claim stands below what it is about, in its connection")
            self._claim_lines.setdefault(steps[-1].line - 1, []).append(self._at)
            claim = replace(claim, after=len(steps))
        elif named is not None:
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
        """Nothing goes on with the latest step, or with what is accepted."""
        if self._open is not None and self._more:
            name, item = self._open
            steps = self._steps[name]
            steps[-1] = step = _made_of(steps[-1], [item, *self._more])
            self._more_lines[step.line - 1] = self._lines_of_more
        self._accepting = self._open = None
        self._more, self._lines_of_more = [], []

    # -- items ------------------------------------------------------------------------------------

    def _item(self, text: str, played: str) -> Item:
        """What stands behind the time and the name."""
        try:
            item = read_item(text, played)
        except ItemError as error:
            raise self._fault(self._column(_ITEM) + error.offset, str(error)) from None
        self._octets += item.octets
        if self._octets > notation.OCTETS_MAX:
            raise self._too_many_octets(self._column(_ITEM) + item.start)
        return item

    def _ehlo(self, name: str) -> EhloReply:
        """The reply that the header demands, as far as the connection has come."""
        steps = self._steps[name]
        looked_at, under_tls = self._under_tls.get(name, (0, False))
        fresh = steps[looked_at:]
        under_tls = under_tls or any(
            isinstance(one, Expectation) and isinstance(one.outcome, TlsDone) for one in fresh
        )
        self._under_tls[name] = len(steps), under_tls
        octets = ehlo_reply(self._header.server, self._header.world, under_tls=under_tls)
        self._count(len(octets), 0)
        return EhloReply(octets)

    def _count(self, octets: int, column: int) -> None:
        """So many more octets stand in the text."""
        self._octets += octets
        if self._octets > notation.OCTETS_MAX:
            raise self._too_many_octets(column)

    # -- the whole --------------------------------------------------------------------------------

    def _connections(self) -> dict[str, ScriptedConnection]:
        """All connections, which keep the rules."""
        if not self._steps:
            raise self._fault(
                0, "there is no connection; write @0 open from ADDRESS, or @0 listen at ADDRESS"
            )
        connections = {}
        for name, steps in self._steps.items():
            claims = tuple(self._claims.by_connection.get(name, ()))
            connection = connections[name] = ScriptedConnection(name, tuple(steps), claims)
            for item, message in (*faults(connection), *claim_faults(connection)):
                line = item.line if item is not None else 1
                raise TranscriptError(self._path, line, 1, f"{message} (connection {name})")
        return connections

    def _column(self, group: int) -> int:
        """Where a part of the present line begins, from 0."""
        match = _LINE.fullmatch(self._lines[self._at])
        assert match is not None
        return match.start(group)

    def _too_many_octets(self, column: int) -> TranscriptError:
        message = f"more than {notation.OCTETS_MAX} octets in all; that is the most allowed"
        return self._fault(column, message)

    def _fault(self, column: int, message: str) -> TranscriptError:
        return TranscriptError(self._path, self._at + 1, column + 1, message)


def _made_of(step: Step, items: list[Item]) -> Step:
    """``step`` with the octets of all its lines."""
    if isinstance(step, Departure):
        return Departure(step.anchor, action(items), step.line, step.packet, step.evidence)
    return Expectation(outcome(items), step.at_ns, step.line, step.packet)
