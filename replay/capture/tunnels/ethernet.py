"""Ethernet frames as what everything else is rewritten as, and what stands in them before IP.

A frame here is twelve octets of addresses, which nothing looks at, a type and what it carries.
Nothing here raises but ``Declined``: what makes no sense is returned as it is.
"""

from __future__ import annotations

import struct

TAGS_MAX = 8
"""Tags within one another; no network has more."""

NO_ADDRESSES = bytes(12)
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
ETHERNET = b"\x65\x58"  # transparent Ethernet bridging (RFC 1701)
MPLS = b"\x88\x47"
PPPOE_SESSION = b"\x88\x64"
UNKNOWN = b"\xff\xff"

_TAG_OCTETS = {  # the type and what follows it, up to the next type
    b"\x81\x00": 4,  # IEEE 802.1Q
    b"\x88\xa8": 4,  # IEEE 802.1ad
    b"\x91\x00": 4,
    b"\x92\x00": 4,
    b"\x89\x26": 6,  # VNTag
    b"\x89\x3f": 8,  # E-tag (IEEE 802.1BR)
}
_MPLS = frozenset((MPLS, b"\x88\x48"))
_BACKBONE = b"\x88\xe7"  # IEEE 802.1ah: a service tag, then a whole frame
_MACSEC = b"\x88\xe5"
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"  # RFC 1042
_LLC_OCTETS_MAX = 1500  # a type that small is a length (IEEE 802.3)
_PPP_PROTOCOLS = {
    b"\x00\x21": IPV4, b"\x00\x57": IPV6, b"\x21": IPV4, b"\x57": IPV6, b"\x02\x81": MPLS,
}  # fmt: skip
_BRIDGED = b"\x00\x31"  # RFC 3518: flags, kind of frame
_PPP_NAMES = {b"\x00\x3d": "a part of a multilink PPP packet", b"\x00\xfd": "compressed PPP"}


class Declined(Exception):
    """A frame is not read; ``what`` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def frame_of(kind: bytes, content: bytes) -> bytes:
    """A frame that carries ``content``, named by an Ethernet type; a whole frame is itself."""
    return content if kind == ETHERNET else NO_ADDRESSES + kind + content


def frame_of_ip(packet: bytes) -> bytes:
    """A frame that carries an IP packet of either version."""
    kind = IPV6 if packet[:1] and packet[0] >> 4 == 6 else IPV4
    return NO_ADDRESSES + kind + packet


def frame_of_ppp(packet: bytes) -> bytes:
    """A frame of a PPP packet (RFC 1661 section 2), with or without the HDLC header of RFC 1662."""
    if packet[:2] == b"\xff\x03":
        packet = packet[2:]
    octets = 1 if packet[:1] and packet[0] & 1 else 2  # the protocol may be compressed
    protocol = packet[:octets]
    if name := _PPP_NAMES.get(protocol):
        raise Declined(name)
    if protocol == _BRIDGED:
        return packet[4:]
    return NO_ADDRESSES + _PPP_PROTOCOLS.get(protocol, UNKNOWN) + packet[octets:]


def untagged(frame: bytes) -> bytes:
    """A frame without VLAN and port tags, MPLS labels, PPPoE and SNAP headers.

    Raises Declined.
    """
    for _ in range(TAGS_MAX):
        kind = frame[12:14]
        if kind in (IPV4, IPV6):
            break
        if octets := _TAG_OCTETS.get(kind):
            frame = NO_ADDRESSES + frame[12 + octets :]
        elif kind in _MPLS:
            frame = _without_labels(frame)
        elif kind == PPPOE_SESSION:
            frame = frame_of_ppp(frame[20:])
        elif kind == _BACKBONE:
            frame = frame[18:]
        elif kind == _MACSEC:
            raise Declined("MACsec, which is encrypted or at least sealed")
        elif kind < struct.pack("!H", _LLC_OCTETS_MAX + 1) and frame[14:20] == _SNAP:
            frame = NO_ADDRESSES + frame[20:]
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
            return _labelled(frame[position:])
    return NO_ADDRESSES + UNKNOWN + frame[position:]


def _labelled(content: bytes) -> bytes:
    """What is labelled says nothing of itself: IP by its version, or a whole Ethernet frame with
    or without a control word (RFC 4448 section 4.6, RFC 4928)."""
    version = content[0] >> 4 if content else 0
    if version == 0:
        return content if _is_frame(content) and not _is_frame(content[4:]) else content[4:]
    is_ipv4 = version == 4 and content[0] & 15 >= 5 and content[2:4] >= b"\x00\x14"
    if is_ipv4 and (content[9:10] in b"\x01\x04\x06\x11\x29\x2f\x32\x33"):
        return frame_of_ip(content)
    if version == 6 and content[6:7] in b"\x00\x04\x06\x11\x29\x2b\x2c\x2f\x32\x33\x3a\x3c":
        return frame_of_ip(content)
    return content if _is_frame(content) else frame_of_ip(content)


def _is_frame(content: bytes) -> bool:
    """Whether ``content`` has a type where Ethernet has it."""
    kind = content[12:14]
    return kind in (IPV4, IPV6, PPPOE_SESSION) or kind in _TAG_OCTETS
