"""pcapng: sections, interfaces and packet blocks (draft-ietf-opsawg-pcapng) as records."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from replay.capture.oddity import CaptureError, Oddity
from replay.capture.records import MAX_RECORD_OCTETS, PacketRecord, ReadAhead, end_of_records

MAX_INTERFACES = 65_536
"""Interfaces one section may describe: what the obsolete packet block can number."""

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE = 1
_OBSOLETE_PACKET = 2
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6

_OPTION_END = 0
_OPTION_TSRESOL = 9
_OPTION_TSOFFSET = 14


class _Interface(NamedTuple):
    linktype: int
    snaplen: int
    multiplier: int
    divisor: int
    offset_ns: int

    def ns(self, high: int, low: int) -> int:
        """A block's time, in this interface's units, as nanoseconds since 1970."""
        return ((high << 32) | low) * self.multiplier // self.divisor + self.offset_ns


class _Section:
    """The section being read: its byte order and the interfaces it has described so far."""

    __slots__ = ("interfaces", "last_ns", "oddities", "order", "simple_packets_told")

    def __init__(self, oddities: list[Oddity]) -> None:
        self.order = "<"
        self.interfaces: list[_Interface] = []
        self.oddities = oddities
        self.last_ns = 0
        self.simple_packets_told = False

    def begin(self, order: str) -> None:
        self.order = order
        self.interfaces = []

    def packet(self, block_type: int, body: bytes, number: int) -> PacketRecord | None:
        """The record in a packet block's body, or None with an oddity if it makes no sense."""
        try:
            if block_type == _SIMPLE_PACKET:
                return self._simple_packet(body, number)
            layout = "IIIII" if block_type == _ENHANCED_PACKET else "HxxIIII"
            which, high, low, captured, original = struct.unpack_from(self.order + layout, body)
        except struct.error:
            self._odd(number, "is shorter than its own header; it is skipped")
            return None
        if which >= len(self.interfaces):
            self._odd(number, f"names interface {which}, which nobody described; it is skipped")
            return None
        interface = self.interfaces[which]
        frame = body[20 : 20 + captured]
        if len(frame) < captured:
            self._odd(number, f"claims {captured} octets but holds {len(frame)}")
        self.last_ns = interface.ns(high, low)
        return PacketRecord(number, self.last_ns, interface.linktype, len(frame), original, frame)

    def _simple_packet(self, body: bytes, number: int) -> PacketRecord | None:
        (original,) = struct.unpack_from(self.order + "I", body)
        if not self.interfaces:
            self._odd(number, "belongs to interface 0, which nobody described; it is skipped")
            return None
        interface = self.interfaces[0]
        if not self.simple_packets_told:
            self.simple_packets_told = True
            sentence = f"packet {number} carries no time; it and its like get the previous one's"
            self.oddities.append(Oddity(number, "no-timestamp", sentence))
        captured = min(original, interface.snaplen or original)
        frame = body[4 : 4 + captured]
        return PacketRecord(number, self.last_ns, interface.linktype, len(frame), original, frame)

    def _odd(self, number: int, what: str) -> None:
        self.oddities.append(Oddity(number, "damaged-block", f"packet {number} {what}"))

    def interface(self, body: bytes) -> None:
        """Take in an interface description; raises struct.error if it is too short."""
        linktype, snaplen = struct.unpack_from(self.order + "HxxI", body)
        multiplier, divisor, offset_ns = 1000, 1, 0
        for code, value in self._options(body[8:]):
            if code == _OPTION_TSRESOL and value:
                exponent = value[0] & 0x7F
                if value[0] & 0x80:
                    multiplier, divisor = 10**9, 1 << exponent
                else:
                    multiplier, divisor = 10 ** max(9 - exponent, 0), 10 ** max(exponent - 9, 0)
            elif code == _OPTION_TSOFFSET and len(value) == 8:
                offset_ns = struct.unpack(self.order + "q", value)[0] * 10**9
        self.interfaces.append(_Interface(linktype, snaplen, multiplier, divisor, offset_ns))

    def _options(self, area: bytes) -> Iterator[tuple[int, bytes]]:
        position = 0
        while position + 4 <= len(area):
            code, octets = struct.unpack_from(self.order + "HH", area, position)
            if code == _OPTION_END:
                return
            yield code, area[position + 4 : position + 4 + octets]
            position += 4 + octets + (-octets & 3)


def pcapng_records(stream: ReadAhead, oddities: list[Oddity]) -> Iterator[PacketRecord]:
    """Yield the records of a pcapng file; ``stream`` stands at its first section header.

    Name resolution, statistics, secrets and blocks unknown here are passed over.
    """
    section = _Section(oddities)
    number = 0
    while stream.has(12):
        block_type, body = _next_block(stream, section, number, oddities)
        if body is None:
            return
        if block_type in (_ENHANCED_PACKET, _SIMPLE_PACKET, _OBSOLETE_PACKET):
            number += 1
            record = section.packet(block_type, body, number)
            if record is not None:
                yield record
        elif block_type == _INTERFACE:
            try:
                section.interface(body)
            except struct.error:
                raise CaptureError(
                    f"{stream.name}: the interface described before offset {stream.offset} is "
                    f"shorter than its own header"
                ) from None
            if len(section.interfaces) > MAX_INTERFACES:
                raise CaptureError(
                    f"{stream.name}: more than {MAX_INTERFACES} interfaces at offset "
                    f"{stream.offset}"
                )
    if stream.left:
        end_of_records(stream, number, f"breaks off after {stream.left} octets", oddities)


def _next_block(
    stream: ReadAhead, section: _Section, number: int, oddities: list[Oddity]
) -> tuple[int, bytes | None]:
    """Take the next block off the stream: its type and body, or no body where the file ends."""
    (block_type,) = struct.unpack_from(section.order + "I", stream.buffer, stream.position)
    if block_type == _SECTION_HEADER:
        order = _byte_order(stream.buffer[stream.position + 8 : stream.position + 12])
        if order is None:
            what = "is a section header without a byte-order magic"
            end_of_records(stream, number, what, oddities, "damaged-file")
            return block_type, None
        section.begin(order)
    (octets,) = struct.unpack_from(section.order + "I", stream.buffer, stream.position + 4)
    if octets < 12 or octets % 4 or octets > MAX_RECORD_OCTETS:
        what = f"is a block that claims {octets} octets, so the file is damaged"
        end_of_records(stream, number, what, oddities, "damaged-file")
        return block_type, None
    if not stream.has(octets):
        what = f"breaks off after {stream.left} of {octets} octets of its block"
        end_of_records(stream, number, what, oddities)
        return block_type, None
    stop = stream.position + octets
    (again,) = struct.unpack_from(section.order + "I", stream.buffer, stop - 4)
    if again != octets:
        what = f"is a block of {octets} octets that ends as one of {again}: the file is damaged"
        end_of_records(stream, number, what, oddities, "damaged-file")
        return block_type, None
    body = stream.buffer[stream.position + 8 : stop - 4]
    stream.position = stop
    return block_type, body


def _byte_order(magic: bytes) -> str | None:
    if magic == b"\x4d\x3c\x2b\x1a":
        return "<"
    if magic == b"\x1a\x2b\x3c\x4d":
        return ">"
    return None
