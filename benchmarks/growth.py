"""How what mailsrv does costs more as there is more of it: timers, rows, mail, connections."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.contenders import (
    Running,
    UnavailableError,
    Workload,
    cost_ns,
    mailsrv,
    resident_octets,
    running,
)
from benchmarks.greylist_file import Filled
from benchmarks.large_queue import QueueCosts, measure
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.timer_wheel import TICK_NS, TimerWheel
from replay.load.interval import Interval
from replay.load.job import LoadJob, LoadOptions
from replay.load.plan import STARTTLS, idle_plan
from replay.load.runner import LoadRun
from replay.play.target import resolve
from replay.play.tls_client import CERTIFICATE, KEY

CONNECTIONS = (1, 100, 1_000, 5_000, 15_000)
FOR_MEMORY_MIN = 100
"""Fewer take no page of memory each."""
IDLE_TLS = (100, 1_000, 5_000)
IDLE_TLS_MEMORY_OCTETS = 1 << 30
"""By itself the server takes what 128 MiB have room for: about 3,000 under TLS."""
MESSAGES_BESIDE = 2_000
TIMERS = (1_000, 10_000, 100_000, 1_000_000)
CONTENT_OCTETS = (1 << 10, 16 << 10, 256 << 10, 4 << 20, 50 << 20)
GREYLIST_ROWS = (1, 1_000, 100_000, 1_000_000)
QUEUED = (1, 1_000, 100_000, 1_000_000)
CONTENT_IN_ALL_OCTETS = 200 << 20
MESSAGES_MAX = 5_000
BATCH = 1_000
ROUNDS = 9
TRIES = 100
SPREAD_TICKS = 300_000
_NS_PER_US = 1000
_MIB = 1 << 20


@dataclass(frozen=True)
class Curve:
    """``points`` pair a size with what something cost then, in ``unit``."""

    of: str
    unit: str
    points: tuple[tuple[int, float], ...]


def curves(scale: float, python: str = sys.executable) -> Iterator[Curve]:
    """All of them; a ``scale`` below 1 leaves out the greater sizes."""
    yield Curve("timers", "µs to set one and cancel it", _points(TIMERS, scale, timers_us))
    yield Curve("rows of the greylist", "µs a first try", _points(GREYLIST_ROWS, scale, rows_us))
    queues = [(number, queue_costs(number)) for number in _chosen(QUEUED, scale)]
    started = tuple((number, costs.start_ms) for number, costs in queues)
    yield Curve("queued messages that are due later", "ms a start", started)
    new = tuple((number, costs.new_message_us) for number, costs in queues)
    yield Curve("queued messages beside a new one", "µs to store it, synced in tens", new)
    with running("mailsrv", python) as server:
        of_content = _points(
            CONTENT_OCTETS, scale, lambda octets: content_us(server, octets, scale)
        )
        yield Curve("octets of a message", "µs of server CPU a MiB", of_content)
    costs = [(number, idle_costs(python, number, scale)) for number in _chosen(CONNECTIONS, scale)]
    beside = tuple((number, cost.message_us) for number, cost in costs)
    yield Curve("idle connections beside a message", "µs of server CPU for it", beside)
    least = min(FOR_MEMORY_MIN, costs[-1][0])
    of_idle = tuple((number, cost.octets) for number, cost in costs if number >= least)
    yield Curve("idle connections", "octets of server memory each", of_idle)
    under_tls = _points(IDLE_TLS, scale, lambda number: idle_tls_octets(python, number))
    yield Curve("idle connections under TLS", "octets of server memory each", under_tls)


def _points(
    sizes: tuple[int, ...], scale: float, cost: Callable[[int], float]
) -> tuple[tuple[int, float], ...]:
    return tuple((size, cost(size)) for size in _chosen(sizes, scale))


def _chosen(sizes: tuple[int, ...], scale: float) -> list[int]:
    return [size for size in sizes if size <= max(sizes[0], sizes[-1] * scale)]


def timers_us(timers: int) -> float:
    """To set a timer and cancel it, beside so many."""
    wheel, clock = TimerWheel(0), SystemClock()
    for number in range(timers):
        wheel.schedule(number * 7919 % SPREAD_TICKS * TICK_NS + 1, _nothing)
    deadlines = [number * 37 % SPREAD_TICKS * TICK_NS for number in range(BATCH)]
    gc.freeze()
    rounds = []
    for _ in range(ROUNDS):
        began_ns = clock.monotonic_ns()
        for deadline_ns in deadlines:
            wheel.cancel(wheel.schedule(deadline_ns, _nothing))
        rounds.append(clock.monotonic_ns() - began_ns)
    gc.unfreeze()
    return median(rounds) / BATCH / _NS_PER_US


def _nothing() -> None:
    pass


def rows_us(rows: int) -> float:
    """A first try at a greylist whose file knows so many transactions; its write is not in it."""
    clock = SystemClock()
    with TemporaryDirectory() as folder:
        filled = Filled(Path(folder) / "greylist.db", rows)
        rounds = []
        for _ in range(ROUNDS):
            began_ns = clock.monotonic_ns()
            filled.check(TRIES)
            rounds.append(clock.monotonic_ns() - began_ns)
            filled.store.flush()
        filled.close()
    return median(rounds) / TRIES / _NS_PER_US


def queue_costs(messages: int) -> QueueCosts:
    """Of a spool in which so many messages were tried once and are due later."""
    with TemporaryDirectory() as folder:
        return measure(Path(folder) / "spool", "deferred", messages)


def content_us(server: Running, octets: int, scale: float) -> float:
    """Messages of so many octets over kept connections."""
    messages = max(1, min(MESSAGES_MAX, int(CONTENT_IN_ALL_OCTETS * min(scale, 1)) // octets))
    work = Workload("content", messages, octets, kept=True)
    return cost_ns(server, work, 4) / _NS_PER_US / (octets / _MIB)


def mailsrv_with_tls(port: int, folder: Path, python: str) -> list[str]:
    """As it is started elsewhere, but offering STARTTLS, and with room for all."""
    command = mailsrv(port, folder, python)
    with (folder / "mailsrv.toml").open("a") as config:
        config.write(f'tls_certificate = "{CERTIFICATE}"\ntls_key = "{KEY}"\n')
        config.write(f"memory_octets = {IDLE_TLS_MEMORY_OCTETS}\n")
    return command


@dataclass(frozen=True, slots=True)
class IdleCosts:
    octets: float
    """Of server memory for each connection."""
    message_us: float
    """Of server CPU for a message on a kept connection, beside them."""


def idle_costs(python: str, connections: int, scale: float) -> IdleCosts:
    """So many connections that have said EHLO and nothing more."""
    beside = Workload("beside", MESSAGES_BESIDE, 1 << 10, kept=True).scaled(min(scale, 1))
    with idle(python, connections) as (server, octets):
        return IdleCosts(octets, cost_ns(server, beside, 4) / _NS_PER_US)


def idle_tls_octets(python: str, connections: int) -> float:
    """Of server memory for each of so many, under TLS."""
    with idle(python, connections, STARTTLS) as (_, octets):
        return octets


@contextmanager
def idle(python: str, connections: int, tls: str = "") -> Iterator[tuple[Running, float]]:
    """A server that had no connection before these, and its memory for each of them."""
    with running("mailsrv", python, command=mailsrv_with_tls if tls else mailsrv) as server:
        before = resident_octets(server.pid)
        options = LoadOptions(idle=connections, concurrency=1, tls=tls)
        job = LoadJob([idle_plan(tls)], resolve(f"127.0.0.1:{server.port}"), options)
        kept: list[Interval] = []
        run = LoadRun(job, SystemClock(), kept.append)
        try:
            run.open_idle()
            held = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
            if held < connections:
                raise UnavailableError(f"mailsrv holds {held:,} of {connections:,} connections")
            yield server, (resident_octets(server.pid) - before) / connections
        finally:
            run.close()
