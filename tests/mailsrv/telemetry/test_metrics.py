"""What is counted, bounded, and written as Prometheus reads it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp.reply import GREYLISTED, reply
from mailsrv.telemetry.metrics import (
    LABEL_MAX_CHARACTERS,
    OTHER,
    SERIES_MAX,
    Counter,
    Histogram,
    Metrics,
)
from mailsrv.units import NS_PER_MS, NS_PER_S

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_VALUE = r'"(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(
    rf"({_NAME})(?:\{{{_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*\}})? (NaN|[+-]Inf|[-+0-9.e]+)"
)
_HELP = re.compile(rf"# HELP ({_NAME}) [^\n]+")
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram)")


def samples(page: str) -> dict[str, float]:
    """The page, read by the rules of the text format: each family has its help and its type
    before its samples, stands in one place, and says nothing twice."""
    assert page.endswith("\n")
    found: dict[str, float] = {}
    families: set[str] = set()
    family = kind = ""
    for line in page.splitlines():
        if match := _HELP.fullmatch(line):
            family = match[1]
            assert family not in families
            families.add(family)
        elif match := _TYPE.fullmatch(line):
            assert match[1] == family
            kind = match[2]
        else:
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            suffix = match[1].removeprefix(family)
            assert suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
            assert (kind == "counter") == family.endswith("_total")
            series = line.rpartition(" ")[0]
            assert series not in found
            found[series] = float(match[2])
    return found


def test_a_new_page_is_well_formed() -> None:
    found = samples(Metrics().page())
    assert found['mailsrv_messages_total{verdict="deferred"}'] == 0
    assert found['mailsrv_message_duration_seconds_bucket{le="+Inf"}'] == 0


def test_messages_are_counted_by_verdict_and_the_accepted_ones_measured() -> None:
    metrics = Metrics()
    metrics.message("accepted", 2, 1, 2000, 5 * NS_PER_MS)
    metrics.message("accepted", 1, 0, 500, 2 * NS_PER_S)
    metrics.message("refused", 0, 1, 700, 0)
    found = samples(metrics.page())
    assert found['mailsrv_messages_total{verdict="accepted"}'] == 2
    assert found['mailsrv_messages_total{verdict="refused"}'] == 1
    assert found['mailsrv_recipients_total{verdict="accepted"}'] == 3
    assert found['mailsrv_recipients_total{verdict="refused"}'] == 2
    assert found["mailsrv_message_size_octets_sum"] == 2500
    assert found["mailsrv_message_duration_seconds_sum"] == 2.005
    assert found["mailsrv_message_duration_seconds_count"] == 2
    assert found['mailsrv_message_duration_seconds_bucket{le="0.003"}'] == 0
    assert found['mailsrv_message_duration_seconds_bucket{le="0.01"}'] == 1
    assert found['mailsrv_message_duration_seconds_bucket{le="3"}'] == 2
    assert found['mailsrv_message_size_octets_bucket{le="1024"}'] == 1
    assert found['mailsrv_message_size_octets_bucket{le="4096"}'] == 2


def test_a_number_at_a_bound_does_not_exceed_it() -> None:
    histogram = Histogram("h", "x", (10, 20))
    for number in (10, 11, 20, 21):
        histogram.observe(number)
    assert list(histogram.lines())[2:] == [
        *('h_bucket{le="10"} 1', 'h_bucket{le="20"} 3', 'h_bucket{le="+Inf"} 4'),
        *("h_sum 62", "h_count 4"),
    ]


def test_large_sums_are_shown_whole() -> None:
    histogram = Histogram("h", "x", (10,))
    histogram.observe(123_456_789_012_345)
    assert "h_sum 123456789012345" in list(histogram.lines())


def test_refusals_are_counted_by_code_and_check() -> None:
    metrics = Metrics()
    metrics.refusal(reply(450, "4.2.0", "x", check="greylist"))
    metrics.refusal(GREYLISTED)
    metrics.refusal(reply(500, "5.5.2", "x"))
    found = samples(metrics.page())
    assert found['mailsrv_refusals_total{code="450",check="greylist"}'] >= 1
    assert found['mailsrv_refusals_total{code="500",check=""}'] == 1


@pytest.mark.parametrize(
    ("event", "values", "series"),
    [
        ("timeout", {"limit": "idle"}, 'mailsrv_timeouts_total{limit="idle"}'),
        ("no answer", {"limit": "lookup"}, 'mailsrv_timeouts_total{limit="lookup"}'),
        ("lookup failed", {"type": "MX"}, 'mailsrv_lookup_failures_total{type="MX"}'),
    ],
)
def test_some_events_are_counted_by_what_they_say(
    event: str, values: dict[str, object], series: str
) -> None:
    metrics = Metrics()
    metrics.event(event, values)
    found = samples(metrics.page())
    assert found[series] == 1
    assert found[f'mailsrv_events_total{{event="{event}"}}'] == 1


def test_label_values_from_outside_are_bounded_in_length_and_number() -> None:
    counter = Counter("c_total", "x", "how")
    for number in range(10 * SERIES_MAX):
        counter.add(f"{number}" + "x" * 1000)
    lines = list(counter.lines())
    assert len(lines) == 2 + SERIES_MAX + 1
    assert max(map(len, lines)) < LABEL_MAX_CHARACTERS + 30
    assert counter.value(OTHER) == 9 * SERIES_MAX


@given(st.lists(st.text(max_size=80), max_size=20))
def test_no_label_value_breaks_the_page(values: list[str]) -> None:
    metrics = Metrics()
    for value in values:
        metrics.event("timeout", {"limit": value})
    found = samples(metrics.page())
    assert sum(count for name, count in found.items() if "timeouts" in name) == len(values)


def test_readings_are_taken_when_the_page_is_made_and_may_have_nothing_to_say() -> None:
    metrics = Metrics()
    numbers: list[float | None] = [3, None]
    metrics.read("mailsrv_open", "x", lambda: numbers.pop(0), side="left")
    assert samples(metrics.page())['mailsrv_open{side="left"}'] == 3
    assert "mailsrv_open" not in metrics.page()
