"""Records, and the file they are read from in pieces: what both container formats share."""

from __future__ import annotations

from typing import NamedTuple

from replay.capture.oddity import CaptureError, Oddity
from replay.capture.source import READ_OCTETS, Readable

MAX_RECORD_OCTETS = 16 << 20
"""No link has frames like that; a record or block that claims more is damage, not data."""


class PacketRecord(NamedTuple):
    """One captured frame.  ``number`` counts from 1 in file order; ``ts_ns`` since 1970 UTC.

    ``captured_octets`` is what the file holds (``len(frame)``), ``original_octets`` what the
    frame had on the wire.
    """

    number: int
    ts_ns: int
    linktype: int
    captured_octets: int
    original_octets: int
    frame: bytes


class ReadAhead:
    """A file read in pieces: ``buffer[position:]`` is what has been read and not yet used."""

    __slots__ = ("_file", "_offset", "buffer", "name", "position")

    def __init__(self, file: Readable, name: str, first: bytes) -> None:
        self._file = file
        self._offset = 0
        self.name = name
        self.buffer = first
        self.position = 0

    @property
    def offset(self) -> int:
        """Where in the file ``position`` is."""
        return self._offset + self.position

    def has(self, octets: int) -> bool:
        """Read until ``octets`` lie at ``position``; False if the file ends before."""
        if len(self.buffer) - self.position >= octets:
            return True
        self._offset += self.position
        pieces = [self.buffer[self.position :]]
        held = len(pieces[0])
        while held < octets and (piece := self._file.read(max(READ_OCTETS, octets - held))):
            pieces.append(piece)
            held += len(piece)
        self.buffer = b"".join(pieces)
        self.position = 0
        return held >= octets

    @property
    def left(self) -> int:
        """How many octets have been read and not yet used."""
        return len(self.buffer) - self.position


def end_of_records(
    stream: ReadAhead, records: int, what: str, oddities: list[Oddity], kind: str = "truncated-file"
) -> None:
    """Say that the file is of no use after ``records`` records: as an oddity, or if there are
    none as a CaptureError."""
    sentence = f"packet {records + 1} at offset {stream.offset} {what}"
    if not records:
        raise CaptureError(f"{stream.name}: {sentence}")
    oddities.append(Oddity(records, kind, f"{sentence}; only what stands before it is used"))
