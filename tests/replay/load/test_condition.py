"""Conditions on a run's figures: what they measure, and what is none."""

from __future__ import annotations

import pytest
from load_results import interval, result

from replay.load.condition import TEXT_MAX_CHARACTERS, Judgement, parse, verdicts
from replay.load.figures import exact_duration, number
from replay.load.plan import LoadError

RUN = interval(dot={3: 98, 40: 2}, session={100: 1}, MAIL={7: 1}, late_ms=2)
RUN.good, RUN.failed, RUN.messages = 990, 10, 1500


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("p50(dot) <= 3.1ms", True),
        ("p50(dot) > 3.1ms", False),
        ("p99(dot) > 39ms", True),
        ("p99 (dot)>39ms", None),
        ("p99(dot)>39ms", True),
        ("  p99.9( dot )  >=  0.0399 s ", True),
        ("p99(dot, service) < 21000us", True),
        ("p50(mail) > 6ms", True),
        ("max(session) < 100 ms", False),
        ("max(late) > 1ms", True),
        ("failed > 9", True),
        ("failed >= 1%", True),
        ("failed > 1%", False),
        ("sessions/s < 100", True),
        ("messages/s >= 150", True),
        ("p99(tls) < 1s", False),  # nothing was measured
        ("p99(tls) > 0s", False),
    ],
)
def test_a_condition_is_held_against_the_figures(text: str, holds: bool | None) -> None:
    if holds is None:
        with pytest.raises(LoadError):
            parse(text)
    else:
        assert parse(text).holds(result(RUN)) is holds


def test_what_was_measured_is_shown_in_a_unit_in_which_it_can_be_read() -> None:
    run = result(RUN)
    for text, value in (
        ("p50(dot) > 3ms", "3.001 ms"),
        ("p50(dot) > 3us", "3.001 ms"),
        ("p99(dot) > 3us", "40.03 ms"),
        ("max(session) < 1us", "100 ms"),
        ("failed > 1%", "1%"),
        ("messages/s < 1", "150"),
        ("max(tls) < 1s", "nothing was measured"),
    ):
        assert parse(text).shown_value(run) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.00001, "0.000010"), (0.25, "0.25"), (98.7654, "98.77"), (12345.6, "12,346")],
)
def test_no_number_has_an_exponent(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("us", "shown"),
    [(0, "0 us"), (870, "870 us"), (91_140, "91.14 ms"), (2_345_678, "2.346 s"), (36e8, "3,600 s")],
)
def test_a_duration_is_shown_in_the_unit_that_tables_have(us: float, shown: str) -> None:
    assert exact_duration(us) == shown


@pytest.mark.parametrize(
    ("text", "outcome", "judged_by"),
    [
        ("p99(dot) > 41ms", "CANNOT_BE_JUDGED", "40.03 ms, judged by 100 samples, and takes 300"),
        ("p99(dot) > 39ms", "FAILS", "40.03 ms, judged by 100 samples, and takes 300"),
        ("p90(dot) > 39ms", "PASSES", "3.001 ms, judged by 100 samples"),
        ("failed > 1%", "PASSES", "1%, judged by 1,000 samples"),
        ("failed > 0.1%", "FAILS", "1%, judged by 1,000 samples, and takes 3,000"),
        ("failed < 0.1%", "CANNOT_BE_JUDGED", "1%, judged by 1,000 samples, and takes 3,000"),
        ("max(session) > 1s", "PASSES", "100 ms"),  # facts of the run, however short it was
        ("failed > 10", "PASSES", "10"),
        ("sessions/s < 99", "PASSES", "99"),
        ("p99(tls) > 1s", "CANNOT_BE_JUDGED", "nothing was measured"),
        ("max(tls) > 1s", "CANNOT_BE_JUDGED", "nothing was measured"),
    ],
)
def test_what_did_not_come_true_has_passed_only_by_enough_samples(
    text: str, outcome: str, judged_by: str
) -> None:
    (verdict,) = verdicts([parse(text)], result(RUN))
    assert (verdict.outcome, verdict.judged_by) == (Judgement[outcome], judged_by)
    assert verdict.passes is (outcome == "PASSES")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a condition is such as"),
        ("p99(dot)", "a condition is such as"),
        ("p99(dot) = 3ms", "a condition is such as"),
        ("p99(dot) > 3 fortnights", "a condition is such as"),
        ("p99(dot) > ms", "a condition is such as"),
        ("p99(dot) > 3ms or failed > 1", "a condition is such as"),
        ("__import__('os') > 1", "is no figure of a run"),
        ("p101(dot) > 3ms", "is no figure of a run"),
        ("p0(dot) > 3ms", "a percentile is over 0"),
        ("p99(data.x) > 3ms", "is no figure of a run"),
        ("p99(frobnicate) > 3ms", "'frobnicate' is no step of a session; these are: connect, tls"),
        ("p99(dot) > 3", "a duration has a unit, one of us, ms, s"),
        ("p99(dot) > 3%", "a duration has a unit, one of us, ms, s"),
        ("failed > 3ms", "failed has no unit ms"),
        ("sessions/s > 3%", "sessions/s has no unit %"),
        ("p99(dot) > " + "9" * TEXT_MAX_CHARACTERS, "a condition is such as"),
        ("x" * 10_000 + " > 3", "a condition is such as"),
    ],
)
def test_what_is_no_condition_is_refused_with_what_is_allowed(text: str, reason: str) -> None:
    with pytest.raises(LoadError) as refused:
        parse(text)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 500
