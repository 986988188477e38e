"""What a queue of many waiting messages costs: a start on it, the next one due, a new message.

    python -m benchmarks.large_queue [--messages 1000000] [--folder DIR]

The same is measured with an empty queue.  ``deferred`` messages are due later, ``due`` now,
``waiting`` for a way out, ``new`` were never tried.  As root, the system's page cache is dropped
before each start.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.queue.progress import Progress
from mailsrv.delivery.queue.queue import Queue
from mailsrv.delivery.queue.ways import OneWay, Way
from mailsrv.delivery.spool.disk_room import Limits
from mailsrv.delivery.spool.spool import Spool
from mailsrv.delivery.spool.stored_envelope import to_json
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import SystemPoll
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_MS, NS_PER_S

KINDS = ("empty", "deferred", "due", "waiting", "new")
LIMITS = Limits(used_max_octets=1 << 50, free_min_octets=0)
CONTENT = b"Subject: x\r\n\r\n" + b"some text in a line of content\r\n" * 128
NEW_MESSAGES = 300
_NS_PER_US = 1000


class SlowHop:
    """A way out that takes a few jobs and ends none."""

    def __init__(self) -> None:
        self.jobs = 0

    def deliver(self, job: Job, done: Done) -> None:
        self.jobs += 1

    def room(self) -> int:
        return 20 - self.jobs

    def close(self) -> None:
        pass


def envelope(number: int) -> Envelope:
    sender, recipient = MailPath("ann", "example.org"), MailPath("bob", "example.test")
    return Envelope("192.0.2.1", "a.example", "ESMTP", f"{number:015X}", sender, [recipient])


def fill(path: Path, kind: str, messages: int, now_ns: int) -> None:
    """Put messages into an empty spool's database."""
    text, octets = to_json(envelope(0)), len(CONTENT)
    outcome = Outcome(0, OutcomeKind.DEFERRED, "4.2.0", "450 4.2.0 try again later", "mx.example")
    progress = Progress([outcome]).to_json()

    def rows() -> Iterator[tuple[object, ...]]:
        for n in range(1, messages + 1):
            due_ns = {"deferred": now_ns + NS_PER_S * 900 + n * _NS_PER_US, "due": now_ns - n}
            waits_for = "relay" if kind == "waiting" else None
            yield n, f"{n:015X}", due_ns.get(kind), waits_for, 0, 3, progress

    def stored() -> Iterator[tuple[object, ...]]:
        for n in range(1, messages + 1):
            yield n, f"{n:015X}", now_ns - NS_PER_S, "mx.example.org", octets, text, CONTENT[:200]

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        database.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?)", stored())
        if kind != "new":
            database.executemany("INSERT INTO queue VALUES (?, ?, ?, ?, ?, ?, ?)", rows())
        fresh_from = 0 if kind == "new" else messages + 1
        database.execute(
            "UPDATE total SET next_number = ?, messages = ?, octets = ?, fresh_from = ?",
            (messages + 1, messages, octets * messages, fresh_from),
        )
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def forget_caches() -> None:
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


@dataclass(frozen=True, slots=True)
class QueueCosts:
    start_ms: float
    next_due_us: float
    new_message_us: float
    """Of one of ten in a transaction, synced."""


def measure(folder: Path, kind: str, messages: int) -> QueueCosts:
    """What the queue costs that is made in ``folder``, which must not be there yet."""
    clock = SystemClock()
    Spool(folder, "mx.example.org", clock, LIMITS).close()
    if kind != "empty":
        fill(folder / "spool.db", kind, messages, clock.realtime_ns())
    forget_caches()
    began_ns = clock.monotonic_ns()
    spool = Spool(folder, "mx.example.org", clock, LIMITS)
    loop = Loop(clock, SystemPoll(clock), _raise)
    queue = Queue(spool, clock, random.SystemRandom(), lambda event, **values: None)
    spool.attach(loop)
    queue.use(OneWay(Way("relay", SlowHop())))
    queue.attach(loop)
    loop.expire()
    started_ns = clock.monotonic_ns() - began_ns
    began_ns = clock.monotonic_ns()
    spool.next_due_ns(clock.realtime_ns())
    due_ns = clock.monotonic_ns() - began_ns
    began_ns = clock.monotonic_ns()
    for number in range(NEW_MESSAGES):
        sink = spool.begin(envelope(messages + number))
        sink.write(CONTENT)
        sink.finish(lambda said: None)
        if number % 10 == 9:
            spool.commit()
    new_ns = (clock.monotonic_ns() - began_ns) // NEW_MESSAGES
    spool.close()
    return QueueCosts(started_ns / NS_PER_MS, due_ns / _NS_PER_US, new_ns / _NS_PER_US)


def _raise(_: object, fault: Exception) -> None:
    raise fault


def main() -> int:
    arguments = command.parser(__doc__)
    arguments.add_argument(
        "--messages", type=command.positive, default=1_000_000, help="in the queue"
    )
    arguments.add_argument("--folder", type=Path, default=Path(), help="where the spools are made")
    options = arguments.parse_args()
    print(f"{options.messages:,} messages; a new one is one of ten in a transaction, synced\n")
    print("| queue | start, ms | next due, us | new message, us |\n|---|---|---|---|")
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            costs = measure(Path(place) / "spool", kind, options.messages)
        figures = f"{costs.start_ms:.1f} | {costs.next_due_us:.0f} | {costs.new_message_us:.0f}"
        print(f"| {kind} | {figures} |", flush=True)
    return 0


if __name__ == "__main__":
    command.run(main)
