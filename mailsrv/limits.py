"""How many may be here at once, in all and from one client."""

from __future__ import annotations

import ipaddress
from collections import Counter

from mailsrv.settings import Settings


class Admission:
    """Counts connections; says which limit a new one would break.

    ``connections_max`` is the bound on all of them (RFC 5321 section 4.5.3.1 allows local
    limits; 421 says so).
    """

    __slots__ = ("_by_client", "_connections_max", "_per_client_max", "_total", "_trusted")

    def __init__(self, settings: Settings, connections_max: int) -> None:
        self._connections_max = connections_max
        self._per_client_max = settings.connections_per_client
        self._trusted = tuple(map(ipaddress.ip_network, settings.trusted_networks))
        self._by_client: Counter[str] = Counter()
        self._total = 0

    def enter(self, client: str) -> str | None:
        """Count ``client`` in and give None; or give the limit that forbids it, in words."""
        if self._total >= self._connections_max:
            return f"{self._connections_max} in all"
        if self._by_client[client] >= self._per_client_max and not self._is_trusted(client):
            return f"{self._per_client_max} from {client}"
        self._total += 1
        self._by_client[client] += 1
        return None

    def leave(self, client: str) -> None:
        """Count ``client`` out."""
        self._total -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def _is_trusted(self, client: str) -> bool:
        address = ipaddress.ip_address(client)
        return any(address in network for network in self._trusted)
