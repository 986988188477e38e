"""The PROXY protocol's header, versions 1 and 2: who the client behind a proxy is.

By the specification that HAProxy keeps (doc/proxy-protocol.txt); sections are cited from it.
The header comes before anything else on the connection, from a proxy that we trust; so whatever
is not a whole and correct header is a fault, and the connection cannot go on.  It is read in any
segmentation, and what is wrong is found at the same octet in each.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

V1_OCTETS_MAX = 107
"""Section 2.1: the longest line possible, its CRLF included."""
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V2_FIXED_OCTETS = 16
"""Section 2.2: signature, version and command, family, length."""
V2_LENGTH_MAX = 4096
"""Addresses and TLVs: room for a client certificate's names; 65,535 could be announced."""
SHOWN_CHARACTERS_MAX = 60

_V1_BEGIN = b"PROXY "
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_PORT_MAX = 65535
_LOCAL, _PROXY = 0, 1
_V2_ADDRESS_OCTETS = {0: 0, 1: 4 + 4 + 2 + 2, 2: 16 + 16 + 2 + 2, 3: 108 + 108}
"""By address family: unspecified, IPv4, IPv6, Unix."""
_V2_TRANSPORTS = 3  # unspecified, stream, datagram


class ProxyFault(Exception):
    """The header is not one.  The text says what came and what is allowed; the connection must
    be closed (section 2: no attempt to guess)."""


class ProxiedClient(NamedTuple):
    """A whole header was read.

    ``client`` is the address of who connected to the proxy, IPv4-mapped ones as IPv4; None if
    the proxy speaks for itself or does not tell, so that the connection's own address counts.
    ``rest`` is what came behind the header.
    """

    client: str | None
    rest: bytes


class ProxyHeader:
    """Reads one header."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> ProxiedClient | None:
        """Take octets; None until the header is whole.  Raises ProxyFault."""
        held = self._held + chunk
        proxied = _read_v2(held) if held[:1] == V2_SIGNATURE[:1] else _read_v1(held)
        # What is held is less than a whole header, whose bound the readers keep.
        self._held = held if proxied is None else b""
        return proxied


# -- version 1: a line of text --------------------------------------------------------------------


def _read_v1(held: bytes) -> ProxiedClient | None:
    if not _V1_BEGIN.startswith(held[: len(_V1_BEGIN)]):
        raise ProxyFault(
            'no PROXY header: a connection from a proxy begins with "PROXY " (version 1)'
            " or the signature of version 2"
        )
    end = held.find(b"\n", 0, V1_OCTETS_MAX)
    if end < 0:
        if len(held) >= V1_OCTETS_MAX:
            raise ProxyFault(f"PROXY header: no CRLF within {V1_OCTETS_MAX} octets")
        return None
    if not held.endswith(b"\r", 0, end):
        raise ProxyFault("PROXY header: a bare LF ends the line; CRLF is required")
    return ProxiedClient(
        _v1_client(held[len(_V1_BEGIN) : end - 1].decode("latin-1")), held[end + 1 :]
    )


def _v1_client(text: str) -> str | None:
    protocol, *words = text.split(" ")
    if protocol == "UNKNOWN":
        return None  # and whatever follows is ignored (section 2.1)
    if protocol not in ("TCP4", "TCP6"):
        raise ProxyFault(
            f"PROXY header: protocol {_shown(protocol)}; allowed are TCP4, TCP6 and UNKNOWN"
        )
    if len(words) != 4:
        raise ProxyFault(
            f"PROXY header: {len(words)} words after {protocol}; it takes four, one space apart:"
            " source and destination address, source and destination port"
        )
    source, destination, *ports = words
    client = _v1_address(protocol, source)
    _v1_address(protocol, destination)
    for port in ports:
        if not _PORT.fullmatch(port) or int(port) > _PORT_MAX:
            raise ProxyFault(
                f"PROXY header: port {_shown(port)}; allowed is a decimal number from 0 to"
                f" {_PORT_MAX} without leading zeros"
            )
    return client


def _v1_address(protocol: str, text: str) -> str:
    try:
        if protocol == "TCP4":
            return str(ipaddress.IPv4Address(text))
        if "%" in text:
            raise ValueError("a zone means nothing on another machine")
        return _plain(ipaddress.IPv6Address(text))
    except ValueError:
        allowed = (
            "an IPv4 address in decimal, without leading zeros"
            if protocol == "TCP4"
            else "an IPv6 address without a zone"
        )
        raise ProxyFault(
            f"PROXY header: {protocol} address {_shown(text)}; allowed is {allowed}"
        ) from None


# -- version 2: binary ----------------------------------------------------------------------------


def _read_v2(held: bytes) -> ProxiedClient | None:
    if not V2_SIGNATURE.startswith(held[: len(V2_SIGNATURE)]):
        raise ProxyFault("no PROXY header: it begins like version 2, with another signature")
    if len(held) > 12:
        _check_version(held[12])
    if len(held) < V2_FIXED_OCTETS:
        return None
    command, family, transport = held[12] & 15, held[13] >> 4, held[13] & 15
    length = int.from_bytes(held[14:16], "big")
    if length > V2_LENGTH_MAX:
        raise ProxyFault(
            f"PROXY header: {length} octets of addresses and TLVs; at most {V2_LENGTH_MAX}"
            " are allowed"
        )
    if command == _PROXY:
        _check_family(family, transport, length)
    end = V2_FIXED_OCTETS + length
    if len(held) < end:
        return None
    client = None
    if command == _PROXY and transport == 1:  # a stream; TLVs behind the addresses are skipped
        client = _v2_client(family, held[V2_FIXED_OCTETS:end])
    return ProxiedClient(client, held[end:])


def _check_version(octet: int) -> None:
    if octet >> 4 != 2:
        raise ProxyFault(f"PROXY header: version {octet >> 4} in binary; allowed is 2")
    if octet & 15 not in (_LOCAL, _PROXY):
        raise ProxyFault(f"PROXY header: command {octet & 15}; allowed are 0 (LOCAL) and 1 (PROXY)")


def _check_family(family: int, transport: int, length: int) -> None:
    address_octets = _V2_ADDRESS_OCTETS.get(family)
    if address_octets is None or transport >= _V2_TRANSPORTS:
        raise ProxyFault(
            f"PROXY header: family {family} over transport {transport}; allowed are families"
            " 0 to 3 (unspecified, IPv4, IPv6, Unix) over transports 0 to 2 (unspecified,"
            " stream, datagram)"
        )
    if length < address_octets:
        raise ProxyFault(
            f"PROXY header: {length} octets for the addresses of family {family}, which take"
            f" {address_octets}"
        )


def _v2_client(family: int, body: bytes) -> str | None:
    if family == 1:
        return str(ipaddress.IPv4Address(body[:4]))
    if family == 2:
        return _plain(ipaddress.IPv6Address(body[:16]))
    return None  # a Unix socket has no address that a limit or a check could use


# -- both -----------------------------------------------------------------------------------------


def _plain(address: ipaddress.IPv6Address) -> str:
    """As text, an IPv4-mapped one as IPv4: one client must not have two names."""
    return str(address.ipv4_mapped or address)


def _shown(text: str) -> str:
    return ascii(text[:SHOWN_CHARACTERS_MAX])
