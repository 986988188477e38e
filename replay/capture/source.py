"""Where the octets of a capture come from: a file or standard input, packed or not.

What is packed with gzip is read, and with zstd where the interpreter can (Python 3.14).

A packed file is unpacked as it is read, never as a whole.  One that unpacks to absurdly much is
given up: no real capture is packed so tightly, and reading it would have no end.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

from replay.capture.oddity import CaptureError, Oddity

STANDARD_INPUT = "-"
"""As a path: what is piped in."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"  # the same in both byte orders, as the draft intends

RATIO_MAX = 200
"""Octets unpacked for one packed one; captures are packed to a third, empty ones to a hundredth."""

RATIO_FROM_OCTETS = 64 << 20
"""So much may be unpacked whatever the ratio."""

SPOOL_MAX_OCTETS = 1 << 30
"""The largest copy made of a capture that is packed or piped in."""

READ_OCTETS = 1 << 18
"""How much is asked for at a time."""

_MAGIC_OCTETS = 4


class ReadProgress(NamedTuple):
    """How far the file has been read, as it lies on disk; ``total_octets`` is 0 if unknown."""

    read_octets: int
    total_octets: int


Watch = Callable[[ReadProgress], None]
"""Told of every piece that is read."""


class Readable(Protocol):
    """What ``records.ReadAhead`` reads from; ``read`` returns fewer octets where more are not there
    yet, and none at the end."""

    def read(self, octets: int, /) -> bytes: ...


class _Counted:
    """The file as it lies on disk, or a pipe: returns what is there, and tells how far it is."""

    __slots__ = ("_file", "_first", "_read_octets", "_total_octets", "_watch")

    def __init__(self, file: FileIO, watch: Watch | None) -> None:
        self._file = file
        self._watch = watch
        self._first = b""
        self._read_octets = 0
        with contextlib.suppress(OSError, ValueError):
            self._total_octets = os.fstat(file.fileno()).st_size
            return
        self._total_octets = 0

    def read(self, octets: int) -> bytes:
        if self._first:
            piece, self._first = self._first[:octets], self._first[octets:]
            return piece
        piece = self._file.read(octets)
        self._read_octets += len(piece)
        if self._watch is not None:
            self._watch(ReadProgress(self._read_octets, self._total_octets))
        return piece

    def peek(self, octets: int) -> bytes:
        """The first octets, which are read again afterwards."""
        pieces = b""
        while len(pieces) < octets and (piece := self.read(octets - len(pieces))):
            pieces += piece
        self._first = pieces
        return pieces

    @property
    def read_octets(self) -> int:
        return self._read_octets


class Packing:
    """A way of packing: its name, how to open such a file, and how that fails."""

    __slots__ = ("failures", "name", "open")

    def __init__(
        self,
        name: str,
        unpacked: Callable[[BinaryIO], io.BufferedIOBase],
        failures: tuple[type[Exception], ...],
    ) -> None:
        self.name = name
        self.open = unpacked
        self.failures = failures


def packing_of(begins: bytes) -> Packing | None:
    """How a file that begins so is packed; None if it is not, or in a way that is not read."""
    if begins.startswith(GZIP_MAGIC):
        failures = (zlib.error, gzip.BadGzipFile)
        return Packing("gzip", lambda file: gzip.GzipFile(fileobj=file), failures)
    if begins.startswith(ZSTD_MAGIC):
        with contextlib.suppress(ImportError):
            zstd = importlib.import_module("compression.zstd")
            return Packing("zstd", zstd.ZstdFile, (zstd.ZstdError,))
    return None


class _Unpacked:
    """What a packed file holds.  Where it breaks off or is damaged it ends, and that is told."""

    __slots__ = ("_file", "_oddities", "_packed", "_packing", "_unpacked_octets")

    def __init__(self, packed: _Counted, packing: Packing, oddities: list[Oddity]) -> None:
        self._packed = packed
        self._packing = packing
        self._file = packing.open(cast(BinaryIO, packed))
        self._oddities = oddities
        self._unpacked_octets = 0

    def read(self, octets: int) -> bytes:
        try:
            piece = self._file.read1(octets)
        except EOFError:
            return self._end("truncated-file", f"the {self._packing.name} file breaks off")
        except self._packing.failures as error:
            what = f"the {self._packing.name} file is damaged ({error})"
            return self._end("damaged-file", what)
        self._unpacked_octets += len(piece)
        most = max(self._packed.read_octets * RATIO_MAX, RATIO_FROM_OCTETS)
        if self._unpacked_octets > most:
            much = f"more than {RATIO_MAX} times its size, which no capture does"
            return self._end("damaged-file", f"the {self._packing.name} file unpacks to {much}")
        return piece

    def _end(self, kind: str, what: str) -> bytes:
        sentence = f"{what}; only what comes before is used"
        if not any(sentence == oddity.sentence for oddity in self._oddities):
            self._oddities.append(Oddity(0, kind, sentence))
        return b""


@contextlib.contextmanager
def opened(
    path: str | Path, oddities: list[Oddity], watch: Watch | None = None
) -> Iterator[Readable]:
    """Open the capture at ``path``, "-" being standard input, and unpack it where it is packed.

    What is odd about the packing goes to ``oddities``.  Raises OSError, and CaptureError where
    nothing is piped in.
    """
    with contextlib.ExitStack() as stack:
        piped = str(path) == STANDARD_INPUT
        if piped and sys.stdin.isatty():
            raise CaptureError("standard input: is a terminal; pipe a capture into it")
        where = sys.stdin.fileno() if piped else path
        file = stack.enter_context(open(where, "rb", buffering=0, closefd=not piped))
        counted = _Counted(file, watch)
        packing = packing_of(counted.peek(_MAGIC_OCTETS))
        yield _Unpacked(counted, packing, oddities) if packing else counted


def name_of(path: str | Path) -> str:
    """How to call the capture at ``path`` in a sentence."""
    return "standard input" if str(path) == STANDARD_INPUT else str(path)


@contextlib.contextmanager
def plain_file(path: Path, oddities: list[Oddity]) -> Iterator[Path]:
    """The capture at ``path`` as a file that is not packed: itself, or a copy for as long as this
    lasts, which has its name without ``.gz`` or ``.zst``.

    Raises CaptureError if it cannot be read or is larger than ``SPOOL_MAX_OCTETS``.
    """
    with contextlib.ExitStack() as stack:
        plain = path
        try:
            file = stack.enter_context(opened(path, oddities))
            if str(path) == STANDARD_INPUT or isinstance(file, _Unpacked):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                plain = _copied(file, path, folder)
        except OSError as error:
            why = error.strerror or str(error)
            raise CaptureError(f"{name_of(path)}: cannot be read: {why}") from error
        try:
            yield plain
        except CaptureError as error:  # the copy's name says nothing to the user
            raise CaptureError(str(error).replace(str(plain), name_of(path))) from error


def _copied(file: Readable, path: Path, folder: Path) -> Path:
    """A copy in ``folder``.  Raises CaptureError if it becomes too large."""
    piece = file.read(READ_OCTETS)
    name = path.stem if path.suffix in (".gz", ".zst") else path.name
    if "." not in name:
        kind = ".pcapng" if piece.startswith(PCAPNG_MAGIC) else ".pcap"
        name = ("standard-input" if name == STANDARD_INPUT else name) + kind
    copy = folder / name
    with copy.open("wb") as plain:
        while piece:
            plain.write(piece)
            if plain.tell() > SPOOL_MAX_OCTETS:
                much = f"{SPOOL_MAX_OCTETS >> 20} MiB unpacked"
                raise CaptureError(f"{name_of(path)}: more than {much}: cut it first")
            piece = file.read(READ_OCTETS)
    return copy
