"""TCP packets made up between two ends: what a capture of a conversation would have held.

    flow = PacketFlow(("192.0.2.10", 40000), ("198.51.100.25", 25))
    for packet in flow.open() + flow.data(SERVER, b"220 mx.example ESMTP\\r\\n"):
        writer.write(ts_ns, packet)  # a PcapWriter with LINKTYPE_RAW

Each packet is raw IP (link type 101): IPv4 or IPv6, then TCP, with right numbers and checksums.
Sides are ``CLIENT`` and ``SERVER``.  A side that sends acknowledges what it has seen of the other
side's stream, whose FIN counts as one octet; by default that is what it has acknowledged so far.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import NamedTuple

from replay.capture.segments import ACK, FIN, RST, SYN

CLIENT, SERVER = 0, 1

LINKTYPE_RAW = 101
"""Frames that are IP packets, without a link layer's header."""

SEGMENT_MAX_OCTETS = 65_495
"""What one packet carries: IPv4 counts 65,535 octets with the headers.  More is split."""

PSH = 0x08
_WINDOW_OCTETS = 65_535
_WINDOW_SHIFT = 14
"""A window of a gigabyte: none shall look full."""
_HOPS = 64
_TCP = 6
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_SEGMENT = struct.Struct("!HHIIBBHHH")
_SYN_OPTIONS = struct.pack("!BBHBBBB", 2, 4, SEGMENT_MAX_OCTETS, 1, 3, 3, _WINDOW_SHIFT)
_MASK = 0xFFFFFFFF


class Outgoing(NamedTuple):
    """A segment to be packed; ``src`` and ``dst`` are packed addresses of one family."""

    src: bytes
    dst: bytes
    sport: int
    dport: int
    sequence: int
    number: int
    flags: int
    options: bytes
    payload: bytes


class PacketFlow:
    """One TCP connection, packet by packet.  Ends are addresses as text, with ports.

    ``first_sequence`` gives the sequence numbers of the two SYNs: connections that follow one
    another between the same ports need different ones.  ``pack`` makes a packet of a segment.
    Raises ValueError for what is no address or port.
    """

    __slots__ = ("_acknowledged", "_ends", "_first", "_pack", "_ports", "_sent")

    def __init__(
        self,
        client: tuple[str, int],
        server: tuple[str, int],
        *,
        first_sequence: tuple[int, int] = (0, 0),
        pack: Callable[[Outgoing], bytes] | None = None,
    ) -> None:
        ends = [ipaddress.ip_address(host.partition("%")[0]) for host, _ in (client, server)]
        self._pack = pack or packed
        if any(end.version == 6 for end in ends):
            ends = [_as_ipv6(end) for end in ends]
        self._ends = ends[0].packed, ends[1].packed
        self._ports = client[1], server[1]
        if not all(0 <= port <= 0xFFFF for port in self._ports):
            raise ValueError(f"{self._ports}: no ports")
        self._first = first_sequence
        self._sent = [0, 0]  # octets, the SYN and the FIN counted
        self._acknowledged = [0, 0]

    def open(self) -> list[bytes]:
        """SYN, SYN-ACK, ACK: to be written at one instant."""
        self._sent = [0, 0]
        syn = self._packet(CLIENT, SYN, _SYN_OPTIONS)
        self._sent[CLIENT] = 1
        self._acknowledged[SERVER] = 1
        accepted = self._packet(SERVER, SYN | ACK, _SYN_OPTIONS)
        self._sent[SERVER] = 1
        self._acknowledged[CLIENT] = 1
        return [syn, accepted, self._packet(CLIENT, ACK)]

    def refuse(self) -> list[bytes]:
        """SYN, RST-ACK: the port is closed."""
        syn = self._packet(CLIENT, SYN, _SYN_OPTIONS)
        self._sent[CLIENT] = 1
        self._acknowledged[SERVER] = 1
        return [syn, self._packet(SERVER, RST | ACK)]

    def data(self, side: int, octets: bytes, seen: int | None = None) -> list[bytes]:
        """What ``side`` sends in one go: one segment; several over ``SEGMENT_MAX_OCTETS``."""
        self._see(side, seen)
        packets = []
        for at in range(0, len(octets), SEGMENT_MAX_OCTETS):
            piece = octets[at : at + SEGMENT_MAX_OCTETS]
            packets.append(self._packet(side, PSH | ACK, payload=piece))
            self._sent[side] += len(piece)
        return packets

    def acknowledge(self, side: int, seen: int | None = None) -> list[bytes]:
        """Let ``side`` acknowledge what it has ``seen``, or everything; nothing if that is old."""
        seen = self.sent(1 - side) if seen is None else seen
        if not self._see(side, seen):
            return []
        return [self._packet(side, ACK)]

    def repeat(self, side: int) -> list[bytes]:
        """An acknowledgement of ``side`` that says nothing new: it is still there."""
        return [self._packet(side, ACK)]

    def leave_out(self, side: int, octets: int) -> None:
        """Let ``side`` have sent octets that the capture does not hold."""
        self._sent[side] += octets

    def finish(self, side: int, seen: int | None = None) -> list[bytes]:
        """The FIN of ``side``."""
        self._see(side, seen)
        packet = self._packet(side, FIN | ACK)
        self._sent[side] += 1
        return [packet]

    def reset(self, side: int, seen: int | None = None) -> list[bytes]:
        """Let ``side`` abort the connection."""
        self._see(side, seen)
        return [self._packet(side, RST | ACK)]

    def sent(self, side: int) -> int:
        """How many octets ``side`` has sent, its FIN counted as one."""
        return max(self._sent[side] - 1, 0)

    def seen(self, side: int) -> int:
        """How many octets of the other side ``side`` has acknowledged."""
        return max(self._acknowledged[side] - 1, 0)

    def _see(self, side: int, seen: int | None) -> bool:
        """Take note of what ``side`` has seen by now; True if it is more than before."""
        if seen is None:
            return False
        number = min(seen + 1, self._sent[1 - side])
        if number <= self._acknowledged[side]:
            return False
        self._acknowledged[side] = number
        return True

    def _packet(self, side: int, flags: int, options: bytes = b"", payload: bytes = b"") -> bytes:
        src, dst = self._ends[side], self._ends[1 - side]
        sequence = self._first[side] + self._sent[side] & _MASK
        number = self._first[1 - side] + self._acknowledged[side] & _MASK if flags & ACK else 0
        ports = self._ports[side], self._ports[1 - side]
        return self._pack(Outgoing(src, dst, *ports, sequence, number, flags, options, payload))


def packed(segment: Outgoing) -> bytes:
    """``segment`` as raw IP; ``packed_by_dpkt`` makes the same, slower."""
    src, dst, sport, dport, sequence, number, flags, options, payload = segment
    octets = 20 + len(options) + len(payload)
    fields = (sport, dport, sequence, number, (20 + len(options)) << 2, flags, _WINDOW_OCTETS)
    pseudo = src + dst + struct.pack("!II", octets, _TCP)  # RFC 9293 section 3.1
    rest = options + payload
    head = _SEGMENT.pack(*fields, 0, 0)
    head = _SEGMENT.pack(*fields, _checksum(pseudo + head + rest), 0)
    if len(src) == 16:
        return _IPV6.pack(0x60000000, octets, _TCP, _HOPS, src, dst) + head + rest
    outer = (0x45, 0, 20 + octets, 0, 0x4000, _HOPS, _TCP)
    checksum = _checksum(_IPV4.pack(*outer, 0, src, dst))
    return _IPV4.pack(*outer, checksum, src, dst) + head + rest


def packed_by_dpkt(segment: Outgoing) -> bytes:
    """``segment`` as raw IP, the same octets made by dpkt: for captures that are written once.

    It is four to twelve times slower than ``packed``, which the recorders use while mail passes;
    they are not to wait for the import either.
    """
    import dpkt

    src, dst, sport, dport, sequence, number, flags, options, payload = segment
    tcp = dpkt.tcp.TCP(
        sport=sport,
        dport=dport,
        seq=sequence,
        ack=number,
        off=(20 + len(options)) >> 2,
        flags=flags,
        win=_WINDOW_OCTETS,
        opts=options,
        data=payload,
    )
    if len(src) == 4:
        ip = dpkt.ip.IP(src=src, dst=dst, p=_TCP, ttl=_HOPS, df=1, data=tcp)
    else:
        ip = dpkt.ip6.IP6(src=src, dst=dst, nxt=_TCP, hlim=_HOPS, data=tcp)
        ip.plen = len(tcp)  # unlike IPv4's length it is not filled in
    return bytes(ip)


def _as_ipv6(
    end: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv6Address:
    return end if end.version == 6 else ipaddress.IPv6Address(f"::ffff:{end}")


def _checksum(octets: bytes) -> int:
    """The internet's (RFC 1071).  A number's remainder by 65,535 is the ones' complement sum of
    its 16-bit digits; of what is not all zeros that sum is never 0."""
    if len(octets) % 2:
        octets += b"\0"
    return 0xFFFF - (int.from_bytes(octets, "big") % 0xFFFF or 0xFFFF)
