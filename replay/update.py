"""Makes the expectations exact: what was observed becomes what is expected.

Only a person who reads the changes makes a golden transcript of the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from replay import script
from replay.observed import ObservedConnection
from replay.replies import Reply
from replay.script import Connection, Departure, ExactReply, Expectation, Scenario, Step


def exact(scenario: Scenario, observed: tuple[ObservedConnection, ...]) -> Scenario:
    """``scenario`` with the same departures, expecting just what was observed."""
    pairs = zip(scenario.connections, observed, strict=True)
    return dataclasses.replace(
        scenario, connections=tuple(_connection(one, seen) for one, seen in pairs)
    )


def _connection(connection: Connection, observed: ObservedConnection) -> Connection:
    """A reply takes the place of the expectation that has its number, so that departures stay
    anchored to the same replies; replies beyond those stand where they were heard."""
    slots = sum(isinstance(one.outcome, script.REPLIES) for one in connection.expectations())
    in_place = iter(observed.replies[:slots])
    extra = list(observed.replies[slots:])
    departed_ns = iter(observed.departed_ns)
    steps: list[Step] = []
    to_come = slots
    for step in connection.steps:
        if isinstance(step, Departure):
            at_ns = next(departed_ns)
            while not to_come and extra and (at_ns is None or extra[0].at_ns < at_ns):
                steps.append(_expect(extra.pop(0)))
            steps.append(step)
        elif isinstance(step.outcome, script.REPLIES):
            to_come -= 1
            steps += _reply_in_place(step, in_place)
    steps += map(_expect, extra)
    if observed.end and not _sender_ends(connection):
        end = script.ServerCloses() if observed.end == "eof" else script.ServerResets()
        steps.append(Expectation(end, observed.end_at_ns, packet=_end_packet(connection)))
    return Connection(connection.name, tuple(steps))


def _reply_in_place(step: Expectation, replies: Iterator[Reply]) -> list[Step]:
    reply = next(replies, None)
    if reply is None:
        return []
    return [Expectation(ExactReply(reply.octets), reply.at_ns, packet=step.packet)]


def _end_packet(connection: Connection) -> int:
    """The packet in which the recorded server ended the connection, 0 for unknown."""
    ends = (one for one in connection.expectations() if not isinstance(one.outcome, script.REPLIES))
    return next((one.packet for one in ends), 0)


def _expect(reply: Reply) -> Expectation:
    return Expectation(ExactReply(reply.octets), reply.at_ns)


def _sender_ends(connection: Connection) -> bool:
    ends = (script.Close, script.Reset, script.Abandon)
    return any(isinstance(one.action, ends) for one in connection.departures())
