"""Limits on connections at one time: in all, from one client, and from its network.

A connection counts from ``enter`` to ``leave``.  Trusted clients count towards the total alone:
they neither meet the limits for one client and its network nor use up their neighbours' share.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from mailsrv.policy.networks import client_network, networks_of
from mailsrv.settings import Settings

RELIEF_PERCENT = 10
"""Stress ends this far below where it begins, so that it does not come and go with each client."""


class Admission:
    """Counts connections; says which limit a new one would break.

    ``connections_max`` is the bound on all of them (RFC 5321 section 4.5.3.1 allows local
    limits; 421 says so).  ``stressed`` is True from the connection on that fills
    ``stress_percent`` of it, until ten points less are filled.
    """

    __slots__ = (
        "_by_client",
        "_by_network",
        "_connections_max",
        "_network_of",
        "_per_client_max",
        "_per_network_max",
        "_stress_begins",
        "_stress_ends",
        "_total",
        "_trusted",
        "stressed",
    )

    def __init__(self, settings: Settings, connections_max: int) -> None:
        self._by_client: Counter[str] = Counter()
        self._by_network: Counter[str] = Counter()
        self._network_of: dict[str, str] = {}  # of the clients that count for their network
        self._total = 0
        self.reload(settings, connections_max)

    def reload(self, settings: Settings, connections_max: int) -> None:
        """Take new limits.  Open connections stay and are counted as the new settings say."""
        self._connections_max = connections_max
        self._per_client_max = settings.connections_per_client
        self._per_network_max = settings.connections_per_network
        self._trusted = networks_of(settings.trusted_networks)
        self._stress_begins, self._stress_ends = _stress_bounds(settings, connections_max)
        self._by_network.clear()
        self._network_of.clear()
        for client, connections in self._by_client.items():
            network = self._counted_network(client)
            if network:
                self._network_of[client] = network
                self._by_network[network] += connections
        self.stressed = self._total >= self._stress_begins

    @property
    def full(self) -> bool:
        """True when nobody else can come in, whoever it is."""
        return self._total >= self._connections_max

    def enter(self, client: str) -> str | None:
        """Count ``client`` in and return None; or return the limit that forbids it, in words."""
        if self._total >= self._connections_max:
            return f"{self._connections_max} in all"
        here = self._by_client.get(client, 0)
        if here >= self._per_client_max and client not in self._trusted:
            return f"{self._per_client_max} from {client}"
        if self._per_network_max:
            network = self._network_of.get(client) or self._counted_network(client)
            if network:
                if self._by_network[network] >= self._per_network_max:
                    return f"{self._per_network_max} from network {network}"
                self._network_of[client] = network
                self._by_network[network] += 1
        self._by_client[client] = here + 1
        self._total += 1
        if self._total >= self._stress_begins:
            self.stressed = True
        return None

    def leave(self, client: str) -> None:
        """Count ``client`` out."""
        here = self._by_client[client] - 1
        network = self._network_of.get(client)
        if network:
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]
        if here:
            self._by_client[client] = here
        else:
            del self._by_client[client]
            self._network_of.pop(client, None)
        self._total -= 1
        if self._total <= self._stress_ends:
            self.stressed = False

    def _counted_network(self, client: str) -> str:
        """The network that ``client`` counts for; "" if it counts for none."""
        if not self._per_network_max or client in self._trusted:
            return ""
        return client_network(client)


def _stress_bounds(settings: Settings, connections_max: int) -> tuple[int, int]:
    """From how many connections on there is stress, and down to how many it lasts."""
    percent = settings.stress_percent
    if not percent:
        return connections_max + 1, connections_max  # which is never reached
    begins = max(1, -(-connections_max * percent // 100))
    return begins, max(0, connections_max * (percent - RELIEF_PERCENT) // 100)


def stress_settings(settings: Settings) -> Settings:
    """``settings`` with the timeouts and limits of a server under stress.

    No wait for a client, and none that we impose on it, is longer than ``stress_timeout_s``; the
    session ends at ``stress_errors``.  What does not shrink is what the client cannot help or
    has earned: the time for DNS and for delivery, since giving up there makes a client come
    again for what was nearly done; and the life of a session, since mail that keeps flowing at
    the minimum rate is what the server is for.
    """
    longest_s = settings.stress_timeout_s
    return replace(
        settings,
        greet_wait_s=min(settings.greet_wait_s, longest_s),
        proxy_timeout_s=min(settings.proxy_timeout_s, longest_s),
        handshake_timeout_s=min(settings.handshake_timeout_s, longest_s),
        idle_timeout_s=min(settings.idle_timeout_s, longest_s),
        command_timeout_s=min(settings.command_timeout_s, longest_s),
        content_start_timeout_s=min(settings.content_start_timeout_s, longest_s),
        content_timeout_s=min(settings.content_timeout_s, longest_s),
        linger_timeout_s=min(settings.linger_timeout_s, longest_s),
        error_pause_s=min(settings.error_pause_s, longest_s),
        errors_soft=min(settings.errors_soft, settings.stress_errors),
        errors_hard=min(settings.errors_hard, settings.stress_errors),
    )
