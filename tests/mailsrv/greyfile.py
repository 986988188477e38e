"""A greylist with its file, on a loop and a fake clock: what the tests of the store share."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

from mailsrv.policy.greylist import Greylist, GreylistKey, GreylistRecord
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import Handler, Ready
from mailsrv.stores.greylist_sqlite import FLUSH_PAUSE_NS, SqliteStore
from mailsrv.units import NS_PER_S

START_S = 12_345.678901
WALL_NS = 1_767_225_600 * NS_PER_S
DELAY_S = 300
TRIPLET = ("192.0.2.1", "a@example.org", "b@example.test")
OTHER = ("198.51.100.7", "c@example.org", "d@example.test")


FAILED = "greylist database failed"
WORKS = "greylist database works again"


class NobodyThere:
    """A poll with nothing to report."""

    def watch(self, sock: socket, events: int, handler: Handler) -> None: ...

    def change(self, sock: socket, events: int, handler: Handler) -> None: ...

    def forget(self, sock: socket) -> None: ...

    def wait(self, until_ns: int | None) -> Ready:
        return []


def no_fault(handler: Handler | None, fault: Exception) -> None:
    raise fault


@dataclass
class Running:
    """A greylist with its file, on a loop."""

    path: Path
    clock: FakeClock = field(
        default_factory=lambda: FakeClock(start=START_S, realtime_offset_ns=WALL_NS)
    )
    notes: list[tuple[str, str | None]] = field(default_factory=list)
    options: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.loop = Loop(self.clock, NobodyThere(), no_fault)
        self.store = SqliteStore(
            str(self.path), lambda event, error: self.notes.append((event, error)), **self.options
        )
        self.greylist = Greylist(self.clock, DELAY_S, self.store)
        self.store.attach(self.loop)

    def restart(self) -> None:
        self.store.close()
        self.start()

    def check(self, triplet: tuple[str, str, str] = TRIPLET) -> str:
        """A try, and the end of the pass in which it came."""
        outcome = self.greylist.check(triplet)
        self.loop.dispatch(None)
        return outcome

    def advance(self, seconds: float) -> None:
        """Let time pass, with all its timers."""
        until_ns = self.clock.monotonic_ns() + round(seconds * NS_PER_S)
        while (wake_ns := self.loop.timers.next_wake_ns) is not None and wake_ns <= until_ns:
            self.clock.advance_to_ns(max(wake_ns, self.clock.monotonic_ns()))
            self.loop.expire()
        self.clock.advance_to_ns(until_ns)

    def rows(self, where: str = "1") -> int:
        """What another process finds in the file."""
        with sqlite3.connect(self.path) as connection:
            (number,) = connection.execute(f"SELECT count(*) FROM known WHERE {where}").fetchone()
        connection.close()
        return int(number)

    @property
    def connection(self) -> sqlite3.Connection:
        assert self.store._file is not None
        return self.store._file._connection


def fill(running: Running, number: int) -> None:
    for at in range(number):
        running.store.put(
            GreylistKey("pool", "a@example.org", f"{at}@example.test"), GreylistRecord(WALL_NS, 0)
        )
    while running.store.backlog:
        running.loop.dispatch(None)
        running.advance(FLUSH_PAUSE_NS / NS_PER_S)


def goes_on_from_memory(running: Running) -> None:
    """New senders are deferred and pass when they come back."""
    assert running.check(OTHER) == "DEFER"
    running.advance(DELAY_S)
    assert running.check(OTHER) == "PASS"
