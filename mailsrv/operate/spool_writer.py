"""Has commands carried out by the server that owns a spool, or without one by this process.

A command is a row in the database, which outlives a server that is killed.  The server is woken,
carries it out with its own transactions, and deletes the row.
"""

from __future__ import annotations

import random
import select
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from mailsrv.delivery.queue.commands import Verb
from mailsrv.delivery.queue.queue import Queue
from mailsrv.delivery.queue.wake_socket import wake
from mailsrv.delivery.spool.disk_room import Limits
from mailsrv.delivery.spool.failures import DATABASE, in_words
from mailsrv.delivery.spool.folder import is_taken
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.delivery.spool.spool import Spool
from mailsrv.operate.spool_reader import LOCKED_S, SpoolReader
from mailsrv.runtime.clock import Clock
from mailsrv.telemetry.event_log import EventLog
from mailsrv.units import NS_PER_S

BATCH = 500
"""Commands of one transaction, which keeps the server from writing for a moment."""
PATIENCE_S = 10
PAUSE_S = 0.02
"""How long the server is waited for, and how often we look."""


class SpoolWriter:
    """Writes commands for the spool in ``folder``.  Methods raise SpoolError."""

    def __init__(self, folder: Path, clock: Clock, journal: EventLog) -> None:
        self._folder = folder
        self._clock = clock
        self._journal = journal

    def carry_out(self, verb: Verb, numbers: Sequence[int]) -> bool:
        """Have ``verb`` done with messages; False if the server did not get to it in time, and will
        do it later."""
        commands = self._written(verb, numbers)
        try:
            is_owned = is_taken(self._folder)
        except OSError as error:
            raise SpoolError(in_words(error, self._folder)) from None
        if not is_owned:
            self._carry_out_here()
            return True
        wake(self._folder)
        return self._is_done(commands)

    def _written(self, verb: Verb, numbers: Sequence[int]) -> range:
        """The numbers of the commands."""
        rows = [(number, verb.value) for number in numbers]
        first = last = 0
        try:
            connection = sqlite3.connect(
                self._folder / DATABASE, timeout=LOCKED_S, isolation_level=None
            )
            try:
                connection.execute("PRAGMA wal_autocheckpoint = 0")  # the server's business
                for at in range(0, len(rows), BATCH):
                    connection.execute("BEGIN IMMEDIATE")
                    query = "INSERT INTO command (message, verb) VALUES (?, ?)"
                    for row in rows[at : at + BATCH]:
                        last = connection.execute(query, row).lastrowid or 0
                        first = first or last
                    connection.execute("COMMIT")
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise SpoolError(in_words(error, self._folder)) from None
        return range(first, last + 1)

    def _carry_out_here(self) -> None:
        limits = Limits(used_max_octets=1 << 62, free_min_octets=0)
        spool = Spool(self._folder, "localhost", self._clock, limits)
        try:
            queue = Queue(spool, self._clock, random.SystemRandom(), self._journal.note)
            while queue.carry_out_commands():
                spool.commit()
                if spool.trouble:
                    raise SpoolError(spool.trouble)
        finally:
            spool.close()

    def _is_done(self, commands: range) -> bool:
        until_ns = self._clock.monotonic_ns() + PATIENCE_S * NS_PER_S
        reader = SpoolReader(self._folder, self._clock.realtime_ns())
        try:
            while reader.commands_left(commands):
                if self._clock.monotonic_ns() >= until_ns:
                    return False
                select.select((), (), (), PAUSE_S)
            return True
        finally:
            reader.close()
