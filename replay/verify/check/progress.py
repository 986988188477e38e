"""How far the sender of a connection came, and why no further."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from replay.play.observed import ObservedConnection
from replay.transcript.claims.answers import Answers
from replay.transcript.claims.claim import Claim, Then
from replay.transcript.claims.places import Places
from replay.transcript.script import (
    UTTERANCES,
    Abandon,
    Close,
    Departure,
    Expectation,
    Reset,
    ScriptedConnection,
    SendOctets,
    StartTls,
)

_QUIT = b"QUIT\r\n"


class Progress:
    """One connection's.  ``claimed`` are the numbers of the replies, from 1, that claims are
    about."""

    def __init__(self, connection: ScriptedConnection, observed: ObservedConnection) -> None:
        self._connection = connection
        self._observed = observed
        self.places = Places(connection)
        self._answers = Answers(connection)
        self.claimed = self._answers.claimed
        self._end = self._ending_number()

    @property
    def is_ended_by_alternative(self) -> bool:
        """Whether the server took an alternative that ends the session."""
        return bool(self._end)

    @property
    def is_cut_short(self) -> bool:
        """Whether something was not sent any more, or not answered in an open connection, though no
        alternative ended the session."""
        return not self._end and not (self._is_answered and self._has_left(len(self._departed_ns)))

    @property
    def _departed_ns(self) -> Sequence[int | None]:
        return self._observed.departed_ns

    @property
    def _is_answered(self) -> bool:
        """Whether all replies came that the sender was there for, or the connection ended."""
        expected, departed_ns = 0, iter(self._departed_ns)
        for step in self._connection.steps:
            if isinstance(step, Departure):
                if next(departed_ns) is None or isinstance(step.action, Close | Reset | Abandon):
                    break
            else:
                expected += isinstance(step.outcome, UTTERANCES)
        return bool(self._observed.end) or len(self._observed.replies) >= expected

    def came_to(self, claim: Claim) -> bool:
        """Whether all that is said above ``claim`` has been sent, a last QUIT not counted."""
        return self._has_left(self.places.departure_number(claim) + 1)

    def _has_left(self, departures: int) -> bool:
        """Whether the first so many, as far as they say something, have left."""
        return not any(
            at_ns is None and _says_something(departure)
            for departure, at_ns in islice(
                zip(self._connection.departures(), self._observed.departed_ns, strict=True),
                departures,
            )
        )

    def has_left_by_itself(self) -> bool:
        """Whether the sender closed or reset the connection: what did not come may have come too
        late for it."""
        return any(
            at_ns is not None and isinstance(departure.action, Close | Reset)
            for departure, at_ns in zip(
                self._connection.departures(), self._observed.departed_ns, strict=True
            )
        )

    @property
    def stopped_at(self) -> int:
        """The number of the reply after which the sender could not go on; 0 where it did."""
        if not self.is_cut_short:
            return 0
        replies = self._observed.replies
        for number, _, above in self.expected_replies():
            if self._observed.departed_ns[above] is None:
                break
            if (
                number > len(replies)
                or self._answers.then(number, replies[number - 1].code) is None
            ):
                return number
        return len(replies) + 1

    def does_not_arise(self, claim: Claim) -> bool:
        """Whether ``claim`` stands below an alternative that ended the session: below a departure
        that waited for it, or about a later reply."""
        if not self._end:
            return False
        if self.places.reply_number(claim) > self._end:
            return True
        return self._observed.departed_ns[self.places.departure_number(claim)] is None

    def is_below_end(self, number: int) -> bool:
        """Whether reply ``number`` stands below an alternative that ended the session."""
        return 0 < self._end < number

    def expected_replies(self) -> Iterator[tuple[int, Expectation, int]]:
        """Number from 1, the expectation, and the number (from 0) of the departure above."""
        number, above = 0, -1
        for step in self._connection.steps:
            if isinstance(step, Departure):
                above += 1
            elif isinstance(step.outcome, UTTERANCES):
                number += 1
                yield number, step, above

    def _ending_number(self) -> int:
        """The number of the first reply with which the server ended the session as it may; 0."""
        replies = self._observed.replies
        for number, _, _ in self.expected_replies():
            if number > len(replies):
                may_end = self._observed.end and self._answers.may_end(number)
                return number if may_end else 0
            if self._answers.then(number, replies[number - 1].code) in (Then.END, Then.STOP):
                return number
        return 0


def _says_something(departure: Departure) -> bool:
    action = departure.action
    if isinstance(action, SendOctets):
        return action.octets.upper() != _QUIT
    return isinstance(action, StartTls)
