"""The addresses of next hops: which may be used, and in which order they are tried.

What DNS says of a stranger's domain is the stranger's choice.  An MX record that leads to loopback
or into a private network would turn this server against its own neighbours, so such addresses are
left out unless they lie in networks that the configuration names.  A next hop that the
configuration itself names may be anywhere.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from random import Random
from typing import NamedTuple

from mailsrv.policy.networks import Networks
from mailsrv.smtp.sending.outcome import OutcomeKind

ADDRESSES_OF_A_HOST_MAX = 8
"""Addresses of one host that are looked at, half of them IPv4; more are never tried anyway."""
ADDRESSES_MAX = 16
"""Addresses of one next hop."""

NOT_PUBLIC = Networks(
    (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"),
        *("::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/8", "2002::/16"),
        *("fc00::/7", "fe80::/9", "ff00::/8"),
    )
)
"""Networks that no stranger's MX may lead into: this host, private use and shared address space,
link-local, multicast, reserved (RFC 6890), and those that embed an IPv4 address."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Address(NamedTuple):
    """Where to connect to: ``ip`` as text, the port, and the name of the host, which its
    certificate is to bear."""

    ip: str
    port: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}[{self.ip}]:{self.port}"

    @property
    def remote(self) -> str:
        """The host's name as it stands in notices (Remote-MTA), an address in brackets."""
        return f"[{self.ip}]" if parse_ip(self.name) is not None else self.name


class Unroutable(NamedTuple):
    """There is no address to connect to: what that means for the recipients."""

    kind: OutcomeKind
    status: str
    diagnostic: str


def parse_ip(text: str) -> IPAddress | None:
    """``text`` as an address, an IPv4 one where it is mapped into IPv6; None if it is none, or
    one with a zone, which means nothing here."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return None if address.scope_id else address.ipv4_mapped or address
    return address


def literal_of(domain: str) -> IPAddress | None:
    """The address in the address literal ``domain`` (RFC 5321 section 4.1.3); None if it is no
    literal."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    text = domain[1:-1]
    return parse_ip(text[len("ipv6:") :] if text.lower().startswith("ipv6:") else text)


def is_allowed(ip: str, allowed: Networks) -> bool:
    """Whether a stranger's DNS may send us to ``ip``."""
    return ip not in NOT_PUBLIC or ip in allowed


def ordered(v6: Sequence[str], v4: Sequence[str], generator: Random) -> list[str]:
    """The addresses of one host in the order in which they are tried: each family in random order
    (RFC 5321 section 5.1 leaves it to the resolver, whose cache always says the same), and the
    families by turns, so that one which is unreachable from here costs one try."""
    families = [sample(v6, generator), sample(v4, generator)]
    return [ip for ip in chain.from_iterable(zip_longest(*families)) if ip is not None]


def sample(ips: Sequence[str], generator: Random) -> list[str]:
    """``ips`` in random order, each once, within the bound of one family."""
    once = list(dict.fromkeys(ips))
    generator.shuffle(once)
    return once[: ADDRESSES_OF_A_HOST_MAX // 2]


def read_ips(records: Iterable[str]) -> list[str]:
    """The addresses in A or AAAA records, in canonical form."""
    return [str(ip) for record in records if (ip := parse_ip(record)) is not None]
