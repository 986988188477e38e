"""Recent answers of DNS: a bounded cache of answers, the negative ones too.

A lifetime is the records' own TTL between a floor and a ceiling.  The floor spares the servers
where a TTL of 0 would make each message a question; the ceilings bound how long this server
believes what has been corrected meanwhile.  "No such name" and "no data" live as RFC 2308 section
5 says, and failures for a moment, as RFC 9520 section 3.2 asks: with a dead server, one sender's
many connections must not each wait anew.

The cache reads no clock.  Its owner passes the time in.
"""

from __future__ import annotations

from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.units import NS_PER_S

ENTRIES_MAX = 10_000
"""Answers kept; beyond them the one that was asked for least lately goes."""
ANSWER_CHARACTERS_MAX = 4096
"""A longer answer is given but not kept: with ``ENTRIES_MAX`` it bounds the memory."""
TTL_FLOOR_S = 5
TTL_CEILING_S = 3600
NEGATIVE_TTL_CEILING_S = 300
"""A domain that was registered, or repaired, a moment ago should not be refused for an hour."""
FAILURE_TTL_S = 5

Key = tuple[str, str]
"""A name in lower case, and a type."""


class DnsCache:
    """Answers by question, each for its lifetime."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[Key, tuple[int, DnsAnswer]] = {}  # least lately asked for first

    def __len__(self) -> int:
        """The number of answers held, those that have expired unnoticed included."""
        return len(self._entries)

    def get(self, key: Key, now_ns: int) -> DnsAnswer | None:
        """The answer, if it is known and still holds."""
        entry = self._entries.pop(key, None)
        if entry is None or entry[0] <= now_ns:
            return None
        self._entries[key] = entry
        return entry[1]

    def put(self, key: Key, answer: DnsAnswer, ttl_s: int, now_ns: int) -> None:
        """Keep ``answer`` for ``ttl_s``, as far as floor and ceiling allow."""
        self._entries.pop(key, None)
        if sum(map(len, answer.records)) > ANSWER_CHARACTERS_MAX:
            return
        if len(self._entries) >= ENTRIES_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = now_ns + lifetime_s(answer, ttl_s) * NS_PER_S, answer


def lifetime_s(answer: DnsAnswer, ttl_s: int) -> int:
    """How long ``answer`` is kept when its records say ``ttl_s``."""
    if answer.status not in (DnsStatus.NOERROR, DnsStatus.NXDOMAIN):
        return FAILURE_TTL_S
    ceiling_s = TTL_CEILING_S if answer.records else NEGATIVE_TTL_CEILING_S
    return max(TTL_FLOOR_S, min(ttl_s, ceiling_s))
