"""When sessions of an open loop are due: schedules as they are typed, and their instants."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load.arrivals import RATE_MAX, SEGMENTS_MAX, constant, in_words, parse
from replay.load.plan import LoadError, Plan

TEN_S = 10 * NS_PER_S


def instants(text: str, duration_ns: int = TEN_S, opened: tuple[int, ...] = (0,)) -> list[int]:
    plans = [Plan("x", (), (), opens_ns=at_ns) for at_ns in opened]
    return list(parse(text).arrivals(duration_ns, plans, 1))


def per_second(due: list[int]) -> list[int]:
    return [sum(at_ns // NS_PER_S == second for at_ns in due) for second in range(10)]


def test_a_constant_rate_is_even_from_the_first_instant_on() -> None:
    assert instants("4", NS_PER_S) == [0, NS_PER_S // 4, NS_PER_S // 2, 3 * NS_PER_S // 4]
    assert list(constant(4).arrivals(NS_PER_S, (), 1)) == instants("4", NS_PER_S)


def test_a_rate_may_be_less_than_one_a_second() -> None:
    assert instants("0.5") == [0, 2 * NS_PER_S, 4 * NS_PER_S, 6 * NS_PER_S, 8 * NS_PER_S]


def test_a_ramp_rises_evenly_over_the_run() -> None:
    counted = per_second(instants("0-100"))
    assert sum(counted) == 500
    assert all(later - earlier in (9, 10, 11) for earlier, later in pairwise(counted))
    assert per_second(instants("100-0")) == pytest.approx(counted[::-1], abs=1)


def test_steps_have_equal_parts_of_the_run_and_may_be_ramps() -> None:
    assert per_second(instants("10,30")) == [10] * 5 + [30] * 5
    assert per_second(instants("0,20")) == [0] * 5 + [20] * 5
    assert sum(instants_count := per_second(instants("0-40,40"))) == 300
    assert instants_count[5:] == [40] * 5


def test_poisson_arrivals_have_the_rate_but_not_the_order() -> None:
    due = instants("poisson:1000")
    assert due == sorted(due)
    assert 9_600 < len(due) < 10_400
    gaps = [later - earlier for earlier, later in pairwise(due)]
    short = sum(gap < NS_PER_MS for gap in gaps) / len(gaps)
    assert 0.60 < short < 0.66  # 1 - 1/e
    assert due == instants("poisson:1000")  # the same seed
    assert 3_300 < len(instants("poisson:0-700")) < 3_700


def test_captures_begin_as_they_were_opened_round_after_round() -> None:
    opened = (0, NS_PER_S, 3 * NS_PER_S)
    due = [at_ns / NS_PER_S for at_ns in instants("captures", opened=opened)]
    assert due == [0, 1, 3, 4.5, 5.5, 7.5, 9]
    twice = instants("captures*2", TEN_S // 2, opened)
    assert [at_ns * 2 / NS_PER_S for at_ns in twice] == due


def test_captures_that_all_open_at_once_have_no_schedule() -> None:
    with pytest.raises(LoadError, match="one connection each, or open all at once"):
        instants("captures", opened=(0, 0))


def test_a_schedule_is_made_as_it_is_needed() -> None:
    million_a_second = parse(str(RATE_MAX)).arrivals(10**9 * NS_PER_S, (), 1)
    assert list(islice(million_a_second, 3)) == [0, 1000, 2000]


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "-1", "0", "0-0", "0,0", "1e3", "10-", "10-20-30", "1,,2", "poisson:", "nan"),
        *("poisson:captures", "captures*0", "captures*x", "٣", "9999999", "1" * 50, "10 ", "\n1"),
        ",".join(["1"] * (SEGMENTS_MAX + 1)),
    ],
)
def test_what_is_no_rate_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(LoadError) as refused:
        parse(text)
    assert any(word in str(refused.value) for word in ("a rate is", "a speed is"))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("200", "200 sessions/s"),
        ("10-200", "10-200 sessions/s"),
        ("poisson:50", "50 sessions/s, independent of each other (Poisson)"),
        ("captures", "the captures' own pace"),
        ("captures*4", "the captures' own pace, 4 times as fast"),
    ],
)
def test_a_rate_is_told_in_words(typed: str, words: str) -> None:
    assert in_words(typed) == words
