"""Tunnels over UDP, known by their ports: what is in them, as an Ethernet frame."""

from __future__ import annotations

import struct
from collections.abc import Callable

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

HEADERS_MAX = 16
"""Extension headers of one GTP-U packet."""

_VXLAN_HAS_NETWORK, _VXLAN_HAS_PROTOCOL = 0x08, 0x04
_VXLAN_PROTOCOLS = {1: IPV4, 2: IPV6, 3: ETHERNET}
_GTP_VERSION_1, _GTP_PACKET = 0x30, 0xFF
_GTP_EXTENDED, _GTP_LONGER = 0x04, 0x07
_L2TP_CONTROL, _L2TP_LENGTH, _L2TP_SEQUENCE, _L2TP_OFFSET = 0x8000, 0x4000, 0x0800, 0x0200
_TEREDO_AUTHENTICATION, _TEREDO_ORIGIN = b"\x00\x01", b"\x00\x00"


def frame_within(sport: int, dport: int, payload: bytes) -> bytes | None:
    """The frame that a datagram carries; None if its ports are of no tunnel.

    Raises Declined for a tunnel's own messages, struct.error and IndexError for what breaks off.
    """
    read = _BY_PORT.get(dport) or _BY_EITHER_PORT.get(sport)
    return read(payload) if read else None


def _vxlan(payload: bytes) -> bytes:
    """RFC 7348 section 5, with the next protocol of its generic extension."""
    flags, following = struct.unpack_from("!B2xB4x", payload)
    if not flags & _VXLAN_HAS_NETWORK:
        raise Declined("VXLAN without a network")
    if not flags & _VXLAN_HAS_PROTOCOL:
        return payload[8:]
    kind = _VXLAN_PROTOCOLS.get(following)
    if kind is None:
        raise Declined("VXLAN that carries neither IP nor Ethernet")
    return frame_of(kind, payload[8:])


def _geneve(payload: bytes) -> bytes:
    """RFC 8926 section 3.4."""
    first, kind = struct.unpack_from("!Bx2s", payload)
    if first >> 6:
        raise Declined("Geneve of an unknown version")
    if kind not in (ETHERNET, IPV4, IPV6, MPLS):
        raise Declined("Geneve that carries neither IP nor Ethernet")
    return frame_of(kind, payload[8 + 4 * (first & 63) :])


def _gtp(payload: bytes) -> bytes:
    """3GPP TS 29.281 section 5: user data of a phone."""
    flags, message = payload[0], payload[1]
    if flags & 0xF0 != _GTP_VERSION_1 or message != _GTP_PACKET:
        raise Declined("GTP messages without a packet in them")
    head = 8
    if flags & _GTP_LONGER:
        following = payload[11] if flags & _GTP_EXTENDED else 0
        head = 12
        for _ in range(HEADERS_MAX):
            if not following:
                break
            octets = 4 * payload[head]
            if not octets:
                raise Declined("GTP with a header of no length")
            head += octets
            following = payload[head - 1]
    return frame_of_ip(payload[head:])


def _l2tp(payload: bytes) -> bytes:
    """RFC 2661 section 3.1."""
    (flags,) = struct.unpack_from("!H", payload)
    if flags & 15 != 2:
        raise Declined("L2TP of a version whose header says too little of itself")
    if flags & _L2TP_CONTROL:
        raise Declined("L2TP messages without a packet in them")
    head = 6 + 2 * bool(flags & _L2TP_LENGTH) + 4 * bool(flags & _L2TP_SEQUENCE)
    if flags & _L2TP_OFFSET:
        (offset,) = struct.unpack_from("!H", payload, head)
        head += 2 + offset
    return frame_of_ppp(payload[head:])


def _teredo(payload: bytes) -> bytes:
    """RFC 4380 section 5.1.1."""
    if payload[:2] == _TEREDO_AUTHENTICATION:
        payload = payload[4 + payload[2] + payload[3] + 9 :]
    if payload[:2] == _TEREDO_ORIGIN:
        payload = payload[8:]
    if payload[0] >> 4 != 6:
        raise Declined("Teredo messages without a packet in them")
    return frame_of(IPV6, payload)


def _mpls(payload: bytes) -> bytes:
    """RFC 7510."""
    return frame_of(MPLS, payload)


_Reader = Callable[[bytes], bytes]

_BY_PORT: dict[int, _Reader] = {
    4789: _vxlan,
    8472: _vxlan,  # Linux, from before it had a number
    4790: _vxlan,
    6081: _geneve,
    2152: _gtp,
    6635: _mpls,
    1701: _l2tp,
    3544: _teredo,
}
_BY_EITHER_PORT: dict[int, _Reader] = {2152: _gtp, 1701: _l2tp, 3544: _teredo}
