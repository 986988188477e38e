"""The report of a load run as one HTML file that needs nothing else: no network, and no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mailsrv.units import NS_PER_S
from replay.load.condition import Verdict
from replay.load.figures import duration
from replay.load.reply_labels import CONNECT, DOT, GREETING, SESSION, TLS
from replay.load.result import LoadResult
from replay.load.tally import PERCENTILES, TAIL_PERCENTILES, Latency, Row
from replay.report.html.charts import SERIES_MAX, Chart, Labels, Points, line_chart, time_labels
from replay.report.html.markup import Html
from replay.report.html.templates import render_page
from replay.report.load_words import (
    complaints,
    load_asked,
    made_by,
    time_taken,
    verdict_in_words,
    warnings,
)

SKIPPED_SHOWN_MAX = 1000
COMPLAINTS_SHOWN_MAX = 50
_US_PER_MS = 1000
_CURVE_POINTS = 8
"""Of a curve by percentile, for each further nine."""
_TITLES = {DOT: "Reply to a whole message", SESSION: "Session", GREETING: "Greeting"}
_PREFERRED = (CONNECT, TLS, GREETING, DOT, SESSION)
"""Steps whose curves are drawn before those of slower ones."""
_SHOWN_NAMES = (*(f"p{one}" for one in PERCENTILES), "max")

_NOTE_OPEN = (
    "Response times run from the instant at which a session was due by its schedule; service times "
    "from when something was really sent."
)
_RATES_OPEN = (
    "Sessions and messages a second are those that ended well, from the beginning until the last "
    "good session ended."
)
_RATES_CLOSED = (
    "Sessions and messages a second are those that ended well while sessions were begun."
)
_NOTE_CLOSED = "From when something was due: in a closed loop, when the reply before it came."


def page(outcome: LoadResult, skipped: Sequence[str], verdicts: Sequence[Verdict] = ()) -> str:
    """The whole page."""
    tally = outcome.tally
    counts = [
        (str(code) if code else "none", f"{times:,}", "")
        for code, times in sorted(tally.replies.items())
    ]
    counts += [(kind, f"{times:,}", "bad") for kind, times in tally.errors.most_common()]
    told = [verdict_in_words(verdict) for verdict in verdicts if not verdict.passes]
    return render_page(
        "load.html",
        "Load report",
        sentence=_sentence(outcome),
        made_by=made_by(outcome),
        rate_note=_RATES_OPEN if outcome.rate else _RATES_CLOSED,
        tiles=_tiles(outcome),
        warnings=told + warnings(outcome),
        charts=_charts(outcome),
        latency_note=_NOTE_OPEN if outcome.rate else _NOTE_CLOSED,
        latency_heads=("count", *(f"p{one:g}" for one in TAIL_PERCENTILES), "max", "service p99"),
        latencies=[(step, _cells(outcome, step)) for step in tally.steps],
        verdicts=[_verdict_row(verdict) for verdict in verdicts],
        counts=counts,
        complaints=[
            (f"{n:,}", what, example)
            for n, what, example in complaints(tally)[:COMPLAINTS_SHOWN_MAX]
        ]
        + [(f"{n:,}", what, "") for what, n in outcome.idle.complaints.items()],
        skipped=list(skipped[:SKIPPED_SHOWN_MAX]),
    )


def _sentence(outcome: LoadResult) -> str:
    beside = f", beside {outcome.idle.held:,} idle connections" if outcome.idle.asked else ""
    return f"{outcome.target}: {load_asked(outcome)} for {time_taken(outcome)}{beside}."


def _verdict_row(verdict: Verdict) -> tuple[str, str, str, str]:
    """The condition, what was measured, its verdict, and how that is coloured."""
    kind = "good" if verdict.passes else "bad"
    return verdict.condition.text, verdict.judged_by, verdict.outcome.value, kind


def _tiles(outcome: LoadResult) -> list[tuple[str, str, str]]:
    tally = outcome.tally
    tiles = [
        ("sessions/s", f"{outcome.sessions_per_s:,.0f}", "none"),
        ("as expected", f"{tally.good:,}", "good" if tally.good else "none"),
        ("failed", f"{tally.failed:,}", "bad" if tally.failed else "none"),
    ]
    if tally.messages:
        tiles.append(("messages/s", f"{outcome.messages_per_s:,.0f}", "none"))
    main = DOT if DOT in tally.response else SESSION
    if main in tally.response:
        tiles.append((f"{main} p99", duration(tally.of(main).percentile_us(99)), "none"))
    if outcome.rate:
        kind = "none" if outcome.kept_schedule else "bad"
        tiles.append(("late p99", duration(tally.late.percentile_us(99)), kind))
    if outcome.idle.asked:
        kind = "none" if outcome.idle.complete else "bad"
        tiles.append(("idle lost", f"{outcome.idle.asked - outcome.idle.held:,}", kind))
    tiles.append(("generator", f"{outcome.cpu_share:.0%} CPU", "none"))
    return tiles


def _cells(outcome: LoadResult, step: str) -> list[str]:
    one = outcome.tally.response[step]
    times = [one.percentile_us(percentile) for percentile in TAIL_PERCENTILES]
    service = outcome.tally.service[step].percentile_us(99)
    return [f"{one.count:,}", *map(duration, (*times, one.max_us, service))]


# -- charts ---------------------------------------------------------------------------------------


def _charts(outcome: LoadResult) -> list[Chart]:
    times = _Times(outcome)
    steps = [step for step in (DOT, SESSION, GREETING) if step in outcome.tally.response][:2]
    charts = [times.latency(step) for step in steps]
    charts += [_by_percentile(outcome), times.throughput(), times.open(), times.errors()]
    return charts + ([times.late()] if outcome.rate else [])


class _Times:
    """Charts with the run's time as their horizontal axis."""

    def __init__(self, outcome: LoadResult) -> None:
        self._outcome = outcome
        self._rows = outcome.tally.rows
        self._seconds = outcome.interval_ns / NS_PER_S
        last = self._rows[-1].number + 1 if self._rows else 1
        self._labels: Labels = time_labels(last * self._seconds)

    def latency(self, step: str) -> Chart:
        """Percentiles of a step's response time."""
        title = f"{_TITLES[step]} over time"
        words = (
            "Response time in each part of the run, by percentile; the axis is logarithmic. Of "
            "fewer than 100 samples in a part, p99 is the max."
        )
        return self._durations(step, title, words, lambda row: row.response_us.get(step, ()))

    def late(self) -> Chart:
        """Percentiles of how late sessions of an open loop began."""
        title = "Lateness of the generator"
        words = "How much later than due sessions began; the axis is logarithmic."
        return self._durations("late", title, words, lambda row: row.late_us)

    def throughput(self) -> Chart:
        """Sessions and messages a second."""
        lines = {
            "sessions": self._line(lambda row: row.good / self._seconds),
            "messages": self._line(lambda row: row.messages / self._seconds),
            "begun": self._line(lambda row: row.begun / self._seconds),
        }
        words = "Good sessions, accepted messages and sessions begun, a second."
        return Chart("Throughput", self._drawn("throughput", "Throughput", lines), words)

    def open(self) -> Chart:
        """Connections that were open."""
        title, lines = "Open connections", {"open": self._line(lambda row: row.open)}
        words = "The most at one time; idle connections are not counted."
        return Chart(title, self._drawn("open", title, lines), words)

    def errors(self) -> Chart:
        """Failed sessions a second, by kind."""
        lines = {
            kind: [(self._at(row), row.errors.get(kind, 0) / self._seconds) for row in self._rows]
            for kind, _ in self._outcome.tally.errors.most_common(SERIES_MAX)
        }
        words = "Failed sessions by kind, a second."
        return Chart("Errors", self._drawn("errors", "Errors", lines), words, "No session failed.")

    def _drawn(self, name: str, title: str, lines: Mapping[str, Points]) -> Html:
        """Numbers over time; what never was anything is left out."""
        lines = {label: points for label, points in lines.items() if any(y for _, y in points)}
        return line_chart(name, title, lines, x_labels=self._labels, y_format=_number)

    def _durations(
        self, name: str, title: str, words: str, of: Callable[[Row], tuple[int, ...]]
    ) -> Chart:
        lines: dict[str, list[tuple[float, float]]] = {label: [] for label in _SHOWN_NAMES}
        for row in self._rows:
            for label, us in zip(_SHOWN_NAMES, of(row), strict=False):
                lines[label].append((self._at(row), max(us, 1) / _US_PER_MS))
        svg = line_chart(
            f"over-time-{name}", title, lines, x_labels=self._labels, y_format=_ms, logarithmic=True
        )
        return Chart(title, svg, words)

    def _line(self, of: Callable[[Row], float]) -> Points:
        return [(self._at(row), of(row)) for row in self._rows]

    def _at(self, row: Row) -> float:
        return (row.number + 0.5) * self._seconds


def _by_percentile(outcome: LoadResult) -> Chart:
    """Curves to the percentile of which a sample is left."""
    tally, title = outcome.tally, "Latency by percentile"
    wanted = [step for step in _PREFERRED if step in tally.response]
    wanted += sorted(tally.steps, key=lambda step: -tally.of(step).percentile_us(99))
    chosen = list(dict.fromkeys(wanted))[:SERIES_MAX]
    lines = {step: _curve(tally.of(step)) for step in tally.steps if step in chosen}
    labels = [(_place(one), f"p{one:g}") for one in TAIL_PERCENTILES]
    svg = line_chart("by-percentile", title, lines, x_labels=labels, y_format=_ms, logarithmic=True)
    words = "Response times, from half of all sessions to the slowest; both axes are logarithmic."
    if left_out := [step for step in tally.steps if step not in chosen]:
        words += (
            f" Of the commands, the slowest by their p99, as {SERIES_MAX} lines can be told apart. "
            f"Not drawn, but in the table below: {', '.join(left_out)}."
        )
    return Chart(title, svg, words)


def _place(percentile: float) -> float:
    """Where a percentile stands: as far from p90 as that from none."""
    return -math.log10(1 - percentile / 100)


def _curve(one: Latency) -> Points:
    begin, end = _place(TAIL_PERCENTILES[0]), _place(TAIL_PERCENTILES[-1])
    last = max(min(math.log10(one.count), end), begin)
    steps = max(int((last - begin) * _CURVE_POINTS), 1)
    places = [begin + (last - begin) * number / steps for number in range(steps + 1)]
    return [
        (place, max(one.percentile_us(100 * (1 - 10**-place)), 1) / _US_PER_MS) for place in places
    ]


def _ms(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _number(value: float) -> str:
    return f"{value:,.10g}"
