"""When the sender of a connection goes on at a server that may answer anything, how long it waits,
and when it leaves: what follows from the claims, where exact expectations say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.smtp.replies import ReceivedReply
from replay.transcript.claims.answers import Answers
from replay.transcript.claims.claim import Bound, Ends, RepliesWith, StaysOpen, Then
from replay.transcript.claims.places import Places
from replay.transcript.script import UTTERANCES, Departure, ScriptedConnection

TIMEOUT_NS = 300 * NS_PER_S
"""A server's timeout for a command: at least that by RFC 5321 section 4.5.3.2.7."""
TIMEOUT_GRACE_NS = 10 * NS_PER_S
"""How late a server may notice that its timeout is over: many look every few seconds."""
CLOCK_GRACE_NS = NS_PER_S
"""How far two clocks, and a packet's way, may be apart."""
SETTLE_NS = 2 * NS_PER_S
"""How long a sender that waits for nothing in particular listens for what may yet come."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: ``reply_ns`` for a reply or an end that should come; ``timeout_ns`` is the
    server's own timeout for a command, with the grace that its clock has.  ``grace_ns`` is what
    instants may be off."""

    reply_ns: int = 20 * NS_PER_S
    timeout_ns: int = TIMEOUT_NS
    settle_ns: int = SETTLE_NS
    timeout_grace_ns: int = TIMEOUT_GRACE_NS
    grace_ns: int = CLOCK_GRACE_NS

    def at_most_ns(self, bound: Bound) -> int:
        """The latest instant within ``bound``."""
        ns = self.timeout_ns + self.timeout_grace_ns if bound.is_timeout else bound.ns
        return ns + self.grace_ns

    def at_least_ns(self, bound: Bound) -> int:
        """The earliest instant at which ``bound`` is over."""
        return (self.timeout_ns if bound.is_timeout else bound.ns) - self.grace_ns


class Conditions:
    """Of one connection."""

    def __init__(self, connection: ScriptedConnection, patience: Patience) -> None:
        self._answers = Answers(connection)
        self._patience = patience
        self._expected = _replies_expected(connection)
        self._silent_ns = sum(one.anchor.ns for one in connection.departures())
        self._bounds_ns: dict[int, int] = {-1: 0}
        self._ends: set[int] = set()
        self._passed = 0  # replies that the sender has gone on after
        places = Places(connection)
        for claim in connection.claims:
            if not isinstance(claim.statement, Ends | StaysOpen | RepliesWith):
                continue
            place = places.departure_number(claim)
            if within := claim.statement.within:
                wait_ns = patience.at_most_ns(within) + NS_PER_MS
                self._bounds_ns[place] = max(wait_ns, self._bounds_ns.get(place, 0))
            elif isinstance(claim.statement, Ends):
                self._ends.add(place)

    @property
    def longest_wait_ns(self) -> int:
        """How long the sender keeps silent by its own clock, or waits because a claim is about
        time, whichever is longer."""
        return max(self._silent_ns, *self._bounds_ns.values())

    def stop(self, replies: Sequence[ReceivedReply], awaited: int) -> Then | None:
        """Whether the sender goes on, now that the first ``awaited`` replies are there: GO_ON, what
        an answer says that ends the session, or None where it cannot go on.  ``replies`` are those
        of the calls before, and what has come since."""
        for place in range(self._passed, min(awaited, len(replies))):
            then = self._answers.then(place + 1, replies[place].code)
            if then is not Then.GO_ON:
                return then
            self._passed = place + 1
        return Then.GO_ON

    def wait_ns(self, departed: int, received: int, *, waits: bool) -> int:
        """How long to wait for something to happen, when so many departures have left, so many
        replies have come, and the next departure ``waits`` for another one."""
        last = departed - 1
        wait_ns = self._bounds_ns.get(last, 0)
        is_due = waits or last in self._ends or received < self._expected[last]
        return max(wait_ns, self._patience.reply_ns if is_due else self._patience.settle_ns)


def _replies_expected(connection: ScriptedConnection) -> list[int]:
    """For each departure, how many replies are expected above the one that follows it."""
    counts: list[int] = []
    replies = 0
    for step in connection.steps:
        if isinstance(step, Departure):
            counts.append(replies)
        elif isinstance(step.outcome, UTTERANCES):
            replies += 1
            counts[-1] = replies
    return counts
