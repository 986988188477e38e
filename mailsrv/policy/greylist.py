"""Greylisting: a new sender is asked to try again later, because mail servers do and many
senders of spam do not (RFC 6647).

A *triplet* is (client, reverse-path, forward-path).  Its first try is deferred; a retry passes
from the delay on, as long as it comes within the retry window.  What has passed goes on passing
until it was not seen for a month, and a client network of which several triplets have passed is
asked no more.  Retrying early costs nothing: the delay counts from the first try, whatever comes
between, and nothing is written.

Large senders retry from another address.  So in a triplet the client stands for every pool that it
belongs to (see ``sender_pools``), and each pool has a record of its own: a try is a retry if one of
its pools has tried before.  What a client merely claims, its HELO name, may pass this one triplet,
but counts for nothing beyond.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mailsrv.policy.exceptions import CheckExceptions
from mailsrv.policy.networks import client_network
from mailsrv.policy.sender_pools import claimed_pool, named_pool, plain_sender, wide_network
from mailsrv.settings import Settings
from mailsrv.units import seconds_to_ns

if TYPE_CHECKING:
    from mailsrv.runtime.clock import Clock

_DEFAULT = Settings()
DELAY_S = _DEFAULT.greylist_delay_s
RETRY_WITHIN_S = _DEFAULT.greylist_retry_within_s
KEPT_S = _DEFAULT.greylist_kept_s
TRIPLETS_FOR_A_CLIENT = _DEFAULT.greylist_client_passes

ENTRIES_MAX = 200_000
"""Records of each kind held in memory: some 100 MB, were all of them of the longest."""
NETWORK_SHARE = 40
"""What one client network may hold of the records of each kind: one part in so many."""
OWNER_IPV6_BITS = 48
"""The network that an IPv6 client's records count for: what a site is given (RFC 6177).  An
IPv4 client's is its /24."""
EXPIRED_A_CHECK_MAX = 8
"""Records forgotten in passing by one check, which adds four at most: so the stale ones go."""

Triplet = tuple[str, str, str]


class GreylistDecision(StrEnum):
    """What to do with this recipient now."""

    DEFER = "DEFER"
    PASS = "PASS"


class GreylistKey(NamedTuple):
    """A pool with the transaction that it tried; or a client network alone, for its credit."""

    client: str
    sender: str = ""
    recipient: str = ""


class GreylistRecord(NamedTuple):
    """What is known of a key.

    ``passed`` is 0 while a triplet waits for its retry, 1 once it has passed; for a client
    network it counts passed triplets.  ``since_ns`` is the first try while waiting, then the
    last use.
    """

    since_ns: int
    passed: int


class GreylistTime(NamedTuple):
    """The wall clock and the greylist's own time at one instant."""

    wall_ns: int
    own_ns: int


class Store(Protocol):
    """Where records are kept.  It may forget any of them: the sender is then new again."""

    reading: GreylistTime | None
    """Set by each check; what the last one before a restart has left."""

    def get(self, key: GreylistKey) -> GreylistRecord | None:
        """The record of ``key``."""

    def put(self, key: GreylistKey, record: GreylistRecord, network: str = "") -> None:
        """Set the record of ``key``; ``network`` is that of the client whose try it is."""

    def expire(self, waiting_before_ns: int, passed_before_ns: int, at_most: int) -> None:
        """Forget, now or soon, ``at_most`` of the oldest records whose ``since_ns`` lies before
        the instant given for their kind."""


class _Kind:
    """Records of one kind, in the order in which they were set, each with the network whose try
    set it."""

    __slots__ = ("_by_network", "_entries", "_share", "records")

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._share = max(1, entries // NETWORK_SHARE)
        self._by_network: dict[str, dict[GreylistKey, None]] = {}
        self.records: dict[GreylistKey, tuple[GreylistRecord, str]] = {}

    def put(self, key: GreylistKey, record: GreylistRecord, network: str) -> None:
        self.records[key] = record, network
        own = self._by_network.setdefault(network, {})
        own[key] = None
        if len(own) > self._share:
            self.delete(next(iter(own)))
        elif len(self.records) > self._entries:
            self.delete(next(iter(self.records)))

    def delete(self, key: GreylistKey) -> None:
        held = self.records.pop(key, None)
        if held is not None:
            own = self._by_network[held[1]]
            del own[key]
            if not own:
                del self._by_network[held[1]]

    def expire(self, before_ns: int, at_most: int) -> int:
        """Returns how many it has forgotten."""
        gone = 0
        while self.records and gone < at_most:
            key, (record, _) = next(iter(self.records.items()))
            if record.since_ns >= before_ns:
                break
            self.delete(key)
            gone += 1
        return gone


class MemoryStore:
    """Keeps ``entries`` records of each kind and drops the oldest beyond that.

    Waiting and passed records are apart, so that a flood of new triplets cannot push out the
    senders who have proven themselves.  Of either kind a client's own network may hold a
    ``NETWORK_SHARE``: beyond that it drops its own oldest, so it cannot push out another's.  Each
    kind stands in the order in which records were set, which is that of ``since_ns`` but for a
    triplet that a further pool has joined.
    """

    __slots__ = ("_passed", "_waiting", "reading")

    def __init__(self, entries: int = ENTRIES_MAX) -> None:
        self._waiting, self._passed = _Kind(entries), _Kind(entries)
        self.reading: GreylistTime | None = None

    def __len__(self) -> int:
        return len(self._waiting.records) + len(self._passed.records)

    def get(self, key: GreylistKey) -> GreylistRecord | None:
        held = self._passed.records.get(key) or self._waiting.records.get(key)
        return None if held is None else held[0]

    def put(self, key: GreylistKey, record: GreylistRecord, network: str = "") -> None:
        self.delete(key)
        kind = self._passed if record.passed else self._waiting
        kind.put(key, record, network)

    def delete(self, key: GreylistKey) -> None:
        """Forget ``key``; harmless if it is not known."""
        self._passed.delete(key)
        self._waiting.delete(key)

    def records(self) -> Iterator[tuple[GreylistKey, GreylistRecord]]:
        """All of them, those that have passed first."""
        held = chain(self._passed.records.items(), self._waiting.records.items())
        return ((key, record) for key, (record, _) in held)

    def expire(self, waiting_before_ns: int, passed_before_ns: int, at_most: int) -> None:
        at_most -= self._waiting.expire(waiting_before_ns, at_most)
        self._passed.expire(passed_before_ns, at_most)


class Greylist:
    """Decides by triplet.  ``delay``, ``retry_within`` and ``kept`` are in seconds.

    Its time is its own: it begins as the wall clock's and then goes on evenly.  A wall clock that
    is set, by whatever, changes nothing for triplets that wait and erases none.  From one run to
    the next the store carries it on, and what passed between by the wall clock counts, but never
    as less than nothing, nor as more than the retry window: while the server is down no
    triplet is forgotten.
    """

    __slots__ = (
        "_client_passes",
        "_clock",
        "_delay_ns",
        "_exceptions",
        "_kept_ns",
        "_offset_ns",
        "_retry_within_ns",
        "_store",
    )

    def __init__(
        self,
        clock: Clock,
        delay: float = DELAY_S,
        store: Store | None = None,
        *,
        retry_within: float = RETRY_WITHIN_S,
        kept: float = KEPT_S,
        client_passes: int = TRIPLETS_FOR_A_CLIENT,
        exceptions: CheckExceptions | None = None,
    ) -> None:
        self._clock = clock
        self._delay_ns = seconds_to_ns(delay)
        self._retry_within_ns = seconds_to_ns(retry_within)
        self._kept_ns = seconds_to_ns(kept)
        self._client_passes = client_passes
        self._exceptions = exceptions or CheckExceptions()
        self._store: Store = MemoryStore() if store is None else store
        self._offset_ns = self._first_ns() - clock.monotonic_ns()

    @classmethod
    def of(cls, settings: Settings, clock: Clock, store: Store | None = None) -> Greylist:
        """The greylist that ``settings`` describe.  Raises ValueError for a bad network."""
        return cls(
            clock,
            settings.greylist_delay_s,
            store,
            retry_within=settings.greylist_retry_within_s,
            kept=settings.greylist_kept_s,
            client_passes=settings.greylist_client_passes,
            exceptions=CheckExceptions.of(settings),
        )

    def check(
        self, triplet: Triplet, *, helo: str = "", reverse_name: str = ""
    ) -> GreylistDecision:
        """Take note of a try and say what becomes of it.  Letter case makes no difference.

        ``reverse_name`` is the client's forward-confirmed name, "" if it has none; with it or,
        failing that, with ``helo`` a retry is recognised that comes from far off.
        """
        client, reverse_path, forward_path = triplet
        if self._exceptions.spare("greylist", client, reverse_name, (forward_path,)):
            return GreylistDecision.PASS
        now_ns = self._now_ns()
        store = self._store
        store.expire(now_ns - self._retry_within_ns, now_ns - self._kept_ns, EXPIRED_A_CHECK_MAX)

        network = GreylistKey(client_network(client))
        owner = client_network(client, ipv6_bits=OWNER_IPV6_BITS)
        credit = self._record(network, now_ns)
        if credit and credit.passed >= self._client_passes:
            store.put(network, GreylistRecord(now_ns, credit.passed), owner)
            return GreylistDecision.PASS

        sender, recipient = plain_sender(reverse_path), forward_path.lower()
        pools = [wide_network(client)]
        if pool := named_pool(client, reverse_name):
            pools.append(pool)
        facts = len(pools)
        if not reverse_name and (pool := claimed_pool(client, helo, reverse_path, forward_path)):
            pools.append(pool)
        keys = [GreylistKey(pool, sender, recipient) for pool in pools]
        records = [self._record(key, now_ns) for key in keys]

        if not any(record and self._passes(record, now_ns) for record in records):
            # A pool that joins later waits no longer than the others.
            first_ns = min([record.since_ns for record in records if record], default=now_ns)
            for key, record in zip(keys, records, strict=True):
                if record is None:
                    store.put(key, GreylistRecord(first_ns, 0), owner)
            return GreylistDecision.DEFER

        is_retry = not any(record and record.passed for record in records)
        if is_retry and any(record and self._passes(record, now_ns) for record in records[:facts]):
            passed = credit.passed + 1 if credit else 1
            store.put(network, GreylistRecord(now_ns, passed), owner)
        for key in keys:
            store.put(key, GreylistRecord(now_ns, 1), owner)
        return GreylistDecision.PASS

    def _passes(self, record: GreylistRecord, now_ns: int) -> bool:
        return record.passed > 0 or now_ns - record.since_ns >= self._delay_ns

    def _record(self, key: GreylistKey, now_ns: int) -> GreylistRecord | None:
        """The record of ``key``, unless it is too old to count."""
        record = self._store.get(key)
        if record is None:
            return None
        age_ns = now_ns - record.since_ns
        if record.passed:
            return record if age_ns <= self._kept_ns else None
        # A first try in the future: the store holds another clock's time, which counts for nothing.
        return record if 0 <= age_ns <= self._retry_within_ns else None

    def _first_ns(self) -> int:
        """The greylist's own time as it begins."""
        wall_ns = self._clock.realtime_ns()
        last = self._store.reading
        if last is None:
            return wall_ns
        return last.own_ns + min(max(wall_ns - last.wall_ns, 0), self._retry_within_ns)

    def _now_ns(self) -> int:
        own_ns = self._clock.monotonic_ns() + self._offset_ns
        self._store.reading = GreylistTime(self._clock.realtime_ns(), own_ns)
        return own_ns
