"""The PROXY protocol's header: written for a server that trusts it, and skipped in what was sent.

By HAProxy's specification (doc/proxy-protocol.txt); sections are cited from it.  A header names
ports, so it is another one in every recording of the same sender, and a server does not answer it.
"""

from __future__ import annotations

import ipaddress
import re
import struct

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V2_FIXED_OCTETS = 16
"""Signature, version and command, family, length (section 2.2)."""

_V1_LINE = re.compile(rb"PROXY (?:TCP|UNKNOWN)[^\r\n]{0,100}\r\n")
_V2_VERSION_AND_COMMAND = 0x21  # version 2, PROXY
_V2_STREAM_4, _V2_STREAM_6 = 0x11, 0x21


def header_octets(sent: bytes) -> int:
    """How many octets of a header ``sent`` begins with; 0 if it begins with none.

    A header of which a part is missing counts as announced.
    """
    if line := _V1_LINE.match(sent):
        return line.end()
    if sent.startswith(V2_SIGNATURE) and len(sent) >= V2_FIXED_OCTETS:
        return V2_FIXED_OCTETS + int.from_bytes(sent[V2_FIXED_OCTETS - 2 : V2_FIXED_OCTETS])
    return 0


def after_header(sent: bytes) -> bytes:
    """What was sent after the header, if there is one."""
    return sent[header_octets(sent) :]


def proxy_header(
    version: int, client: str, source_port: int, server: tuple[str | int | bytes, ...]
) -> bytes:
    """The header that names ``client``; ``server`` is the socket address connected to.

    Both addresses are of one family in it (sections 2.1 and 2.2), so an IPv4 one stands as
    IPv4-mapped beside an IPv6 one.
    """
    bare = str(server[0]).partition("%")[0]
    source, destination = ipaddress.ip_address(client), ipaddress.ip_address(bare)
    if source.version != destination.version:
        source, destination = _as_ipv6(source), _as_ipv6(destination)
    port = int(server[1])
    if version == 1:
        line = f"PROXY TCP{source.version} {source} {destination} {source_port} {port}\r\n"
        return line.encode("ascii")
    family = _V2_STREAM_4 if source.version == 4 else _V2_STREAM_6
    body = source.packed + destination.packed + struct.pack("!HH", source_port, port)
    head = struct.pack("!BBH", _V2_VERSION_AND_COMMAND, family, len(body))
    return V2_SIGNATURE + head + body


def _as_ipv6(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address):
        return address
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
