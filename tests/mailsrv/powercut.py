"""What a disk could hold after a power cut at any instant, made of a record of system calls.

A program is run under strace; its writes, syncs and changes of names are a list of operations.
After each of them a disk holds what was synced for sure, and any part of what was not: files are
synced by themselves, names by their directory.  ``disks`` gives eight such parts for each point.

"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

CALLS = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "close", "mkdir"),
    *("link", "linkat", "unlink", "unlinkat", "rename"),
)
VARIANTS = (
    *("nothing", "everything", "data", "names", "first half", "second half", "blocks", "sectors"),
)
_HERE = Path(__file__).resolve().parent
STRING_MAX_OCTETS = 8 << 20
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


class Operation(NamedTuple):
    """A system call that succeeded; ``descriptor`` -1 where it has none."""

    call: str
    path: str = ""
    other: str = ""
    descriptor: int = -1
    offset: int = -1
    data: bytes = b""
    flags: str = ""


class Recording(NamedTuple):
    """What a program did to the files below ``root``."""

    root: Path
    operations: list[Operation]


def recording(program: str, folder: Path, test: str) -> Recording:
    """Record ``program``, which works below its first argument and imports the module in the file
    ``test``; skips the test where strace cannot."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    if subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("strace may not trace here")
    root = folder / "root"
    root.mkdir()
    return Recording(root, record(program, folder, root, test))


def record(program: str, folder: Path, root: Path, test: str) -> list[Operation]:
    """Run Python under strace; what it did to files.  ``program`` has ``root`` as its first
    argument, and may import what the module in the file ``test`` may."""
    paths = (str(_HERE), str(Path(test).resolve().parent), str(_HERE.parents[1]))
    preface = "import sys; sys.path[:0] = sys.argv[2:]\n"
    trace = folder / "trace"
    subprocess.run(
        [
            *("strace", "-o", str(trace), "-xx", "-s", str(STRING_MAX_OCTETS)),
            *("-e", f"trace={','.join(CALLS)}", sys.executable, "-c", preface + program),
            *(str(root), *paths),
        ],
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )
    operations = [one for line in trace.open() if (one := _parsed(line)) is not None]
    calls = {one.call for one in operations}
    assert {"pwrite64", "write", "fsync", "fdatasync"} <= calls, "the record is not whole"
    return operations


def _parsed(line: str) -> Operation | None:
    found = _LINE.match(line)
    if found is None or int(found[3]) < 0:
        return None
    call, rest, result = found[1], found[2], int(found[3])
    texts = []
    for text, cut in _TEXT.findall(rest):
        assert not cut, "strace cut a text short"
        texts.append(bytes.fromhex(text.replace("\\x", "")))
    first = rest.split(",")[0]
    descriptor = int(first) if first.isdigit() else -1
    if call == "openat":
        return Operation(call, texts[0].decode(), descriptor=result, flags=rest.split(",")[2])
    if call in ("write", "pwrite64"):
        offset = int(rest.rsplit(",", 1)[1]) if call == "pwrite64" else -1
        return Operation(call, descriptor=descriptor, offset=offset, data=texts[0][:result])
    if call == "ftruncate":
        return Operation(call, descriptor=descriptor, offset=int(rest.split(",")[1]))
    paths = [one.decode() for one in texts]
    other = paths[1] if len(paths) > 1 else ""
    return Operation(call, paths[0] if paths else "", other, descriptor)


# -- the disk -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Inode:
    """A file or a directory: what is on the disk for sure, and changes since the last sync, each
    with its number."""

    is_directory: bool = False
    content: bytearray = field(default_factory=bytearray)
    names: dict[str, Inode] = field(default_factory=dict)
    writes: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    """Number, offset, and data; None cuts the file off there."""
    renames: list[tuple[int, str, Inode | None]] = field(default_factory=list)
    seen: dict[str, Inode] = field(default_factory=dict)
    """Names as programs see them."""

    def sync(self) -> None:
        for _, offset, data in self.writes:
            _apply(self.content, offset, data)
        for _, name, inode in self.renames:
            _rename(self.names, name, inode)
        self.writes.clear()
        self.renames.clear()


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
    else:
        content.extend(bytes(max(offset - len(content), 0)))
        content[offset : offset + len(data)] = data


def _rename(names: dict[str, Inode], name: str, inode: Inode | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


class Disk:
    """Everything in ``root`` while operations are carried out; at first, what is in ``initial``,
    all of it synced."""

    def __init__(self, root: Path, initial: Path | None = None) -> None:
        self._prefix = f"{root}/"
        self._open: dict[int, tuple[Inode, int]] = {}
        self._number = 0
        self._inodes: list[Inode] = []
        self._root = self._made(is_directory=True)
        if initial is not None:
            self._load(self._root, initial)

    def _load(self, folder: Inode, path: Path) -> None:
        for one in path.iterdir():
            inode = self._made(is_directory=one.is_dir())
            folder.names[one.name] = folder.seen[one.name] = inode
            if one.is_dir():
                self._load(inode, one)
            else:
                inode.content.extend(one.read_bytes())

    def carry_out(self, one: Operation) -> bool:
        """Whether the operation changed what a cut could leave."""
        self._number += 1
        if one.call == "openat":
            return self._opened(one)
        if one.call == "close":
            self._open.pop(one.descriptor, None)
            return False
        if one.descriptor >= 0 and one.call not in ("linkat", "unlinkat"):
            return self._of_descriptor(one)
        if not one.path.startswith(self._prefix):
            return False
        if one.call == "mkdir":
            self._name(one.path, self._made(is_directory=True))
        elif one.call in ("link", "linkat", "rename"):
            self._name(one.other, self._at(one.path))
            if one.call == "rename":
                self._name(one.path, None)
        else:
            self._name(one.path, None)
        return True

    def _opened(self, one: Operation) -> bool:
        self._open.pop(one.descriptor, None)
        if one.path != self._prefix[:-1] and not one.path.startswith(self._prefix):
            return False
        inode = self._at(one.path)
        is_new = inode is None
        if inode is None:
            inode = self._made(is_directory=False)
            self._name(one.path, inode)
        self._open[one.descriptor] = (inode, 0)
        return is_new

    def _of_descriptor(self, one: Operation) -> bool:
        if one.descriptor not in self._open:
            return False
        inode, place = self._open[one.descriptor]
        if one.call in ("fsync", "fdatasync"):
            inode.sync()
        elif one.call == "ftruncate":
            inode.writes.append((self._number, one.offset, None))
        else:
            offset = place if one.offset < 0 else one.offset
            inode.writes.append((self._number, offset, one.data))
            if one.offset < 0:
                self._open[one.descriptor] = (inode, place + len(one.data))
        return True

    def _made(self, *, is_directory: bool) -> Inode:
        self._inodes.append(Inode(is_directory))
        return self._inodes[-1]

    def _at(self, path: str) -> Inode | None:
        inode: Inode | None = self._root
        for part in Path(path[len(self._prefix) :]).parts:
            inode = None if inode is None else inode.seen.get(part)
        return inode

    def _name(self, path: str, inode: Inode | None) -> None:
        folder = self._at(str(Path(path).parent))
        assert folder is not None, path
        name = Path(path).name
        _rename(folder.seen, name, inode)
        folder.renames.append((self._number, name, inode))

    def leave(self, target: Path, variant: str, dice: random.Random) -> None:
        """Write into ``target`` what the disk could hold."""
        pending = sorted(n for inode in self._inodes for n, *_ in (*inode.writes, *inode.renames))
        middle = pending[len(pending) // 2] if pending else 0
        stays: Callable[[int, bool], bool] = {
            "nothing": lambda number, is_name: False,
            "everything": lambda number, is_name: True,
            "data": lambda number, is_name: not is_name,
            "names": lambda number, is_name: is_name,
            "first half": lambda number, is_name: number < middle,
            "second half": lambda number, is_name: number >= middle,
        }.get(variant, lambda number, is_name: dice.random() < 0.5)
        grain = {"blocks": 4096, "sectors": 512}.get(variant, 0)
        _leave(self._root, target, stays, grain)


def _leave(inode: Inode, path: Path, stays: Callable[[int, bool], bool], grain: int) -> None:
    if not inode.is_directory:
        content = bytearray(inode.content)
        for number, offset, data in inode.writes:
            for start, piece in _pieces(offset, data, grain):
                if stays(number, False):
                    _apply(content, start, piece)
        path.write_bytes(content)
        return
    path.mkdir(exist_ok=True)
    names = dict(inode.names)
    for number, name, target in inode.renames:
        if stays(number, True):
            _rename(names, name, target)
    for name, target in names.items():
        _leave(target, path / name, stays, grain)


def _pieces(offset: int, data: bytes | None, grain: int) -> Iterator[tuple[int, bytes | None]]:
    if data is None or not grain:
        yield offset, data
        return
    place = 0
    while place < len(data):
        size = grain - (offset + place) % grain
        yield offset + place, data[place : place + size]
        place += size


# -- cuts -----------------------------------------------------------------------------------------

Check = Callable[[Path, list[str]], str]
"""Starts on a folder; says what is wrong, "" if nothing.  Takes the promises made until then."""


def cut(
    operations: Sequence[Operation],
    root: Path,
    check: Check,
    *,
    initial: Path | None = None,
    promised: Sequence[str] = (),
    every: int = 1,
    seed: int = 0,
    until_wrong: bool = False,
) -> tuple[int, list[str]]:
    """Cut the power at each ``every``th point that matters, in all variants, ``until_wrong`` or
    at all of them; how many starts were made, and what was wrong.  A promise is a write of
    ``b"250 ID"`` to standard output."""
    disk, promises, wrong = Disk(root, initial), list(promised), list[str]()
    points = starts = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as base:
        target = Path(base) / "disk"
        for number, one in enumerate(operations):
            if one.call == "write" and one.descriptor == 1 and one.data.startswith(b"250 "):
                promises.append(one.data.decode().split()[1])
            elif not disk.carry_out(one):
                continue
            points += 1
            if (points + seed) % every:
                continue
            for variant in VARIANTS:
                disk.leave(target, variant, random.Random(f"{seed} {number} {variant}"))
                starts += 1
                if problem := check(target, promises):
                    wrong.append(f"after operation {number} ({one.call}), {variant}: {problem}")
                shutil.rmtree(target, ignore_errors=True)
                if wrong and until_wrong:
                    return starts, wrong
    return starts, wrong


def without(operations: Sequence[Operation], call: str, path: str) -> list[Operation]:
    """``operations`` as if ``call`` were forgotten for descriptors of files with ``path``."""
    names: dict[int, str] = {}
    left = []
    for one in operations:
        if one.call == "openat":
            names[one.descriptor] = one.path
        if one.call != call or not names.get(one.descriptor, "").endswith(path):
            left.append(one)
    return left
