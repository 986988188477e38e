"""The search for the highest rate at which a condition holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from load_results import interval, result

from mailsrv.units import NS_PER_S
from replay.load.arrivals import RATE_MAX
from replay.load.condition import parse
from replay.load.limit import (
    FIRST_RATE,
    PRECISION,
    RATE_MIN,
    STEP_LONGEST_NS,
    STEPS_MAX,
    Limit,
    LimitStep,
    Search,
    find,
    search_for,
)
from replay.load.plan import LoadError, Plan, PlannedReply
from replay.load.result import LoadResult
from replay.report.load import as_json
from replay.report.load_words import limit_begin, limit_step, limit_sum

BOUND = parse("p99(dot) <= 10ms")
ENOUGH = 300
SEARCH = Search(BOUND, 10 * NS_PER_S)
WITH_DOT = Plan("a", (), (PlannedReply(220, "greeting"), *[PlannedReply(250, "dot", 1)] * 2))
WITHOUT = Plan("b", (), (PlannedReply(220, "greeting"),))


def answering(ms: int, **changed: Any) -> LoadResult:
    """A step in which the dot takes so long."""
    return result(interval(dot={ms: ENOUGH}), **changed)


def search(capacity: float, first: float = 50, **beyond: object) -> tuple[Limit, list[LimitStep]]:
    """At a server that answers in 5 ms up to ``capacity``, and in 50 ms beyond."""
    told: list[LimitStep] = []

    def run_at(per_s: float) -> LoadResult:
        if per_s > capacity and beyond:
            return answering(5, rate=str(per_s), **beyond)
        return answering(50 if per_s > capacity else 5, rate=str(per_s))

    return find(SEARCH, run_at, first, told.append), told


@pytest.mark.parametrize("capacity", [3, 49, 50, 51, 730, 123_456])
def test_the_limit_is_found_to_a_twentieth(capacity: float) -> None:
    limit, told = search(capacity)
    assert capacity * (1 - PRECISION) <= limit.rate_per_s <= capacity
    assert tuple(told) == limit.steps
    assert len(told) < 25
    assert not limit.is_generators


def test_what_bears_everything_or_nothing_ends_the_search() -> None:
    limit, told = search(RATE_MAX * 2)
    assert limit.rate_per_s == RATE_MAX
    limit, told = search(0)
    assert (limit.rate_per_s, told[-1].rate_per_s) == (0, RATE_MIN)
    assert len(told) < STEPS_MAX
    assert limit_sum(limit) == (
        "found: no rate at which p99(dot) <= 10ms; even at 0.1 sessions/s: 50.02 ms"
    )


def test_a_generator_that_cannot_keep_up_is_told_as_the_limit() -> None:
    limit, told = search(400, unbegun=7)
    assert 380 <= limit.rate_per_s <= 400
    assert limit.is_generators
    assert limit_sum(limit).endswith("beyond, the generator is the limit: --workers")
    assert "could not keep its schedule" in limit_step(told[4])


def test_a_failed_session_is_none_that_holds() -> None:
    failing = interval(dot={5: ENOUGH})
    failing.failed = 3
    limit = find(SEARCH, lambda rate: result(failing, rate=str(rate)), 1)
    assert limit.rate_per_s == 0
    assert limit.steps[0].reason == "3 sessions failed"


def test_every_step_is_told_with_its_figure() -> None:
    limit, told = search(60)
    assert limit_step(told[0]) == "50 sessions/s: holds (5.003 ms; 0 good a second)"
    assert limit_step(told[1]) == "100 sessions/s: does not hold (50.02 ms)"
    assert limit_sum(limit).startswith("found: p99(dot) <= 10ms up to 5")


def test_what_a_search_is_going_to_do_is_told_first() -> None:
    assert limit_begin(SEARCH, 50) == (
        "searching the highest rate at which p99(dot) <= 10ms, from 50 sessions/s: up to 40 steps; "
        "a step begins sessions for 10 s, at low rates longer to have 1 session, 60 s at most, and "
        "waits until they have ended"
    )
    assert "begins sessions for 90 s, and waits" in limit_begin(Search(BOUND, 90 * NS_PER_S), 50)


def test_ctrl_c_ends_the_search_with_what_it_has() -> None:
    runs = iter([answering(5), answering(5, interrupted=True)])
    limit = find(SEARCH, lambda rate: next(runs), 50)
    assert (limit.interrupted, limit.rate_per_s, len(limit.steps)) == (True, 50, 2)
    assert limit.best is limit.steps[0]
    assert limit_sum(limit) == "interrupted; so far: p99(dot) <= 10ms up to 50 sessions/s"
    printed = json.loads(as_json(limit.best.result, (), (), limit))
    assert printed["interrupted"] is printed["limit"]["interrupted"] is True
    assert [step["holds"] for step in printed["limit"]["steps"]] == [True, None]


def test_a_step_that_was_interrupted_neither_holds_nor_does_not() -> None:
    limit = find(SEARCH, lambda rate: answering(5, interrupted=True), 50)
    assert limit.steps[0].holds is None
    assert limit_step(limit.steps[0]) == "50 sessions/s: interrupted before it could be judged"
    assert limit_sum(limit) == "interrupted; so far: nothing, as no step has come to its end"
    assert json.loads(as_json(limit.best.result, (), (), limit))["limit"]["rate_per_s"] is None


@pytest.mark.parametrize(
    ("error", "begin"),
    [(LoadError("cannot connect to x: gone"), "stopped"), (KeyboardInterrupt(), "interrupted")],
)
def test_what_ends_a_search_between_steps_leaves_what_was_found(
    error: BaseException, begin: str
) -> None:
    def run_at(per_s: float) -> LoadResult:
        if per_s > 100:
            raise error
        return answering(5, rate=str(per_s))

    limit = find(SEARCH, run_at, 50)
    assert limit_sum(limit) == f"{begin}; so far: p99(dot) <= 10ms up to 100 sessions/s"
    assert limit.trouble == str(error) and limit.interrupted is (not limit.trouble)
    with pytest.raises(type(error)):
        find(SEARCH, run_at, 200)  # nothing is found, and the reason is all there is to say


def test_what_holds_by_too_few_samples_does_not_hold() -> None:
    few = find(SEARCH, lambda rate: result(interval(dot={5: 20}), rate=str(rate)), 1)
    assert few.rate_per_s == 0
    assert few.steps[0].reason == "judged by 20 samples; it takes 300"


@pytest.mark.parametrize(
    ("condition", "plans", "sessions"),
    [
        ("p99(dot) < 1s", [WITH_DOT], 150),
        ("p99(dot) < 1s", [WITHOUT, WITH_DOT], 300),
        ("p99(dot) < 1s", [WITH_DOT, WITHOUT, WITHOUT], 450),
        ("p99(session) < 1s", [WITHOUT] * 7, 300),
        ("p99(late) < 1s", [WITHOUT], 300),
        ("p99.9(greeting) < 1s", [WITHOUT], 3000),
        ("p50(dot, service) < 1s", [WITH_DOT], 10),
        ("max(greeting) < 1s", [WITHOUT], 20),
        ("failed <= 0", [WITHOUT], 20),
        ("failed <= 0%", [WITHOUT], 20),
        ("failed < 0.1%", [WITHOUT], 3000),
        ("messages/s < 500", [WITH_DOT], 20),
    ],
)
def test_a_step_has_as_many_sessions_as_its_figure_takes(
    condition: str, plans: list[Plan], sessions: int
) -> None:
    search = search_for(parse(condition), plans, NS_PER_S)
    assert search.sessions == sessions
    assert search.step_ns(10) == max(NS_PER_S, sessions * NS_PER_S // 10)
    lowest = search.lowest_rate
    assert search.step_ns(lowest) <= STEP_LONGEST_NS + 1000
    assert search.first_rate(None) == max(FIRST_RATE, lowest)


def test_the_search_goes_no_lower_than_where_a_step_would_be_too_long() -> None:
    search = search_for(parse("p99.9(greeting) < 1ms"), [WITHOUT], NS_PER_S)
    limit = find(search, lambda rate: result(interval(greeting={5: 3000}), rate=str(rate)), 400)
    rates = [step.rate_per_s for step in limit.steps]
    assert rates == [400, 200, 100, 50]
    assert limit_sum(limit).endswith("; even at 50 sessions/s: 5.003 ms")
    with pytest.raises(LoadError, match=r"judged by 3,000 sessions, .* takes 50 or more"):
        search.first_rate(49)
    longer = search_for(search.condition, [WITHOUT], 2 * STEP_LONGEST_NS)
    assert longer.first_rate(25) == 25, "who asks for longer steps has them"


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ("p99(dot) > 10ms", "takes an upper bound, < or <="),
        ("messages/s >= 10", "takes an upper bound, < or <="),
        ("failed < 0", "holds of no run"),
        ("p99(dot) <= 0ms", "holds of no run"),
        ("p99(AUTH) < 1s", "no session of these transcripts comes to AUTH"),
        ("p99(tls) < 1s", "no session of these transcripts comes to tls"),
    ],
)
def test_a_search_that_can_find_nothing_is_refused(condition: str, complaint: str) -> None:
    with pytest.raises(LoadError, match=complaint):
        search_for(parse(condition), [WITH_DOT], NS_PER_S)
