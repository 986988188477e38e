"""Headers that capturing programs and other links put before a packet, rewritten as Ethernet."""

from __future__ import annotations

import struct

from replay.capture.tunnels.ethernet import (
    IPV4,
    IPV6,
    NO_ADDRESSES,
    UNKNOWN,
    Declined,
    frame_of_ip,
    frame_of_ppp,
)

TLVS_MAX = 64
"""Of one NFLOG frame; the kernel writes at most twenty."""

_NFLOG_PAYLOAD = 9  # linux/netfilter/nfnetlink_log.h
_NLPIDS = {0xCC: IPV4, 0x8E: IPV6}
_BRIDGED_ETHERNET = (b"\x00\x80\xc2\x00\x01", b"\x00\x80\xc2\x00\x07")


def from_loopback(frame: bytes) -> bytes:
    """The address family is in the capturing host's byte order (NULL) or the network's (LOOP), and
    IPv6's number differs by system; the version in the IP header tells as much."""
    return frame_of_ip(frame[4:])


def from_sll(frame: bytes) -> bytes:
    """Linux cooked capture: the type stands last."""
    return NO_ADDRESSES + frame[14:]


def from_sll2(frame: bytes) -> bytes:
    """Linux cooked capture, version 2: the type stands first."""
    return NO_ADDRESSES + frame[:2] + frame[20:]


def from_ppp_with_direction(frame: bytes) -> bytes:
    """An octet tells the direction, beside PPP's address or in its place."""
    if frame[1:2] == b"\x03":
        return frame_of_ppp(frame[2:])
    return frame_of_ppp(frame[1:])


def from_cisco_hdlc(frame: bytes) -> bytes:
    """Address, control, type."""
    return NO_ADDRESSES + frame[2:]


def from_nflog(frame: bytes) -> bytes:
    """Attributes in the capturing host's byte order; the packet is one of them.

    Raises Declined and struct.error.
    """
    place = 4
    little, big = struct.unpack_from("<H", frame, place), struct.unpack_from(">H", frame, place)
    order = "<HH" if little < big else ">HH"  # attributes are short
    for _ in range(TLVS_MAX):
        octets, kind = struct.unpack_from(order, frame, place)
        if kind & 0x7FFF == _NFLOG_PAYLOAD:
            return frame_of_ip(frame[place + 4 : place + octets])
        place += max((octets + 3) & ~3, 4)
    raise Declined("NFLOG without a packet in it")


def from_frame_relay(frame: bytes) -> bytes:
    """RFC 2427; Cisco's own has an Ethernet type behind the address.

    Raises Declined and IndexError.
    """
    place = 0
    while not frame[place] & 1:  # the last octet of the address has its bit set
        place += 1
        if place > 3:
            raise Declined("frame relay with an address of no length")
    place += 1
    if frame[place : place + 2] in (IPV4, IPV6):
        return NO_ADDRESSES + frame[place:]
    if frame[place] != 0x03:
        raise Declined("frame relay that carries no IP")
    place += 1
    if frame[place] == 0:  # padding
        place += 1
    nlpid, rest = frame[place], frame[place + 1 :]
    if nlpid in _NLPIDS:
        return NO_ADDRESSES + _NLPIDS[nlpid] + rest
    if nlpid == 0xCF:
        return frame_of_ppp(rest)
    if nlpid == 0x80 and rest[:5] in _BRIDGED_ETHERNET:
        return rest[5:]
    if nlpid == 0x80 and rest[:3] == bytes(3):
        return NO_ADDRESSES + rest[3:]
    return NO_ADDRESSES + UNKNOWN + rest


def from_pflog(frame: bytes) -> bytes:
    """OpenBSD's packet filter: the header says its length, which is padded to four octets."""
    return frame_of_ip(frame[(frame[0] + 3) & ~3 :])


def inner_of_ppi(frame: bytes) -> tuple[int, bytes]:
    """The link type and the frame behind a PPI header.  Raises struct.error."""
    octets, linktype = struct.unpack_from("<xxHI", frame)
    return linktype, frame[octets:]


def inner_of_pktap(frame: bytes) -> tuple[int, bytes]:
    """The link type and the frame behind an Apple PKTAP header.  Raises struct.error."""
    octets, linktype = struct.unpack_from("<I4xI", frame)
    return linktype, frame[octets:]
