"""The container: a pcap or pcapng file as a stream of records with integer nanoseconds.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.  Nothing here looks into a frame.
Memory stays bounded whatever the file's size or claims.  A file that breaks off or turns to
garbage after some good records is used up to there, and the damage is told as an ``Oddity``; a
file without one good record is a ``CaptureError``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from replay.capture.oddity import CaptureError, Oddity
from replay.capture.pcapng import pcapng_records
from replay.capture.records import MAX_RECORD_OCTETS, PacketRecord, ReadAhead, end_of_records
from replay.capture.source import (
    GZIP_MAGIC,
    PCAPNG_MAGIC,
    ZSTD_MAGIC,
    Watch,
    name_of,
    opened,
)

__all__ = ["CaptureError", "Oddity", "PacketRecord", "read_records"]

# magic -> (struct byte order, nanoseconds per unit of the fraction, octets of a record header).
# 0xa1b2cd34 is Alexey Kuznetsov's "modified" format: eight more octets in each record header.
_PCAP_MAGICS = {
    struct.pack(order + "I", magic): (order, ns_per_unit, header_octets)
    for order in "<>"
    for magic, ns_per_unit, header_octets in (
        (0xA1B2C3D4, 1000, 16),
        (0xA1B23C4D, 1, 16),
        (0xA1B2CD34, 1000, 24),
    )
}

_LINKTYPE_MASK = 0xFFFF  # the bits above tell the length of a frame check sequence, or are reserved

_TAR_MARK, _TAR_MARK_AT = b"ustar", 257
_OTHER_FORMATS = (
    (b"\x28\xb5\x2f\xfd", "compressed with zstd, which Python reads from 3.14 on: unpack it first"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: unpack it first"),
    (b"\x02\x21\x4c\x18", "compressed with lz4: unpack it first"),
    (b"\xfd7zX", "compressed with xz: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"snoo", "a snoop capture: convert it with editcap first"),
    (b"GMBU", "a Network Monitor capture: convert it with editcap first"),
    (b"RTSS", "a Network Monitor capture: convert it with editcap first"),
    (b"+++", "a transcript: 'replay run' plays it, 'replay export' makes a capture of it"),
    (b"\x1f\x8b", "packed twice: unpack it first"),
)


def begins_as_capture(path: Path) -> bool:
    """Whether a file begins as a capture does, packed or not.  Raises OSError."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4).startswith((*_PCAP_MAGICS, PCAPNG_MAGIC, GZIP_MAGIC, ZSTD_MAGIC))


def read_records(
    path: str | Path, oddities: list[Oddity], watch: Watch | None = None
) -> Iterator[PacketRecord]:
    """Yield the records of the capture at ``path``, adding what is odd to ``oddities``.

    "-" is standard input; what is packed with gzip is unpacked as it is read.  ``watch`` is told
    how far the file has been read.
    Raises CaptureError if the file cannot be read or holds no usable record header.
    """
    name = name_of(path)
    try:
        with opened(path, oddities, watch) as file:
            stream = ReadAhead(file, name, b"")
            stream.has(len(PCAPNG_MAGIC))
            magic = stream.buffer[: len(PCAPNG_MAGIC)]
            if magic == PCAPNG_MAGIC:
                yield from pcapng_records(stream, oddities)
            elif magic in _PCAP_MAGICS:
                yield from _pcap_records(stream, oddities, *_PCAP_MAGICS[magic])
            else:
                packing = oddities[-1].sentence if oddities and not magic else ""
                stream.has(_TAR_MARK_AT + len(_TAR_MARK))
                packing = packing or _why_not_a_capture(stream.buffer)
                raise CaptureError(f"{name}: {packing}")
    except OSError as error:
        raise CaptureError(f"{name}: cannot be read: {error.strerror or error}") from error


def _why_not_a_capture(begins: bytes) -> str:
    if not begins:
        return "an empty file"
    for beginning, what in _OTHER_FORMATS:
        if begins.startswith(beginning):
            return what
    if begins.startswith(_TAR_MARK, _TAR_MARK_AT):
        return "a tar archive: unpack it first"
    magic = begins[: len(PCAPNG_MAGIC)]
    return f"not a capture: starts with {magic.hex(' ')}, which is neither pcap nor pcapng"


def _pcap_records(
    stream: ReadAhead, oddities: list[Oddity], order: str, ns_per_unit: int, header_octets: int
) -> Iterator[PacketRecord]:
    if not stream.has(24):
        raise CaptureError(
            f"{stream.name}: the file breaks off in its header, after {stream.left} of 24 octets"
        )
    (linktype,) = struct.unpack_from(order + "I", stream.buffer, 20)
    linktype &= _LINKTYPE_MASK
    stream.position = 24
    header = struct.Struct(order + "IIII").unpack_from
    new = tuple.__new__  # skips the argument handling of Record(...), half of its time
    number = 0
    buffer, position, end = stream.buffer, stream.position, len(stream.buffer)
    while True:
        if end - position < header_octets:
            stream.position = position
            if not stream.has(header_octets):
                if stream.left:
                    what = f"breaks off in its header, after {stream.left} octets"
                    end_of_records(stream, number, what, oddities)
                return
            buffer, position, end = stream.buffer, stream.position, len(stream.buffer)
        seconds, fraction, captured, original = header(buffer, position)
        stop = position + header_octets + captured
        if stop > end:
            stream.position = position
            if captured > MAX_RECORD_OCTETS:
                what = f"claims {captured} octets, so the file is damaged"
                end_of_records(stream, number, what, oddities, "damaged-file")
                return
            if not stream.has(header_octets + captured):
                held = stream.left - header_octets
                what = f"breaks off after {held} of {captured} octets"
                end_of_records(stream, number, what, oddities)
                return
            buffer, position, end = stream.buffer, stream.position, len(stream.buffer)
            stop = position + header_octets + captured
        number += 1
        frame = buffer[position + header_octets : stop]
        ts_ns = seconds * 1_000_000_000 + fraction * ns_per_unit
        yield new(PacketRecord, (number, ts_ns, linktype, captured, original, frame))
        position = stop
