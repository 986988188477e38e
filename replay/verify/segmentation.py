"""Plays a scenario with its octets in other segments: the replies must not depend on those.

TCP keeps no boundaries.  Whatever the segments in which a sender's octets come, the server must
send the same replies, end the connection in the same way, and have accepted the same messages
(RFC 5321 knows lines, not segments).  A server that takes a line end, an end of data or a command
differently when it comes in two pieces can be smuggled through.

The *reference* is the sender as written, without its pauses: it waits for the replies that it
waited for and for nothing else.  The variants send the same octets without waiting: all of them at
once, one by one, and cut in two at every place.  Only where octets cannot go on before something
has happened, a TLS handshake for one, each stretch between two such acts is cut by itself.  Times
are not compared.  Policies that are about segmentation are switched off (``NEUTRAL``): making a
difference is their purpose.  Of several connections one at a time is cut; the others stay as
written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from replay.play import virtual_run
from replay.play.fakes.world import DeliveredMessage
from replay.play.observed import ObservedConnection
from replay.play.virtual_run import Play
from replay.play.virtual_time import Leaked, ServerFault, Stalled
from replay.transcript import script, transcript
from replay.transcript.octets import to_text
from replay.transcript.script import (
    After,
    AfterArrival,
    Departure,
    Scenario,
    ScriptedConnection,
    Step,
)
from replay.verify.suite import input_errors

NEUTRAL: dict[str, object] = {
    "early_talkers": "off",
    "unsolicited_pipelining": "off",
    "greet_wait_s": 0,
    "greet_teaser": False,
}
"""Settings for a sweep."""

CUTS_MAX = 4096
"""Cuts tried in one scenario; where there are more places they are taken at even distances."""
OCTETS_MAX = 8 * 1024 * 1024
"""Octets sent for all of those cuts: of a sender of a megabyte, eight cuts are tried."""
PIECES_MAX = 32 * 1024
"""Segments of the variant "octet by octet"; above it they have two octets, or three."""
_SHOWN_OCTETS = 40
"""On each side of a cut that made a difference."""

_Chop = Callable[[int, bytes], Iterable[bytes]]
"""Cuts the octets of one stretch, whose number comes first."""


@dataclass(frozen=True, slots=True)
class CutOutcome:
    """What must be the same: the replies and the server's end, connection by connection, and the
    accepted messages.  ``complaint`` is why a run failed."""

    replies: tuple[bytes, ...] = ()
    ends: tuple[str, ...] = ()
    messages: tuple[DeliveredMessage, ...] = ()
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What came of one scenario.

    ``octets`` is how many the senders send; ``variants`` how many ways of cutting them were
    played, of ``ways`` that there are.  ``left_out`` is the reason why none was.  ``cut`` names the
    first that differs, ``expected`` and ``observed`` are what should have come of it and what did;
    "" and None where none differs.
    """

    octets: int = 0
    ways: int = 0
    variants: int = 0
    left_out: str = ""
    cut: str = ""
    expected: CutOutcome | None = None
    observed: CutOutcome | None = None

    @property
    def good(self) -> bool:
        return not self.cut


def sweep(scenario: Scenario, *, cuts_max: int = CUTS_MAX, play: Play = virtual_run.play) -> Sweep:
    """Play ``scenario`` in all its variants, until one differs.

    Raises WorldError for a header that cannot be.
    """
    scenario = dataclasses.replace(scenario, server=scenario.server | NEUTRAL)
    total, reason = Sweep(), ""
    cuts_max = max(cuts_max // len(scenario.connections), 1)
    for number in range(len(scenario.connections)):
        one = _sweep_connection(scenario, number, cuts_max, play)
        reason = reason or one.left_out
        total = dataclasses.replace(
            one,
            octets=total.octets + one.octets,
            ways=total.ways + one.ways,
            variants=total.variants + one.variants,
            left_out="",
        )
        if one.cut:
            return total
    return total if total.variants else Sweep(left_out=reason)


def _sweep_connection(scenario: Scenario, number: int, cuts_max: int, play: Play) -> Sweep:
    """Cut the octets of this one; the others stay as written."""
    connection = scenario.connections[number]
    if why := _unfit(connection):
        return Sweep(left_out=why)

    def outcome(varied: ScriptedConnection) -> tuple[CutOutcome, str]:
        before, after = scenario.connections[:number], scenario.connections[number + 1 :]
        connections = (*before, varied, *after)
        return _play(dataclasses.replace(scenario, connections=connections), number, play)

    expected, why = outcome(_without_pauses(connection))
    if why:
        return Sweep(left_out=why)
    stretches = _stretches(connection)
    octets = sum(map(len, stretches))
    places = sum(max(len(one) - 1, 0) for one in stretches)
    cuts_max = max(min(cuts_max, OCTETS_MAX // octets), 1)
    done = 0
    for name, chop in _ways(stretches, places, cuts_max):
        done += 1
        observed, _ = outcome(_chopped(connection, chop))
        if observed != expected:
            prefix = f"connection {connection.name}, " if len(scenario.connections) > 1 else ""
            return Sweep(octets, places + 2, done, "", prefix + name, expected, observed)
    return Sweep(octets, places + 2, done)


def sweep_file(path: Path, *, cuts_max: int = CUTS_MAX, play: Play = virtual_run.play) -> Sweep:
    """``sweep`` of a transcript file.  Raises InputError."""
    with input_errors(path):
        return sweep(transcript.load(path), cuts_max=cuts_max, play=play)


def summary(path: Path, found: Sweep) -> dict[str, Any]:
    """The result as plain values."""
    verdict = "left out" if found.left_out else "always the same" if found.good else "differs"
    return {
        "path": str(path),
        "verdict": verdict,
        "octets": found.octets,
        "ways": found.ways,
        "ways_played": found.variants,
        "told": list(describe(found)),
    }


def describe(found: Sweep) -> Iterator[str]:
    """The result in lines for people."""
    if found.left_out:
        yield f"left out: {found.left_out}"
        return
    extent = (
        f"{found.ways}" if found.variants == found.ways else f"{found.variants} of {found.ways}"
    )
    if found.good:
        yield f"{found.octets} octets in {extent} ways of cutting them: always the same"
        return
    yield f"differs: {found.cut}"
    if found.expected is not None and found.observed is not None:
        yield from _contrast(found.expected, found.observed)


def _unfit(connection: ScriptedConnection) -> str:
    if connection.plays_receiver:
        return "it plays a receiver of mail, and only what senders say is cut"
    for departure in connection.departures():
        if isinstance(departure.action, script.StopReading):
            return "its sender stops reading, and how much the kernel holds then is its own affair"
    if not any(_stretches(connection)):
        return "its sender says nothing"
    return ""


# -- the variants ---------------------------------------------------------------------------------


def _ways(stretches: list[bytes], places: int, cuts_max: int) -> Iterator[tuple[str, _Chop]]:
    """Each way of cutting, with its name."""
    yield "all at once", lambda number, octets: [octets]
    piece = -(-(places + 1) // PIECES_MAX)

    def crumble(number: int, octets: bytes) -> Iterable[bytes]:
        return (octets[at : at + piece] for at in range(0, len(octets), piece))

    yield ("octet by octet" if piece == 1 else f"{piece} octets at a time"), crumble
    step = max(-(-places // cuts_max), 1)
    place = -1
    for number, octets in enumerate(stretches):
        for at in range(1, len(octets)):
            place += 1
            if place % step == 0:
                yield _cut_name(octets, at), _cut(number, at)


def _cut(number: int, at: int) -> _Chop:
    def chop(stretch: int, octets: bytes) -> Iterable[bytes]:
        return [octets[:at], octets[at:]] if stretch == number else [octets]

    return chop


def _cut_name(octets: bytes, at: int) -> str:
    before = to_text(octets[max(at - _SHOWN_OCTETS, 0) : at])
    after = to_text(octets[at : at + _SHOWN_OCTETS])
    return f"cut after octet {at} of {len(octets)}:  ...{before} | {after}..."


def _stretches(connection: ScriptedConnection) -> list[bytes]:
    """What the sender sends, in stretches that end where it does something else."""
    stretches = [b""]
    for departure in connection.departures():
        if isinstance(departure.action, script.SendOctets):
            stretches[-1] += departure.action.octets
        elif stretches[-1]:
            stretches.append(b"")
    return stretches


def _without_pauses(connection: ScriptedConnection) -> ScriptedConnection:
    """Waits for the same replies, and for nothing else."""
    steps: list[Step] = []
    for step in connection.steps:
        if isinstance(step, Departure):
            waits = isinstance(step.anchor, AfterArrival)
            if not isinstance(step.action, script.Open | script.SendOctets):
                step = _after_all_above(step, steps)
            elif not isinstance(step.action, script.Open):
                step = dataclasses.replace(step, anchor=AfterArrival(0) if waits else After(0))
        steps.append(step)
    return dataclasses.replace(connection, steps=tuple(steps))


def _chopped(connection: ScriptedConnection, chop: _Chop) -> ScriptedConnection:
    """Each stretch sent without waiting, in the pieces that ``chop`` makes."""
    steps: list[Step] = []
    awaited: list[Step] = []
    octets, number = b"", 0
    for step in connection.steps:
        if not isinstance(step, Departure):
            awaited.append(step)
        elif isinstance(step.action, script.SendOctets):
            octets += step.action.octets
        elif isinstance(step.action, script.Open):
            steps.append(step)
        else:
            if octets:
                pieces = filter(None, chop(number, octets))
                steps += [Departure(After(0), script.SendOctets(piece)) for piece in pieces]
                octets, number = b"", number + 1
            steps += awaited
            awaited.clear()
            steps.append(_after_all_above(step, steps))
    return dataclasses.replace(connection, steps=(*steps, *awaited))


def _after_all_above(departure: Departure, above: list[Step]) -> Departure:
    """``departure`` once all replies that are expected above it have come; then a half-close is in
    one flight with nothing."""
    if isinstance(departure.action, script.HalfCloseAtOnce):
        departure = dataclasses.replace(departure, action=script.HalfClose())
    replies = any(isinstance(getattr(one, "outcome", None), script.UTTERANCES) for one in above)
    return dataclasses.replace(departure, anchor=AfterArrival(0) if replies else After(0))


def _play(scenario: Scenario, number: int, play: Play) -> tuple[CutOutcome, str]:
    """The outcome, and why it is none to go by for the connection of this number."""
    try:
        run = play(scenario)
    except (Leaked, ServerFault, Stalled) as error:
        return CutOutcome(complaint=str(error)), ""
    connections = run.connections
    replies = tuple(
        b"".join(one.octets for one in each.replies) + each.rest for each in connections
    )
    ends = tuple(one.end for one in connections)
    varied = connections[number]
    others = (*connections[:number], *connections[number + 1 :])
    timed_out = any(" event=timeout " in line for line in run.log)
    why = ""
    if varied.waits_for and (timed_out or not varied.end):
        why = "what it waits for comes only with its pauses"
    elif not _instants(varied).isdisjoint(instant for one in others for instant in _instants(one)):
        why = "other connections act at the same instants, and who is first may depend on the cut"
    return CutOutcome(replies, ends, run.messages or ()), why


def _instants(observed: ObservedConnection) -> set[int | None]:
    """When something of a connection happened."""
    return {*observed.departed_ns, *(reply.at_ns for reply in observed.replies)} - {None}


# -- for people -----------------------------------------------------------------------------------


def _contrast(expected: CutOutcome, observed: CutOutcome) -> Iterator[str]:
    """Both sides, line by line, from the first line that differs on."""
    if observed.complaint or expected.complaint:
        yield f"  the run failed: {observed.complaint or expected.complaint}"
        return
    pairs = list(zip_longest(_lines(expected), _lines(observed), fillvalue=""))
    first = next((at for at, (one, other) in enumerate(pairs) if one != other), len(pairs))
    if first:
        yield f"  the same so far: {first} lines, the last of them {pairs[first - 1][0]}"
    for label, side in (("as written", 0), ("cut", 1)):
        rest = [pair[side] for pair in pairs[first:] if pair[side]]
        yield f"  {label + ':':<12}{rest[0] if rest else 'nothing more'}"
        yield from (f"{'':14}{line}" for line in rest[1:])


def _lines(outcome: CutOutcome) -> list[str]:
    lines = []
    for replies, end in zip(outcome.replies, outcome.ends, strict=True):
        lines += [to_text(line) for line in replies.splitlines(keepends=True)]
        lines.append({"eof": "S eof", "reset": "S reset"}.get(end, "no end by the server"))
    for message in outcome.messages:
        paths = ", ".join(f"<{path}>" for path in message.envelope.forward_paths)
        lines.append(
            f"accepted: <{message.envelope.reverse_path}> to {paths}: {to_text(message.content)}"
        )
    return lines
