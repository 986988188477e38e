"""The timer wheel against its promises, and against a sorted list."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailsrv.runtime.timer_wheel import TICK_NS, TICKS_MAX, Timer, TimerWheel

START_NS = 987_654_321_012_345
"""An odd instant: not a whole millisecond, nor a whole second."""


def nothing() -> None:
    pass


def at_ms(milliseconds: float) -> int:
    return START_NS + round(milliseconds * TICK_NS)


@pytest.fixture
def wheel() -> TimerWheel:
    return TimerWheel(START_NS)


def drain(wheel: TimerWheel) -> list[int]:
    """Go from wake to wake until the wheel is empty; the instants at which something fired."""
    fired = []
    while (wake_ns := wheel.next_wake_ns) is not None:
        if wheel.expire(wake_ns):
            fired.append(wake_ns)
    return fired


def test_a_new_wheel_has_nothing_to_do(wheel: TimerWheel) -> None:
    assert len(wheel) == 0
    assert wheel.next_wake_ns is None
    assert wheel.expire(at_ms(10**9)) == 0


@pytest.mark.parametrize(
    ("deadline_ns", "due_ns"),
    [
        (START_NS + 1, at_ms(1)),
        (at_ms(5), at_ms(5)),
        (at_ms(5) + 1, at_ms(6)),
        (at_ms(6) - 1, at_ms(6)),
        (at_ms(300_000), at_ms(300_000)),
        (at_ms(64**7) + 1, at_ms(64**7 + 1)),
    ],
)
def test_a_timer_fires_at_the_first_tick_not_before_its_deadline(
    wheel: TimerWheel, deadline_ns: int, due_ns: int
) -> None:
    wheel.schedule(deadline_ns, nothing)
    assert wheel.expire(due_ns - 1) == 0
    assert wheel.expire(due_ns) == 1
    assert len(wheel) == 0


def test_a_wait_from_wake_to_wake_ends_exactly_at_the_tick(wheel: TimerWheel) -> None:
    for milliseconds in (1, 63, 64, 65, 4095, 4096, 300_000, 64**4 + 1, 64**7 - 1):
        wheel.schedule(at_ms(milliseconds), nothing)
        assert drain(wheel)[-1] == max(at_ms(milliseconds), wheel_time(wheel))


def wheel_time(wheel: TimerWheel) -> int:
    """The present of the wheel: where an overdue timer would fire."""
    timer = wheel.schedule(START_NS, nothing)
    now_ns = wheel.next_wake_ns
    assert now_ns is not None
    wheel.cancel(timer)
    return now_ns


def test_timers_of_one_pass_fire_by_deadline_then_by_arming(wheel: TimerWheel) -> None:
    order: list[str] = []
    wheel.schedule(at_ms(70), lambda: order.append("late"))
    wheel.schedule(at_ms(5), lambda: order.append("first armed"))
    wheel.schedule(at_ms(5), lambda: order.append("second armed"))
    wheel.schedule(at_ms(4.5), lambda: order.append("same tick, earlier deadline"))
    assert wheel.expire(at_ms(100)) == 4
    assert order == ["same tick, earlier deadline", "first armed", "second armed", "late"]


def test_a_rearmed_timer_comes_last_among_equal_deadlines(wheel: TimerWheel) -> None:
    order: list[str] = []
    moved = wheel.schedule(at_ms(5), lambda: order.append("moved"))
    wheel.schedule(at_ms(5), lambda: order.append("stayed"))
    wheel.reschedule(moved, at_ms(5))
    wheel.expire(at_ms(5))
    assert order == ["stayed", "moved"]


def test_a_cancelled_timer_does_not_fire(wheel: TimerWheel) -> None:
    timer = wheel.schedule(at_ms(5000), nothing)
    wheel.cancel(timer)
    assert not timer.pending
    assert wheel.next_wake_ns is None
    assert wheel.expire(at_ms(6000)) == 0


def test_cancelling_twice_or_after_firing_is_harmless(wheel: TimerWheel) -> None:
    other = wheel.schedule(at_ms(5), nothing)
    cancelled = wheel.schedule(at_ms(5), nothing)
    wheel.cancel(cancelled)
    wheel.cancel(cancelled)
    wheel.expire(at_ms(5))
    wheel.schedule(at_ms(6), nothing)
    wheel.cancel(other)
    assert len(wheel) == 1


def test_fired_and_cancelled_timers_can_be_armed_again(wheel: TimerWheel) -> None:
    calls: list[int] = []
    fired = wheel.schedule(at_ms(1), lambda: calls.append(1))
    cancelled = wheel.schedule(at_ms(1), lambda: calls.append(2))
    wheel.cancel(cancelled)
    wheel.expire(at_ms(1))
    numbers = [fired.number, cancelled.number]
    wheel.reschedule(fired, at_ms(9))
    wheel.reschedule(cancelled, at_ms(9))
    assert min(fired.number, cancelled.number) > max(numbers)
    assert wheel.expire(at_ms(9)) == 2
    assert calls == [1, 1, 2]


def test_an_overdue_timer_fires_at_the_next_pass(wheel: TimerWheel) -> None:
    wheel.expire(at_ms(1000))
    wheel.schedule(at_ms(-5000), nothing)
    wheel.schedule(at_ms(3), nothing)
    assert wheel.next_wake_ns == at_ms(1000)
    assert wheel.expire(at_ms(1000)) == 2


def test_a_pass_at_an_earlier_instant_counts_as_one_at_the_present(wheel: TimerWheel) -> None:
    wheel.expire(at_ms(1000))
    wheel.schedule(at_ms(3), nothing)
    wheel.schedule(at_ms(1001), nothing)
    assert wheel.expire(at_ms(500)) == 1
    assert drain(wheel) == [at_ms(1001)]


def test_a_timer_cancelled_by_an_earlier_callback_of_the_pass_does_not_fire(
    wheel: TimerWheel,
) -> None:
    victims: list[Timer] = []
    wheel.schedule(at_ms(1), lambda: wheel.cancel(victims[0]))
    victims.append(wheel.schedule(at_ms(1), nothing))
    assert wheel.expire(at_ms(2)) == 1
    assert len(wheel) == 0


def test_a_timer_rescheduled_by_an_earlier_callback_of_the_pass_fires_later(
    wheel: TimerWheel,
) -> None:
    moved: list[Timer] = []
    wheel.schedule(at_ms(1), lambda: wheel.reschedule(moved[0], at_ms(50)))
    moved.append(wheel.schedule(at_ms(1), nothing))
    assert wheel.expire(at_ms(2)) == 1
    assert drain(wheel) == [at_ms(50)]


def test_a_timer_armed_in_a_pass_waits_for_the_next_even_if_it_is_due(wheel: TimerWheel) -> None:
    def again() -> None:
        wheel.schedule(at_ms(1), nothing)

    wheel.schedule(at_ms(1), again)
    moved: list[Timer] = []
    wheel.schedule(at_ms(1), lambda: wheel.reschedule(moved[0], at_ms(1)))
    moved.append(wheel.schedule(at_ms(2), nothing))
    assert wheel.expire(at_ms(70)) == 2
    wake_ns = wheel.next_wake_ns
    assert wake_ns is not None and wake_ns <= at_ms(70)
    assert wheel.expire(at_ms(70)) == 2
    assert len(wheel) == 0


def test_a_raising_callback_loses_none_of_the_timers_behind_it(wheel: TimerWheel) -> None:
    order: list[int] = []

    def fail() -> None:
        raise RuntimeError("callback")

    wheel.schedule(at_ms(1), lambda: order.append(1))
    wheel.schedule(at_ms(2), fail)
    cancelled = wheel.schedule(at_ms(3), nothing)
    wheel.schedule(at_ms(4), lambda: order.append(4))
    wheel.schedule(at_ms(500), lambda: order.append(500))
    with pytest.raises(RuntimeError, match="callback"):
        wheel.expire(at_ms(100))
    assert len(wheel) == 3
    wheel.cancel(cancelled)
    assert wheel.next_wake_ns == at_ms(100)
    assert wheel.expire(at_ms(100)) == 1
    assert drain(wheel) == [at_ms(500)]
    assert order == [1, 4, 500]


def test_a_deadline_beyond_the_wheel_is_refused(wheel: TimerWheel) -> None:
    timer = wheel.schedule(at_ms(1), nothing)
    with pytest.raises(ValueError, match="beyond"):
        wheel.schedule(START_NS + TICKS_MAX * TICK_NS, nothing)
    with pytest.raises(ValueError, match="beyond"):
        wheel.reschedule(timer, START_NS + TICKS_MAX * TICK_NS)
    assert not timer.pending
    wheel.schedule(START_NS + (TICKS_MAX - 1) * TICK_NS, nothing)
    assert drain(wheel) == [START_NS + (TICKS_MAX - 1) * TICK_NS]


def test_the_wait_for_one_far_timer_takes_a_wake_a_level_at_most(wheel: TimerWheel) -> None:
    wheel.expire(at_ms(1234567))
    wheel.schedule(at_ms(1234567 + 64**6 * 3 + 12345), nothing)
    wakes = 0
    while (wake_ns := wheel.next_wake_ns) is not None:
        wheel.expire(wake_ns)
        wakes += 1
    assert wakes <= 8


def test_many_timers_fire_in_order_and_none_is_forgotten(wheel: TimerWheel) -> None:
    chance = random.Random(5)
    fired: list[tuple[int, int]] = []
    wanted = []

    def note(deadline_ns: int, number: int) -> Callable[[], None]:
        return lambda: fired.append((deadline_ns, number))

    for number in range(20_000):
        deadline_ns = START_NS + chance.randrange(400_000 * TICK_NS)
        timer = wheel.schedule(deadline_ns, note(deadline_ns, number))
        if number % 3:
            wanted.append((deadline_ns, number))
        else:
            wheel.cancel(timer)
    for milliseconds in range(0, 400_001, 777):
        wheel.expire(at_ms(milliseconds))
        assert all(deadline_ns <= at_ms(milliseconds) for deadline_ns, _ in fired[-50:])
    wheel.expire(at_ms(400_001))
    assert fired == sorted(wanted)
    assert len(wheel) == 0


# -- the model: a list, sorted when asked ---------------------------------------------------------

distances_ns = st.one_of(
    st.integers(-3 * TICK_NS, 200 * TICK_NS),
    st.integers(0, 64**3 * TICK_NS),
    st.integers(0, 64**7 * TICK_NS),
    st.sampled_from([64**n * TICK_NS + d for n in range(8) for d in (-TICK_NS, -1, 0, 1, TICK_NS)]),
)
picks = st.integers(0, 10**6)


class WheelAgainstList(RuleBasedStateMachine):
    """The same acts on a wheel and on a dictionary of what is pending."""

    @initialize(start_ns=st.integers(0, 10**18))
    def make(self, start_ns: int) -> None:
        self.now_ns = self.start_ns = start_ns
        self.wheel = TimerWheel(start_ns)
        self.timers: list[Timer] = []
        self.pending: dict[Timer, tuple[int, int]] = {}
        self.armings = 0
        self.fired: list[Timer] = []
        self.effects: dict[Timer, tuple[str, Timer, int]] = {}

    def due_ns(self, deadline_ns: int) -> int:
        return self.start_ns - (self.start_ns - deadline_ns) // TICK_NS * TICK_NS

    def arm(self, timer: Timer, deadline_ns: int) -> None:
        self.armings += 1
        self.pending[timer] = (deadline_ns, self.armings)

    def call(self, timer: Timer) -> None:
        self.fired.append(timer)
        if timer in self.effects:
            act, other, deadline_ns = self.effects[timer]
            if act == "cancel":
                self.wheel.cancel(other)
            else:
                self.wheel.reschedule(other, deadline_ns)

    @rule(distance_ns=distances_ns)
    def schedule(self, distance_ns: int) -> None:
        holder: list[Timer] = []
        deadline_ns = self.now_ns + distance_ns
        timer = self.wheel.schedule(deadline_ns, lambda: self.call(holder[0]))
        holder.append(timer)
        self.timers.append(timer)
        self.arm(timer, deadline_ns)

    @rule(
        pick=picks, other=picks, act=st.sampled_from(["cancel", "move"]), distance_ns=distances_ns
    )
    def give_an_effect(self, pick: int, other: int, act: str, distance_ns: int) -> None:
        if self.timers:
            timer = self.timers[pick % len(self.timers)]
            target = self.timers[other % len(self.timers)]
            self.effects[timer] = (act, target, self.now_ns + distance_ns)

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        if self.timers:
            timer = self.timers[pick % len(self.timers)]
            self.wheel.cancel(timer)
            self.pending.pop(timer, None)

    @rule(pick=picks, distance_ns=distances_ns)
    def reschedule(self, pick: int, distance_ns: int) -> None:
        if self.timers:
            timer = self.timers[pick % len(self.timers)]
            self.wheel.reschedule(timer, self.now_ns + distance_ns)
            self.arm(timer, self.now_ns + distance_ns)

    @rule(distance_ns=st.one_of(st.integers(0, 300 * TICK_NS), st.integers(0, 64**5 * TICK_NS)))
    def advance(self, distance_ns: int) -> None:
        self.expire_at(self.now_ns + distance_ns)

    @rule()
    def advance_to_the_wake(self) -> None:
        wake_ns = self.wheel.next_wake_ns
        if wake_ns is not None:
            self.expire_at(max(wake_ns, self.now_ns))

    def expire_at(self, now_ns: int) -> None:
        self.now_ns = now_ns
        due = [t for t in self.pending if self.due_ns(self.pending[t][0]) <= now_ns]
        due.sort(key=lambda timer: self.pending[timer])
        armed_as = {timer: self.pending[timer] for timer in due}
        expected = []
        for timer in due:
            if self.pending.get(timer) != armed_as[timer]:
                continue
            del self.pending[timer]
            expected.append(timer)
            if timer in self.effects:
                act, other, deadline_ns = self.effects[timer]
                if act == "cancel":
                    self.pending.pop(other, None)
                else:
                    self.arm(other, deadline_ns)
        self.fired = []
        assert self.wheel.expire(now_ns) == len(expected)
        assert self.fired == expected

    @invariant()
    def the_wheel_holds_what_the_list_holds(self) -> None:
        assert len(self.wheel) == len(self.pending)
        assert {t for t in self.timers if t.pending} == set(self.pending)
        assert all((t.deadline_ns, t.number) == self.pending[t] for t in self.pending)

    @invariant()
    def the_next_wake_is_never_after_the_next_timer(self) -> None:
        wake_ns = self.wheel.next_wake_ns
        if not self.pending:
            assert wake_ns is None
        else:
            earliest_ns = min(self.due_ns(deadline_ns) for deadline_ns, _ in self.pending.values())
            assert wake_ns is not None
            assert wake_ns <= max(earliest_ns, self.now_ns)


TestWheelAgainstList = WheelAgainstList.TestCase
TestWheelAgainstList.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, derandomize=True
)
