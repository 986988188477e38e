"""Places as a configuration writes them: addresses with a port, and where mail goes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from mailsrv.config.validation import ConfigError
from mailsrv.resolver.resolv_conf import NAMESERVERS_MAX

LISTENERS_MAX = 64


def parse_address(text: str) -> tuple[str, int]:
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
    return ("127.0.0.1" if host == "localhost" else host), number


def format_address(host: str, port: int) -> str:
    """What ``parse_address`` makes ``host`` and ``port`` of."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_delivery(text: str) -> tuple[str, str]:
    """``maildir=DIR`` or ``discard``: how, and where.  Raises ConfigError."""
    how, _, where = text.partition("=")
    if (how, bool(where)) not in (("maildir", True), ("discard", False)):
        raise ConfigError(f"delivery: {text}: takes maildir=DIR or discard")
    return how, where


def parse_resolvers(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """The name servers that ``texts`` name, as host and port.  Raises ConfigError."""
    if len(texts) > NAMESERVERS_MAX:
        raise ConfigError(f"resolvers: takes {NAMESERVERS_MAX} name servers at most")
    servers = tuple(map(parse_address, texts))
    for text, (_, port) in zip(texts, servers, strict=True):
        if port == 0:
            raise ConfigError(f"resolvers: {text}: a name server has a port, usually 53")
    return servers


def is_public(address: str) -> bool:
    """Whether others than this machine reach what listens on ``address``; no is also said of
    what is no address."""
    try:
        host, _ = parse_address(address)
    except ConfigError:
        return False
    return not ipaddress.ip_address(host).is_loopback


def taken_twice(addresses: Iterable[str]) -> str | None:
    """The first address that stands there a second time; port 0 is any free one."""
    seen = set()
    for text in addresses:
        place = parse_address(text)
        if place in seen and place[1]:
            return text
        seen.add(place)
    return None
