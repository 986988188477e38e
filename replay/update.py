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
    handshake = _handshake(observed)
    expects_handshake = any(
        isinstance(one.outcome, script.HANDSHAKES) for one in connection.expectations()
    )
    starts_tls = any(isinstance(one.action, script.StartTls) for one in connection.departures())
    end = _end(connection, observed)
    steps: list[Step] = []
    to_come = slots
    for step in connection.steps:
        if isinstance(step, Departure):
            at_ns = next(departed_ns)
            while not to_come and extra and (at_ns is None or extra[0].at_ns < at_ns):
                steps.append(_expect(extra.pop(0)))
            if isinstance(step.action, script.StartTls):
                if at_ns is not None and observed.end_at_ns < at_ns:
                    steps += end
                    end = []
                steps += [step] if expects_handshake else [step, *handshake]
            else:
                steps.append(step)
        elif isinstance(step.outcome, script.REPLIES):
            to_come -= 1
            steps += _reply_in_place(step, in_place)
        elif isinstance(step.outcome, script.HANDSHAKES):
            steps += handshake
    steps += map(_expect, extra)
    if not (expects_handshake or starts_tls):
        steps += handshake  # an alert to somebody who spoke no TLS
    steps += end
    return Connection(connection.name, tuple(steps))


def _reply_in_place(step: Expectation, replies: Iterator[Reply]) -> list[Step]:
    reply = next(replies, None)
    if reply is None:
        return []
    return [Expectation(ExactReply(reply.octets), reply.at_ns, packet=step.packet)]


def _handshake(observed: ObservedConnection) -> list[Step]:
    if not observed.handshake:
        return []
    outcome = script.TlsDone() if observed.handshake == "done" else script.TlsRefused()
    return [Expectation(outcome, observed.handshake_at_ns)]


def _end(connection: Connection, observed: ObservedConnection) -> list[Step]:
    """The server's end; where the sender ends the connection it need not be told."""
    if not observed.end or _sender_ends(connection):
        return []
    end = script.ServerCloses() if observed.end == "eof" else script.ServerResets()
    return [Expectation(end, observed.end_at_ns, packet=_end_packet(connection))]


def _end_packet(connection: Connection) -> int:
    """The packet in which the recorded server ended the connection, 0 for unknown."""
    ends = (one for one in connection.expectations() if isinstance(one.outcome, script.ENDS))
    return next((one.packet for one in ends), 0)


def _expect(reply: Reply) -> Expectation:
    return Expectation(ExactReply(reply.octets), reply.at_ns)


def _sender_ends(connection: Connection) -> bool:
    ends = (script.Close, script.Reset, script.Abandon)
    return any(isinstance(one.action, ends) for one in connection.departures())
