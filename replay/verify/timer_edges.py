"""Approaches each of the server's deadlines: one tick before it, at it, and one tick after.

Before each of its departures a sender could also keep the server waiting until a timeout expires.
That instant is found by doing so: the *silent* variant ends before the departure, and the tick at
which the server ends the connection is the deadline.  Then the departure is moved:

* one tick before the deadline, and at the deadline itself (at one instant departures come before
  timers), the server must not have given up, and must answer at once if it did so in the scenario
  as written (the reply itself may depend on the time);
* one tick after, it must have given up at the very instant at which it gave up on the silent one.

Each tick is found, not computed: so a timer that is early, late, forgotten, or not taken back,
shows as a difference, whatever the formulas say (those are in docs/run/timeouts.md).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailsrv.units import NS_PER_MS
from replay.play import virtual_run
from replay.play.observed import ObservedConnection
from replay.play.virtual_run import Play
from replay.play.virtual_time import Leaked, ServerFault, Stalled
from replay.transcript import script, transcript
from replay.transcript.duration import format_ns
from replay.transcript.script import At, Departure, Expectation, Scenario, ScriptedConnection, Step
from replay.verify.suite import InputError, input_errors

TICK_NS = NS_PER_MS
"""The timer wheel's."""
DEPARTURES_MAX = 200
"""Of one scenario; beyond them they are taken at even distances."""
_OFFSETS = {"one tick before": -TICK_NS, "at": 0, "one tick after": TICK_NS}
_TIMED_OUT = b"421 4.4.2 "
_LIMIT = re.compile(r' event=timeout .*\blimit=(?:"([^"]+)"|(\S+))')


@dataclass(frozen=True, slots=True)
class TimerEdge:
    """One deadline, as one departure approached it.

    ``limit`` is the log's name of it.  ``trouble`` is what was wrong, "" for nothing.
    """

    line: int
    deadline_ns: int
    limit: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class EdgesFound:
    """What came of one scenario.  ``places`` is how many departures could wait; ``tried`` how many
    of them did; ``endless`` before how many of those no timeout ends the connection."""

    edges: tuple[TimerEdge, ...] = ()
    places: int = 0
    tried: int = 0
    endless: int = 0

    @property
    def good(self) -> bool:
        return not any(edge.trouble for edge in self.edges)


def approach(
    scenario: Scenario, *, departures_max: int = DEPARTURES_MAX, play: Play = virtual_run.play
) -> EdgesFound:
    """Approach the deadlines of all connections of ``scenario``.

    Raises WorldError for a header that cannot be.
    """
    places = [
        (number, index)
        for number, connection in enumerate(scenario.connections)
        for index in _places(connection)
    ]
    step = max(1, -(-len(places) // departures_max))
    written = play(scenario)
    edges, tried = [], 0
    for number, index in places[::step]:
        tried += 1
        edge = _approach(scenario, number, index, written, play)
        if edge is not None:
            edges.append(edge)
    return EdgesFound(tuple(edges), len(places), tried, tried - len(edges))


def approach_file(path: Path, *, play: Play = virtual_run.play) -> EdgesFound:
    """``approach`` of a transcript file.  Raises InputError."""
    try:
        with input_errors(path):
            return approach(transcript.load(path), play=play)
    except (Leaked, ServerFault, Stalled) as error:
        raise InputError(f"{path}: {error}") from None


def summary(path: Path, found: EdgesFound) -> dict[str, Any]:
    """The result as plain values."""
    return {
        "path": str(path),
        "verdict": "as expected" if found.good else "differs",
        "departures": found.places,
        "departures_tried": found.tried,
        "edges": [dataclasses.asdict(edge) for edge in found.edges],
    }


def describe(found: EdgesFound) -> Iterator[str]:
    """The result in lines for people."""
    limits = sorted({edge.limit for edge in found.edges})
    extent = f"{found.tried}" if found.tried == found.places else f"{found.tried} of {found.places}"
    named = f" ({', '.join(limits)})" if limits else ""
    if found.good:
        departures = f"departure{'s' * (found.places != 1)}"
        deadlines = f"{len(found.edges)} deadline{'s' * (len(found.edges) != 1)}"
        yield f"{extent} {departures}, {deadlines}{named}: each at its tick"
        return
    yield f"differs at a deadline{named}"
    for edge in found.edges:
        if edge.trouble:
            yield (
                f"  line {edge.line}, the deadline at @{format_ns(edge.deadline_ns)} "
                f"({edge.limit}): {edge.trouble}"
            )


# -- one departure --------------------------------------------------------------------------------


def _places(connection: ScriptedConnection) -> Iterator[int]:
    """The steps at which the sender could keep the server waiting: what it sends, in order."""
    if connection.plays_receiver:
        return
    for index, step in enumerate(connection.steps):
        if isinstance(step, Departure) and isinstance(step.action, script.SendOctets):
            yield index


def _approach(
    scenario: Scenario, number: int, index: int, written: virtual_run.VirtualRun, play: Play
) -> TimerEdge | None:
    """Approach the deadline that holds before step ``index``; None if the server never gives up,
    or ends the connection for another reason."""
    connection = scenario.connections[number]
    departure = connection.steps[index]
    assert isinstance(departure, Departure)
    before = connection.steps[:index]
    silent = _run(scenario, number, (*before, _until_closed(departure)), play)
    limits = [found for line in silent.log if (found := _LIMIT.search(line))]
    given_up = silent.connections[number]
    observed = written.connections[number]
    received = _replies_before(observed, connection, index)
    went_ns = _went_ns(observed, connection, index)
    # Where the world takes its time, an answer that came at once may come later another time.
    answered = not scenario.world and any(
        reply.at_ns == went_ns for reply in observed.replies[received : received + 1]
    )
    deadline_ns = _gave_up_at(given_up, received)
    if deadline_ns is None or not limits:
        return None
    limit = limits[-1][1] or limits[-1][2]
    for name, offset_ns in _OFFSETS.items():
        moved = dataclasses.replace(departure, anchor=At(deadline_ns + offset_ns))
        run = _run(scenario, number, (*before, moved, *_rest(connection, index)), play)
        seen = run.connections[number]
        trouble = (
            _should_have_given_up(seen, given_up, deadline_ns)
            if offset_ns > 0
            else _should_go_on(seen, deadline_ns + offset_ns, answered)
        )
        if trouble:
            return TimerEdge(departure.line, deadline_ns, limit, f"{name} it, {trouble}")
    return TimerEdge(departure.line, deadline_ns, limit)


def _run(
    scenario: Scenario, number: int, steps: tuple[Step, ...], play: Play
) -> virtual_run.VirtualRun:
    connections = list(scenario.connections)
    connections[number] = ScriptedConnection(connections[number].name, steps)
    return play(dataclasses.replace(scenario, connections=tuple(connections)))


def _until_closed(departure: Departure) -> Departure:
    return Departure(script.After(0), script.UntilClosed(), departure.line)


def _rest(connection: ScriptedConnection, index: int) -> Iterator[Step]:
    """What follows the moved departure: as written, hung on replies or on the moved one."""
    for step in connection.steps[index + 1 :]:
        if isinstance(step, Departure) and isinstance(step.anchor, At):
            yield dataclasses.replace(step, anchor=script.After(0))
        else:
            yield step


def _replies_before(
    observed: ObservedConnection, connection: ScriptedConnection, index: int
) -> int:
    """How many replies had come, in the scenario as written, before this departure went."""
    went_ns = _went_ns(observed, connection, index)
    expected = sum(
        isinstance(step, Expectation) and isinstance(step.outcome, script.UTTERANCES)
        for step in connection.steps[:index]
    )
    if went_ns is None:
        return expected
    return max(expected, sum(reply.at_ns < went_ns for reply in observed.replies))


def _went_ns(
    observed: ObservedConnection, connection: ScriptedConnection, index: int
) -> int | None:
    place = sum(isinstance(step, Departure) for step in connection.steps[:index])
    return observed.departed_ns[place]


def _gave_up_at(silent: ObservedConnection, received: int) -> int | None:
    """When the server ended the silent connection, if that was the next thing it did."""
    if not silent.end or len(silent.replies) > received + 1:
        return None
    if len(silent.replies) == received + 1:
        last = silent.replies[-1]
        return last.at_ns if last.code == 421 else None
    return silent.end_at_ns


def _should_go_on(seen: ObservedConnection, at_ns: int, answered: bool) -> str:
    """``answered``: the departure takes the deadline away, since it is answered at once; another,
    such as one more octet of a dripped command, may leave it where it is."""
    if seen.end and seen.end_at_ns < at_ns:
        return f"the server had given up at @{format_ns(seen.end_at_ns)}"
    if not answered:
        return ""
    answers = [reply for reply in seen.replies if reply.at_ns == at_ns]
    if not answers:
        return "the server did not answer"
    return "the server had given up" if answers[0].octets.startswith(_TIMED_OUT) else ""


def _should_have_given_up(
    seen: ObservedConnection, silent: ObservedConnection, deadline_ns: int
) -> str:
    expected = [(reply.at_ns, reply.octets) for reply in silent.replies]
    received = [(reply.at_ns, reply.octets) for reply in seen.replies]
    if received != expected:
        return f"the server had not given up at @{format_ns(deadline_ns)}"
    return ""
