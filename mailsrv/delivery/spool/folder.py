"""The spool's folder: what is in it, and that one process has it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mailsrv.delivery.files import DIRECTORY_MODE, FILE_MODE, Files, make_directory
from mailsrv.delivery.spool.rows import SpoolError

CONTENT = "content"
LOCK = "lock"


def take_folder(files: Files, folder: Path) -> int:
    """Make ``folder`` if it is not there, and lock it for this process; returns the descriptor that
    keeps the lock.  Raises OSError, and SpoolError if another process has it."""
    make_directory(files, folder)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolError(f"{folder}: is in use by another server") from None
        (folder / CONTENT).mkdir(DIRECTORY_MODE, exist_ok=True)
        files.sync_directory(folder)
    except BaseException:
        os.close(lock)
        raise
    return lock


def is_taken(folder: Path) -> bool:
    """Whether a process has the spool in ``folder``.  Raises OSError."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def move_folder(files: Files, folder: Path, to: Path) -> None:
    """Give ``folder`` another name, for good.  Raises OSError."""
    os.rename(folder, to)
    for parent in {folder.parent, to.parent}:
        files.sync_directory(parent)
