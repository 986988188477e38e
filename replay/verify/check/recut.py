"""A scenario with one of its sends cut in two, or sent octet by octet: TCP keeps no boundaries, and
so its claims must hold all the same.

Cut is where servers have slipped: within a line end, around the dot that ends a message.  What
waits for nothing is left as it is, for there the segments may be what a scenario is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from mailsrv.units import NS_PER_MS
from replay.transcript.octets import to_text
from replay.transcript.script import (
    After,
    AfterArrival,
    Departure,
    ScriptedConnection,
    SendOctets,
)
from replay.verify.check.selection import NamedScenario

CUTS_MAX = 8
"""Of one scenario; of more places as many are taken at even distances."""
PAUSE_NS = 20 * NS_PER_MS
"""Between the two pieces: long enough for them to be read one by one."""
DRIP_NS = NS_PER_MS
DRIPPED_OCTETS_MAX = 400
"""A longer send is not sent octet by octet."""
_SHOWN_OCTETS = 12

_PLACES = re.compile(rb"\r(?=\n)|\n(?=\.)|(?<=\n)\.(?=\r)|(?<=\n\.)\r")


def recut(one: NamedScenario) -> Iterator[NamedScenario]:
    """The variants of a scenario.  Each has a name of its own: ``attack/x@3:17`` is cut behind
    octet 17 of its send 3, and ``attack/x@3:octets`` sends that octet by octet."""
    places = list(_places(one))
    step = max(1, -(-len(places) // CUTS_MAX))
    for connection, number, place in places[::step]:
        yield _cut(one, connection, number, place)
    longest = max(
        (
            (len(octets), connection, number)
            for connection, number, octets in _sends(one)
            if 1 < len(octets) <= DRIPPED_OCTETS_MAX
        ),
        default=None,
    )
    if longest is not None:
        yield _dripped(one, longest[1], longest[2])


def _sends(one: NamedScenario) -> Iterator[tuple[int, int, bytes]]:
    """The numbers (from 0) of the connection and of the step, and the octets, of each send that
    waits for a reply."""
    for number, connection in enumerate(one.scenario.connections):
        for place, step in enumerate(connection.steps):
            if (
                isinstance(step, Departure)
                and isinstance(step.action, SendOctets)
                and isinstance(step.anchor, AfterArrival)
            ):
                yield number, place, step.action.octets


def _places(one: NamedScenario) -> Iterator[tuple[int, int, int]]:
    for connection, step, octets in _sends(one):
        for found in _PLACES.finditer(octets):
            if 0 < found.end() < len(octets):
                yield connection, step, found.end()


def _cut(one: NamedScenario, number: int, step: int, place: int) -> NamedScenario:
    octets = _octets(one.scenario.connections[number], step)
    before, behind = octets[:place], octets[place:]
    shown = f"{to_text(before[-_SHOWN_OCTETS:])} | {to_text(behind[:_SHOWN_OCTETS])}"
    return _replaced(one, number, step, [before, behind], PAUSE_NS, str(place), f"cut at {shown}")


def _dripped(one: NamedScenario, number: int, step: int) -> NamedScenario:
    octets = _octets(one.scenario.connections[number], step)
    pieces = [octets[at : at + 1] for at in range(len(octets))]
    return _replaced(one, number, step, pieces, DRIP_NS, "octets", "sent octet by octet")


def _octets(connection: ScriptedConnection, step: int) -> bytes:
    departure = connection.steps[step]
    assert isinstance(departure, Departure)
    assert isinstance(departure.action, SendOctets)
    return departure.action.octets


def _replaced(
    one: NamedScenario,
    number: int,
    step: int,
    pieces: list[bytes],
    pause_ns: int,
    place: str,
    how: str,
) -> NamedScenario:
    """``one`` with the send ``step`` of connection ``number`` in ``pieces``."""
    connection = one.scenario.connections[number]
    whole = connection.steps[step]
    assert isinstance(whole, Departure)
    first, *others = pieces
    departures = (
        replace(whole, action=SendOctets(first)),
        *(Departure(After(pause_ns), SendOctets(piece), whole.line) for piece in others),
    )
    claims = tuple(
        replace(claim, after=claim.after + len(others)) if claim.after > step else claim
        for claim in connection.claims
    )
    steps = (*connection.steps[:step], *departures, *connection.steps[step + 1 :])
    connections = list(one.scenario.connections)
    connections[number] = replace(connection, steps=steps, claims=claims)
    sends = [*connection.steps[: step + 1]]
    send = sum(
        isinstance(each, Departure) and isinstance(each.action, SendOctets) for each in sends
    )
    scenario = replace(
        one.scenario, connections=tuple(connections), story=f"{one.scenario.story} ({how})"
    )
    name = f"{one.name}@{connection.name + '.' if number else ''}{send}:{place}"
    return NamedScenario(name, one.path, scenario)
