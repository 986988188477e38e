"""Which replies a sender goes on after: those of the claims about a reply, all strengths together,
else those with the expected first digit."""

from __future__ import annotations

from collections import defaultdict

from replay.transcript.claims.claim import RepliesWith, Then, fits
from replay.transcript.claims.places import Places
from replay.transcript.script import UTTERANCES, ScriptedConnection, expected_code


class Answers:
    """Of one connection's replies, numbered from 1 as they are expected."""

    def __init__(self, connection: ScriptedConnection) -> None:
        self._codes = [
            expected_code(one.outcome)
            for one in connection.expectations()
            if isinstance(one.outcome, UTTERANCES)
        ]
        self._statements = defaultdict[int, list[RepliesWith]](list)
        places = Places(connection)
        for claim in connection.claims:
            if isinstance(claim.statement, RepliesWith):
                number = places.reply_number(claim)
                self._statements[number].append(claim.statement)

    @property
    def claimed(self) -> frozenset[int]:
        """The numbers of the replies that claims are about."""
        return frozenset(self._statements)

    def then(self, number: int, code: int) -> Then | None:
        """What follows the reply ``number`` with this code; None: the sender cannot go on."""
        if number not in self._statements:
            wanted = self._codes[number - 1] if number <= len(self._codes) else 0
            return Then.GO_ON if not wanted or code // 100 == wanted // 100 else None
        found = {
            one.then
            for statement in self._statements[number]
            for one in statement.alternatives
            if any(fits(code, pattern) for pattern in one.codes)
        }
        return next((then for then in (Then.END, Then.STOP, Then.GO_ON) if then in found), None)

    def may_end(self, number: int) -> bool:
        """Whether the connection may end instead of the reply ``number``."""
        statements = self._statements.get(number, ())
        return any(not one.codes for statement in statements for one in statement.alternatives)
