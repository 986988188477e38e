"""The spool: every accepted message is on the disk, with its envelope, before it gets its 250.

Theory of operation.  Content up to ``ROW_OCTETS_MAX`` stays in memory and becomes a row of the
database; larger content is streamed into a file of its own, which is synced, and its directory,
before the row is written.  Messages that are whole wait for one another: *group commit*.  One
transaction stores all that wait, in the loop's own thread, at the end of a pass, once no content
is being received any more or ``COMMIT_WITHIN_NS`` after the first of them came.  Answers follow
the transaction.

What became of a message is written with the next transaction, or soon after if none comes: what
another server took, within ``COMMIT_WITHIN_NS``, since a process that is killed in between sends it
again; what lies in a Maildir later, because there it is found under the same name.

A write that fails is a temporary failure for the senders who wait for it: 452 where there is no
room, else 451.  The database is then opened anew for the next message.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from mailsrv.delivery.files import Files, SystemFiles
from mailsrv.delivery.spool.database import SpoolDatabase, refuse_others
from mailsrv.delivery.spool.disk_room import DiskRoom, Limits
from mailsrv.delivery.spool.failures import DATABASE, Failure, in_words, is_busy, is_full
from mailsrv.delivery.spool.folder import CONTENT, move_folder, take_folder
from mailsrv.delivery.spool.queue_table import QueueTable
from mailsrv.delivery.spool.rows import (
    Changes,
    Command,
    NewMessage,
    QueueRow,
    SpoolError,
    StoredMessage,
)
from mailsrv.delivery.spool.sink import Answer, EnoughMemory, Memory, SpoolSink
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.smtp import reply
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.reply import Reply
from mailsrv.units import NS_PER_MS, NS_PER_S

COMMIT_WITHIN_NS = 2 * NS_PER_MS
"""How long the first message that waits is kept waiting for others."""
COMMIT_MESSAGES_MAX = 256
COMMIT_FILES_MAX = 4
"""Messages of one transaction, and those among them with a file to be synced."""
FORGET_WITHIN_NS = 200 * NS_PER_MS
"""How long what may happen twice waits for a transaction of new messages to take it along."""
LOCKED_NS = 2 * NS_PER_S
LOCKED_PAUSE_NS = 10 * NS_PER_MS
"""How long another process may write to the database, and how often we try meanwhile."""
RECEIVED_FIELDS_MAX = 100
"""In a header, unless it is configured."""
PIECE_OCTETS = 256 * 1024
"""Of a large content, what is read at once."""

Found = TypeVar("Found")
Waiting = tuple[SpoolSink, Answer]
Note = Callable[[str, str | None], object]
"""Called with an event for the log, and the error if it is one."""


class Spool:
    """The courier that keeps messages in ``folder``, which is made if it is not there.

    ``memory`` counts what is held, and ``note`` is told of failures.  ``on_stored`` is called
    after each transaction that leaves something to be delivered, now or later; ``hostname`` is
    our name in Received fields.  Raises SpoolError.
    """

    def __init__(
        self,
        folder: Path,
        hostname: str,
        clock: Clock,
        limits: Limits,
        *,
        files: Files | None = None,
        memory: Memory | None = None,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
        note: Note = lambda event, error: None,
    ) -> None:
        self.folder = folder
        self.files: Files = files or SystemFiles()
        self.memory: Memory = memory or EnoughMemory()
        self.hostname = hostname
        self.received_fields_max = RECEIVED_FIELDS_MAX
        self.on_stored: Callable[[], object] = lambda: None
        self.trouble = ""
        """Why nothing can be stored at present."""
        self._checkpoint_failed = False
        self.open_contents = 0
        """Messages whose content is being received."""
        self.open_octets = 0
        """Of content that is received and not stored yet."""
        self._factory = factory
        self._note = note
        self._clock = clock
        self._room = DiskRoom(folder, self.files, clock, **limits._asdict())
        self._loop: Loop | None = None
        self._timer: Timer | None = None
        self._waiting: list[Waiting] = []
        self._since_ns = 0
        self._retry_ns = 0
        self._changes = Changes()
        self._changes_due_ns = 0
        self._database: SpoolDatabase | None = None
        self._refused_from: int | None = None  # the first number of a transaction that failed
        self._lock = -1
        self.was_killed = False
        """Whether the process that had the spool last did not end in order."""
        try:
            refuse_others(folder / DATABASE)  # before anything is made in their folder
            self._lock = take_folder(self.files, folder)
            database = self._open()
            self.was_killed = database.was_killed
            self._sweep(database)
        except (OSError, sqlite3.Error, SpoolError) as error:
            self.close()
            raise SpoolError(in_words(error, folder)) from None

    # -- opening ----------------------------------------------------------------------------------

    def _open(self) -> SpoolDatabase:
        if self._database is None:
            database = SpoolDatabase(self.folder / DATABASE, self.files, self._factory)
            try:
                self._changes.gone = self._without_doubt(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _without_doubt(self, database: SpoolDatabase) -> dict[int, StoredMessage]:
        """What is to be forgotten, after a transaction that failed: its frames may be found in the
        write-ahead log all the same.  What it forgot is gone, and what it stored was refused."""
        gone = self._changes.gone
        if self._refused_from is None:
            return gone
        at_most = COMMIT_MESSAGES_MAX + len(self._changes.notices)
        refused = database.after(self._refused_from - 1, at_most)
        there = [*database.still_there(gone.values()), *refused]
        return {one.number: one for one in there}

    def _sweep(self, database: SpoolDatabase) -> None:
        """Remove contents whose message was never stored, or is forgotten."""
        for name in database.without_message(os.listdir(self.folder / CONTENT)):
            self._remove_content(name)

    def configure(
        self, hostname: str, limits: Limits, received_fields_max: int = RECEIVED_FIELDS_MAX
    ) -> None:
        """Other settings from now on."""
        self.hostname = hostname
        self.received_fields_max = received_fields_max
        self._room.used_max_octets, self._room.free_min_octets = limits

    def move(self, folder: Path) -> None:
        """Give the folder another name, under which the next start looks for it.  Raises
        SpoolError, and then nothing has changed."""
        self._close_database()
        try:
            move_folder(self.files, self.folder, folder)
            self.folder = self._room.folder = folder
        except OSError as error:
            why = error.strerror or error
            raise SpoolError(f"{self.folder} cannot be moved to {folder}: {why}") from None
        finally:
            with contextlib.suppress(OSError, sqlite3.Error, SpoolError):  # or when it is needed
                self._open()

    def attach(self, loop: Loop) -> None:
        """Store what waits at the end of the passes of ``loop``."""
        self._loop = loop
        loop.at_end_of_pass(self.end_pass)

    # -- for the session --------------------------------------------------------------------------

    def begin(self, envelope: Envelope) -> SpoolSink:
        self.open_contents += 1
        return SpoolSink(self, envelope)

    def has_room(self) -> bool:
        """Whether there is room for what is being received.  Raises OSError."""
        database = self._database
        if database is not None and database.is_held:
            self._checkpoint(database)
            if database.is_held:
                return False
        return self._room.has(self.open_octets, self.octets)

    def content_path(self, id_: str) -> Path:
        """The file of a large content."""
        return self.folder / CONTENT / id_

    def enqueue(self, sink: SpoolSink, answer: Answer) -> None:
        """Store a whole message with the next transaction, and answer then."""
        if not self._waiting:
            self._since_ns = self._now_ns()
            self._arm(self._since_ns + COMMIT_WITHIN_NS)
        self._waiting.append((sink, answer))

    # -- for deliveries ---------------------------------------------------------------------------

    @property
    def is_receiving(self) -> bool:
        """Whether mail is on its way in."""
        return bool(self.open_contents or self._waiting)

    @property
    def messages(self) -> int:
        """How many messages are stored and not yet delivered."""
        stored = 0 if self._database is None else self._database.messages
        return stored + len(self._changes.notices) - len(self._changes.gone)

    @property
    def next_number(self) -> int:
        """Greater than those of all messages that are stored."""
        return 0 if self._database is None else self._database.next_number

    @property
    def octets(self) -> int:
        """The content of all that is stored."""
        return 0 if self._database is None else self._database.octets

    def after(self, number: int, at_most: int) -> list[StoredMessage]:
        """The oldest messages behind ``number``.  Raises SpoolError."""
        try:
            return self._open().after(number, at_most)
        except (OSError, sqlite3.Error, SpoolError) as error:
            raise SpoolError(in_words(error, self.folder)) from None

    def content(self, message: StoredMessage) -> Iterator[bytes]:
        """The content in pieces.  Raises SpoolError, and ValueError if it is missing."""
        try:
            if not message.in_file:
                content = self._open().content(message.number)
                if content is None:
                    raise ValueError("its content is missing")
                yield content
                return
            with self.content_path(message.id).open("rb", buffering=0) as file:
                while piece := file.read(PIECE_OCTETS):
                    yield piece
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename}: is missing") from None
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(in_words(error, self.folder)) from None

    def read(self, look: Callable[[QueueTable], Found]) -> Found:
        """What ``look`` finds in the queue's table.  Raises SpoolError."""
        try:
            return look(self._open().queue)
        except (OSError, sqlite3.Error, SpoolError) as error:
            raise SpoolError(in_words(error, self.folder)) from None

    def is_written(self, number: int) -> bool:
        """Whether what the queue's table says of a message is the latest."""
        return number not in self._changes.rows and number not in self._changes.gone

    def next_due_ns(self, now_ns: int) -> int | None:
        """When the first message is due after ``now_ns``, or before, if that is not written yet.
        Raises SpoolError."""
        dues = [self.read(lambda table: table.next_due_ns(now_ns))]
        dues += [row.due_ns for row in self._changes.rows.values()]
        return min((one for one in dues if one is not None), default=None)

    @property
    def unwritten(self) -> int:
        """Messages of which the queue's table does not say the latest."""
        return len(self._changes.rows) + len(self._changes.gone)

    def forget(
        self, message: StoredMessage, notices: Iterable[NewMessage] = (), *, soon: bool = False
    ) -> None:
        """It is done with; ``notices`` are stored in the same transaction, ``soon`` or not."""
        self._change(soon)
        self._changes.rows.pop(message.number, None)
        self._changes.gone[message.number] = message
        self._changes.notices += notices

    def put(self, row: QueueRow, notices: Iterable[NewMessage] = (), *, soon: bool = False) -> None:
        """Keep what became of a message, as ``forget`` does."""
        self._change(soon)
        self._changes.rows[row.number] = row
        self._changes.notices += notices

    def carried_out(self, command: int) -> None:
        """An operator's command is done with, together with what else is to be written."""
        self._change(soon=True)
        self._changes.commands.add(command)

    def commands(self, at_most: int) -> list[Command]:
        """The oldest commands of an operator that were not carried out.  Raises SpoolError."""
        done = self._changes.commands
        found = self.read(lambda table: table.commands(at_most + len(done)))
        return [one for one in found if one.number not in done]

    def none_is_fresh_below(self, number: int) -> None:
        """Every message below ``number`` was tried; written when something else is."""
        self._changes.fresh_from = number

    def _change(self, soon: bool) -> None:
        due_ns = self._now_ns() + (COMMIT_WITHIN_NS if soon else FORGET_WITHIN_NS)
        if not self._changes or due_ns < self._changes_due_ns:
            self._changes_due_ns = due_ns
            if not self._waiting:
                self._arm(due_ns)

    # -- the transaction --------------------------------------------------------------------------

    def end_pass(self) -> None:
        """Store and forget what is due; the loop's hook."""
        now_ns = self._now_ns()
        if now_ns < self._retry_ns:
            return
        if self._waiting:
            if not self.open_contents or now_ns >= self._since_ns + COMMIT_WITHIN_NS:
                self.commit()
        elif self._changes and now_ns >= self._changes_due_ns:
            self.commit()

    def commit(self) -> None:
        """One transaction: of what waits as much as fits, and all that became of others."""
        answers: list[tuple[Answer, Reply]] = []
        batch = self._synced(self._take_batch(), answers)
        try:
            database = self._open()
            changes = self._changes
            database.write([sink.row() for sink, _ in batch] + changes.notices, changes)
        except (OSError, sqlite3.Error, SpoolError) as error:
            self._not_stored(batch, error, answers)
            faults = _answer_all(answers)
        else:
            if changes:
                self._changes = Changes(fresh_from=changes.fresh_from)
            self._stored(batch, answers)
            if batch or changes.notices or changes.rows:
                self.on_stored()
            faults = _answer_all(answers)
            self._tidy_up(changes.gone.values())
        if self._waiting:  # too many for one transaction, or ended within an answer
            due_ns = self._since_ns + COMMIT_WITHIN_NS if self.open_contents else self._now_ns()
            self._arm(max(due_ns, self._retry_ns))
        if faults:
            raise ExceptionGroup("answers", faults)

    def _take_batch(self) -> list[Waiting]:
        number = files = 0
        for sink, _ in self._waiting[:COMMIT_MESSAGES_MAX]:
            files += sink.in_file
            if files > COMMIT_FILES_MAX:
                break
            number += 1
        batch, self._waiting = self._waiting[:number], self._waiting[number:]
        return batch

    def _synced(self, batch: list[Waiting], answers: list[tuple[Answer, Reply]]) -> list[Waiting]:
        """Those of ``batch`` whose files are on the disk; answers to the others."""
        files = [sink for sink, _ in batch if sink.in_file]
        for sink in files:
            sink.attempt(sink.sync)
        if files:
            try:
                self.files.sync_directory(self.folder / CONTENT)
            except OSError as error:
                for sink in files:
                    sink.fail(error)
        answers += [(answer, sink.failure) for sink, answer in batch if sink.failure is not None]
        return [one for one in batch if one[0].failure is None]

    def _stored(self, batch: list[Waiting], answers: list[tuple[Answer, Reply]]) -> None:
        for sink, answer in batch:
            sink.release()
            answers.append((answer, reply.queued(sink.envelope.id)))
        if self.trouble:
            self.trouble = ""
            self._note("spool works again", None)

    def _tidy_up(self, gone: Iterable[StoredMessage]) -> None:
        """What takes time and may wait until the answers are given."""
        for message in gone:
            if message.in_file:
                self._remove_content(message.id)
        if self._database is not None and self._database.needs_checkpoint:
            self._checkpoint(self._database)

    def _checkpoint(self, database: SpoolDatabase) -> None:
        try:
            database.checkpoint()
        except sqlite3.Error as error:  # what was committed stays in the write-ahead log
            if not self._checkpoint_failed:
                self._note("spool checkpoint failed", in_words(error, self.folder))
            self._checkpoint_failed = True
        else:
            if self._checkpoint_failed:
                self._note("spool checkpoint works again", None)
            self._checkpoint_failed = False

    def _not_stored(
        self,
        batch: list[Waiting],
        error: Failure,
        answers: list[tuple[Answer, Reply]],
    ) -> None:
        """The transaction failed: try again if another process was writing, else answer."""
        now_ns = self._now_ns()
        wanted_ns = self._since_ns if batch else self._changes_due_ns
        if is_busy(error) and now_ns - wanted_ns < LOCKED_NS:
            self._waiting[:0] = batch
            self._retry_ns = now_ns + LOCKED_PAUSE_NS
            self._arm(self._retry_ns)
            return
        self._fails(error)
        for sink, answer in batch:
            sink.fail(error)
            answers.append((answer, sink.failure or reply.LOCAL_ERROR))
        self._changes_due_ns = now_ns + FORGET_WITHIN_NS  # or with the next message
        self._arm(self._changes_due_ns)

    def _fails(self, error: Failure) -> None:
        """Have the log say so once, and the database opened anew."""
        if not self.trouble:
            self._note("spool failed", in_words(error, self.folder))
        self.trouble = in_words(error, self.folder)
        if not is_busy(error):
            if self._database is not None:
                self._refused_from = self._database.next_number
            self._close_database()

    def refusal(self, error: Failure) -> Reply:
        """Note why a message cannot be stored; returns the reply to its sender."""
        self._note("storage failed", in_words(error, self.folder))
        return reply.STORAGE_FULL if is_full(error) else reply.LOCAL_ERROR

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Store what waits, and what became of others; let another process have the spool."""
        while self._waiting:
            self._since_ns = self._now_ns() - LOCKED_NS  # no more waiting for others
            self.commit()
        if self._changes and self._database is not None:
            self._database.wait_for_others(LOCKED_NS // NS_PER_MS)
            self.commit()
        self._close_database()
        if self._loop is not None and self._timer is not None:
            self._loop.timers.cancel(self._timer)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _remove_content(self, name: str) -> None:
        with contextlib.suppress(OSError):  # what stays is swept at the next start
            self.files.remove(self.content_path(name))

    def _arm(self, deadline_ns: int) -> None:
        """Have a pass at ``deadline_ns``; the hook does the rest."""
        if self._loop is None:
            return
        timers = self._loop.timers
        if self._timer is None:
            self._timer = timers.schedule(deadline_ns, lambda: None)
        else:
            timers.reschedule(self._timer, deadline_ns)

    def _now_ns(self) -> int:
        return self._clock.monotonic_ns() if self._loop is None else self._loop.now_ns

    def realtime_ns(self) -> int:
        """The time of day, for what is received now."""
        return self._clock.realtime_ns()


def _answer_all(answers: Iterable[tuple[Answer, Reply]]) -> list[Exception]:
    """Give every answer, even if one that is waited for fails; returns the faults."""
    faults: list[Exception] = []
    for answer, said in answers:
        try:
            answer(said)
        except Exception as fault:
            faults.append(fault)
    return faults
