"""For tests of the queue: a spool, its queue and ways out, on a loop in virtual time."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from spooling import START_S, envelope, spool_in

from mailsrv.delivery.files import SystemFiles
from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.mailbox.local_delivery import at_start
from mailsrv.delivery.mailbox.maildir import Maildir
from mailsrv.delivery.mailbox.maildir_delivery import MaildirDelivery
from mailsrv.delivery.queue.queue import Queue
from mailsrv.delivery.queue.ways import OneWay, Way
from mailsrv.delivery.spool.queue_table import QueueTable
from mailsrv.delivery.spool.spool import Spool
from mailsrv.runtime.clock import Clock, FakeClock
from mailsrv.runtime.loop import Loop
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_S
from replay.play.mailsrv_harness import VirtualPoll

RELAYED = OutcomeKind.RELAYED, "2.0.0", "250 2.0.0 Ok"
DEFERRED = OutcomeKind.DEFERRED, "4.2.0", "450 4.2.0 greylisted"
FAILED = OutcomeKind.FAILED, "5.1.1", "550 5.1.1 no such user"

Answer = tuple[OutcomeKind, str, str]


def maildir_way(
    folder: Path, spool: Spool, clock: Clock, note: Any, files: SystemFiles | None = None
) -> tuple[MaildirDelivery, OneWay]:
    out = MaildirDelivery(Maildir(folder, clock, files), clock, note, at_start(spool))
    return out, OneWay(Way("maildir", out, local=True, failing=lambda: out.failing))


class VirtualRun:
    """A spool in ``folder`` and its queue; ``notes`` is the log."""

    def __init__(
        self, folder: Path, factory: type[sqlite3.Connection] = sqlite3.Connection
    ) -> None:
        self.notes: list[dict[str, Any]] = []
        self.folder = folder
        self.clock = FakeClock(START_S)
        self.loop = Loop(self.clock, VirtualPoll(), self._on_fault)
        self.spool = spool_in(folder / "spool", self.clock, factory=factory)
        self.queue = Queue(self.spool, self.clock, random.Random(1), self.note)

    def begin(self) -> None:
        self.spool.attach(self.loop)
        self.queue.attach(self.loop)

    def _on_fault(self, _: object, fault: Exception) -> None:
        raise fault

    def note(self, event: str, **values: object) -> None:
        told = {key: value for key, value in values.items() if value is not None}
        self.notes.append({"event": event, **told})

    def go_on(self, for_ns: int) -> None:
        """Pass time, a timer after the other."""
        until_ns = self.clock.monotonic_ns() + for_ns
        while (wake_ns := self.loop.timers.next_wake_ns) is not None and wake_ns <= until_ns:
            self.clock.advance(max(wake_ns - self.clock.monotonic_ns(), 0) / NS_PER_S)
            self.loop.dispatch(wake_ns)
            self.loop.expire()
        self.clock.advance((until_ns - self.clock.monotonic_ns()) / NS_PER_S)

    def command(self, verb: str, numbers: Sequence[int]) -> None:
        """Write an operator's command, as another process does."""
        with closing(sqlite3.connect(self.folder / "spool" / "spool.db")) as other:
            rows = [(number, verb) for number in numbers]
            other.executemany("INSERT INTO command (message, verb) VALUES (?, ?)", rows)
            other.commit()
        self.queue.look_for_commands()

    def kill(self) -> None:
        """Leave everything as the end of a process does."""
        os.close(self.spool._lock)
        self.spool._lock = -1

    @property
    def events(self) -> list[str]:
        return [one["event"] for one in self.notes]


class MaildirRun(VirtualRun):
    """One that delivers into a Maildir."""

    def __init__(self, folder: Path, files: SystemFiles | None = None) -> None:
        super().__init__(folder)
        self.use("mail", files)
        self.begin()

    def use(self, name: str, files: SystemFiles | None = None) -> None:
        out, ways = maildir_way(self.folder / name, self.spool, self.clock, self.note, files)
        out.attach(self.loop)
        self.queue.use(ways)

    @property
    def delivered(self) -> list[str]:
        """Ids in ``new/``, in the order of their names."""
        names = sorted(os.listdir(self.folder / "mail" / "new"))
        return [name.partition("I")[2].partition(".")[0] for name in names]


class Deliverer:
    """Delivers what is in ``spool`` into the Maildir ``folder``, or by ``way``, when it is told to.
    Its clock jumps from timer to timer."""

    def __init__(
        self,
        spool: Spool,
        folder: Path,
        clock: FakeClock,
        note: Any,
        way: tuple[Any, OneWay] | None = None,
    ) -> None:
        self._clock = clock
        self._loop = Loop(clock, VirtualPoll(), _raise)
        out, ways = way or maildir_way(folder, spool, clock, note)
        self._queue = Queue(spool, clock, random.Random(1), note)
        spool.attach(self._loop)
        out.attach(self._loop)
        self._queue.use(ways)
        self._queue.attach(self._loop)

    def deliver(self, at_most: int = 10_000) -> None:
        """Deliver what there is, in so many steps at most."""
        for _ in range(at_most):
            wake_ns = self._loop.timers.next_wake_ns
            if not self._queue.busy or wake_ns is None:
                return
            self._clock.advance(max(wake_ns - self._clock.monotonic_ns(), 0) / NS_PER_S)
            self._loop.dispatch(wake_ns)
            self._loop.expire()


def _raise(_: object, fault: Exception) -> None:
    raise fault


class NextHop:
    """A way out that answers as it is told, or keeps its jobs until it is told to end them."""

    def __init__(self, answer: Answer | None = RELAYED, room: int = 100) -> None:
        self.answer = answer
        self.by_local: dict[str, Answer] = {}
        self.jobs: list[tuple[Job, Done]] = []
        self.tried: list[tuple[str, tuple[int, ...]]] = []
        self.contents: list[bytes] = []
        self.rooms = room
        self.closed = False
        self.local = False

    def deliver(self, job: Job, done: Done) -> None:
        self.tried.append((job.message.id, job.places))
        self.contents.append(job.head + b"".join(job.content()))
        if self.answer is None:
            self.jobs.append((job, done))
        else:
            done(self._outcomes(job, self.answer))

    def end(self, answer: Answer = RELAYED, number: int = 1) -> None:
        for _ in range(number):
            job, done = self.jobs.pop(0)
            done(self._outcomes(job, answer))

    def _outcomes(self, job: Job, answer: Answer) -> Sequence[Outcome]:
        paths = job.envelope.forward_paths
        return [
            Outcome(place, *self.by_local.get(paths[place].local, answer), remote="next.example")
            for place in job.places
        ]

    def room(self) -> int:
        return self.rooms - len(self.jobs)

    def close(self) -> None:
        self.closed = True
        if self.local:
            self.jobs.clear()  # they are begun anew elsewhere


class WaysByDomain:
    """A way out for each domain, by its name."""

    only = None

    def __init__(self, **hops: NextHop) -> None:
        self._ways = {name: Way(name, hop, local=hop.local) for name, hop in hops.items()}

    def way(self, recipient: MailPath) -> Way:
        return self._ways[recipient.domain]

    def close(self) -> None:
        for way in self._ways.values():
            way.out.close()


class QueueRun(VirtualRun):
    """One whose mail goes to a next hop, or to one for each domain."""

    def __init__(
        self,
        folder: Path,
        *hop: NextHop,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
        **hops: NextHop,
    ) -> None:
        super().__init__(folder, factory)
        self.queue.use(OneWay(Way("relay", *hop)) if hop else WaysByDomain(**hops))
        self.begin()

    def receive(self, number: int, *to: str) -> list[Reply]:
        """A message to ``user@domain``, each."""
        one = envelope(number)
        if to:
            one.forward_paths[:] = [MailPath(*address.split("@")) for address in to]
        replies: list[Reply] = []
        sink = self.spool.begin(one)
        sink.write(b"Subject: x\r\n\r\ntext\r\n")
        sink.finish(replies.append)
        return replies

    def receive_and_commit(self, number: int, *to: str) -> list[Reply]:
        replies = self.receive(number, *to)
        self.spool.commit()
        return replies

    def rows(self) -> dict[int, Any]:
        found = {}
        for one in self.spool.after(0, 1000):
            entry = self.spool.read(partial(QueueTable.one, number=one.number))
            found[one.number] = entry.row if entry else None
        return found
