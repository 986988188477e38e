"""How long a check may take is told before it begins, and is not exceeded."""

from __future__ import annotations

import pytest
from checking import QUICK, named
from real_server import closed_port
from scripted_server import Manners, scripted

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.verify.check.duration import Plan, longest_ns, side_by_side_ns
from replay.verify.check.offer import Offer
from replay.verify.check.runner import LONG_AT_ONCE_MAX, Check, CheckOptions

OPENS = "@0       open from 192.0.2.10\n*        S? 220\n"
NOOP = "+300ms   C: NOOP\\r\\n\n*        S? 250\nmust     [RFC 5321 4.2] reply 2yz\n"
CLOSES = "reply+0  close\n"
TIMEOUT = "must     [RFC 5321 4.5.3.2.7] end within timeout\n"


@pytest.mark.parametrize(
    ("durations", "at_once", "last"),
    [((), 3, 0), ((5,), 3, 5), ((5, 1, 1, 1), 2, 5), ((5, 1, 1, 9), 2, 11), ((3, 3, 3), 1, 9)],
)
def test_what_has_no_room_begins_when_the_first_is_over(
    durations: tuple[int, ...], at_once: int, last: int
) -> None:
    assert side_by_side_ns(durations, at_once) == last


def test_a_senders_silence_and_the_wait_for_a_timeout_are_added() -> None:
    waits = named(OPENS + NOOP + TIMEOUT + "reply+0  until-closed\n").scenario
    bound_ns = QUICK.timeout_ns + QUICK.timeout_grace_ns + QUICK.grace_ns
    assert longest_ns(waits, QUICK) == 300 * NS_PER_MS + bound_ns
    quick = named(OPENS + NOOP + CLOSES).scenario
    assert longest_ns(quick, QUICK) == 300 * NS_PER_MS + QUICK.settle_ns


@pytest.mark.parametrize(("jobs", "rounds"), [(1, 4), (2, 2), (4, 1), (20, 1)])
def test_the_plan_is_told_before_anything_is_played_and_is_kept(jobs: int, rounds: int) -> None:
    scenarios = [named(OPENS + NOOP + CLOSES, f"own/{number}") for number in range(4)]
    plans: list[Plan] = []
    clock = SystemClock()
    with scripted(Manners(), connections=4) as target:
        options = CheckOptions(patience=QUICK, jobs=jobs)
        results = Check(target, Offer("220", frozenset()), options, clock).results(
            scenarios, plans.append
        )
        began_ns = clock.monotonic_ns()
        next(results)
        (plan,) = plans
        list(results)
    one_ns = 300 * NS_PER_MS + QUICK.settle_ns
    assert plan == Plan(4, jobs, rounds * one_ns)
    assert clock.monotonic_ns() - began_ns < plan.longest_ns + NS_PER_S


def test_the_waits_for_timeouts_are_side_by_side_beside_the_others() -> None:
    long = OPENS + NOOP + TIMEOUT.replace("timeout", "40s") + "reply+0  until-closed\n"
    scenarios = [named(long, f"own/{number}") for number in range(LONG_AT_ONCE_MAX + 1)]
    scenarios.append(named(OPENS + NOOP + CLOSES, "own/quick"))
    for jobs, rounds in ((1, LONG_AT_ONCE_MAX + 1), (20, 2)):
        plans: list[Plan] = []
        with closed_port() as target:
            options = CheckOptions(patience=QUICK, jobs=jobs)
            check = Check(target, Offer("220", frozenset()), options, SystemClock(), pauses_ns=(0,))
            list(check.results(scenarios, plans.append))
        (plan,) = plans
        assert rounds * 40 <= plan.longest_ns / NS_PER_S < rounds * 42, jobs
