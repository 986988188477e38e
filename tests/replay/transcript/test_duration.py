"""Durations: exact both ways, one canonical spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.transcript.duration import DURATION_NS_MAX, format_ns, parse


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("1ns", 1),
        ("0.4ms", 400_000),
        ("12.000001ms", 12_000_001),
        ("1.5us", 1_500),
        ("90s", 90_000_000_000),
        ("1.5min", 90_000_000_000),
        ("0.5h", 1_800_000_000_000),
        ("0.10s", 100_000_000),
        ("007s", 7_000_000_000),
        ("0.000000001s", 1),
        ("24000h", DURATION_NS_MAX),
    ],
)
def test_a_duration_is_read_exactly(text: str, ns: int) -> None:
    assert parse(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "00",
        "s",
        "-1s",
        "+1s",
        "1 s",
        " 1s",
        "1s ",
        "1.s",
        ".5s",
        "1e3s",
        "1,5s",
        "1S",
        "1m",
        "1µs",
        "1m30s",
        "\u0661s",
        "1s\n",
        "0.5ns",
        "0.0000000001s",
        "24000.001h",
        "9" * 20 + "h",
        "1" * 5000 + "s",
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"unit|nanoseconds|longer"):
        parse(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0"),
        (1, "1ns"),
        (1_500, "1500ns"),
        (5_000, "5us"),
        (9_999, "9999ns"),
        (10_000, "0.01ms"),
        (400_000, "0.4ms"),
        (300_400_000, "300.4ms"),
        (999_999_999, "999.999999ms"),
        (1_000_000_000, "1s"),
        (1_000_000_001, "1.000000001s"),
        (300_000_000_000, "300s"),
        (DURATION_NS_MAX, "86400000s"),
    ],
)
def test_a_duration_has_one_canonical_spelling(ns: int, text: str) -> None:
    assert format_ns(ns) == text


@given(st.integers(0, DURATION_NS_MAX))
def test_what_is_written_reads_as_the_same_number(ns: int) -> None:
    assert parse(format_ns(ns)) == ns


def test_a_negative_duration_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_ns(-1)
