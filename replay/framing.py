"""Link layers rewritten as Ethernet, and Ethernet without what stands between it and IP.

So there is one way from any frame to its IP packet.  Nothing here raises: what makes no sense is
given back as it is, for the decoder to tell.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

TAGS_MAX = 8
"""Tags within one another; more are no network's."""

NO_MACS = bytes(12)
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"

_VLAN_TAGS = frozenset((b"\x81\x00", b"\x88\xa8", b"\x91\x00", b"\x92\x00"))
_MPLS = frozenset((b"\x88\x47", b"\x88\x48"))
_PPPOE_SESSION = b"\x88\x64"
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"  # RFC 1042
_LLC_OCTETS_MAX = 1500  # a type that small is a length (IEEE 802.3)
_PPP_PROTOCOLS = {b"\x00\x21": IPV4, b"\x00\x57": IPV6, b"\x21": IPV4, b"\x57": IPV6}


def _from_ip(frame: bytes) -> bytes:
    return NO_MACS + (IPV6 if frame[:1] and frame[0] >> 4 == 6 else IPV4) + frame


def _from_loopback(frame: bytes) -> bytes:
    # The address family is in the capturing host's byte order (NULL) or the network's (LOOP), and
    # IPv6's number differs by system; the version in the IP header tells as much.
    return _from_ip(frame[4:])


def _from_sll(frame: bytes) -> bytes:
    return NO_MACS + frame[14:]


def _from_sll2(frame: bytes) -> bytes:
    return NO_MACS + frame[:2] + frame[20:]


def _from_ppp(frame: bytes) -> bytes:
    """RFC 1661 section 2, with or without the HDLC header of RFC 1662."""
    if frame[:2] == b"\xff\x03":
        frame = frame[2:]
    octets = 1 if frame[:1] and frame[0] & 1 else 2  # the protocol may be compressed
    return NO_MACS + _PPP_PROTOCOLS.get(frame[:octets], b"\xff\xff") + frame[octets:]


def _from_pppoe(frame: bytes) -> bytes:
    return NO_MACS + _PPPOE_SESSION + frame


def _from_cisco_hdlc(frame: bytes) -> bytes:
    return NO_MACS + frame[2:]


def _from_mpls(frame: bytes) -> bytes:
    return NO_MACS + b"\x88\x47" + frame


AS_ETHERNET: dict[int, Callable[[bytes], bytes]] = {
    0: _from_loopback,  # NULL
    9: _from_ppp,  # PPP
    12: _from_ip,  # RAW as some systems number it in files
    14: _from_ip,  # RAW on OpenBSD
    50: _from_ppp,  # PPP_HDLC
    51: _from_pppoe,  # PPP_ETHER
    101: _from_ip,  # RAW
    104: _from_cisco_hdlc,  # C_HDLC
    108: _from_loopback,  # LOOP
    113: _from_sll,  # LINUX_SLL
    219: _from_mpls,  # MPLS
    228: _from_ip,  # IPV4
    229: _from_ip,  # IPV6
    276: _from_sll2,  # LINUX_SLL2
}
"""How to rewrite a frame of a link type; Ethernet (1) needs no rewriting."""


def untagged(frame: bytes) -> bytes:
    """An Ethernet frame without VLAN tags, MPLS labels, PPPoE and SNAP headers."""
    for _ in range(TAGS_MAX):
        kind = frame[12:14]
        if kind in _VLAN_TAGS:
            frame = NO_MACS + frame[16:]
        elif kind in _MPLS:
            frame = _without_labels(frame)
        elif kind == _PPPOE_SESSION:
            frame = NO_MACS + _PPP_PROTOCOLS.get(frame[20:22], b"\xff\xff") + frame[22:]
        elif kind < struct.pack("!H", _LLC_OCTETS_MAX + 1) and frame[14:20] == _SNAP:
            frame = NO_MACS + frame[20:]
        else:
            break
    return frame


def _without_labels(frame: bytes) -> bytes:
    """RFC 3032 section 2.1: the last label has its bottom-of-stack bit set."""
    position = 14
    for _ in range(TAGS_MAX):
        last = frame[position + 2 : position + 3]
        position += 4
        if last and last[0] & 1:
            return _from_ip(frame[position:])
    return NO_MACS + b"\xff\xff" + frame[position:]
