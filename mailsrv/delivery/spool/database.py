"""The spool's database: accepted messages in one SQLite file, each transaction synced.

In the write-ahead log with ``synchronous = FULL`` a commit returns when it is on the disk.
Checkpoints, which carry the log into the file, are made here and not by SQLite itself: it would
swallow a sync that fails there.  They are small and paced, since one holds up the loop.

The file begins with an application id and a version.  Those of another program or version are
refused before SQLite opens the file, because opening may already write.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from mailsrv.delivery.files import FILE_MODE, Files
from mailsrv.delivery.spool import queue_table
from mailsrv.delivery.spool.queue_table import QueueTable
from mailsrv.delivery.spool.rows import Changes, NewMessage, SpoolError, StoredMessage

APPLICATION_ID = 0x73706F6C  # "spol"
VERSION = 2
"""Of the schema, kept as the file's ``user_version``."""
PAGE_OCTETS = 4096
CHECKPOINT_PAGES = 250
"""Of the write-ahead log, 1 MB: a checkpoint of so many takes some 4 ms, of 1,000 up to 12."""
WAL_PAGES_MAX = 8 * 1024
"""32 MiB.  The log grows beyond a checkpoint while another process reads the database; from here
on no mail is taken until that has ended."""
FREE_PAGES_MAX = 1024
"""Pages left by delivered messages that are kept for new ones; more go back to the disk."""
VACUUM_PAGES = 256
"""Pages that go back in one step."""
CACHE_KIB = 8 * 1024
_ROW_PAGES = 3
"""Pages that a row of the queue writes, with its indexes."""
_TRANSACTION_PAGES = 4
"""Pages that a transaction writes besides contents: leaf pages of the table, and the totals."""

_HEADER_OCTETS = 100
_VERSION_AT = 60  # in the header: https://www.sqlite.org/fileformat2.html
_APPLICATION_ID_AT = 68

_SCHEMA = f"""
CREATE TABLE message (
    number INTEGER PRIMARY KEY,    -- the order of arrival; never used again
    id TEXT NOT NULL,              -- as in the 250, the Received field and the log
    received_ns INTEGER NOT NULL,  -- since 1970
    hostname TEXT NOT NULL,        -- our name when it was received
    octets INTEGER NOT NULL,       -- of the content
    envelope TEXT NOT NULL,        -- JSON
    content BLOB                   -- NULL: in the file content/<id>
);
CREATE INDEX in_file ON message (id) WHERE content IS NULL;
CREATE TABLE total (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    next_number INTEGER NOT NULL, messages INTEGER NOT NULL, octets INTEGER NOT NULL,
    fresh_from INTEGER NOT NULL    -- below it, every message has its row in the queue
);
INSERT INTO total VALUES (0, 1, 0, 0, 0);
{queue_table.SCHEMA}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
_INSERT = "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM message WHERE number = ?"
_TOTAL = "UPDATE total SET next_number = ?, messages = ?, octets = ?, fresh_from = ?"
_AFTER = """
SELECT number, id, received_ns, hostname, octets, envelope, content IS NULL FROM message
WHERE number > ? ORDER BY number LIMIT ?
"""


class SpoolDatabase:
    """The open database.  Methods raise ``sqlite3.Error``.

    ``messages`` and ``octets`` are what is stored, without counting it anew; ``next_number`` is
    that of the next message, and below ``fresh_from`` there is no fresh one.  ``was_killed``: the
    process that had it last did not close it.  ``queue`` is read
    directly, and written with the transactions here.
    """

    def __init__(
        self, path: Path, files: Files, factory: type[sqlite3.Connection] = sqlite3.Connection
    ) -> None:
        """Open or create it.  Raises SpoolError, OSError and ``sqlite3.Error``."""
        is_new = refuse_others(path)
        self.was_killed = _has_octets(path.with_name(f"{path.name}-wal"))
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, factory=factory)
        self.queue = QueueTable(self._connection)
        try:
            if is_new:
                self._create(path)
            self._prepare(path)
            # SQLite syncs the names of its logs, not that of the file.
            files.sync_directory(path.parent)
        except BaseException:
            self._connection.close()
            raise

    def _create(self, path: Path) -> None:
        execute = self._connection.execute
        if execute("SELECT 1 FROM sqlite_schema").fetchone():
            if self._number("application_id") != APPLICATION_ID:
                raise SpoolError(f"{path}: is another program's database")
            return  # made, and not carried into the file before the power was cut
        execute(f"PRAGMA page_size = {PAGE_OCTETS}")
        execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the file has its first page
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        try:
            self._connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        except sqlite3.Error:
            self._roll_back()
            raise
        execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # the header says whose it is

    def _prepare(self, path: Path) -> None:
        execute = self._connection.execute
        if (version := self._number("user_version")) != VERSION:
            raise SpoolError(_other_version(path, version))
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA wal_autocheckpoint = 0")
        execute("PRAGMA secure_delete = OFF")  # it would write each deleted content once more
        execute(f"PRAGMA journal_size_limit = {WAL_PAGES_MAX * PAGE_OCTETS}")
        execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        row = execute("SELECT next_number, messages, octets, fresh_from FROM total").fetchone()
        try:
            self.next_number, self.messages, self.octets, self.fresh_from = map(int, row)
        except (TypeError, ValueError):
            raise SpoolError(f"{path}: is damaged: its totals are missing") from None
        for table in ("message", "queue", "command"):
            execute(f"SELECT number FROM {table} ORDER BY number LIMIT 1").fetchone()
        self._wal_pages = self._checkpoint()

    def _number(self, pragma: str) -> int:
        (number,) = self._connection.execute(f"PRAGMA {pragma}").fetchone()
        return int(number)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # closing the connection does it, too
                self._connection.execute("ROLLBACK")

    # -- writing ----------------------------------------------------------------------------------

    def write(self, new: Sequence[NewMessage], changes: Changes) -> None:
        """Store ``new`` and make ``changes``, all of it or nothing; on the disk when it returns."""
        gone, fresh_from = changes.gone.values(), max(self.fresh_from, changes.fresh_from)
        number = self.next_number + len(new)
        messages = self.messages + len(new) - len(gone)
        octets = self.octets + sum(one.octets for one in new) - sum(one.octets for one in gone)
        execute, execute_many = self._connection.execute, self._connection.executemany
        execute("BEGIN IMMEDIATE")
        try:
            if new:
                execute_many(_INSERT, [(n, *one) for n, one in enumerate(new, self.next_number)])
            if gone:
                numbers = [(one.number,) for one in gone]
                execute_many(_DELETE, numbers)
                self.queue.delete(numbers)
            if changes.rows:
                self.queue.put(changes.rows.values())
            if changes.commands:
                self.queue.carried_out(changes.commands)
            execute(_TOTAL, (number, messages, octets, fresh_from))
            execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self.next_number, self.messages, self.octets = number, messages, octets
        self.fresh_from = fresh_from
        contents = sum(len(one.content or b"") + len(one.envelope) for one in new)
        pages = len(gone) + _ROW_PAGES * len(changes.rows) + contents // PAGE_OCTETS
        self._wal_pages += _TRANSACTION_PAGES + pages

    @property
    def needs_checkpoint(self) -> bool:
        """Whether the write-ahead log has grown enough."""
        return self._wal_pages >= CHECKPOINT_PAGES

    @property
    def is_held(self) -> bool:
        """Whether the write-ahead log is as large as it may become."""
        return self._wal_pages >= WAL_PAGES_MAX

    def checkpoint(self) -> None:
        """Carry the write-ahead log into the file, and free pages back to the disk."""
        self._wal_pages = self._checkpoint()
        if self._number("freelist_count") > FREE_PAGES_MAX:
            self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            self._wal_pages += VACUUM_PAGES

    def _checkpoint(self) -> int:
        """The pages of the write-ahead log that the next transaction will not write over."""
        row = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        _, pages, carried = map(int, row)
        return 0 if carried >= pages else pages

    # -- reading ----------------------------------------------------------------------------------

    def after(self, number: int, at_most: int) -> list[StoredMessage]:
        """The oldest messages behind ``number``, in the order of arrival."""
        rows = self._connection.execute(_AFTER, (number, at_most)).fetchall()
        return [StoredMessage(*row) for row in rows]

    def still_there(self, messages: Iterable[StoredMessage]) -> list[StoredMessage]:
        """Those of ``messages`` that are stored."""
        query = "SELECT 1 FROM message WHERE number = ?"
        execute = self._connection.execute
        return [one for one in messages if execute(query, (one.number,)).fetchone()]

    def content(self, number: int) -> bytes | None:
        """The content of a message; None if it lies in a file, or there is no such message."""
        row = self._connection.execute("SELECT content FROM message WHERE number = ?", (number,))
        found = row.fetchone()
        return None if found is None else found[0]

    def without_message(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that name no message whose content is in a file."""
        query = "SELECT 1 FROM message WHERE id = CAST(? AS TEXT) AND content IS NULL"
        execute = self._connection.execute  # file names are octets, and need not be UTF-8
        return [one for one in ids if not execute(query, (os.fsencode(one),)).fetchone()]

    def wait_for_others(self, at_most_ms: int) -> None:
        """Let a transaction wait while another process writes: only at the end of the process."""
        self._connection.execute(f"PRAGMA busy_timeout = {at_most_ms}")

    def close(self) -> None:
        """Close it; the last connection carries the log into the file."""
        self._connection.close()


def refuse_others(path: Path) -> bool:
    """True if the file is to be created: it is missing, or has no application id or no header yet
    because the power was cut while it was created.  Writes nothing.  Raises SpoolError, OSError."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_OCTETS)
    except FileNotFoundError:
        return True
    if not header:
        return True
    if not any(header) and path.stat().st_size <= PAGE_OCTETS:
        return True  # of the first page that was ever written, the disk has other sectors
    if len(header) < _HEADER_OCTETS or not header.startswith(b"SQLite format 3\0"):
        raise SpoolError(f"{path}: is no database")
    application_id, version = (
        int.from_bytes(header[at : at + 4], "big") for at in (_APPLICATION_ID_AT, _VERSION_AT)
    )
    if application_id == 0 and version == 0:
        return _is_empty(path)
    if application_id != APPLICATION_ID:
        raise SpoolError(f"{path}: is another program's database")
    if version != VERSION:
        raise SpoolError(_other_version(path, version))
    return False


def _has_octets(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _is_empty(path: Path) -> bool:
    """True if there are no tables in the file, of which nothing is written."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    try:
        if connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise SpoolError(f"{path}: is another program's database")
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: {error}") from None
    finally:
        connection.close()
    return True


def _other_version(path: Path, version: int) -> str:
    return f"{path}: has version {version}, and this program writes {VERSION}"
