"""Networks: sets that a configuration names, and the one that a client belongs to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

IPV4_PREFIX_BITS = 24
IPV6_PREFIX_BITS = 64
CLIENTS_KEPT = 4096
"""Clients whose answer need not be worked out again: most come often."""
SETS_KEPT = 64
"""Sets that need not be made again: one stands in several places of a server."""


class Networks:
    """Networks such as "192.0.2.0/24" and "2001:db8::/32".

    Raises ValueError for a text that names no network.
    """

    __slots__ = ("_hold", "_networks")

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(map(ipaddress.ip_network, networks))
        if self._networks:
            self._hold = lru_cache(CLIENTS_KEPT)(self._look_up)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, client: str) -> bool:
        """True if ``client``, an address as text, lies in one of them."""
        return bool(self._networks) and self._hold(client)

    def _look_up(self, client: str) -> bool:
        address = ipaddress.ip_address(client)
        return any(address in network for network in self._networks)


def networks_of(texts: Iterable[str]) -> Networks:
    """The networks that ``texts`` name; the same object for the same texts.  Raises ValueError."""
    return _kept(tuple(texts))


_kept = lru_cache(SETS_KEPT)(Networks)


@lru_cache(CLIENTS_KEPT)
def client_network(
    client: str, ipv4_bits: int = IPV4_PREFIX_BITS, ipv6_bits: int = IPV6_PREFIX_BITS
) -> str:
    """The network a client counts as: its /24 or /64, or what else is asked for; a text that is
    no address is its own."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(address), ipv6_bits), strict=False))
        address = address.ipv4_mapped
    return str(ipaddress.IPv4Network((int(address), ipv4_bits), strict=False))
