"""Waiting for an instant, and not for a duration: how departures keep their times for real.

Every wait ends at an absolute deadline, so that nothing adds up.  A selector rounds its timeout
up to the next millisecond and the kernel wakes a sleeper when it suits: so the sleep ends early,
and the rest is polling.
"""

from __future__ import annotations

from selectors import SelectorKey
from typing import Protocol

from mailsrv.clock import Clock
from mailsrv.units import NS_PER_MS, NS_PER_S

POLL_NS = 3 * NS_PER_MS
"""The last part of a wait, spent polling: one millisecond for the selector's rounding, two for
the kernel to wake us.  It costs so much of a core a departure, and no more."""
SLEEP_MAX_NS = 60 * NS_PER_S
"""One sleep; epoll takes no timeout of days."""

Ready = list[tuple[SelectorKey, int]]


class Selector(Protocol):
    """The part of ``selectors`` that waits."""

    def select(self, timeout: float | None = None) -> Ready:
        """Give what is ready within ``timeout`` seconds."""


def wait(selector: Selector, clock: Clock, until_ns: int) -> Ready:
    """Give what is ready, or nothing once ``clock`` reads ``until_ns``; never later than need be.

    What is ready already is given even where the instant has passed.
    """
    while True:
        left_ns = until_ns - clock.monotonic_ns()
        # Whole milliseconds, rounded down: the selector has nothing to round up.
        sleep_ms = min(max(left_ns - POLL_NS, 0), SLEEP_MAX_NS) // NS_PER_MS
        ready = selector.select(sleep_ms / 1000)
        if ready or left_ns <= 0:
            return ready
