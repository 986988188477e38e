"""Compares what was observed with what was expected, and describes each difference in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from replay.play.observed import ObservedConnection
from replay.play.schedule import server_delays_ns
from replay.smtp.commands import END_OF_CONTENT, ReceivedCommand, command_at
from replay.smtp.replies import ReceivedReply
from replay.transcript import masks, script
from replay.transcript.duration import format_ns
from replay.transcript.notation import PEER_VERB_OF
from replay.transcript.octets import to_text
from replay.transcript.script import (
    CONTENT,
    Abandon,
    CommandVerb,
    Departure,
    ExactOctets,
    Expectation,
    MaskedOctets,
    ReplyCode,
    Scenario,
    ScriptedConnection,
)

_REMEDY = "; --tolerance allows more"
"""The option of ``replay run --target``, without which nothing is allowed."""

SHOWN_MAX_CHARACTERS = 4_000
"""Of one reply; the longest of mailsrv's own has a tenth of that."""


class Tolerance(NamedTuple):
    """How far from its time an event may come, in real time: ``ns``, or so many hundredths of
    the time that the server was expected to take, whichever is more."""

    ns: int
    percent: float = 0

    def of(self, delay_ns: int) -> int:
        """What is allowed after an expected delay."""
        return max(self.ns, round(delay_ns * self.percent / 100))


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was not as expected.

    ``connection`` is "" for one that concerns all.  ``what`` names it in a few words ("reply 3:
    other code"); ``expected`` and ``observed`` show both sides, None where there was nothing.
    Instants count from the scenario's begin, None where any would do or none was seen.  ``line``
    and ``packet`` are the expectation's, 0 for unknown.
    """

    connection: str
    what: str
    expected: str | None
    observed: str | None
    expected_at_ns: int | None
    observed_at_ns: int | None
    line: int = 0
    packet: int = 0

    def __str__(self) -> str:
        where = [f"line {self.line}"] if self.line else []
        where += [f"packet {self.packet}"] if self.packet else []
        place = f" ({', '.join(where)})" if where else ""
        return (
            f"{self.what}{place}\n"
            f"{_side('  expected ', self.expected_at_ns, self.expected)}\n"
            f"{_side('  observed ', self.observed_at_ns, self.observed)}"
        )


def compare_all(
    scenario: Scenario,
    observed: Iterable[ObservedConnection],
    *,
    tolerance: Tolerance | None = None,
    codes_only: bool = False,
    line_masks: Sequence[MaskedOctets] = (),
) -> tuple[Difference, ...]:
    """All differences of a run, connection by connection; names in masks hold for all of them.

    ``line_masks`` say which lines of an exact reply need not be the same: those that one of them
    fits, as expected and as observed.
    """
    bindings: masks.Bindings = {}
    return tuple(
        difference
        for connection, seen in zip(scenario.connections, observed, strict=True)
        for difference in compare(
            connection,
            seen,
            tolerance=tolerance,
            bindings=bindings,
            codes_only=codes_only,
            line_masks=line_masks,
        )
    )


def compare(
    connection: ScriptedConnection,
    observed: ObservedConnection,
    *,
    tolerance: Tolerance | None = None,
    bindings: masks.Bindings | None = None,
    codes_only: bool = False,
    line_masks: Sequence[MaskedOctets] = (),
) -> list[Difference]:
    """All differences of one connection, in the order of the script.

    Without ``tolerance``, in virtual time, expected instants are exact.  With it they count from
    the departure that they hang on, as it really left, so that neither a server's slowness nor a
    quicker pace adds up.  ``bindings`` are what names in masks stand for, before and after.
    """
    replies = _ReplyComparison({} if bindings is None else bindings, codes_only, line_masks)
    return _Comparison(connection, observed, tolerance, replies).run(connection)


class _Words(NamedTuple):
    """What the peer is called, and what it says."""

    peer: str
    utterance: str
    letter: str


_OF_SERVER = _Words("server", "reply", "S")
_OF_CLIENT = _Words("client", "command", "C")


class _Due(NamedTuple):
    """When something should have come in this run, and how far from it is allowed."""

    at_ns: int
    allowed_ns: int


def _dues(
    connection: ScriptedConnection, observed: ObservedConnection, tolerance: Tolerance
) -> dict[int, _Due | None]:
    """For each expectation, by its identity; None for any time."""
    dues: dict[int, _Due | None] = {}
    delays = server_delays_ns(connection)
    for one, (departure, delay_ns) in zip(connection.expectations(), delays, strict=True):
        departed_ns = observed.departed_ns[departure]
        if delay_ns is None or departed_ns is None:
            dues[id(one)] = None
        else:
            dues[id(one)] = _Due(departed_ns + delay_ns, tolerance.of(delay_ns))
    return dues


class _Expected:
    """What a connection expects, by kind, and how its played end leaves."""

    __slots__ = ("abandoned", "due", "end", "handshake", "leaves", "said")

    def __init__(self, connection: ScriptedConnection) -> None:
        self.said: list[Expectation] = []
        self.due = -1
        """How many utterances the played end is there for: one behind its close may be too late."""
        self.end: Expectation | None = None
        self.handshake: Expectation | None = None
        self.abandoned = False
        self.leaves = False
        """It ends the connection: its peer's end need not be expected."""
        for step in connection.steps:
            if isinstance(step, Departure):
                if isinstance(step.action, (script.Close, script.Reset)):
                    self.due = self.due if self.leaves else len(self.said)
                    self.leaves = True
                self.abandoned = self.abandoned or isinstance(step.action, Abandon)
            elif isinstance(step.outcome, script.UTTERANCES):
                self.said.append(step)
            elif isinstance(step.outcome, script.ENDS):
                self.end = self.end or step
            elif isinstance(step.outcome, script.HANDSHAKES):
                self.handshake = self.handshake or step
        if not self.leaves:
            self.due = len(self.said)


class _Comparison:
    def __init__(
        self,
        connection: ScriptedConnection,
        observed: ObservedConnection,
        tolerance: Tolerance | None,
        replies: _ReplyComparison,
    ) -> None:
        self._name = connection.name
        self._words = _OF_CLIENT if connection.plays_receiver else _OF_SERVER
        self._observed = observed
        self._replies = replies
        self._dues = None if tolerance is None else _dues(connection, observed, tolerance)
        self._unreceived = _unreceived(connection, observed, tolerance, self._dues or {})
        self._differences: list[Difference] = []

    def run(self, connection: ScriptedConnection) -> list[Difference]:
        observed, wanted = self._observed, _Expected(connection)
        receiver, said = connection.plays_receiver, wanted.said
        if receiver and not self._opens(next(connection.expectations())):
            return self._differences
        received = observed.utterances[: len(said)] if wanted.abandoned else observed.utterances
        for number, (expected, reply) in enumerate(zip_longest(said, received), 1):
            if reply is not None or number <= wanted.due:
                self._utterance(number, expected, reply)
        if wanted.handshake or observed.handshake:
            self._handshake(wanted.handshake)
        left = wanted.leaves or wanted.abandoned
        if observed.rest and not (receiver and left):
            self._add(f"an unfinished {self._words.utterance}", None, _show(observed.rest))
        if wanted.end or observed.end:
            self._end(wanted.end, left)
        if observed.waits_for:
            last = next(reversed(list(connection.departures())))
            self._add(
                f"the script could not go on: it waited for {observed.waits_for}",
                "the whole script played",
                None,
                near=last,
            )
        return self._differences

    def _opens(self, expected: Expectation) -> bool:
        """Compare when the client connects; False if it never does."""
        at_ns = self._observed.opened_at_ns
        shown = _outcome(expected.outcome, self._words.letter)
        if at_ns is None:
            self._add("the client did not connect", shown, None, expected=expected)
        elif late := self._lateness(expected, at_ns):
            what = f"the client connects: {late}"
            self._add(what, shown, shown, expected=expected, observed_at_ns=at_ns)
        return at_ns is not None

    def _utterance(
        self,
        number: int,
        expected: Expectation | None,
        reply: ReceivedReply | ReceivedCommand | None,
    ) -> None:
        other = late = ""
        if expected is not None and reply is not None:
            other = self._replies.difference(expected.outcome, reply)
            late = self._lateness(expected, reply.at_ns)
            if not (other or late):
                return
        name = f"{self._words.utterance} {number}"
        observed = None if reply is None else _show(reply.octets)
        at_ns = None if reply is None else reply.at_ns
        if expected is None:
            self._add(f"{name}: not expected", None, observed, observed_at_ns=at_ns)
            return
        wanted = _outcome(expected.outcome, self._words.letter)
        if reply is None:
            if id(expected) not in self._unreceived:
                self._add(f"{name}: missing", wanted, None, expected=expected)
            return
        what = f"{name}: {', '.join(filter(None, (other, late)))}"
        self._add(what, wanted, observed, expected=expected, observed_at_ns=at_ns)

    def _handshake(self, expected: Expectation | None) -> None:
        observed, at_ns = self._observed, None
        words = {"done": "tls", "refused": "tls-refused"}
        shown = self._verb(words.get(observed.handshake))
        if shown:
            at_ns = observed.handshake_at_ns
        wanted = None if expected is None else _outcome(expected.outcome, self._words.letter)
        if wanted != shown:
            what = "the TLS handshake differs" if wanted and shown else "the TLS handshake"
            what += ": missing" if not shown else "" if wanted else ": not expected"
            self._add(what, wanted, shown, expected=expected, observed_at_ns=at_ns)
        elif expected is not None and (late := self._lateness(expected, observed.handshake_at_ns)):
            what = f"the TLS handshake: {late}"
            self._add(what, wanted, shown, expected=expected, observed_at_ns=at_ns)

    def _verb(self, verb: str | None) -> str | None:
        return f"{self._words.letter} {verb}" if verb else None

    def _end(self, expected: Expectation | None, free: bool) -> None:
        observed, peer = self._observed, self._words.peer
        shown = self._verb({"eof": "eof", "reset": "reset"}.get(observed.end))
        at_ns = observed.end_at_ns if observed.end else None
        if expected is None:
            if observed.end and not free:
                self._add(f"the {peer} ended the connection", None, shown, observed_at_ns=at_ns)
            return
        wanted = _outcome(expected.outcome, self._words.letter)
        if wanted != shown:
            what = (
                f"the {peer}'s end differs" if shown else f"the {peer} did not end the connection"
            )
            self._add(what, wanted, shown, expected=expected, observed_at_ns=at_ns)
        elif late := self._lateness(expected, observed.end_at_ns):
            what = f"the {peer}'s end: {late}"
            self._add(what, wanted, shown, expected=expected, observed_at_ns=at_ns)

    def _due(self, expected: Expectation) -> _Due | None:
        """When it should have come; None for any time.  In virtual time it is the very instant."""
        if self._dues is not None:
            return self._dues[id(expected)]
        return None if expected.at_ns is None else _Due(expected.at_ns, 0)

    def _lateness(self, expected: Expectation, observed_ns: int) -> str:
        """By how much something missed its time; empty if it did not."""
        if expected.at_ns == observed_ns and self._dues is None:
            return ""
        due = self._due(expected)
        gap_ns = 0 if due is None else observed_ns - due.at_ns
        if due is None or abs(gap_ns) <= due.allowed_ns:
            return ""
        allowed = f" ({format_ns(due.allowed_ns)} allowed{_REMEDY})" if due.allowed_ns else ""
        return f"{format_ns(abs(gap_ns))} too {'late' if gap_ns > 0 else 'early'}{allowed}"

    def _add(
        self,
        what: str,
        wanted: str | None,
        shown: str | None,
        *,
        expected: Expectation | None = None,
        near: Departure | None = None,
        observed_at_ns: int | None = None,
    ) -> None:
        place = expected or near
        due = self._due(expected) if expected else None
        self._differences.append(
            Difference(
                self._name,
                what,
                wanted,
                shown,
                due.at_ns if due else None,
                observed_at_ns,
                place.line if place else 0,
                place.packet if place else 0,
            )
        )


def _unreceived(
    connection: ScriptedConnection,
    observed: ObservedConnection,
    tolerance: Tolerance | None,
    dues: Mapping[int, _Due | None],
) -> set[int]:
    """Expectations that the sender left behind in real time: it closed or reset the connection by
    its own clock while the server still had time to answer, so a missing reply says nothing."""
    late: dict[int, int] = {}
    if tolerance is None:
        return set()
    number, at_ns = 0, None
    for step in connection.steps:
        if isinstance(step, Expectation):
            due = dues[id(step)]
            if due is not None:
                late[id(step)] = due.at_ns + due.allowed_ns
            elif at_ns is not None:
                late[id(step)] = at_ns + tolerance.of(0)
            continue
        at_ns = observed.departed_ns[number]
        number += 1
        if isinstance(step.action, script.Close | script.Reset):
            return {one for one, ns in late.items() if at_ns is not None and ns > at_ns}
    return set()


def _outcome(outcome: script.Outcome, letter: str) -> str:
    match outcome:
        case ExactOctets(octets):
            return _show(octets)
        case ReplyCode(code, recorded):
            return f"a reply {code}{_recorded(recorded)}"
        case CommandVerb(verb, recorded):
            return ("content" if verb == CONTENT else f"a command {verb}") + _recorded(recorded)
        case MaskedOctets(pieces):
            return _cut(masks.shown(pieces))
        case _:
            return f"{letter} {PEER_VERB_OF[type(outcome)]}"


def _verb_of(octets: bytes) -> str:
    """What a whole command begins with; content has a dot of its own at its end."""
    verb = command_at(octets, 0).verb
    is_content = octets == b".\r\n" or octets.endswith(END_OF_CONTENT)
    return CONTENT if is_content and verb != "BDAT" else verb


def _recorded(octets: bytes) -> str:
    return f", recorded as {_show(octets)}" if octets else ""


class _ReplyComparison:
    """Compares replies and commands with expectations, but for their instants."""

    def __init__(
        self, bindings: masks.Bindings, codes_only: bool, line_masks: Sequence[MaskedOctets]
    ) -> None:
        self._bindings = bindings
        self._line_masks = line_masks
        self._codes_only = codes_only

    def difference(self, outcome: script.Outcome, said: ReceivedReply | ReceivedCommand) -> str:
        """In a few words; empty if it is as expected."""
        if isinstance(said, ReceivedReply):
            return self._of_reply(outcome, said)
        match outcome:
            case CommandVerb(verb):
                return "" if verb == said.verb else f"{said.verb} instead of {verb}"
            case ExactOctets(octets):
                wanted, why = _verb_of(octets), self._text(octets == said.octets)
            case MaskedOctets():
                why = masks.mismatch(outcome, said.octets, self._bindings)
                wanted, why = said.verb, self._text(not why, why)
            case _:
                return ""
        return (
            f"{said.verb} instead of {wanted}" if self._codes_only and wanted != said.verb else why
        )

    def _of_reply(self, outcome: script.Outcome, reply: ReceivedReply) -> str:
        if isinstance(outcome, ExactOctets) and outcome.octets == reply.octets:
            return ""  # nearly always
        match outcome:
            case ReplyCode(code):
                wanted, why = code, ""
            case ExactOctets(octets):
                same = octets == reply.octets or (
                    bool(self._line_masks)
                    and masks.same_but_for(self._line_masks, octets, reply.octets)
                )
                wanted, why = ReceivedReply(0, octets).code, self._text(same)
            case MaskedOctets():
                why = masks.mismatch(outcome, reply.octets, self._bindings)
                wanted, why = outcome.code or reply.code, self._text(not why, why)
            case _:
                return ""
        return why if reply.code == wanted else f"code {reply.code} instead of {wanted}"

    def _text(self, same: bool, why: str = "text differs") -> str:
        return "" if same or self._codes_only else why


def _show(octets: bytes) -> str:
    return _cut(to_text(octets))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_MAX_CHARACTERS else text[: SHOWN_MAX_CHARACTERS - 1] + "…"


def _side(label: str, at_ns: int | None, shown: str | None) -> str:
    """One side of a difference, the further lines of a reply under its first."""
    label += "" if at_ns is None else f"@{format_ns(at_ns)} "
    lines = (shown or "nothing").replace(r"\r\n", "\\r\\n\n").splitlines()
    return label + f"\n{' ' * len(label)}".join(lines)
