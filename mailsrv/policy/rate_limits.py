"""Rates: how many connections, messages and recipients a client and its network may bring in a
minute.

What "N in a minute" means: a minute begins with the first thing that is counted and lasts
60,000,000,000 ns.  Within it N are taken and the next is refused; at its begin + 60 s, to the
nanosecond, it is over, and the next thing begins a new one.  So a steady sender gets N a minute,
and no interval of 60 s, wherever it begins, sees more than 2 N - 1.  What is refused counts for
nothing: a client that keeps trying is not shut out for longer.

Each count is two integers, whatever N is, and stands in a table of bounded size in the order in
which minutes begin; so the minutes that are over stand in front and are forgotten in passing.
When a table is full, the count whose minute is nearest its end is forgotten.  To escape a limit
in this way a client must bring ``ENTRIES_MAX`` other addresses to complete a connection within
what is left of its minute, and wins back that one minute; counts that have reached their limit
are kept apart, so that clients who are counted for the first time cannot push them out at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailsrv.policy.networks import client_network, networks_of
from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Event, RefusedReply
from mailsrv.smtp.reply import Reply
from mailsrv.units import NS_PER_S

if TYPE_CHECKING:
    from mailsrv.runtime.clock import Clock

MINUTE_NS = 60 * NS_PER_S
ENTRIES_MAX = 100_000
"""Counts in a table, and as many again that have reached their limit: some 20 MB each."""
FORGOTTEN_A_COUNT_MAX = 2
"""Minutes that are over and forgotten by one count, which adds one at most: so they all go."""

_Minute = tuple[int, int]
"""When it began, and how many were counted in it."""


class MinuteCounts:
    """Counts by key, ``limit`` in a minute; without limit where that is 0."""

    __slots__ = ("_entries", "_running", "_spent", "limit")

    def __init__(self, limit: int = 0, entries: int = ENTRIES_MAX) -> None:
        self.limit = limit
        self._entries = entries
        self._running: dict[str, _Minute] = {}
        self._spent: dict[str, _Minute] = {}

    def __len__(self) -> int:
        return len(self._running) + len(self._spent)

    def is_spent(self, key: str, now_ns: int) -> bool:
        """True if ``key`` has had all that its minute allows."""
        minute = self._spent.get(key) or self._running.get(key)
        if minute is None:
            return False
        since_ns, counted = minute
        return counted >= self.limit and now_ns - since_ns < MINUTE_NS

    def count(self, key: str, now_ns: int) -> None:
        """Count one for ``key``."""
        _forget_the_past(self._running, now_ns)
        _forget_the_past(self._spent, now_ns)
        since_ns, counted = self._running.get(key) or self._spent.pop(key, None) or (now_ns, 0)
        if now_ns - since_ns >= MINUTE_NS:
            self._running.pop(key, None)  # the new minute stands behind all others
            since_ns, counted = now_ns, 0
        counted += 1
        minutes = self._running
        if counted >= self.limit:
            minutes.pop(key, None)
            minutes = self._spent
        minutes[key] = since_ns, counted
        if len(minutes) > self._entries:
            del minutes[next(iter(minutes))]


def _forget_the_past(minutes: dict[str, _Minute], now_ns: int) -> None:
    for _ in range(FORGOTTEN_A_COUNT_MAX):
        key = next(iter(minutes), None)
        if key is None or now_ns - minutes[key][0] < MINUTE_NS:
            return
        del minutes[key]


class _Rate:
    """One thing's rates, for a client and for its network; ``is_limited`` if there is any limit."""

    __slots__ = ("by_client", "by_network", "is_limited")

    def __init__(self) -> None:
        self.by_client, self.by_network = MinuteCounts(), MinuteCounts()
        self.is_limited = False

    def limit_to(self, per_client: int, per_network: int) -> None:
        self.by_client.limit, self.by_network.limit = per_client, per_network
        self.is_limited = bool(per_client or per_network)

    def broken(self, client: str, now_ns: int) -> str | None:
        """The limit that one more would break, in words."""
        by_client, by_network = self.by_client, self.by_network
        if by_client.limit and by_client.is_spent(client, now_ns):
            return f"{by_client.limit} a minute from {client}"
        if by_network.limit and by_network.is_spent(network := client_network(client), now_ns):
            return f"{by_network.limit} a minute from network {network}"
        return None

    def count(self, client: str, now_ns: int) -> None:
        if self.by_client.limit:
            self.by_client.count(client, now_ns)
        if self.by_network.limit:
            self.by_network.count(client_network(client), now_ns)


class Rates:
    """Connections, messages, recipients and refused recipients in a minute; see the module.

    All but refusals count when they are accepted: a retry of what was deferred is never charged.
    ``limits_mail`` is True if messages or recipients are limited.
    A message is judged at MAIL and counted when it is accepted; so transactions that run at the
    same time pass together, at most as many as a client may have connections.  Trusted clients
    are neither counted nor refused.  Time is the clock's ``monotonic_ns``.
    """

    __slots__ = (
        *("_clock", "_connections", "_messages", "_recipients", "_refusals", "_trusted"),
        "limits_mail",
    )

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._clock = clock
        self._connections, self._messages, self._recipients = _Rate(), _Rate(), _Rate()
        self._refusals = _Rate()
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Take new limits; what was counted in this minute stays counted."""
        self._trusted = networks_of(settings.trusted_networks)
        self._connections.limit_to(
            settings.client_connections_per_min, settings.network_connections_per_min
        )
        self._messages.limit_to(settings.client_messages_per_min, settings.network_messages_per_min)
        self._recipients.limit_to(
            settings.client_recipients_per_min, settings.network_recipients_per_min
        )
        self._refusals.limit_to(settings.client_refusals_per_min, settings.network_refusals_per_min)
        self.limits_mail = self._messages.is_limited or self._recipients.is_limited

    def connection(self, client: str) -> str | None:
        """The limit that one more connection would break, in words; none is counted yet."""
        return self._broken(self._connections, client)

    def charge_connection(self, client: str) -> None:
        """Count a connection that was let in."""
        self._charge(self._connections, client)

    def message(self, client: str) -> Reply | None:
        """The refusal of a message that would be one too many; none is counted yet."""
        limit = self._broken(self._messages, client)
        return reply.too_many_messages(limit) if limit else None

    def refusals(self, client: str) -> str | None:
        """The limit on refused recipients that ``client`` has reached, in words."""
        return self._broken(self._refusals, client)

    def charge_refusals(self, client: str, events: Iterable[Event]) -> None:
        """Count the refused recipients among a session's events.

        A client that has reached its own limit is kept out already; what its open connections
        bring beyond it is not its network's: else one client could keep its neighbours out.
        """
        limit = self._refusals.by_client
        for one in events:
            if isinstance(one, RefusedReply) and one.recipient is not None:
                if limit.limit and limit.is_spent(client, self._clock.monotonic_ns()):
                    return
                self._charge(self._refusals, client)

    def charge_message(self, client: str) -> None:
        """Count an accepted message."""
        self._charge(self._messages, client)

    def recipient(self, client: str) -> Reply | None:
        """Count a recipient that is about to be accepted and return None; or return the refusal."""
        limit = self._broken(self._recipients, client)
        if limit:
            return reply.too_many_recipients_a_minute(limit)
        self._charge(self._recipients, client)
        return None

    def _broken(self, rate: _Rate, client: str) -> str | None:
        if not rate.is_limited or client in self._trusted:
            return None
        return rate.broken(client, self._clock.monotonic_ns())

    def _charge(self, rate: _Rate, client: str) -> None:
        if rate.is_limited and client not in self._trusted:
            rate.count(client, self._clock.monotonic_ns())
