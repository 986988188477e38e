"""What is counted, and how it is written down: the Prometheus text format, version 0.0.4.

The event log feeds it, so that whatever is in the log is counted, and no caller reports twice.
What can be looked up is not counted at all: a *gauge* is a function that is called when the page
is read.

Every series costs memory for ever, and some label values come from the network: a family
takes ``SERIES_MAX`` of them, and everything beyond is counted under ``OTHER``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping

from mailsrv.smtp.reply import Reply, printable
from mailsrv.units import NS_PER_S

SERIES_MAX = 100
LABEL_MAX_CHARACTERS = 64
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "mailsrv_"

DURATION_BOUNDS_NS = tuple(
    NS_PER_S * thousandth // 1000
    for thousandth in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
)
"""Ratios of about three, from a millisecond to the longest that a sender waits for its 250."""
SIZE_BOUNDS_OCTETS = tuple(4**power * 1024 for power in range(9))
"""1 KiB to 64 MiB."""

OUTCOMES = ("delivered", "relayed", "expanded", "deferred", "failed")
"""What an attempt at delivery comes to: events of the log."""
VERDICTS = ("accepted", "deferred", "refused", "abandoned")
_ACCEPTED, _REFUSED = ("accepted",), ("refused",)


class Counter:
    """A family of numbers that only grow, one for each combination of label values."""

    __slots__ = ("_labels", "counts", "help", "name")

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self.name = name
        self.help = help_text
        self._labels = labels
        self.counts: dict[tuple[str, ...], int] = {}
        """By label values.  What is put here beforehand is shown before it is counted."""

    def add(self, *values: str, by: int = 1) -> None:
        """Count ``by`` under ``values``, one for each label."""
        counts = self.counts
        if values in counts:
            counts[values] += by
        else:
            self._begin(values, by)

    def _begin(self, values: tuple[str, ...], by: int) -> None:
        """The first of its kind: where there are too many kinds, it is one of the others."""
        values = tuple([printable(value[:LABEL_MAX_CHARACTERS]) for value in values])
        if len(self.counts) >= SERIES_MAX and values not in self.counts:
            values = (OTHER,) * len(values)
        self.counts[values] = self.counts.get(values, 0) + by

    def value(self, *values: str) -> int:
        """What was counted under ``values``."""
        return self.counts.get(values, 0)

    def lines(self) -> Iterator[str]:
        yield from _heading(self.name, "counter", self.help)
        for values, count in self.counts.items():
            yield f"{self.name}{_labels(zip(self._labels, values, strict=True))} {count}"


class Histogram:
    """How numbers spread: a count for each bound that they do not exceed.

    ``unit`` is what 1 on the page is: ``NS_PER_S`` for nanoseconds that are shown as seconds.
    """

    __slots__ = ("_unit", "bounds", "counts", "help", "name", "sum")

    def __init__(self, name: str, help_text: str, bounds: tuple[int, ...], unit: int = 1) -> None:
        self.name = name
        self.help = help_text
        self._unit = unit
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def observe(self, number: int) -> None:
        """Count one in."""
        self.counts[bisect_left(self.bounds, number)] += 1
        self.sum += number

    def lines(self) -> Iterator[str]:
        yield from _heading(self.name, "histogram", self.help)
        below = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            below += count
            yield f'{self.name}_bucket{{le="{_number(bound / self._unit)}"}} {below}'
        total = below + self.counts[-1]
        yield f'{self.name}_bucket{{le="+Inf"}} {total}'
        yield f"{self.name}_sum {_number(self.sum / self._unit)}"
        yield f"{self.name}_count {total}"


class Gauge:
    """A number that is looked up when the page is read."""

    __slots__ = ("_kind", "_labels", "_read", "help", "name")

    def __init__(
        self,
        name: str,
        help_text: str,
        read: Callable[[], float | None],
        kind: str,
        labels: Mapping[str, str],
    ) -> None:
        self.name = name
        self.help = help_text
        self._read = read
        self._kind = kind
        self._labels = labels

    def lines(self) -> Iterator[str]:
        number = self._read()
        if number is not None:
            yield from _heading(self.name, self._kind, self.help)
            yield f"{self.name}{_labels(self._labels.items())} {_number(number)}"


class Metrics:
    """Everything that one server counts."""

    def __init__(self) -> None:
        self._messages = Counter(
            PREFIX + "messages_total", "Mail transactions that ended, by how.", "verdict"
        )
        self._recipients = Counter(
            PREFIX + "recipients_total", "Recipients of these transactions, by answer.", "verdict"
        )
        self._messages.counts |= {(verdict,): 0 for verdict in VERDICTS}
        self._recipients.counts |= {_ACCEPTED: 0, _REFUSED: 0}
        self._durations = Histogram(
            PREFIX + "message_duration_seconds",
            "From MAIL to the reply to the final dot, of accepted messages.",
            DURATION_BOUNDS_NS,
            NS_PER_S,
        )
        self._sizes = Histogram(
            PREFIX + "message_size_octets", "Sizes of accepted messages.", SIZE_BOUNDS_OCTETS
        )
        self._refusals = Counter(
            PREFIX + "refusals_total",
            "Negative replies, by code and by the check or limit behind them.",
            "code",
            "check",
        )
        self._events = Counter(
            PREFIX + "events_total", "Lines of the log that are no message or refusal.", "event"
        )
        self._attempts = Counter(
            PREFIX + "delivery_attempts_total",
            "Attempts at delivery, by what they came to and where they led.",
            "outcome",
            "destination",
        )
        timeouts = Counter(
            PREFIX + "timeouts_total", "Limits of time that ran out, by name.", "limit"
        )
        lookups = Counter(
            PREFIX + "lookup_failures_total", "Questions to DNS that got no answer.", "type"
        )
        refused = Counter(
            PREFIX + "connections_refused_total", "Connections refused by a limit.", "check"
        )
        handshakes = Counter(PREFIX + "tls_handshakes_total", "TLS handshakes that ended.", "how")
        self._by_event = {
            "timeout": (timeouts, "limit", ""),
            "no answer": (timeouts, "limit", ""),
            "lookup failed": (lookups, "type", ""),
            "refused": (refused, "check", ""),
            "tls": (handshakes, "how", "done"),
            "tls failed": (handshakes, "how", "failed"),
        }
        """Events that are also counted by one of their values, or else by this word."""
        self._stressed = 0
        self._readings: list[Gauge] = []

    def message(
        self, verdict: str, accepted: int, refused: int, size_octets: int, duration_ns: int
    ) -> None:
        """A mail transaction has ended, by one of ``VERDICTS``; ``accepted`` and ``refused``
        count its recipients."""
        self._messages.counts[(verdict,)] += 1
        recipients = self._recipients.counts
        recipients[_ACCEPTED] += accepted
        if refused:
            recipients[_REFUSED] += refused
        if verdict == "accepted":
            self._durations.observe(duration_ns)
            self._sizes.observe(size_octets)

    def refusal(self, said: Reply) -> None:
        """A negative reply was given."""
        self._refusals.add(str(said.code), said.check)

    def event(self, event: str, values: Mapping[str, object]) -> None:
        """Something else went into the log."""
        self._events.add(event)
        if event in OUTCOMES:
            self._attempts.add(event, str(values.get("to", "")))
        if event == "stress":
            self._stressed = int(bool(values.get("on")))
        counter, key, word = self._by_event.get(event, (None, "", ""))
        if counter is not None:
            counter.add(str(values.get(key, word)))

    def read(
        self,
        name: str,
        help_text: str,
        read: Callable[[], float | None],
        *,
        kind: str = "gauge",
        **labels: str,
    ) -> None:
        """Show what ``read`` gives at that moment; None shows nothing."""
        self._readings.append(Gauge(name, help_text, read, kind, labels))

    def page(self) -> str:
        """Everything, in the text format."""
        # Made here: kept, it would refer to what keeps it, and leave the collector a circle.
        stressed = Gauge(
            *(PREFIX + "stressed", "1 while patience is short.", lambda: self._stressed),
            *("gauge", {}),
        )
        families: Iterable[Counter | Histogram | Gauge] = (
            self._messages,
            self._recipients,
            self._durations,
            self._sizes,
            self._refusals,
            *dict.fromkeys(counter for counter, *_ in self._by_event.values()),
            self._attempts,
            self._events,
            stressed,
            *self._readings,
        )
        return "".join([f"{line}\n" for family in families for line in family.lines()])


def _heading(name: str, kind: str, help_text: str) -> tuple[str, str]:
    return f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"


def _labels(pairs: Iterable[tuple[str, str]]) -> str:
    shown = ",".join([f'{name}="{_escaped(value)}"' for name, value in pairs])
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(number: float) -> str:
    return str(int(number)) if number == number // 1 else repr(number)
