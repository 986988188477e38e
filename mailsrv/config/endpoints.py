"""Addresses with a port, as the configuration writes them, parsed once."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from mailsrv.config.validation import ConfigError

LISTENERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a port, as sockets take them."""

    host: str
    port: int
    text: str = field(default="", compare=False)
    """As the configuration writes it, which may be ``localhost:25``; "" is the usual notation."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.text or f"{host}:{self.port}"

    @property
    def is_public(self) -> bool:
        """Whether other machines may reach what listens there."""
        return not ipaddress.ip_address(self.host).is_loopback


def parse_endpoint(text: str) -> Endpoint:
    """``HOST:PORT``, where HOST is an IPv4 address or an IPv6 address in brackets.

    Raises ConfigError.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        number = int(port) if port.isascii() and port.isdigit() else -1
    except ValueError:
        number = -1
    if not colon or not 0 <= number <= 65535:
        raise ConfigError(
            f"{text}: takes ADDRESS:PORT, such as 127.0.0.1:2525 or [::1]:2525, "
            "with a port from 0 to 65535"
        )
    return Endpoint("127.0.0.1" if host == "localhost" else host, number, text)


def first_duplicate(endpoints: Iterable[Endpoint]) -> Endpoint | None:
    """The first endpoint that stands there a second time; port 0 is any free one."""
    seen = set()
    for endpoint in endpoints:
        if endpoint in seen and endpoint.port:
            return endpoint
        seen.add(endpoint)
    return None
