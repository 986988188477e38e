"""Tunnels that are a protocol of IP: GRE with its kinds, Ethernet and MPLS in IP."""

from __future__ import annotations

import struct

from replay.capture.tunnels.ethernet import (
    ETHERNET,
    IPV4,
    IPV6,
    MPLS,
    Declined,
    frame_of,
    frame_of_ip,
    frame_of_ppp,
)

IN_IPV4, IN_IPV6, GRE, ETHERIP, MPLS_IN_IP = 4, 41, 47, 97, 137
TUNNELS = frozenset((IN_IPV4, IN_IPV6, GRE, ETHERIP, MPLS_IN_IP))
"""Protocol numbers of IP that carry packets or frames."""

_CHECKSUM, _KEY, _SEQUENCE, _ACKNOWLEDGEMENT = 0x8000, 0x2000, 0x1000, 0x0080
_VERSION, _PPTP_VERSION = 7, 1
_PPP = b"\x88\x0b"
_ERSPAN, _ERSPAN_3 = b"\x88\xbe", b"\x22\xeb"
_ERSPAN_3_IP = 2  # frame type
_CARRIED = frozenset((IPV4, IPV6, MPLS, ETHERNET, b"\x81\x00", b"\x88\xa8"))


def frame_within(protocol: int, content: bytes) -> bytes:
    """The frame that an IP packet of ``protocol`` carries.  Raises Declined and struct.error."""
    if protocol in (IN_IPV4, IN_IPV6):  # RFC 2003, RFC 4213
        return frame_of(IPV4 if protocol == IN_IPV4 else IPV6, content)
    if protocol == GRE:
        return _gre(content)
    if protocol == ETHERIP:  # RFC 3378
        return content[2:]
    return frame_of(MPLS, content)  # RFC 4023


def _gre(content: bytes) -> bytes:
    """RFC 2784, RFC 2890, RFC 7637 (NVGRE), RFC 2637 (PPTP), ERSPAN."""
    flags, kind = struct.unpack_from("!H2s", content)
    options = sum(bool(flags & flag) for flag in (_CHECKSUM, _KEY, _SEQUENCE))
    if flags & _VERSION == _PPTP_VERSION:
        options += bool(flags & _ACKNOWLEDGEMENT)
        if kind != _PPP or not flags & _SEQUENCE:
            raise Declined("GRE of PPTP without a packet in it")
        return frame_of_ppp(content[4 + 4 * options :])
    content = content[4 + 4 * options :]
    if kind == _ERSPAN:
        # Type I has no header of its own, and no sequence number either.
        return content[8:] if flags & _SEQUENCE else content
    if kind == _ERSPAN_3:
        kinds, last = struct.unpack_from("!8x2xBB", content)
        frame = content[12 + (8 if last & 1 else 0) :]
        return frame_of_ip(frame) if kinds >> 2 & 31 == _ERSPAN_3_IP else frame
    if kind not in _CARRIED:
        raise Declined(f"GRE that carries neither IP nor Ethernet (type 0x{kind.hex()})")
    return frame_of(kind, content)
