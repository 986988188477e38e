"""The event loop: wait, call the handlers that are ready, expire timers, end the pass.

A pass reads the clock once after the wait (``now_ns``), and again where timers are due.  Handlers
that are ready together run by their number, not in the kernel's order, so that a run can be
repeated exactly.

Fairness: a handler that has more to do than is fair in one pass does a turn of it and puts the
rest into the *backlog*, first in, first out.  After the handlers that are ready, the loop works on
the backlog for one slice of time, however many wait there: so the length of a pass does not grow
with their number, and a client that asks for little is served within a pass or two.  While anything
is in the backlog, the poll does not wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized
from operator import itemgetter
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.runtime.poll import Handler, Poll
from mailsrv.runtime.timer_wheel import TimerWheel

SLICE_NS = 100_000
"""How long the backlog is worked on in one pass; at least one turn is taken."""


class TurnTaker(Handler, Protocol):
    """A handler that can have more to do than is fair in one pass."""

    def take_turn(self) -> None:
        """Go on with what was put off, for one turn; what is then left is put off again."""


_number = itemgetter(0)


class Loop:
    """Runs handlers and timers on one thread.

    ``on_fault`` is called with an exception that a handler let through; the handler is None for
    a timer or a hook.  One bad connection must not end the daemon.
    """

    def __init__(
        self,
        clock: Clock,
        poll: Poll,
        on_fault: Callable[[Handler | None, Exception], None],
    ) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._on_fault = on_fault
        self._end_of_pass: list[tuple[Sized, Callable[[], None]]] = []
        self.backlog: deque[TurnTaker] = deque()
        """The handlers that wait for a turn."""
        self.poll = poll
        self.now_ns = clock.monotonic_ns()
        self.timers = TimerWheel(self.now_ns)

    def at_end_of_pass(self, hook: Callable[[], None], work: Sized = (None,)) -> None:
        """Call ``hook`` after each pass: for work that is cheaper done for many.  ``work`` is what
        it has to do, to be looked at each time: where that is empty, it is not called."""
        self._end_of_pass.append((work, hook))

    def put_off(self, handler: TurnTaker) -> None:
        """Put ``handler`` at the end of the backlog; it must not be there already."""
        self.backlog.append(handler)

    def run_once(self) -> None:
        """One pass: blocks until something is ready or a timer is due."""
        wake_ns = self.timers.next_wake_ns
        self.dispatch(wake_ns)
        if wake_ns is not None and wake_ns <= self.now_ns:
            self.expire()

    def dispatch(self, until_ns: int | None) -> None:
        """Wait until ``until_ns`` at most, run the handlers that are ready, then the backlog."""
        backlog = self.backlog
        ready = self.poll.wait(self.now_ns if backlog else until_ns)
        self.now_ns = self._monotonic_ns()
        if len(ready) > 1:
            ready.sort(key=_number)
        for _, handler, events in ready:
            try:
                handler.ready(events)
            except Exception as fault:
                self._on_fault(handler, fault)
        if backlog:
            self._work_off()
        self._end_pass()

    def _work_off(self) -> None:
        """Let the handlers of the backlog take turns until the slice is over."""
        backlog, over_ns = self.backlog, self._monotonic_ns() + SLICE_NS
        while backlog:
            handler = backlog.popleft()
            try:
                handler.take_turn()
            except Exception as fault:
                self._on_fault(handler, fault)
            if self._monotonic_ns() >= over_ns:
                return

    def expire(self) -> None:
        """Run the timers that are due."""
        self.now_ns = self._monotonic_ns()
        try:
            self.timers.expire(self.now_ns)
        except Exception as fault:
            self._on_fault(None, fault)
        self._end_pass()

    def _end_pass(self) -> None:
        for work, hook in self._end_of_pass:
            if work:
                try:
                    hook()
                except Exception as fault:
                    self._on_fault(None, fault)
