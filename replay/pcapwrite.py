"""Writing pcap files with nanosecond times (draft-ietf-opsawg-pcap, magic 0xa1b23c4d)."""

from __future__ import annotations

import struct
from typing import BinaryIO

SNAPLEN_OCTETS = 262_144
"""What the file says frames are cut at; also the longest frame accepted."""

_RECORD_HEADER = struct.Struct("<IIII")


class PcapWriter:
    """Writes frames to an open binary file; the caller opens and closes it."""

    __slots__ = ("_write",)

    def __init__(self, file: BinaryIO, linktype: int = 1) -> None:
        self._write = file.write
        self._write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAPLEN_OCTETS, linktype))

    def write(self, ts_ns: int, frame: bytes, original_octets: int | None = None) -> None:
        """Append one frame seen at ``ts_ns`` (since 1970 UTC); ``original_octets`` tells what it
        had on the wire where it was cut.  Raises ValueError for what the format cannot hold."""
        seconds, fraction_ns = divmod(ts_ns, 1_000_000_000)
        if not 0 <= seconds < 1 << 32:
            raise ValueError(f"{ts_ns} ns is outside the years a pcap file can tell")
        if len(frame) > SNAPLEN_OCTETS:
            raise ValueError(f"a frame of {len(frame)} octets is over {SNAPLEN_OCTETS}")
        original = len(frame) if original_octets is None else original_octets
        self._write(_RECORD_HEADER.pack(seconds, fraction_ns, len(frame), original) + frame)
