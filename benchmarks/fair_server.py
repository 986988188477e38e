"""A server that says what one pass of its loop costs.

Run as ``python -m benchmarks.fair_server PORT discard|spool|maildir FOLDER``.  It is the shipped
server with a poll that reads this thread's CPU time between two waits; with ``spool``, what it
accepted stays there.  SIGTERM ends it; then it prints one line of JSON: the CPU of its passes.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path

from mailsrv.delivery.discard import DiscardCourier
from mailsrv.delivery.mailbox.local_delivery import at_start
from mailsrv.delivery.mailbox.maildir import Maildir
from mailsrv.delivery.mailbox.maildir_delivery import MaildirDelivery
from mailsrv.delivery.queue.queue import Queue
from mailsrv.delivery.queue.ways import OneWay, Way
from mailsrv.delivery.spool.disk_room import Limits
from mailsrv.delivery.spool.spool import Spool
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import Ready, SystemPoll
from mailsrv.runtime.signals import SignalReader
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.smtp.courier import Courier
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.tls_context import server_context
from replay.play.tls_client import CERTIFICATE, KEY

LIMITS = Limits(used_max_octets=1 << 40, free_min_octets=0)


class MeasuringPoll(SystemPoll):
    """Notes the CPU time between the end of one wait and the begin of the next."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.passes_ns: list[int] = []
        self._began_ns: int | None = None

    def wait(self, until_ns: int | None) -> Ready:
        if self._began_ns is not None:
            self.passes_ns.append(time.thread_time_ns() - self._began_ns)
        ready = super().wait(until_ns)
        self._began_ns = time.thread_time_ns()
        return ready


def percentile(numbers: list[int], percent: float) -> float:
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def main() -> int:
    port, delivery, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    clock = SystemClock()
    poll = MeasuringPoll(clock)
    log = (folder / "log").open("a")
    courier: Courier = DiscardCourier()
    spool = None
    if delivery in ("spool", "maildir"):
        spool = courier = Spool(folder / "spool", "mx.example.test", clock, LIMITS)
    server = Server(
        Settings(hostname="mx.example.test", transactions=10**9, connections_per_client=10**6),
        ServerBackends(
            resolver=NoResolver(), courier=courier, tls=server_context(CERTIFICATE, KEY)
        ),
        clock=clock,
        poll=poll,
        random=random.Random(),
        event_log=EventLog(clock, log.write),
    )
    if spool is not None:
        spool.attach(server.loop)
    if spool is not None and delivery == "maildir":
        maildir = MaildirDelivery(
            Maildir(folder / "mail", clock),
            clock,
            lambda event, **values: None,
            at_start(spool),
        )
        maildir.attach(server.loop)
        queue = Queue(spool, clock, random.Random(), lambda event, **values: None)
        queue.use(OneWay(Way("maildir", maildir, local=True)))
        queue.attach(server.loop)
    server.listen(bind("127.0.0.1", port))
    stopping: list[int] = []
    SignalReader(poll, (signal.SIGTERM,), stopping.append)
    while not stopping:
        server.loop.run_once()
    passes = poll.passes_ns
    figures = {"passes": len(passes), "max_us": max(passes, default=0) // 1000}
    figures |= {f"p{percent}_us": int(percentile(passes, percent)) // 1000 for percent in (50, 99)}
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
