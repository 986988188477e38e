"""Builds captures for tests: a TCP conversation packet by packet, then a pcap or pcapng file.

Side 0 is the client, side 1 the server.  Times are milliseconds since the first packet.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from pathlib import Path

from replay.capture.flow import Flow
from replay.capture.oddity import Oddity
from replay.capture.pcap_writer import PcapWriter
from replay.capture.reassembly import reassemble
from replay.capture.records import PacketRecord
from replay.capture.segments import decode

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
BEGIN_NS = 1_700_000_000_000_000_000
NS_PER_MS = 1_000_000


def tcp(
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    payload: bytes = b"",
    options: bytes = b"",
) -> bytes:
    """A TCP segment, without a checksum."""
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack(
        "!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags, 65535, 0, 0
    )
    return head + options + payload


def ipv4(
    src: str,
    dst: str,
    payload: bytes,
    *,
    protocol: int = 6,
    options: bytes = b"",
    length: int | None = None,
    fragment: int = 0x4000,
) -> bytes:
    """An IPv4 packet, without a checksum."""
    octets = 20 + len(options) + len(payload) if length is None else length
    head = struct.pack(
        "!BBHHHBBH", 0x45 + len(options) // 4, 0, octets, 0, fragment, 64, protocol, 0
    )
    ends = ipaddress.IPv4Address(src).packed + ipaddress.IPv4Address(dst).packed
    return head + ends + options + payload


def ipv6(src: str, dst: str, payload: bytes, *, following: int = 6) -> bytes:
    """An IPv6 packet; ``payload`` may begin with extension headers."""
    head = struct.pack("!IHBB", 0x60000000, len(payload), following, 64)
    ends = ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed
    return head + ends + payload


def ethernet(payload: bytes, kind: int = 0x0800) -> bytes:
    """An Ethernet frame, padded to the shortest there is."""
    return (b"\x02" * 12 + struct.pack("!H", kind) + payload).ljust(60, b"\0")


@dataclass
class Wire:
    """A TCP connection being captured.  Sequence numbers and acknowledgements keep themselves,
    unless given (relative to each side's first octet)."""

    client: str = "192.0.2.10"
    server: str = "198.51.100.25"
    ports: tuple[int, int] = (40_000, 25)
    first_sequence: tuple[int, int] = (1_000, 4_294_967_000)
    frames: list[tuple[int, bytes, int | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=lambda: [0, 0])
    now_ms: float = 0

    def packet(
        self,
        side: int,
        payload: bytes = b"",
        flags: int = ACK,
        *,
        seq: int | None = None,
        ack: int | None = None,
        ms: float | None = None,
        cut: int | None = None,
    ) -> None:
        """Capture one packet at ``ms``; ``cut`` is a snapshot length."""
        self.now_ms = self.now_ms if ms is None else ms
        start = self.sent[side] if seq is None else seq
        acked = self.sent[1 - side] if ack is None else ack
        ends = (self.client, self.server)
        segment = tcp(
            self.ports[side],
            self.ports[1 - side],
            self.first_sequence[side] + start,
            self.first_sequence[1 - side] + acked if flags & ACK else 0,
            flags,
            payload,
        )
        frame = ethernet(ipv4(ends[side], ends[1 - side], segment))
        ts_ns = BEGIN_NS + round(self.now_ms * NS_PER_MS)
        self.frames.append((ts_ns, frame[:cut], len(frame)))
        end = start + len(payload) + (1 if flags & FIN else 0)
        self.sent[side] = max(self.sent[side], end)

    def handshake(self, ms: float = 0) -> Wire:
        """SYN, SYN-ACK, ACK at one instant."""
        self.packet(0, flags=SYN, seq=-1, ms=ms)
        self.packet(1, flags=SYN | ACK, seq=-1)
        self.packet(0)
        return self

    def client_says(self, payload: bytes, ms: float, ack: int | None = None) -> None:
        self.packet(0, payload, PSH | ACK, ms=ms, ack=ack)

    def server_says(self, payload: bytes, ms: float, ack: int | None = None) -> None:
        self.packet(1, payload, PSH | ACK, ms=ms, ack=ack)

    def write(self, path: Path, linktype: int = 1) -> Path:
        """Write what was captured as a nanosecond pcap."""
        return write_frames(path, self.frames, linktype)


def write_frames(
    path: Path, frames: list[tuple[int, bytes, int | None]], linktype: int = 1
) -> Path:
    with path.open("wb") as file:
        writer = PcapWriter(file, linktype)
        for ts_ns, frame, original_octets in frames:
            writer.write(ts_ns, frame, original_octets)
    return path


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    octets = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + octets + body + octets


def section(order: str = "<") -> bytes:
    """A pcapng section header."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    linktype: int = 1,
    order: str = "<",
    *,
    tsresol: int | None = None,
    tsoffset_s: int | None = None,
    snaplen: int = 0,
) -> bytes:
    """A pcapng interface description."""
    options = b""
    if tsresol is not None:
        options += struct.pack(order + "HHBxxx", 9, 1, tsresol)
    if tsoffset_s is not None:
        options += struct.pack(order + "HHq", 14, 8, tsoffset_s)
    if options:
        options += bytes(4)
    return block(1, struct.pack(order + "HHI", linktype, 0, snaplen) + options, order)


def enhanced(
    which: int, units: int, frame: bytes, order: str = "<", original: int | None = None
) -> bytes:
    """A pcapng enhanced packet."""
    octets = len(frame) if original is None else original
    head = struct.pack(order + "IIIII", which, units >> 32, units & 0xFFFFFFFF, len(frame), octets)
    return block(6, head + frame, order)


def flows_of(wire: Wire) -> tuple[list[Flow], list[Oddity]]:
    """What reassembly makes of the wire's packets."""
    oddities: list[Oddity] = []
    records = [
        PacketRecord(number, ts_ns, 1, len(frame), original or len(frame), frame)
        for number, (ts_ns, frame, original) in enumerate(wire.frames, 1)
    ]
    return reassemble(decode(records, oddities), oddities), oddities


def flow_of(wire: Wire) -> Flow:
    """The one flow that the wire's packets make."""
    (flow,), _ = flows_of(wire)
    return flow
