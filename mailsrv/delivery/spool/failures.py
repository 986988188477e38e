"""What goes wrong with the spool's disk: which kind it is, and how it is told."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from mailsrv.delivery.spool.rows import SpoolError

DATABASE = "spool.db"

Failure = OSError | sqlite3.Error | SpoolError

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
_BUSY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))


def is_busy(error: Failure) -> bool:
    """Whether another process was writing to the database."""
    return _code(error) in _BUSY


def is_full(error: Failure) -> bool:
    """Whether there is no room on the disk."""
    return _code(error) == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in _NO_ROOM


def in_words(error: Failure, folder: Path) -> str:
    """What is wrong with the spool in ``folder``, with the file's name."""
    if isinstance(error, SpoolError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or folder}: {error.strerror or error}"
    return f"{folder / DATABASE}: {error}"


def _code(error: Failure) -> int:
    """The primary result code of SQLite, 0 if it is none of its errors."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
