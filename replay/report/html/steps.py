"""Each step of a script beside what was observed of it: the rungs of a ladder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from replay.play.observed import ObservedConnection
from replay.transcript import masks, script
from replay.transcript.duration import format_ns
from replay.transcript.notation import actors_of
from replay.transcript.script import Departure, Expectation, ReplyCode, ScriptedConnection
from replay.transcript.writer import time_of
from replay.verify.comparison import Difference

ANY_TEXT = "any text"


@dataclass(frozen=True, slots=True)
class StepSide:
    """One side of a pair: ``octets``, or ``words`` where there are none (beside recorded octets
    they describe how far those count).

    ``at_ns`` counts from the scenario's begin; None for any time.
    """

    at_ns: int | None = None
    octets: bytes = b""
    words: str = ""


@dataclass(frozen=True, slots=True)
class StepPair:
    """Expected beside observed; None where there is nothing.

    ``at_ns`` is where the pair stands in time: when it was observed, else when it was expected.
    ``when`` is the time column of the transcript.  ``evidence`` is how sure a departure's anchor
    is, "" for one that comes from no capture; ``remark`` is the transcript's own comment above.
    ``on_wire`` is False for a step that moves nothing, as waiting does.  What ``differs`` may do so
    by its instant (``is_late``, too early included), by it alone (``says_the_same``), or not at
    all by it.
    """

    by_server: bool
    expected: StepSide | None
    observed: StepSide | None
    at_ns: int = 0
    when: str = ""
    line: int = 0
    packet: int = 0
    differs: bool = False
    is_late: bool = False
    says_the_same: bool = False
    on_wire: bool = True
    evidence: str = ""
    remark: str = field(default="", repr=False)


_LATENESS = re.compile(r"[0-9.]+[a-z]+ too (?:late|early)")

_ACTS: dict[type, str] = {
    script.StartTls: "begins a TLS handshake",
    script.HalfClose: "half-close (FIN)",
    script.HalfCloseAtOnce: "half-close (FIN) in one flight",
    script.Close: "close",
    script.Reset: "reset",
    script.StopReading: "stops reading",
    script.ResumeReading: "reads again",
    script.UntilClosed: "waits until the peer closes",
    script.Abandon: "the record ends here",
}
_SILENT_ACTS = (
    script.StopReading,
    script.ResumeReading,
    script.UntilClosed,
    script.Abandon,
    script.Listen,
)
_OUTCOMES: dict[type, str] = {
    script.PeerOpens: "connects",
    script.PeerCloses: "closes (FIN)",
    script.PeerResets: "resets",
    script.TlsDone: "TLS handshake done",
    script.TlsRefused: "TLS handshake refused",
}
_ENDS = {"eof": "closes (FIN)", "reset": "resets"}
_HANDSHAKES = {"done": "TLS handshake done", "refused": "TLS handshake refused"}


def pair_up(
    connection: ScriptedConnection,
    observed: ObservedConnection,
    differences: Sequence[Difference],
    remarks: Mapping[int, str],
) -> list[StepPair]:
    """The pairs of one connection in the order of time; the script's order at one instant.

    ``differences`` are those of the connection; ``remarks`` the comments above steps, by the line
    of the step.
    """
    by_line = {one.line: one for one in differences if one.line}
    surprises = {one.observed_at_ns for one in differences if one.expected is None}
    pairs: list[StepPair] = []
    latest_ns = 0
    for one in _Pairing(connection, observed, surprises).all():
        judged = _judged(one, by_line.get(one.line))
        pairs.append(_placed(judged, latest_ns, remarks.get(one.line, "")))
        latest_ns = max(latest_ns, pairs[-1].at_ns)
    return sorted(pairs, key=lambda one: one.at_ns)


def first_difference(pairs: Sequence[StepPair]) -> int | None:
    """The place of the earliest pair that is not as expected."""
    return next((number for number, one in enumerate(pairs) if one.differs), None)


def _judged(one: StepPair, difference: Difference | None) -> StepPair:
    """A pair with its difference.

    When something was due depends on the kind of run, so that is taken from the difference.
    """
    if difference is None:
        return one
    _, _, faults = difference.what.rpartition(": ")
    late = [fault for fault in faults.split(", ") if _LATENESS.match(fault)]
    expected = one.expected
    if expected is not None and one.observed is not None:
        due_ns = difference.expected_at_ns if late else one.observed.at_ns
        expected = replace(expected, at_ns=due_ns)
    same = bool(late) and late == faults.split(", ")
    return replace(one, expected=expected, differs=True, is_late=bool(late), says_the_same=same)


def _placed(one: StepPair, latest_ns: int, remark: str) -> StepPair:
    at_ns = latest_ns
    for side in (one.expected, one.observed):
        if side is not None and side.at_ns is not None:
            at_ns = side.at_ns
    return replace(one, at_ns=at_ns, remark=remark)


class _Pairing:
    """Walks through a script and what was observed in step."""

    def __init__(
        self,
        connection: ScriptedConnection,
        observed: ObservedConnection,
        surprises: set[int | None],
    ) -> None:
        self._connection = connection
        self._observed = observed
        self._surprises = surprises
        self._departed = iter(observed.departed_ns)
        self._said = iter(observed.utterances)
        self._receives = connection.plays_receiver
        opened_ns = observed.opened_at_ns
        self._opened = None if opened_ns is None else StepSide(opened_ns, words="connects")
        self._end = _end_of(observed)
        self._handshake = _handshake_of(observed)

    def all(self) -> Iterator[StepPair]:
        expected = sum(
            isinstance(one.outcome, script.UTTERANCES) for one in self._connection.expectations()
        )
        for step in self._connection.steps:
            if isinstance(step, Departure):
                yield self._departure(step)
                continue
            if isinstance(step.outcome, script.ENDS) and not expected:
                yield from self._replies_not_expected()  # they came before the end
            expected -= isinstance(step.outcome, script.UTTERANCES)
            yield self._expectation(step)
        yield from self._replies_not_expected()
        yield from self._not_expected()

    def _departure(self, step: Departure) -> StepPair:
        match step.action:
            case script.SendOctets(octets):
                side = StepSide(octets=octets)
            case script.Open(client):
                side = StepSide(words=f"open from {client}")
            case script.Listen(address, port):
                side = StepSide(words=f"listens at {address} port {port}")
            case action:
                side = StepSide(words=_ACTS.get(type(action), type(action).__name__))
        at_ns = next(self._departed, None)
        return StepPair(
            by_server=self._receives,
            expected=side,
            observed=None if at_ns is None else replace(side, at_ns=at_ns),
            when=time_of(step.anchor, actors_of(self._connection.steps[0])),
            line=step.line,
            packet=step.packet,
            on_wire=not isinstance(step.action, _SILENT_ACTS),
            evidence=step.evidence.value if step.evidence else "",
        )

    def _expectation(self, step: Expectation) -> StepPair:
        seen: StepSide | None = None
        if isinstance(step.outcome, script.UTTERANCES):
            reply = next(self._said, None)
            seen = None if reply is None else StepSide(reply.at_ns, reply.octets)
        elif isinstance(step.outcome, script.PeerOpens):
            seen, self._opened = self._opened, None
        elif isinstance(step.outcome, script.ENDS):
            seen, self._end = self._end, None
        elif isinstance(step.outcome, script.HANDSHAKES):
            seen, self._handshake = self._handshake, None
        return StepPair(
            by_server=not self._receives,
            expected=_expected_side(step),
            observed=seen,
            when="*" if step.at_ns is None else f"@{format_ns(step.at_ns)}",
            line=step.line,
            packet=step.packet,
        )

    def _replies_not_expected(self) -> Iterator[StepPair]:
        for reply in self._said:
            yield self._surprise(StepSide(reply.at_ns, reply.octets))

    def _not_expected(self) -> Iterator[StepPair]:
        if self._handshake is not None:
            yield self._surprise(self._handshake)
        if self._observed.rest:
            what = "command" if self._receives else "reply"
            side = StepSide(octets=self._observed.rest, words=f"an unfinished {what}")
            yield StepPair(by_server=not self._receives, expected=None, observed=side, differs=True)
        if self._end is not None:
            yield self._surprise(self._end)

    def _surprise(self, side: StepSide) -> StepPair:
        differs = side.at_ns in self._surprises
        return StepPair(by_server=not self._receives, expected=None, observed=side, differs=differs)


def _expected_side(step: Expectation) -> StepSide:
    match step.outcome:
        case ReplyCode(code, recorded):
            return StepSide(step.at_ns, recorded, f"{code}, {ANY_TEXT}")
        case script.CommandVerb(verb, recorded):
            anything = verb if verb == script.CONTENT else f"{verb}, {ANY_TEXT}"
            return StepSide(step.at_ns, recorded, anything)
        case script.ExactOctets(octets):
            return StepSide(step.at_ns, octets)
        case script.MaskedOctets(pieces):
            return StepSide(step.at_ns, words=masks.shown(pieces))
        case outcome:
            return StepSide(step.at_ns, words=_OUTCOMES.get(type(outcome), type(outcome).__name__))


def _end_of(observed: ObservedConnection) -> StepSide | None:
    if not observed.end:
        return None
    return StepSide(observed.end_at_ns, words=_ENDS.get(observed.end, observed.end))


def _handshake_of(observed: ObservedConnection) -> StepSide | None:
    if not observed.handshake:
        return None
    return StepSide(observed.handshake_at_ns, words=_HANDSHAKES[observed.handshake])
