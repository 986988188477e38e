"""A server under test: how it is typed, where it is, and which client address it sees.

A capture's sender had an address of its own network, which this machine has not.  A server on
loopback sees one of 127/8 in its place, always the same; and any server that trusts us with the
PROXY protocol (HAProxy, doc/proxy-protocol.txt) receives the captured address itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass

SocketAddress = tuple[str | int | bytes, ...]

_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_ADDRESSES_IN_A_NET = 250
LOOPBACK_CLIENTS_MAX = 60_000
"""127.0.1.1 to 127.0.240.250."""
_IP_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # linux/in.h


class TargetError(Exception):
    """A server that cannot be found or reached; the message says in a sentence why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server: ``name`` as it was typed, and what it resolved to."""

    name: str
    family: socket.AddressFamily
    address: SocketAddress

    @property
    def on_loopback(self) -> bool:
        """True where it can be reached from every address of 127/8."""
        return self.family == socket.AF_INET and str(self.address[0]).startswith("127.")

    @property
    def host(self) -> str:
        """The name or address as it was typed, without brackets and port."""
        return self.name.rpartition(":")[0].removeprefix("[").removesuffix("]")


def resolve(text: str) -> Target:
    """``HOST:PORT`` with a name, an IPv4 address or an IPv6 address in brackets.

    Raises TargetError.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    good_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535
    if not colon or not bare or not good_port or (":" in bare and bare == host):
        raise TargetError(f"{text}: a target is HOST:PORT, such as 127.0.0.1:2525 or [::1]:2525")
    try:
        found = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise TargetError(f"cannot find {text}: {reason}") from None
    family, _, _, _, address = found[0]
    return Target(text, family, tuple(address))


def bind_client(sock: socket.socket, address: str) -> None:
    """Let ``sock`` connect from ``address``, with a port that the kernel chooses then.

    Raises OSError where the machine has no such address.
    """
    sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((address, 0))


def loopback_clients(target: Target, count: int) -> Iterator[str]:
    """Addresses for so many clients, again and again: 127.0.1.1 and its neighbours, where the
    target is on loopback.  Each gives as many ports as the kernel has ephemeral ones (28,000),
    some in TIME_WAIT.  "" where the kernel has to choose.
    """
    if not target.on_loopback:
        return itertools.repeat("")
    return itertools.cycle(
        f"127.0.{1 + number // _ADDRESSES_IN_A_NET}.{1 + number % _ADDRESSES_IN_A_NET}"
        for number in range(min(count, LOOPBACK_CLIENTS_MAX))
    )


def loopback_address(client: str) -> str:
    """The address of 127/8 that stands for a captured one: always the same.

    192.0.2.10 becomes 127.X.2.10, where X comes from 192.0; 2001:db8::10 becomes 127.X.Y.16,
    where X and Y come from the network of 64 bits.  So neighbours stay neighbours (a /24, a /64),
    which greylists and limits look at.  Two addresses may become one, but rarely.
    """
    address = ipaddress.ip_address(client)
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address in _LOOPBACK:
        return str(address)
    octets = address.packed
    if len(octets) == 4:
        return f"127.{_digest(octets[:2])[0]}.{octets[2]}.{octets[3]}"
    x, y = _digest(octets[:8])
    return f"127.{x}.{y}.{1 + (int.from_bytes(octets[8:]) - 1) % 254}"


def _digest(octets: bytes) -> list[int]:
    """Two numbers from 1 to 254: neither a network's address nor a broadcast's."""
    return [1 + octet % 254 for octet in hashlib.sha256(octets).digest()[:2]]
