"""The greylist's memory on disk: one SQLite file, and what to do when that file fails.

Theory of operation.  What the greylist puts goes to a *backlog* in memory and is written at the
end of the loop's pass, in one transaction; what it gets comes from the backlog, else from the
file, by primary key.  Nothing here waits: a file that another process has locked, a full disk, a
read-only or missing file leave the backlog standing, a timer tries again, and until then the
backlog is a greylist in memory: mail flows, new senders are asked to come back, and those that had
passed before are asked once more if the file cannot even be read.  The log says when this begins,
why, and when it is over.

A commit is in the write-ahead log before the next pass (a killed process loses nothing that was
flushed) but is not synced (a power cut may lose the last minutes, and never the file).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from itertools import islice

from mailsrv.policy.greylist import GreylistKey, GreylistRecord, GreylistTime, MemoryStore
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_MS, NS_PER_S

APPLICATION_ID = 0x67726579  # "grey"
VERSION = 1
"""Of the schema, kept as the file's ``user_version``."""

ROWS_A_FLUSH_MAX = 128
"""Rows written, and as many removed, in one transaction: a few milliseconds."""
FLUSH_PAUSE_NS = 10 * NS_PER_MS
"""Between two transactions while there is more than one can hold: the mail's turn."""
BACKLOG_MAX = 100_000
"""Records of each kind that wait for the file; beyond that the oldest are forgotten, those of a
client's own network first (``MemoryStore``)."""
FILE_OCTETS_MAX = 1 << 30
"""In use, of the file; beyond that the oldest records go first, those that wait before those that
have passed.  Some 4 million records."""
RETRY_MIN_NS = 100 * NS_PER_MS
RETRY_MAX_NS = 60 * NS_PER_S
"""The pauses before the file is tried again; each is twice the one before."""
LOCKED_NS = 2 * NS_PER_S
"""A lock is worth a line in the log from here on: a look with ``sqlite3`` takes less."""
QUIET_NS = 60 * NS_PER_S
"""From one "failed" in the log to the next, however often the file comes and goes."""

CHECKPOINT_PAGES = 256
"""Of the write-ahead log, 1 MiB: then a commit carries them into the file and syncs it, which
takes milliseconds.  More pages make that rarer and longer."""
CACHE_KIB = 8 * 1024
WAL_OCTETS_MAX = 4 << 20
"""To what the write-ahead log is cut after a checkpoint."""
_ALL_NS = (1 << 63) - 1

_SCHEMA = f"""
CREATE TABLE known (
    client TEXT NOT NULL,     -- a pool, with sender and recipient; or a network, for its credit
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    since_ns INTEGER NOT NULL,  -- the first try while waiting, then the last use
    passed INTEGER NOT NULL,    -- 0: waiting; for a network, triplets that passed
    PRIMARY KEY (client, sender, recipient)
) WITHOUT ROWID;
CREATE INDEX waiting ON known (since_ns) WHERE passed = 0;
CREATE INDEX passed ON known (since_ns) WHERE passed > 0;
CREATE TABLE reading (
    id INTEGER PRIMARY KEY CHECK (id = 0), wall_ns INTEGER NOT NULL, own_ns INTEGER NOT NULL
);
CREATE VIEW seen AS
    SELECT client, sender, recipient, passed,
        datetime((since_ns - (SELECT own_ns - wall_ns FROM reading)) / 1000000000, 'unixepoch')
        AS since
    FROM known;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
_GET = "SELECT since_ns, passed FROM known WHERE client = ? AND sender = ? AND recipient = ?"
_PUT = "INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)"
_FORGET = """
DELETE FROM known WHERE (client, sender, recipient) IN (
    SELECT client, sender, recipient FROM known
    WHERE passed {} 0 AND since_ns < ? ORDER BY since_ns LIMIT ?
)
"""
_FORGET_WAITING = _FORGET.format("=")
_FORGET_PASSED = _FORGET.format(">")

_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})
"""Failures that leave an open file as good as it was."""
_HOPELESS = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""Failures that no waiting mends."""

Note = Callable[[str, str | None], object]
"""Told of what befalls the file: the event, and the error if it is one."""


class UnusableStore(Exception):
    """The file is not one to write into; the message says why."""


class _File:
    """The open file.  All methods raise ``sqlite3.Error``."""

    def __init__(self, path: str, octets_max: int) -> None:
        """Open or create the file.  Raises Unusable and OSError, too."""
        self._octets_max = octets_max
        # Addresses are private.  The write-ahead log gets the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        execute = self._connection.execute
        if self._number("application_id") != APPLICATION_ID:
            if self._number("user_version") or execute("SELECT 1 FROM sqlite_schema").fetchone():
                raise UnusableStore("it is another program's database")
            execute("PRAGMA journal_mode = WAL")
            try:
                self._connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
            except sqlite3.Error:
                self._roll_back()
                raise
        if (version := self._number("user_version")) != VERSION:
            raise UnusableStore(f"it has version {version}, and this program writes {VERSION}")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        execute(f"PRAGMA journal_size_limit = {WAL_OCTETS_MAX}")
        execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._page_octets = self._number("page_size")

    def _number(self, pragma: str) -> int:
        (number,) = self._connection.execute(f"PRAGMA {pragma}").fetchone()
        return int(number)

    def reading(self) -> GreylistTime | None:
        row = self._connection.execute("SELECT wall_ns, own_ns FROM reading").fetchone()
        return None if row is None else GreylistTime(*row)

    def get(self, key: GreylistKey) -> GreylistRecord | None:
        row = self._connection.execute(_GET, key).fetchone()
        return None if row is None else GreylistRecord(*row)

    def write(
        self,
        records: Iterable[tuple[GreylistKey, GreylistRecord]],
        reading: GreylistTime | None,
        waiting_before_ns: int,
        passed_before_ns: int,
        at_most: int,
    ) -> None:
        """Set ``records``, and forget ``at_most`` of what is stale, all of it or nothing."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(_PUT, [(*key, *record) for key, record in records])
            if reading is not None:
                execute("INSERT OR REPLACE INTO reading VALUES (0, ?, ?)", reading)
            if self._is_full():
                waiting_before_ns = _ALL_NS
            gone = execute(_FORGET_WAITING, (waiting_before_ns, at_most)).rowcount
            if waiting_before_ns == _ALL_NS and gone == 0:
                passed_before_ns = _ALL_NS
            execute(_FORGET_PASSED, (passed_before_ns, at_most - gone))
            execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _is_full(self) -> bool:
        pages = self._number("page_count") - self._number("freelist_count")
        return pages * self._page_octets > self._octets_max

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


class SqliteStore:
    """Keeps the greylist's records in the SQLite file ``path``, whatever becomes of it.

    ``attach`` it to a loop, and ``close`` it when the loop has ended.  ``trouble`` says why the
    file cannot be used at present, "" if it can.
    """

    def __init__(
        self,
        path: str,
        note: Note = lambda event, error: None,
        *,
        backlog: int = BACKLOG_MAX,
        octets_max: int = FILE_OCTETS_MAX,
    ) -> None:
        self._path = path
        self._note = note
        self._octets_max = octets_max
        self._backlog = MemoryStore(backlog)
        self._stale: tuple[int, int] = (0, 0)
        self._forgettable = 0
        self._loop: Loop | None = None
        self._timer: Timer | None = None
        self._retry_ns = RETRY_MIN_NS
        self._failing_since_ns: int | None = None
        self._noted = False
        self._quiet_until_ns: int | None = None
        self._hopeless = False
        self._file: _File | None = None
        self.reading: GreylistTime | None = None
        self.trouble = ""
        self._attempt(self._open)

    # -- for the greylist -------------------------------------------------------------------------

    def get(self, key: GreylistKey) -> GreylistRecord | None:
        record = self._backlog.get(key)
        if record is not None or self._file is None:
            return record
        try:
            return self._file.get(key)
        except sqlite3.Error as error:
            self._failed(error)
            return None

    def put(self, key: GreylistKey, record: GreylistRecord, network: str = "") -> None:
        self._backlog.put(key, record, network)

    def expire(self, waiting_before_ns: int, passed_before_ns: int, at_most: int) -> None:
        self._stale = waiting_before_ns, passed_before_ns
        self._forgettable = min(self._forgettable + at_most, ROWS_A_FLUSH_MAX)
        if self._file is None:
            self._backlog.expire(waiting_before_ns, passed_before_ns, at_most)

    # -- for the shell ----------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Records that are not in the file yet."""
        return len(self._backlog)

    def attach(self, loop: Loop) -> None:
        """Write at the end of each pass of ``loop`` from now on."""
        self._loop = loop
        loop.at_end_of_pass(self.flush)
        if self.trouble:
            self._failing_since_ns = loop.now_ns
            self._try_later()

    def flush(self) -> None:
        """Write what there is, as much as fits a transaction, unless it is too early to try."""
        if self._hopeless or (self._timer is not None and self._timer.pending):
            return
        if len(self._backlog) or self.trouble:
            self._attempt(self._write)

    def close(self) -> None:
        """Write what can be written and let go of the file."""
        if self._timer is not None and self._loop is not None:
            self._loop.timers.cancel(self._timer)
        self._loop = self._timer = None
        for _ in range(2 * BACKLOG_MAX // ROWS_A_FLUSH_MAX + 1):
            if self._hopeless or not self._attempt(self._write) or not len(self._backlog):
                break
        self._let_go()

    # -- the file ---------------------------------------------------------------------------------

    def _attempt(self, act: Callable[[], None]) -> bool:
        """Whether ``act`` succeeded; what failed, failed for the log and for ``trouble``."""
        try:
            act()
        except (sqlite3.Error, OSError, UnusableStore) as error:
            self._failed(error)
            return False
        return True

    def _open(self) -> None:
        self._file = _File(self._path, self._octets_max)
        if self.reading is None:
            self.reading = self._file.reading()

    def _write(self) -> None:
        if self._file is None:
            self._open()
        assert self._file is not None
        batch = list(islice(self._backlog.records(), ROWS_A_FLUSH_MAX))
        self._file.write(batch, self.reading, *self._stale, self._forgettable)
        self._forgettable = 0
        for key, _ in batch:
            self._backlog.delete(key)
        self._works()
        if len(self._backlog):
            self._arm(FLUSH_PAUSE_NS)

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except sqlite3.Error:
                return  # it is gone either way

    # -- trouble ----------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> None:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code not in _PASSING:
            self._let_go()
        self._hopeless |= code in _HOPELESS or isinstance(error, UnusableStore)
        self.trouble = _in_words(error)
        now_ns = self._now_ns()
        if self._failing_since_ns is None:
            self._failing_since_ns = now_ns
        is_short = code == sqlite3.SQLITE_BUSY and now_ns - self._failing_since_ns < LOCKED_NS
        is_quiet = self._quiet_until_ns is not None and now_ns < self._quiet_until_ns
        if not self._noted and not is_short and not is_quiet:
            self._noted = True
            self._quiet_until_ns = now_ns + QUIET_NS
            self._note("greylist database failed", self.trouble)
        self._try_later()

    def _try_later(self) -> None:
        if self._hopeless:
            self._arm(0)  # no more than a pass, which writes the log
        elif self._timer is None or not self._timer.pending:
            self._arm(self._retry_ns)
            self._retry_ns = min(2 * self._retry_ns, RETRY_MAX_NS)

    def _works(self) -> None:
        self.trouble = ""
        self._retry_ns = RETRY_MIN_NS
        self._failing_since_ns = None
        if self._noted:
            self._noted = False
            self._note("greylist database works again", None)
            self._arm(0)

    def _arm(self, pause_ns: int) -> None:
        """Have a pass in ``pause_ns``, and no flush before; without a loop the next is at once."""
        if self._loop is not None:
            deadline_ns = self._loop.now_ns + pause_ns
            if self._timer is None:
                self._timer = self._loop.timers.schedule(deadline_ns, lambda: None)
            else:
                self._loop.timers.reschedule(self._timer, deadline_ns)

    def _now_ns(self) -> int:
        return 0 if self._loop is None else self._loop.now_ns


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
