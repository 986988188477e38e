"""Writing pcapng files with nanosecond times and comments (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

APPLICATION = "replay"
"""Who the file says wrote it."""

COMMENT_MAX_OCTETS = 32_000
"""Of one comment; an option counts at most 65,535 octets, and people read fewer."""

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE = 1
_ENHANCED_PACKET = 6

_OPTION_END = 0
_OPTION_COMMENT = 1
_OPTION_APPLICATION = 4
_OPTION_TSRESOL = 9

_NANOSECONDS = b"\x09"
_SNAPLEN_OCTETS = 262_144


class PcapngWriter:
    """Writes one section with one interface to an open binary file; the caller opens and closes it.

    ``comments`` are about the section as a whole.
    """

    __slots__ = ("_write",)

    def __init__(self, file: BinaryIO, linktype: int, comments: Iterable[str] = ()) -> None:
        self._write = file.write
        options = [*map(_comment, comments), (_OPTION_APPLICATION, APPLICATION.encode())]
        self._block(_SECTION_HEADER, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), options)
        description = struct.pack("<HxxI", linktype, _SNAPLEN_OCTETS)
        self._block(_INTERFACE, description, [(_OPTION_TSRESOL, _NANOSECONDS)])

    def write(self, ts_ns: int, frame: bytes, comments: Iterable[str] = ()) -> None:
        """Append one frame seen at ``ts_ns`` (since 1970 UTC).  Raises ValueError for what the
        format cannot hold."""
        if not 0 <= ts_ns < 1 << 64:
            raise ValueError(f"{ts_ns} ns is outside the years a pcapng file can tell")
        if len(frame) > _SNAPLEN_OCTETS:
            raise ValueError(f"a frame of {len(frame)} octets is over {_SNAPLEN_OCTETS}")
        octets = len(frame)
        head = struct.pack("<IIIII", 0, ts_ns >> 32, ts_ns & 0xFFFFFFFF, octets, octets)
        self._block(_ENHANCED_PACKET, head + _padded(frame), [*map(_comment, comments)])

    def _block(self, kind: int, body: bytes, options: list[tuple[int, bytes]]) -> None:
        for code, value in options:
            body += struct.pack("<HH", code, len(value)) + _padded(value)
        if options:
            body += struct.pack("<HH", _OPTION_END, 0)
        octets = struct.pack("<I", len(body) + 12)
        self._write(struct.pack("<I", kind) + octets + body + octets)


def _comment(text: str) -> tuple[int, bytes]:
    octets = text.encode("utf-8", "replace")
    if len(octets) > COMMENT_MAX_OCTETS:  # cut between characters
        octets = octets[:COMMENT_MAX_OCTETS].decode("utf-8", "ignore").encode() + "…".encode()
    return _OPTION_COMMENT, octets


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)
