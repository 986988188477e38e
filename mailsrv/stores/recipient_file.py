"""The recipient table: a text file of the addresses that exist.

One a line: ``user@domain``, ``@domain`` for everybody in it, ``user`` for that user in each of
our domains.  "#" begins a comment, at the beginning of a line or behind a blank.  UTF-8.

A table of a million addresses takes a moment; ``reading`` returns to the loop between blocks,
so that a server that reads its table anew can go on serving meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import BinaryIO

from mailsrv.policy.recipients import table_key

FILE_MAX_OCTETS = 1024**3
ENTRIES_MAX = 10_000_000
LINE_MAX_OCTETS = 1024
"""A path has 256 octets at most; the rest is room for a comment."""
BLOCK_OCTETS = 128 * 1024
"""Read at once, and done in a few milliseconds."""
COMPLAINTS_MAX = 10
_TOO_LONG = f"a line of more than {LINE_MAX_OCTETS} octets"

_ATOM = rb"[a-z0-9!$%&'*+/=?^_`{|}~-][a-z0-9!#$%&'*+/=?^_`{|}~-]*+"
_LABELS = rb"[a-z0-9_]++(?:(?:-++|\.)[a-z0-9_]++)*+"
_ORDINARY = re.compile(rb"(?:%b(?:\.[a-z0-9!#$%%&'*+/=?^_`{|}~-]++)*+@%b\n)*+" % (_ATOM, _LABELS))
"""Lines of nothing but ASCII addresses in lower case, which are their own keys."""


class RecipientFileError(Exception):
    """A table that cannot be: ``complaints``, of which each is a line that names file and line."""

    def __init__(self, *complaints: str) -> None:
        super().__init__("\n".join(complaints))
        self.complaints = complaints


def load_table(path: Path) -> AbstractSet[str]:
    """The keys of the table in a file, all at once.  Raises TableError."""
    steps = reading(path)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            keys: AbstractSet[str] = stop.value
            return keys


def reading(path: Path) -> Generator[None, None, set[str]]:
    """Read the table in a file step by step; the last step returns the keys.  Raises TableError."""
    if path.is_fifo():
        raise RecipientFileError(f"{path}: is a FIFO; takes a file")  # opening it may wait for ever
    try:
        with path.open("rb") as file:
            return (yield from _Reading(path).blocks(file))
    except OSError as error:
        raise RecipientFileError(f"{path}: cannot be read: {error.strerror}") from None


class _Reading:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: set[str] = set()
        self._line = 0
        self._complaints: list[str] = []

    def blocks(self, file: BinaryIO) -> Generator[None, None, set[str]]:
        octets, rest = 0, b""
        while block := file.read(BLOCK_OCTETS):
            octets += len(block)
            whole, end, rest = (rest + block).rpartition(b"\n")
            self._take(whole + end)
            if octets > FILE_MAX_OCTETS:
                self._fail(f"larger than {FILE_MAX_OCTETS} octets")
            if len(rest) > LINE_MAX_OCTETS:
                self._line += 1
                self._complain(_TOO_LONG)
                raise RecipientFileError(*self._complaints)
            if len(self._keys) > ENTRIES_MAX:
                self._fail(f"more than {ENTRIES_MAX} addresses")
            yield
        self._take(rest)
        if self._complaints:
            raise RecipientFileError(*self._complaints)
        return self._keys  # no frozenset: copying a million takes as long as a fifth of reading

    def _take(self, block: bytes) -> None:
        """Take whole lines."""
        if not self._line:
            block = block.removeprefix(b"\xef\xbb\xbf")
        lower = block.lower()
        if _ORDINARY.fullmatch(lower):
            self._keys.update(lower.decode("ascii").split())
            self._line += lower.count(b"\n")
            return
        for line in block.removesuffix(b"\n").split(b"\n"):
            self._line += 1
            if len(line) > LINE_MAX_OCTETS:
                self._complain(_TOO_LONG)
            else:
                self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        try:
            entry = _without_comment(line.decode())
            if entry:
                self._keys.add(table_key(entry))
        except UnicodeDecodeError:
            self._complain("is not UTF-8")
        except ValueError as error:
            self._complain(f"{entry!r:.80}: {error}")

    def _complain(self, text: str) -> None:
        self._complaints.append(f"{self._path}:{self._line}: {text}")
        if len(self._complaints) >= COMPLAINTS_MAX:
            raise RecipientFileError(*self._complaints)

    def _fail(self, text: str) -> None:
        raise RecipientFileError(*self._complaints, f"{self._path}: {text}")


def _without_comment(line: str) -> str:
    if "#" not in line:
        return line.strip(" \t\r")
    words = line.strip(" \t\r").replace("\t", " ")
    return "" if words.startswith("#") else words.partition(" #")[0].rstrip(" ")
