"""Latencies of a load run as histograms, and the sum of its intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

from hdrh.histogram import HdrHistogram

from replay.load.interval import NS_PER_US, Interval, add_complaints
from replay.load.reply_labels import SESSION, STEPS

PERCENTILES = (50, 90, 99)
TAIL_PERCENTILES = (50, 90, 99, 99.9, 99.99)
_US_MAX = 3600 * 1_000_000
_SIGNIFICANT_DIGITS = 3
_US_PER_MS = 1000


class Latency:
    """Durations of one kind: how many, and their percentiles to three digits."""

    __slots__ = ("_histogram",)

    def __init__(self, histogram: HdrHistogram | None = None) -> None:
        self._histogram = histogram or HdrHistogram(1, _US_MAX, _SIGNIFICANT_DIGITS)

    def record(self, ns: int) -> None:
        """Count one; above an hour it counts as an hour."""
        self._histogram.record_value(min(max(ns // NS_PER_US, 1), _US_MAX))

    def record_us(self, counts: Mapping[int, int]) -> None:
        """Count many: how often each number of microseconds was seen."""
        for us, times in counts.items():
            self._histogram.record_value(min(max(us, 1), _US_MAX), times)

    def add(self, other: Latency) -> None:
        """Count all that ``other`` has counted."""
        self._histogram.add(other._histogram)

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    @property
    def max_us(self) -> int:
        return int(self._histogram.get_max_value()) if self.count else 0

    def percentile_us(self, percentile: float) -> int:
        """Microseconds that so many percent do not exceed; 0 where nothing was measured."""
        return int(self._histogram.get_value_at_percentile(percentile)) if self.count else 0

    def write_hgrm(self, file: BinaryIO) -> None:
        """The distribution in milliseconds, in the format of HdrHistogram's own tools (.hgrm)."""
        written = BytesIO()
        self._histogram.output_percentile_distribution(written, _US_PER_MS)
        # hdrhistogram 0.10 writes this one figure in the histogram's own unit.
        deviation_us = self._histogram.get_stddev()
        before, after = (
            b"StdDeviation   = %12.3f" % deviation
            for deviation in (deviation_us, deviation_us / _US_PER_MS)
        )
        file.write(written.getvalue().replace(before, after))

    def encode(self) -> str:
        """The histogram in HdrHistogram's interchange format (V2, compressed, base64)."""
        return bytes(self._histogram.encode()).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Latency:
        """What ``encode`` wrote."""
        return cls(HdrHistogram.decode(text.encode("ascii")))


@dataclass(frozen=True, slots=True)
class Row:
    """An interval as it is shown: counts, and of each step's response time the ``PERCENTILES``
    and the greatest, in microseconds."""

    number: int
    begun: int
    good: int
    failed: int
    messages: int
    open: int
    errors: Mapping[str, int]
    response_us: Mapping[str, tuple[int, ...]]
    late_us: tuple[int, ...]


@dataclass(slots=True)
class Tally:
    """The sum of all intervals, and a ``Row`` of each."""

    begun: int = 0
    good: int = 0
    failed: int = 0
    messages: int = 0
    replies: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    service: dict[str, Latency] = field(default_factory=dict)
    response: dict[str, Latency] = field(default_factory=dict)
    late: Latency = field(default_factory=Latency)
    rows: list[Row] = field(default_factory=list)

    def add(self, part: Interval) -> Row:
        """Count a whole interval."""
        self.begun += part.begun
        self.good += part.good
        self.failed += part.failed
        self.messages += part.messages
        self.replies.update(part.replies)
        self.errors.update(part.errors)
        add_complaints(self.complaints, self.examples, part)
        for step, counts in part.service.items():
            self.service.setdefault(step, Latency()).record_us(counts)
        quantiles = {}
        for step in STEPS:
            if step in part.response:
                total = self.response.setdefault(step, Latency())
                quantiles[step] = _count_and_tell(total, part.response[step])
        row = Row(
            part.number,
            part.begun,
            part.good,
            part.failed,
            part.messages,
            part.open,
            dict(part.errors),
            quantiles,
            _count_and_tell(self.late, part.late_us),
        )
        self.rows.append(row)
        return row

    @property
    def steps(self) -> list[str]:
        """The steps that were measured, in the order of a session."""
        return [step for step in STEPS if step in self.response]

    def of(self, step: str) -> Latency:
        """A step's response time; empty where it was never measured."""
        return self.response.get(step, Latency())

    @property
    def session(self) -> Latency:
        return self.of(SESSION)


def _count_and_tell(total: Latency, counts: Mapping[int, int]) -> tuple[int, ...]:
    if not counts:
        return ()
    part = Latency()
    part.record_us(counts)
    total.add(part)
    return (*(part.percentile_us(one) for one in PERCENTILES), part.max_us)


class Intervals:
    """Puts together the intervals of several processes: one is whole when all have sent theirs."""

    def __init__(self, tally: Tally, processes: int) -> None:
        self._tally = tally
        self.processes = processes
        self._waiting: dict[int, tuple[Interval, int]] = {}

    def add(self, part: Interval) -> Row | None:
        """Take one process's part; returns the row that it completes."""
        whole, parts = self._waiting.pop(part.number, (None, 0))
        if whole is None:
            whole = part
        else:
            whole.add(part)
        if parts + 1 < self.processes:
            self._waiting[part.number] = whole, parts + 1
            return None
        return self._tally.add(whole)

    def finish(self) -> None:
        """Count what not all processes have sent."""
        for number in sorted(self._waiting):
            self._tally.add(self._waiting[number][0])
        self._waiting.clear()
        self._tally.rows.sort(key=lambda row: row.number)
