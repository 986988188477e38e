"""What a load run counts and measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

from mailsrv.units import NS_PER_S

COMPLAINTS_MAX = 200
"""Different complaints that are kept; more of the same kind are only counted."""
OTHER_COMPLAINTS = "others"

PERCENTILES = (50, 90, 99)
_US_MAX = 3600 * 1_000_000
_SIGNIFICANT_DIGITS = 3
_NS_PER_US = 1000

# -- kinds of errors: why a session was not as its transcript says ---------------------------------

UNEXPECTED = "unexpected reply"
NO_REPLY = "not a reply"
TOO_LONG = "reply too long"
CLOSED = "closed early"
RESET = "reset"
REFUSED = "refused"
TIMEOUT = "timeout"


class Latency:
    """Durations of one kind: how many, and their percentiles to three digits."""

    __slots__ = ("_histogram",)

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, _US_MAX, _SIGNIFICANT_DIGITS)

    def record(self, ns: int) -> None:
        """Count one; above an hour it counts as an hour."""
        self._histogram.record_value(min(max(ns // _NS_PER_US, 1), _US_MAX))

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    @property
    def max_us(self) -> int:
        return int(self._histogram.get_max_value()) if self.count else 0

    def percentile_us(self, percentile: float) -> int:
        """Microseconds that so many percent do not exceed; 0 where nothing was measured."""
        return int(self._histogram.get_value_at_percentile(percentile)) if self.count else 0


@dataclass(slots=True)
class Tally:
    """Everything that sessions report.

    ``good`` and ``failed`` count ended sessions, ``messages`` final dots with a positive answer,
    ``errors`` failed sessions by kind, ``complaints`` what exactly was wrong, in words, and
    ``examples`` the reply that was first seen with such a complaint.
    ``greeting`` runs from connect to the greeting, ``final_dot`` from the last octet of content
    to its reply, ``session`` from connect to the end of a good session.
    """

    good: int = 0
    failed: int = 0
    messages: int = 0
    replies: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    greeting: Latency = field(default_factory=Latency)
    final_dot: Latency = field(default_factory=Latency)
    session: Latency = field(default_factory=Latency)

    def fail(self, kind: str, complaint: str, example: str = "") -> None:
        """Count a failed session."""
        self.failed += 1
        self.errors[kind] += 1
        full = len(self.complaints) >= COMPLAINTS_MAX and complaint not in self.complaints
        complaint = OTHER_COMPLAINTS if full else complaint
        self.complaints[complaint] += 1
        if example:
            self.examples.setdefault(complaint, example)


@dataclass(frozen=True, slots=True)
class Idle:
    """Connections held beside the load: ``asked`` for, ``opened``, and ``lost`` of these.

    ``complaints`` say, with numbers, why some were not opened or were lost.
    """

    asked: int = 0
    opened: int = 0
    lost: int = 0
    complaints: Mapping[str, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return self.opened - self.lost

    @property
    def complete(self) -> bool:
        return self.held == self.asked


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A finished run.

    ``window_ns`` is the time that counts: from the first session until no more were begun.
    ``in_window`` and ``messages_in_window`` count what was good and finished in it, and so make
    the rates; sessions that finished later are in ``tally`` alone.  ``cpu_ns`` is what the
    generator itself used in that time.
    """

    target: str
    concurrency: int
    tally: Tally
    idle: Idle
    window_ns: int
    in_window: int
    messages_in_window: int
    cpu_ns: int
    interrupted: bool = False

    @property
    def all_well(self) -> bool:
        """True where no session failed and every idle connection is still there."""
        return not self.tally.failed and self.idle.complete

    @property
    def sessions_per_s(self) -> float:
        return self.in_window * NS_PER_S / self.window_ns if self.window_ns else 0.0

    @property
    def messages_per_s(self) -> float:
        return self.messages_in_window * NS_PER_S / self.window_ns if self.window_ns else 0.0

    @property
    def cpu_share(self) -> float:
        """Of one processor, 0 to 1: near 1, the generator is the limit and not the target."""
        return self.cpu_ns / self.window_ns if self.window_ns else 0.0
