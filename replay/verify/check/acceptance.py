"""How many messages a server accepted, as far as its replies and what it delivered tell.

Which octets were content is what smuggling deceives about, so nothing is derived from them where
the replies tell: each 354 has exactly one reply behind it, and a positive one accepts a message.
Chunks (RFC 3030) have no 354; their replies are found by the lengths that BDAT announces.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from replay.play.observed import ObservedConnection
from replay.transcript.script import Scenario, ScriptedConnection, SendOctets
from replay.verify.exchanges import dialogue

_START_MAIL_INPUT = 354
_LAST_CHUNK = ("to bdat ", " last")


def messages_accepted(
    scenario: Scenario,
    observed: Sequence[ObservedConnection],
    contents: Sequence[bytes] | None,
) -> int:
    """So many in all connections; where both can be seen, the larger number."""
    by_replies = sum(
        _by_replies(connection, seen)
        for connection, seen in zip(scenario.connections, observed, strict=True)
    )
    return max(by_replies, len(contents or ()))


def _by_replies(connection: ScriptedConnection, observed: ObservedConnection) -> int:
    codes = [reply.code for reply in observed.replies]
    messages = sum(
        before == _START_MAIL_INPUT and 200 <= code < 300 for before, code in pairwise(codes)
    )
    return messages + (_in_chunks(connection, observed) if _sends_chunks(connection) else 0)


def _sends_chunks(connection: ScriptedConnection) -> bool:
    sent = (
        one.action.octets for one in connection.departures() if isinstance(one.action, SendOctets)
    )
    return b"BDAT" in b"".join(sent).upper()  # in however many pieces


def _in_chunks(connection: ScriptedConnection, observed: ObservedConnection) -> int:
    begin, end = _LAST_CHUNK
    return sum(
        200 <= one.reply.code < 300
        for one in dialogue(connection, observed).exchanges
        if one.asked.lower().startswith(begin) and one.asked.lower().endswith(end)
    )
