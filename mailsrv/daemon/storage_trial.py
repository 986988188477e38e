"""Tries what spool, Maildir, greylist and log ask of a file system: not each can make files at all,
or sync, link, lock and rename.

It is tried in a folder that is made for it, beside what is there already, and then removed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

from mailsrv.delivery.files import Files, SystemFiles, write_all
from mailsrv.delivery.spool.database import SpoolDatabase
from mailsrv.delivery.spool.failures import DATABASE
from mailsrv.delivery.spool.folder import move_folder, take_folder
from mailsrv.delivery.spool.rows import SpoolError

FOLDER_PREFIX = "mailsrv-check-"
"""Not with a dot before it: in a Maildir, readers take that for a mail folder."""
_OCTETS = b"Subject: a trial\r\n\r\n"

Trial = Callable[[Path, Files], None]


def maildir_trouble(folder: Path, files: Files | None = None) -> str:
    """Why no Maildir can be in ``folder``, which is there; "" if one can."""
    return _trouble(_as_maildir, folder, files or SystemFiles())


def spool_trouble(folder: Path, files: Files | None = None) -> str:
    """Why no spool can be in ``folder``, which is there; "" if one can."""
    return _trouble(_as_spool, folder, files or SystemFiles())


def database_trouble(folder: Path, files: Files | None = None) -> str:
    """Why no database can be in ``folder``, which is there; "" if one can."""
    return _trouble(_as_database, folder, files or SystemFiles())


def file_trouble(folder: Path, files: Files | None = None) -> str:
    """Why no file can be made in ``folder``, which is there; "" if one can."""
    return _trouble(_as_file, folder, files or SystemFiles())


def _trouble(trial: Trial, folder: Path, files: Files) -> str:
    try:
        with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=folder) as made:
            trial(Path(made), files)
    except OSError as error:
        return error.strerror or str(error)
    except sqlite3.Error as error:
        return f"SQLite: {error}"
    except SpoolError as error:
        return str(error)
    return ""


def _as_maildir(folder: Path, files: Files) -> None:
    written, delivered = folder / "written", folder / "delivered"
    _write(written, files)
    files.link(written, delivered)
    files.remove(written)
    files.sync_directory(folder)


def _as_spool(folder: Path, files: Files) -> None:
    spool, renamed = folder / "spool", folder / "renamed"
    lock = take_folder(files, spool)
    try:
        with contextlib.closing(SpoolDatabase(spool / DATABASE, files)):
            _write(spool / "content" / "written", files)
    finally:
        os.close(lock)
    move_folder(files, spool, renamed)


def _as_database(folder: Path, files: Files) -> None:
    SpoolDatabase(folder / DATABASE, files).close()


def _as_file(folder: Path, files: Files) -> None:
    files.close(files.create(folder / "written"))


def _write(path: Path, files: Files) -> None:
    descriptor = files.create(path)
    try:
        write_all(files, descriptor, _OCTETS)
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    files.sync_directory(path.parent)
