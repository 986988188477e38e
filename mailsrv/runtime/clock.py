"""Time, as integer nanoseconds.  The only module in the project that reads a clock."""

from __future__ import annotations

import time
from typing import Protocol

from mailsrv.units import seconds_to_ns


class Clock(Protocol):
    """Two readings: one for measuring, one for telling people when."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary instant; never goes back.  For timers."""

    def realtime_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may step.  For Received fields, logs, schedules."""


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    monotonic_ns = staticmethod(time.monotonic_ns)
    realtime_ns = staticmethod(time.time_ns)


class FakeClock:
    """A clock that moves only when told to.

    ``start`` is in seconds and sets both readings; ``realtime_offset_ns`` puts the wall clock
    elsewhere than the monotonic one.
    """

    __slots__ = ("_now_ns", "_realtime_offset_ns")

    def __init__(self, start: float = 0, *, realtime_offset_ns: int = 0) -> None:
        self._now_ns = seconds_to_ns(start)
        self._realtime_offset_ns = realtime_offset_ns

    def monotonic_ns(self) -> int:
        return self._now_ns

    def realtime_ns(self) -> int:
        return self._now_ns + self._realtime_offset_ns

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back; the monotonic reading does not notice."""
        self._realtime_offset_ns += seconds_to_ns(seconds)

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``; raises ValueError for a negative number."""
        self.advance_to_ns(self._now_ns + seconds_to_ns(seconds))

    def advance_to_ns(self, instant_ns: int) -> None:
        """Move forward to ``instant_ns``; raises ValueError if that is in the past."""
        if instant_ns < self._now_ns:
            raise ValueError(f"time cannot go back from {self._now_ns} to {instant_ns} ns")
        self._now_ns = instant_ns
