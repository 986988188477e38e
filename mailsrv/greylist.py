"""Greylisting: who is new is asked to come back, because those who send mail do and many who
send rubbish do not (RFC 6647).

A *triplet* is (client, reverse-path, forward-path).  Its first try is deferred; a retry passes
from the delay on, as long as it comes within the retry window.  What has passed goes on passing
until it was not seen for a month, and a client of which several triplets have passed is asked no
more.  Clients are known by their network, since large senders retry from a neighbouring address.

Retrying early costs nothing: the delay counts from the first try, whatever comes between.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mailsrv.units import seconds_to_ns

if TYPE_CHECKING:
    from mailsrv.clock import Clock

DELAY_S = 300
RETRY_WITHIN_S = 2 * 24 * 3600
"""A triplet that is first retried later than this is new again."""
KEPT_S = 35 * 24 * 3600
"""How long a passed triplet or a known client is remembered after it was last seen: long enough
for what is sent once a month."""
TRIPLETS_FOR_A_CLIENT = 5
"""Passed triplets after which the client itself passes."""
IPV4_PREFIX_BITS = 24
IPV6_PREFIX_BITS = 64

ENTRIES_MAX = 200_000
"""Records of each kind held in memory: some 100 MB, were all of them of the longest."""
EXPIRED_A_CHECK_MAX = 4
"""Records forgotten in passing by one check, which adds two at most: so the stale ones go."""

Triplet = tuple[str, str, str]
Key = tuple[str, ...]
"""A triplet with its client's network for the client; the network alone for the client itself."""


class Outcome(StrEnum):
    """What to do with this recipient now."""

    DEFER = "DEFER"
    PASS = "PASS"


class Record(NamedTuple):
    """What is known of a key.

    ``passed`` is 0 while a triplet waits for its retry, 1 once it has passed; for a client it
    counts passed triplets.  ``since_ns`` is the first try while waiting, then the last use.
    """

    since_ns: int
    passed: int


class Store(Protocol):
    """Where records are kept.  It may forget any of them: the sender is then new again."""

    def get(self, key: Key) -> Record | None:
        """The record of ``key``."""

    def put(self, key: Key, record: Record) -> None:
        """Set the record of ``key``."""

    def delete(self, key: Key) -> None:
        """Forget ``key``; harmless if it is not known."""

    def expire(self, waiting_before_ns: int, passed_before_ns: int, at_most: int) -> None:
        """Forget ``at_most`` of the oldest records whose ``since_ns`` lies before the instant
        given for their kind."""


class MemoryStore:
    """Keeps ``entries`` records of each kind and drops the oldest beyond that.

    Waiting and passed records are apart, so that a flood of new triplets cannot push out the
    senders who have proven themselves.  Each kind stands in the order of ``since_ns``, because a
    record goes to the end whenever it is set.
    """

    __slots__ = ("_entries", "_passed", "_waiting")

    def __init__(self, entries: int = ENTRIES_MAX) -> None:
        self._entries = entries
        self._waiting: dict[Key, Record] = {}
        self._passed: dict[Key, Record] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._passed)

    def get(self, key: Key) -> Record | None:
        return self._passed.get(key) or self._waiting.get(key)

    def put(self, key: Key, record: Record) -> None:
        self.delete(key)
        records = self._passed if record.passed else self._waiting
        records[key] = record
        if len(records) > self._entries:
            del records[next(iter(records))]

    def delete(self, key: Key) -> None:
        self._waiting.pop(key, None)
        self._passed.pop(key, None)

    def expire(self, waiting_before_ns: int, passed_before_ns: int, at_most: int) -> None:
        kinds = ((self._waiting, waiting_before_ns), (self._passed, passed_before_ns))
        for records, before_ns in kinds:
            while records and at_most > 0:
                key = next(iter(records))
                if records[key].since_ns >= before_ns:
                    break
                del records[key]
                at_most -= 1


class Greylist:
    """Decides by triplet.  ``delay`` is in seconds; time is the clock's ``realtime_ns``, so that
    a store on disk means the same after a restart."""

    __slots__ = ("_clock", "_delay_ns", "_kept_ns", "_retry_within_ns", "_store")

    def __init__(self, clock: Clock, delay: float = DELAY_S, store: Store | None = None) -> None:
        self._clock = clock
        self._delay_ns = seconds_to_ns(delay)
        self._retry_within_ns = seconds_to_ns(RETRY_WITHIN_S)
        self._kept_ns = seconds_to_ns(KEPT_S)
        self._store: Store = MemoryStore() if store is None else store

    def check(self, triplet: Triplet) -> Outcome:
        """Take note of a try and say what becomes of it.  Letter case makes no difference."""
        now_ns = self._clock.realtime_ns()
        store = self._store
        store.expire(now_ns - self._retry_within_ns, now_ns - self._kept_ns, EXPIRED_A_CHECK_MAX)

        client, reverse_path, forward_path = triplet
        network = client_network(client)
        triplets_passed = self._passed(self._record((network,), now_ns))
        if triplets_passed >= TRIPLETS_FOR_A_CLIENT:
            store.put((network,), Record(now_ns, triplets_passed))
            return Outcome.PASS

        key = (network, reverse_path.lower(), forward_path.lower())
        record = self._record(key, now_ns)
        if record is None:
            store.put(key, Record(now_ns, 0))
            return Outcome.DEFER
        if not record.passed:
            if now_ns - record.since_ns < self._delay_ns:
                return Outcome.DEFER
            store.put((network,), Record(now_ns, triplets_passed + 1))
        store.put(key, Record(now_ns, 1))
        return Outcome.PASS

    def _record(self, key: Key, now_ns: int) -> Record | None:
        """The record of ``key``, unless it is too old to count."""
        record = self._store.get(key)
        if record is None:
            return None
        age_ns = now_ns - record.since_ns
        if record.passed:
            return record if age_ns <= self._kept_ns else None
        # A first try in the future: the wall clock was set back, and nobody shall wait for it.
        return record if 0 <= age_ns <= self._retry_within_ns else None

    @staticmethod
    def _passed(record: Record | None) -> int:
        return 0 if record is None else record.passed


def client_network(client: str) -> str:
    """The network a client counts as: its /24 or /64; a text that is no address is its own."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(address), IPV6_PREFIX_BITS), strict=False))
        address = address.ipv4_mapped
    return str(ipaddress.IPv4Network((int(address), IPV4_PREFIX_BITS), strict=False))
