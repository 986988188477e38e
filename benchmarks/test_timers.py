"""What a timeout costs, and that its price does not depend on how many there are."""

from __future__ import annotations

import gc

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mailsrv.runtime.timer_wheel import TICK_NS, TimerWheel

START_NS = 987_654_321_012_345
SPREAD_MS = 300_000
BATCH = 1_000


def nothing() -> None:
    pass


def filled_wheel(timers: int) -> TimerWheel:
    wheel = TimerWheel(START_NS)
    for number in range(timers):
        wheel.schedule(START_NS + number * 7919 % SPREAD_MS * TICK_NS + 1, nothing)
    return wheel


@pytest.mark.parametrize("timers", [1_000, 100_000, 1_000_000])
def test_schedule_and_cancel(benchmark: BenchmarkFixture, timers: int) -> None:
    """A thousand of each a round: divide by a thousand for one.  To reach: 1.5 us."""
    wheel = filled_wheel(timers)
    deadlines = [START_NS + number * 37 % SPREAD_MS * TICK_NS for number in range(BATCH)]

    def run() -> None:
        for deadline_ns in deadlines:
            wheel.cancel(wheel.schedule(deadline_ns, nothing))

    gc.freeze()
    benchmark.pedantic(run, rounds=30, warmup_rounds=3)
    gc.unfreeze()
    assert len(wheel) == timers


@pytest.mark.parametrize("timers", [1_000, 100_000])
def test_reschedule(benchmark: BenchmarkFixture, timers: int) -> None:
    """Move one timer a thousand times."""
    wheel = filled_wheel(timers)
    timer = wheel.schedule(START_NS, nothing)
    deadlines = [START_NS + number * 37 % SPREAD_MS * TICK_NS for number in range(BATCH)]

    def run() -> None:
        for deadline_ns in deadlines:
            wheel.reschedule(timer, deadline_ns)

    benchmark.pedantic(run, rounds=30, warmup_rounds=3)


def test_expire_many(benchmark: BenchmarkFixture) -> None:
    """A hundred thousand timers over 300 s, expired second by second, cascades included."""

    def run(wheel: TimerWheel) -> None:
        for second in range(SPREAD_MS // 1000 + 1):
            wheel.expire(START_NS + second * 1000 * TICK_NS + TICK_NS)
        assert len(wheel) == 0

    benchmark.pedantic(run, setup=lambda: ((filled_wheel(100_000),), {}), rounds=5)
