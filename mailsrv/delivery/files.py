"""What spool and deliveries ask of the file system, as an interface that tests can make fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


class Files(Protocol):
    """File operations, each of which raises OSError."""

    def create(self, path: Path) -> int:
        """Make a file that must not exist yet; returns its descriptor, for writing."""

    def reopen(self, path: Path) -> int:
        """Open a file again, to write on at its end; returns its descriptor."""

    def write(self, descriptor: int, octets: bytes | memoryview) -> int:
        """Write; returns how many octets were written."""

    def sync(self, descriptor: int) -> None:
        """Wait until the file is on the disk."""

    def close(self, descriptor: int) -> None:
        """Close; the descriptor is gone even if this fails."""

    def link(self, existing: Path, new: Path) -> None:
        """Make a second name for a file; fails if that name exists."""

    def remove(self, path: Path) -> None:
        """Remove a name."""

    def sync_directory(self, path: Path) -> None:
        """Wait until the names in a directory are on the disk."""

    def free_octets(self, path: Path) -> int:
        """Octets that we may still write on the disk that holds ``path``."""


class SystemFiles:
    """The file system, unbuffered."""

    __slots__ = ()

    write = staticmethod(os.write)
    sync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    link = staticmethod(os.link)
    remove = staticmethod(os.unlink)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    def reopen(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_octets(self, path: Path) -> int:
        disk = os.statvfs(path)
        return disk.f_bavail * disk.f_frsize


def make_directory(files: Files, directory: Path) -> None:
    """Make ``directory`` and those above it that are missing, with their names on the disk.
    Raises OSError."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
    for one in missing:
        files.sync_directory(one.parent)


def write_all(files: Files, descriptor: int, octets: bytes | bytearray) -> None:
    """Write ``octets`` whole.  Raises OSError."""
    rest = memoryview(octets)
    while rest:  # ends: the system takes an octet at least, or fails
        rest = rest[files.write(descriptor, rest) :]
