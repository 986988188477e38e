"""Makes results of load runs that need no run.  No test itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailsrv.units import NS_PER_S
from replay.load.interval import Interval
from replay.load.result import Idle, LoadResult
from replay.load.tally import Tally

US_PER_MS = 1000


def interval(number: int = 0, late_ms: int = 0, **steps_ms: Mapping[int, int] | int) -> Interval:
    """``dot={3: 99, 50: 1}`` is 99 replies after 3 ms, and one after 50; a number is one of it."""
    made = Interval(number)
    for step, times in steps_ms.items():
        for ms, count in ({times: 1} if isinstance(times, int) else times).items():
            made.response[step][ms * US_PER_MS] += count
            made.service[step][ms * US_PER_MS // 2] += count
    made.late_us[late_ms * US_PER_MS] += 1
    return made


def result(*parts: Interval, **changed: Any) -> LoadResult:
    """A run of ten seconds in which each interval counts."""
    tally = Tally()
    for part in parts:
        tally.add(part)
    given: dict[str, Any] = {
        "target": "mx.example:25",
        "concurrency": 0 if changed.get("rate") else 5,
        "tally": tally,
        "idle": Idle(),
        "window_ns": 10 * NS_PER_S,
        "counted_ns": 10 * NS_PER_S,
        "good_counted": tally.good,
        "messages_counted": tally.messages,
        "cpu_ns": NS_PER_S,
    }
    return LoadResult(**given | changed)
