"""The loop: order of handlers, timers and hooks, and faults that end nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from conversing import NS_PER_MS

from mailsrv.runtime.clock import Clock, FakeClock, SystemClock
from mailsrv.runtime.loop import SLICE_NS, Loop
from mailsrv.runtime.poll import READ, WRITE, EpollPoll, Handler, Poll, Ready, SelectorPoll


class ScriptedPoll:
    """Gives what it was told to give, and moves the clock to where it waits."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.ready: list[tuple[Handler, int]] = []
        self.waited_until: list[int | None] = []

    def wait(self, until_ns: int | None) -> Ready:
        self.waited_until.append(until_ns)
        if not self.ready and until_ns is not None:
            self._clock.advance_to_ns(max(until_ns, self._clock.monotonic_ns()))
        ready, self.ready = self.ready, []
        return [(handler.number, handler, events) for handler, events in ready]

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None: ...

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None: ...

    def forget(self, sock: socket.socket) -> None: ...

    def close(self) -> None: ...


class Numbered:
    """A handler that does as it was told."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self.number = number
        self._act = act

    def ready(self, events: int) -> None:
        self._act()


Fault = tuple[Handler | None, str]


def make() -> tuple[Loop, ScriptedPoll, list[Fault]]:
    clock = FakeClock(start=7)
    poll = ScriptedPoll(clock)
    faults: list[Fault] = []
    loop = Loop(clock, poll, lambda handler, fault: faults.append((handler, str(fault))))
    return loop, poll, faults


def fail() -> None:
    raise RuntimeError("a defect")


def test_handlers_run_by_number_whatever_the_kernels_order() -> None:
    loop, poll, _ = make()
    ran: list[int] = []
    poll.ready = [(Numbered(n, lambda n=n: ran.append(n)), READ) for n in (3, 1, 2)]  # type: ignore[misc]
    loop.run_once()
    assert ran == [1, 2, 3]


def test_a_pass_waits_for_the_next_timer_and_runs_it_then() -> None:
    loop, poll, _ = make()
    fired: list[int] = []
    due_ns = loop.now_ns + 5 * NS_PER_MS
    loop.timers.schedule(due_ns, lambda: fired.append(loop.now_ns))
    while not fired:
        loop.run_once()
    assert fired == [due_ns]
    loop.run_once()
    assert poll.waited_until[-1] is None


def test_what_arrived_comes_before_the_timers_of_the_same_instant() -> None:
    loop, poll, _ = make()
    order: list[str] = []
    loop.timers.schedule(loop.now_ns, lambda: order.append("timer"))
    poll.ready = [(Numbered(1, lambda: order.append("handler")), READ)]
    loop.run_once()
    assert order == ["handler", "timer"]


def test_hooks_run_after_the_handlers_and_after_the_timers() -> None:
    loop, poll, _ = make()
    order: list[str] = []
    loop.at_end_of_pass(lambda: order.append("hook"))
    loop.timers.schedule(loop.now_ns, lambda: order.append("timer"))
    poll.ready = [(Numbered(1, lambda: order.append("handler")), READ)]
    loop.run_once()
    assert order == ["handler", "hook", "timer", "hook"]


def test_a_hook_without_work_is_not_called() -> None:
    loop, poll, _ = make()
    work: list[str] = []
    done: list[str] = []
    loop.at_end_of_pass(lambda: done.append(work.pop()), work)
    loop.run_once()
    poll.ready = [(Numbered(1, lambda: work.append("a line")), READ)]
    loop.run_once()
    loop.run_once()
    assert (done, work) == (["a line"], [])
    loop.timers.schedule(loop.now_ns, lambda: work.append("another"))
    loop.run_once()
    assert done == ["a line", "another"]


def test_a_fault_in_a_handler_is_reported_and_the_others_run() -> None:
    loop, poll, faults = make()
    ran: list[int] = []
    bad = Numbered(1, fail)
    poll.ready = [(bad, READ), (Numbered(2, lambda: ran.append(2)), READ)]
    loop.run_once()
    assert (faults, ran) == ([(bad, "a defect")], [2])


def test_a_fault_in_a_timer_is_reported_and_the_others_run() -> None:
    loop, _, faults = make()
    ran: list[int] = []
    loop.timers.schedule(loop.now_ns, fail)
    loop.timers.schedule(loop.now_ns, lambda: ran.append(2))
    loop.run_once()
    loop.run_once()
    assert (faults, ran) == ([(None, "a defect")], [2])


def test_a_fault_in_a_hook_is_reported_and_the_others_run() -> None:
    loop, _, faults = make()
    ran: list[int] = []
    loop.at_end_of_pass(fail)
    loop.at_end_of_pass(lambda: ran.append(2))
    loop.dispatch(None)
    loop.expire()
    assert (faults, ran) == ([(None, "a defect")] * 2, [2, 2])


@pytest.mark.parametrize("kind", [EpollPoll, SelectorPoll])
def test_a_poll_tells_of_real_sockets(kind: Callable[[Clock], Poll]) -> None:
    clock = SystemClock()
    poll = kind(clock)
    near, far = socket.socketpair()
    handler = Numbered(1, lambda: None)
    with near, far:
        poll.watch(near, READ, handler)
        assert poll.wait(clock.monotonic_ns()) == []
        far.send(b"x")
        assert poll.wait(None) == [(1, handler, READ)]
        poll.change(near, READ | WRITE, handler)
        assert poll.wait(None) == [(1, handler, READ | WRITE)]
        poll.change(near, READ, handler)
        far.close()
        assert poll.wait(None) == [(1, handler, READ)]  # not of what was not asked for
        poll.forget(near)
        assert poll.wait(0) == []
    poll.close()


# -- the backlog ----------------------------------------------------------------------------------


class Flooding(Numbered):
    """A handler that puts itself off as long as it has turns to take."""

    def __init__(self, number: int, loop: Loop, turns: int, act: Callable[[int], object]) -> None:
        super().__init__(number, self._put_off)
        self._loop = loop
        self._turns = turns
        self._taken = act

    def _put_off(self) -> None:
        self._loop.put_off(self)

    def take_turn(self) -> None:
        self._turns -= 1
        self._taken(self.number)
        if self._turns:
            self._put_off()


class WorkingClock(FakeClock):
    """A clock that shows how long the work took that was done since it was last read."""

    work_ns = 0

    def monotonic_ns(self) -> int:
        self.advance_to_ns(super().monotonic_ns() + self.work_ns)
        self.work_ns = 0
        return super().monotonic_ns()


def test_the_backlog_is_served_in_turn() -> None:
    loop, poll, _ = make()
    taken: list[int] = []
    poll.ready = [(Flooding(n, loop, 3, taken.append), READ) for n in (1, 2, 3)]
    loop.run_once()
    assert taken == [1, 2, 3] * 3
    assert not loop.backlog


def test_a_pass_works_on_the_backlog_for_one_slice_however_many_wait_there() -> None:
    clock = WorkingClock(start=7)
    poll = ScriptedPoll(clock)
    loop = Loop(clock, poll, lambda handler, fault: None)
    turn_ns = SLICE_NS // 3

    def work(number: int) -> None:
        clock.work_ns += turn_ns

    for crowd in (10, 100):
        poll.ready = [(Flooding(n, loop, 5, work), READ) for n in range(crowd)]
        passes = []
        while not passes or loop.backlog:
            began_ns = clock.monotonic_ns()
            loop.run_once()
            passes.append(clock.monotonic_ns() - began_ns)
        assert max(passes) <= SLICE_NS + turn_ns
        assert len(passes) >= crowd * 5 // 4


def test_a_turn_longer_than_the_slice_is_one_a_pass_and_others_are_served_between() -> None:
    clock = WorkingClock(start=7)
    poll = ScriptedPoll(clock)
    loop = Loop(clock, poll, lambda handler, fault: None)
    order: list[object] = []

    def work(number: int) -> None:
        order.append(number)
        clock.work_ns += 2 * SLICE_NS

    poll.ready = [(Flooding(n, loop, 2, work), READ) for n in (1, 2)]
    loop.run_once()
    poll.ready = [(Numbered(9, lambda: order.append("good")), READ)]
    loop.run_once()
    assert order == [1, "good", 2]


def test_while_anything_is_in_the_backlog_the_poll_does_not_wait() -> None:
    clock = WorkingClock(start=7)
    poll = ScriptedPoll(clock)
    loop = Loop(clock, poll, lambda handler, fault: None)

    def work(number: int) -> None:
        clock.work_ns += SLICE_NS

    poll.ready = [(Flooding(1, loop, 2, work), READ)]
    loop.timers.schedule(loop.now_ns + 10**12, fail)
    loop.run_once()
    loop.run_once()
    assert poll.waited_until[1] is not None
    assert poll.waited_until[1] <= clock.monotonic_ns()
    loop.run_once()
    assert poll.waited_until[2] is not None
    assert poll.waited_until[2] > poll.waited_until[1] + 1_000 * SLICE_NS


def test_a_fault_in_a_turn_is_told_with_its_handler_and_ends_nothing() -> None:
    loop, poll, faults = make()
    taken: list[int] = []
    broken = Flooding(1, loop, 1, lambda number: fail())
    poll.ready = [(broken, READ), (Flooding(2, loop, 1, taken.append), READ)]
    loop.run_once()
    assert faults == [(broken, "a defect")]
    assert taken == [2]
