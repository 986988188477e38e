"""The search for the highest rate at which a condition holds."""

from __future__ import annotations

import pytest
from load_results import interval, result

from replay.load.arrivals import RATE_MAX
from replay.load.condition import parse
from replay.load.limit import PRECISION, RATE_MIN, STEPS_MAX, Limit, LimitStep, find
from replay.load.result import LoadResult
from replay.report.load import limit_step, limit_sum

BOUND = parse("p99(dot) <= 10ms")


def search(capacity: float, first: float = 50, **beyond: object) -> tuple[Limit, list[LimitStep]]:
    """At a server that answers in 5 ms up to ``capacity``, and in 50 ms beyond."""
    told: list[LimitStep] = []

    def run_at(per_s: float) -> LoadResult:
        if per_s > capacity and beyond:
            return result(interval(dot=5), rate=str(per_s), **beyond)
        return result(interval(dot=50 if per_s > capacity else 5), rate=str(per_s))

    return find(BOUND, run_at, first, told.append), told


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
    assert limit_sum(limit) == "found: no rate at which p99(dot) <= 10ms"


def test_a_generator_that_cannot_keep_up_is_told_as_the_limit() -> None:
    limit, told = search(400, unbegun=7)
    assert 380 <= limit.rate_per_s <= 400
    assert limit.is_generators
    assert limit_sum(limit).endswith("beyond, the generator is the limit: --workers")
    assert "could not keep its schedule" in limit_step(told[4])


def test_a_failed_session_is_none_that_holds() -> None:
    failing = interval(dot=5)
    failing.failed = 3
    limit = find(BOUND, lambda rate: result(failing, rate=str(rate)), 1)
    assert limit.rate_per_s == 0
    assert limit.steps[0].reason == "3 sessions failed"


def test_every_step_is_told_with_its_figure() -> None:
    limit, told = search(60)
    assert limit_step(told[0]).startswith("50 sessions/s: holds (")
    assert limit_step(told[1]) == "100 sessions/s: does not hold (50.02 ms)"
    assert limit_sum(limit).startswith("found: p99(dot) <= 10ms up to 5")


def test_ctrl_c_ends_the_search_with_what_it_has() -> None:
    runs = iter([result(interval(dot=5)), result(interval(dot=5), interrupted=True)])
    limit = find(BOUND, lambda rate: next(runs), 50)
    assert (limit.interrupted, limit.rate_per_s, len(limit.steps)) == (True, 50, 2)
    assert limit_sum(limit).startswith("interrupted; so far: ")
