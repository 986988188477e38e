"""Reads a spool beside the server that owns it, or without one.

Nothing is written.  What is read is read in small pieces, each a transaction of its own: while a
long one lasts, the server's write-ahead log can only grow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from mailsrv.delivery.queue.progress import Progress
from mailsrv.delivery.spool.database import refuse_others
from mailsrv.delivery.spool.failures import DATABASE, in_words
from mailsrv.delivery.spool.folder import CONTENT
from mailsrv.delivery.spool.queue_table import QueueTable
from mailsrv.delivery.spool.rows import Entry, SpoolError, StoredMessage
from mailsrv.delivery.spool.spool import PIECE_OCTETS
from mailsrv.delivery.spool.stored_envelope import from_json
from mailsrv.operate.queued_message import QueuedMessage, queued_message
from mailsrv.smtp.envelope import Envelope

PAGE_MESSAGES = 200
"""Read in one transaction."""
ID_MAX = 1000
"""Characters of an id that is looked for."""
LOCKED_S = 5
"""How long another process may keep us from reading."""


class SpoolReader:
    """The spool in ``folder``.  Methods raise SpoolError."""

    def __init__(self, folder: Path, now_ns: int) -> None:
        """Raises SpoolError where there is none, or one that cannot be read."""
        self._folder = folder
        self._now_ns = now_ns
        path = folder / DATABASE
        try:
            if not path.exists() or refuse_others(path):
                raise SpoolError(f"{folder}: there is no spool")
            uri = f"{path.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=LOCKED_S)
            self._table = QueueTable(self._connection)
            self.totals()
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(in_words(error, folder)) from None

    def totals(self) -> tuple[int, int]:
        """How many messages there are, and the octets of their content."""
        try:
            row = self._connection.execute("SELECT messages, octets FROM total").fetchone()
        except sqlite3.Error as error:
            raise SpoolError(in_words(error, self._folder)) from None
        return int(row[0]), int(row[1])

    def messages(self) -> Iterator[QueuedMessage]:
        """All messages, in the order of arrival."""
        number = -1
        while page := self._page(number):
            for entry in page:
                yield self._message(entry)
            number = page[-1].message.number

    def find(self, ids: Iterable[str]) -> dict[str, QueuedMessage | None]:
        """The messages with these ids, however their letters are typed; None where there is
        none."""
        try:
            return {id_: self._find(id_) for id_ in ids}
        except sqlite3.Error as error:
            raise SpoolError(in_words(error, self._folder)) from None

    def with_numbers(self, numbers: Iterable[int]) -> Iterator[QueuedMessage]:
        """Those of the messages with these numbers that are still there."""
        for number in numbers:
            try:
                entry = self._table.one(number)
            except sqlite3.Error as error:
                raise SpoolError(in_words(error, self._folder)) from None
            if entry is not None:
                yield self._message(entry)

    def content(self, message: QueuedMessage) -> Iterator[bytes]:
        """The content of a message."""
        try:
            query = "SELECT content FROM message WHERE number = ?"
            row = self._connection.execute(query, (message.number,)).fetchone()
            if row is None:
                return
            if row[0] is not None:
                yield row[0]
                return
            with (self._folder / CONTENT / message.id).open("rb") as file:
                while piece := file.read(PIECE_OCTETS):
                    yield piece
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(in_words(error, self._folder)) from None

    def commands_left(self, numbers: range) -> int:
        """How many of an operator's commands were not carried out yet."""
        query = "SELECT count(*) FROM command WHERE number BETWEEN ? AND ?"
        try:
            row = self._connection.execute(query, (numbers[0], numbers[-1])).fetchone()
        except sqlite3.Error as error:
            raise SpoolError(in_words(error, self._folder)) from None
        return int(row[0])

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _page(self, number: int) -> list[Entry]:
        try:
            return self._table.page(number, PAGE_MESSAGES)
        except sqlite3.Error as error:
            raise SpoolError(in_words(error, self._folder)) from None

    def _find(self, id_: str) -> QueuedMessage | None:
        if not (id_.isascii() and len(id_) <= ID_MAX):
            return None
        number = self._table.number_of(id_)
        if number is None and id_ != id_.upper():
            number = self._table.number_of(id_.upper())  # as the server writes them
        entry = None if number is None else self._table.one(number)
        return None if entry is None else self._message(entry)

    def _message(self, entry: Entry) -> QueuedMessage:
        return queued_message(entry, _envelope(entry.message), _progress(entry), self._now_ns)


def _envelope(message: StoredMessage) -> Envelope | None:
    try:
        return from_json(message.envelope)
    except ValueError:
        return None


def _progress(entry: Entry) -> Progress:
    try:
        return Progress.from_json(entry.row.progress if entry.row else "")
    except ValueError:
        return Progress()
