"""Where claims stand among the steps of their connection, and which places are no places."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from replay.transcript.claims.claim import (
    Claim,
    OfConnection,
    OfScenario,
    RepliesWith,
    ShakesHands,
    Strength,
)
from replay.transcript.claims.text import claim_fault
from replay.transcript.script import (
    UTTERANCES,
    Departure,
    Scenario,
    ScriptedConnection,
    StartTls,
)


class Places:
    """How many replies and departures stand above each claim of a connection, and whether a
    STARTTLS does."""

    __slots__ = ("_departures", "_replies", "_secured_from")

    def __init__(self, connection: ScriptedConnection) -> None:
        self._replies, self._departures = [0], [0]
        self._secured_from = sys.maxsize
        replies = departures = 0
        for number, step in enumerate(connection.steps, 1):
            if isinstance(step, Departure):
                departures += 1
                if isinstance(step.action, StartTls):
                    self._secured_from = min(self._secured_from, number)
            else:
                replies += isinstance(step.outcome, UTTERANCES)
            self._replies.append(replies)
            self._departures.append(departures)

    def reply_number(self, claim: Claim) -> int:
        """The number, from 1, of the last reply expected above ``claim``; 0 if there is none."""
        return self._replies[min(max(claim.after, 0), len(self._replies) - 1)]

    def departure_number(self, claim: Claim) -> int:
        """The number, from 0, of the last departure above ``claim``."""
        return self._departures[min(max(claim.after, 0), len(self._departures) - 1)] - 1

    def is_below_starttls(self, claim: Claim) -> bool:
        return claim.after >= self._secured_from


def claim_faults(connection: ScriptedConnection) -> Iterator[tuple[Claim, str]]:
    """What is wrong with the claims of ``connection``."""
    if not connection.claims:
        return
    demanded: set[tuple[int, Strength]] = set()
    places = Places(connection)
    for claim in connection.claims:
        number = places.reply_number(claim)
        statement = claim.statement
        if message := claim_fault(claim):
            yield claim, message
        elif connection.plays_receiver:
            yield claim, "a claim is about a server, which is played here"
        elif not isinstance(statement, OfConnection):
            yield claim, "this is about what all connections come to, and names none"
        elif not 0 < claim.after <= len(connection.steps):
            yield claim, "a claim stands below what it is about, in its connection"
        elif isinstance(statement, RepliesWith) and not number:
            yield claim, "reply needs a reply expected above"
        elif isinstance(statement, RepliesWith) and (number, claim.strength) in demanded:
            yield claim, "of each strength, one claim is about a reply"
        elif isinstance(statement, ShakesHands) and not places.is_below_starttls(claim):
            yield claim, "tls and tls-refused stand below a starttls"
        if isinstance(statement, RepliesWith):
            demanded.add((number, claim.strength))


def all_claims(scenario: Scenario) -> Iterator[Claim]:
    """The claims of ``scenario``, those of its connections first."""
    for connection in scenario.connections:
        yield from connection.claims
    yield from scenario.claims


def scenario_claim_fault(claim: Claim) -> str:
    """What is wrong with a claim about what all connections come to; empty if nothing is."""
    if not isinstance(claim.statement, OfScenario):
        return "this is about a connection"
    return claim_fault(claim)
