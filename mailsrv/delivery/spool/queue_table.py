"""The part of the spool's database that says what became of messages which are not delivered yet.

A message that was never tried has no row here, so that most mail never costs one.  It is *fresh*;
``fresh_from`` in the totals is a number below which there is none, so that a start finds the first
of them behind a million others.  Any other message has a row: it is due at an instant, or waits for
its way out, or is held.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mailsrv.delivery.spool.rows import Command, Entry, QueueRow, StoredMessage

SCHEMA = """
CREATE TABLE queue (
    number INTEGER PRIMARY KEY,  -- of the message
    id TEXT NOT NULL,            -- the message's
    due_ns INTEGER,              -- when it is to be tried, since 1970; NULL: not by itself
    waits_for TEXT,              -- the way out that had no room for it
    held INTEGER NOT NULL,       -- 1: not tried until it is released
    attempts INTEGER NOT NULL,
    progress TEXT NOT NULL       -- JSON: the recipients' outcomes so far; "" if there are none
);
CREATE INDEX due ON queue (due_ns, number) WHERE due_ns IS NOT NULL;
CREATE INDEX by_id ON queue (id);
CREATE INDEX waiting ON queue (waits_for) WHERE waits_for IS NOT NULL;
CREATE TABLE command (
    number INTEGER PRIMARY KEY,
    message INTEGER NOT NULL,    -- its number
    verb TEXT NOT NULL
);
"""
_PUT = "INSERT OR REPLACE INTO queue VALUES (?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM queue WHERE number = ?"
_COLUMNS = """
message.number, message.id, received_ns, hostname, octets, envelope, content IS NULL,
queue.due_ns, waits_for, held, attempts, progress
"""
_FRESH = """
SELECT number, id, received_ns, hostname, octets, envelope, content IS NULL FROM message
WHERE number > ? AND NOT EXISTS (SELECT 1 FROM queue WHERE queue.number = message.number)
ORDER BY number LIMIT ?
"""
_DUE = f"""
SELECT {_COLUMNS} FROM queue CROSS JOIN message ON message.number = queue.number
WHERE due_ns <= ? AND (due_ns, queue.number) > (?, ?) ORDER BY due_ns, queue.number LIMIT ?
"""
_NEXT_DUE = """
SELECT due_ns FROM queue WHERE due_ns > ? ORDER BY due_ns, number LIMIT 1
"""
_WAITING = "SELECT number FROM queue WHERE waits_for = ? ORDER BY number LIMIT ?"
_NEXT_NAME = "SELECT waits_for FROM queue WHERE waits_for > ? ORDER BY waits_for LIMIT 1"
_ONE = f"""
SELECT {_COLUMNS} FROM message LEFT JOIN queue ON queue.number = message.number
WHERE message.number = ?
"""
_PAGE = f"""
SELECT {_COLUMNS} FROM message LEFT JOIN queue ON queue.number = message.number
WHERE message.number > ? ORDER BY message.number LIMIT ?
"""
_BY_ID = "SELECT number FROM queue WHERE id = ?"
_FRESH_BY_ID = """
SELECT number FROM message WHERE number >= (SELECT fresh_from FROM total) AND id = ?
"""
_COMMANDS = "SELECT number, message, verb FROM command ORDER BY number LIMIT ?"


class QueueTable:
    """Reads and writes it on an open connection.  Methods raise ``sqlite3.Error``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # -- within a transaction ---------------------------------------------------------------------

    def put(self, rows: Iterable[QueueRow]) -> None:
        """Write rows, in the place of those that are there."""
        self._connection.executemany(_PUT, rows)

    def delete(self, numbers: Iterable[tuple[int]]) -> None:
        """Forget the rows of messages, which need not have one."""
        self._connection.executemany(_DELETE, numbers)

    def carried_out(self, commands: Iterable[int]) -> None:
        """Forget commands."""
        numbers = [(number,) for number in commands]
        self._connection.executemany("DELETE FROM command WHERE number = ?", numbers)

    # -- reading ----------------------------------------------------------------------------------

    def fresh_from(self) -> int:
        """Below this number there is no message that was never tried."""
        (number,) = self._connection.execute("SELECT fresh_from FROM total").fetchone()
        return int(number)

    def fresh(self, number: int, at_most: int) -> list[Entry]:
        """The oldest fresh messages behind ``number``."""
        rows = self._connection.execute(_FRESH, (number, at_most)).fetchall()
        return [Entry(StoredMessage(*row)) for row in rows]

    def due(self, now_ns: int, behind: tuple[int, int], at_most: int) -> list[Entry]:
        """Those that are due at ``now_ns``, in order, behind an instant and a number."""
        rows = self._connection.execute(_DUE, (now_ns, *behind, at_most)).fetchall()
        return [_entry(row) for row in rows]

    def next_due_ns(self, now_ns: int) -> int | None:
        """When the first message is due after ``now_ns``."""
        row = self._connection.execute(_NEXT_DUE, (now_ns,)).fetchone()
        return None if row is None else int(row[0])

    def waiting(self, name: str, at_most: int) -> list[int]:
        """The numbers of the oldest messages that wait for a way out."""
        return [int(row[0]) for row in self._connection.execute(_WAITING, (name, at_most))]

    def next_name(self, name: str) -> str | None:
        """The next way out behind ``name`` that messages wait for, in the order of names."""
        row = self._connection.execute(_NEXT_NAME, (name,)).fetchone()
        return None if row is None else row[0]

    def one(self, number: int) -> Entry | None:
        """A message by its number; None if it is not there any more."""
        row = self._connection.execute(_ONE, (number,)).fetchone()
        return None if row is None else _entry(row)

    def page(self, number: int, at_most: int) -> list[Entry]:
        """The oldest of all messages behind ``number``."""
        return [_entry(row) for row in self._connection.execute(_PAGE, (number, at_most))]

    def number_of(self, id_: str) -> int | None:
        """The number of a message; looks through all fresh ones where none that was tried has that
        id."""
        for query in (_BY_ID, _FRESH_BY_ID):
            if (row := self._connection.execute(query, (id_,)).fetchone()) is not None:
                return int(row[0])
        return None

    def oldest_ns(self) -> int | None:
        """When the oldest message came in; None if there is none."""
        query = "SELECT received_ns FROM message ORDER BY number LIMIT 1"
        row = self._connection.execute(query).fetchone()
        return None if row is None else int(row[0])

    def commands(self, at_most: int) -> list[Command]:
        """The oldest commands that were not carried out."""
        return [Command(*row) for row in self._connection.execute(_COMMANDS, (at_most,))]


def _entry(row: tuple[object, ...]) -> Entry:
    message = StoredMessage(*row[:7])  # type: ignore[arg-type]
    due_ns, waits_for, held, attempts, progress = row[7:]
    if held is None:
        return Entry(message)
    values = (due_ns, waits_for, bool(held), attempts, progress)
    return Entry(message, QueueRow(message.number, message.id, *values))  # type: ignore[arg-type]
