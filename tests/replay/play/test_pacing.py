"""Waiting for an instant: never early, and at most a poll late, whatever the selector does."""

from __future__ import annotations

import selectors

from hypothesis import given
from hypothesis import strategies as st

from mailsrv.runtime.clock import FakeClock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play.realtime import POLL_NS, SLEEP_MAX_NS, Ready, wait

POLL_COST_NS = 20_000
KEY = selectors.SelectorKey(None, 3, selectors.EVENT_READ, "data")  # type: ignore[arg-type]


class SlowSelector:
    """Sleeps as epoll does: for whole milliseconds, rounded up, and then until it is woken.

    ``ready_at_ns`` is when something becomes ready.
    """

    def __init__(self, clock: FakeClock, waking_ns: int, ready_at_ns: int | None = None) -> None:
        self._clock = clock
        self._waking_ns = waking_ns
        self._ready_at_ns = ready_at_ns
        self.timeouts: list[float] = []

    def select(self, timeout: float | None = None) -> Ready:
        assert timeout is not None
        self.timeouts.append(timeout)
        now_ns = self._clock.monotonic_ns()
        if self._ready_at_ns is not None and self._ready_at_ns <= now_ns:
            return [(KEY, selectors.EVENT_READ)]
        if not timeout:
            self._clock.advance_to_ns(now_ns + POLL_COST_NS)
            return []
        wake_ns = now_ns - int(-timeout * 1000 // 1) * NS_PER_MS + self._waking_ns
        if self._ready_at_ns is not None and self._ready_at_ns < wake_ns:
            self._clock.advance_to_ns(self._ready_at_ns)
            return [(KEY, selectors.EVENT_READ)]
        self._clock.advance_to_ns(wake_ns)
        return []


@given(st.integers(0, 3 * 3600 * NS_PER_S), st.integers(0, 1_900_000), st.integers(0, 10**12))
def test_a_wait_ends_at_its_instant_and_at_most_a_poll_later(
    wait_ns: int, waking_ns: int, start_ns: int
) -> None:
    clock = FakeClock()
    clock.advance_to_ns(start_ns)
    assert wait(SlowSelector(clock, waking_ns), clock, start_ns + wait_ns) == []
    assert 0 <= clock.monotonic_ns() - (start_ns + wait_ns) <= 2 * POLL_COST_NS


@given(st.integers(0, NS_PER_S), st.integers(0, NS_PER_S))
def test_what_is_ready_before_the_instant_is_given_when_it_is(until_ns: int, at_ns: int) -> None:
    clock = FakeClock()
    ready = wait(SlowSelector(clock, 0, ready_at_ns=at_ns), clock, until_ns)
    if at_ns < until_ns:
        assert ready
        assert clock.monotonic_ns() - at_ns <= POLL_COST_NS
    elif at_ns > until_ns + 2 * POLL_COST_NS:
        assert not ready


def test_what_is_ready_is_given_though_the_instant_has_passed() -> None:
    clock = FakeClock(5)
    assert wait(SlowSelector(clock, 0, ready_at_ns=0), clock, 0)


def test_only_the_last_part_of_a_wait_is_spent_polling() -> None:
    clock = FakeClock()
    selector = SlowSelector(clock, 0)
    wait(selector, clock, 10 * NS_PER_S)
    assert selector.timeouts[0] == (10 * NS_PER_S - POLL_NS) / NS_PER_S
    assert len(selector.timeouts) <= 3 + POLL_NS // POLL_COST_NS


def test_a_wait_of_days_is_made_of_sleeps_that_the_selector_can_take() -> None:
    clock = FakeClock()
    selector = SlowSelector(clock, 0)
    wait(selector, clock, 24 * 3600 * NS_PER_S)
    assert max(selector.timeouts) * NS_PER_S <= SLEEP_MAX_NS
