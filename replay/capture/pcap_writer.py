"""Captures written: pcap with nanosecond times (draft-ietf-opsawg-pcap, magic 0xa1b23c4d), to a
file or piece by piece, and pcapng (draft-ietf-opsawg-pcapng), whose packets may have comments."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

SNAPLEN_OCTETS = 262_144
"""What the file says frames are cut at; also the longest frame accepted."""
BUFFER_OCTETS = 64 * 1024
"""Records that wait for ``flush``, at most."""

_RECORD_HEADER = struct.Struct("<IIII")

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


class PcapWriter:
    """Writes frames to an open binary file; the caller opens and closes it."""

    __slots__ = ("_write",)

    def __init__(self, file: BinaryIO, linktype: int = 1) -> None:
        self._write = file.write
        self._write(file_header(linktype))

    def write(self, ts_ns: int, frame: bytes, original_octets: int | None = None) -> None:
        """Append one frame seen at ``ts_ns`` (since 1970 UTC); ``original_octets`` tells what it
        had on the wire where it was cut.  Raises ValueError for what the format cannot hold."""
        self._write(record(ts_ns, frame, original_octets))


class PcapFile:
    """A capture file that can be read at any time, whatever becomes of its writer.

    Records are gathered and written whole, by one system call a ``flush``.  Of what a full disk
    takes only in part, nothing stays.  ``octets`` counts what was accepted, and never gets over
    ``octets_max``.  Without ``stays_open`` it holds no descriptor between two flushes.  The
    constructor raises OSError: the file must not be there yet.
    """

    __slots__ = (
        *("_buffer", "_closed", "_descriptor", "_stays_open", "_waiting_octets"),
        *("failure", "octets", "octets_max", "path", "written_octets"),
    )

    def __init__(
        self, path: Path, linktype: int, octets_max: int, *, stays_open: bool = True
    ) -> None:
        self.path = path
        self.octets_max = octets_max
        self.octets = self.written_octets = 0
        self.failure = ""
        """Why nothing more is written; empty while all is well."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)  # mail is private
        self._stays_open = stays_open
        self._closed = False
        self._buffer: list[bytes] = []
        self._waiting_octets = 0
        self._add(file_header(linktype))
        self.flush()

    def rename(self, path: Path) -> None:
        """Call the file something else from now on.  Raises OSError."""
        os.rename(self.path, path)
        self.path = path

    def write(self, ts_ns: int, *frames: bytes) -> bool:
        """Append frames seen at ``ts_ns``, all or none; False if they have no room any more.

        Raises ValueError for what the format cannot hold.
        """
        records = b"".join([record(ts_ns, frame) for frame in frames])
        if not self.failure and self.octets + len(records) > self.octets_max:
            self.failure = "its bound is reached"
        if self.failure or self._closed:
            return False
        self._add(records)
        if self._waiting_octets > BUFFER_OCTETS:
            self.flush()
        return not self.failure

    def _add(self, octets: bytes) -> None:
        self._buffer.append(octets)
        self._waiting_octets += len(octets)
        self.octets += len(octets)

    def flush(self) -> None:
        """Write what waits."""
        if not self._buffer:
            return
        octets = b"".join(self._buffer)
        self._buffer.clear()
        self._waiting_octets = 0
        try:
            if self._descriptor < 0:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self.path, flags)
            written = os.write(self._descriptor, octets)
            if written < len(octets):  # the disk is full; the next attempt would say so
                written += os.write(self._descriptor, octets[written:])
            if written < len(octets):
                raise OSError(None, "only a part of it could be written")
        except OSError as error:
            self.failure = error.strerror or str(error)
            if self._descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self.written_octets)
            self.octets = self.written_octets
        else:
            self.written_octets += len(octets)
        if not self._stays_open:
            self._release()

    def close(self) -> None:
        """Write what waits, and close; harmless when closed."""
        self.flush()
        self._closed = True
        self._release()

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def file_header(linktype: int) -> bytes:
    """What a file begins with."""
    return struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAPLEN_OCTETS, linktype)


def record(ts_ns: int, frame: bytes, original_octets: int | None = None) -> bytes:
    """One frame with its header.  Raises ValueError for what the format cannot hold."""
    seconds, fraction_ns = divmod(ts_ns, 1_000_000_000)
    if not 0 <= seconds < 1 << 32:
        raise ValueError(f"{ts_ns} ns is outside the years a pcap file can tell")
    _check_length(frame)
    original = len(frame) if original_octets is None else original_octets
    return _RECORD_HEADER.pack(seconds, fraction_ns, len(frame), original) + frame


def _check_length(frame: bytes) -> None:
    if len(frame) > SNAPLEN_OCTETS:
        raise ValueError(f"a frame of {len(frame)} octets is over {SNAPLEN_OCTETS}")


class PcapngWriter:
    """Writes one section with one interface to an open binary file; the caller opens and closes it.

    ``comments`` are about the section as a whole.
    """

    __slots__ = ("_write",)

    def __init__(self, file: BinaryIO, linktype: int, comments: Iterable[str] = ()) -> None:
        self._write = file.write
        options = [*map(_comment, comments), (_OPTION_APPLICATION, APPLICATION.encode())]
        self._block(_SECTION_HEADER, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), options)
        description = struct.pack("<HxxI", linktype, SNAPLEN_OCTETS)
        self._block(_INTERFACE, description, [(_OPTION_TSRESOL, _NANOSECONDS)])

    def write(self, ts_ns: int, frame: bytes, comments: Iterable[str] = ()) -> None:
        """Append one frame seen at ``ts_ns`` (since 1970 UTC).  Raises ValueError for what the
        format cannot hold."""
        if not 0 <= ts_ns < 1 << 64:
            raise ValueError(f"{ts_ns} ns is outside the years a pcapng file can tell")
        _check_length(frame)
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
