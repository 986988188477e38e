"""Work on the disk in runs that leave time for mail.

Steps are taken in runs of a few milliseconds, each ended by ``end_run``, which syncs what was done:
that holds up the loop for as long as the disk takes.  While mail is being received, it then has as
much time for that as the run took.
"""

from __future__ import annotations

from collections.abc import Callable

from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_MS

RUN_NS = 2 * NS_PER_MS
STEPS_MAX = 16
"""How long a run is, and how many steps are in it at most."""


class PacedRuns:
    """Runs on a loop, from ``attach`` on and whenever ``wake`` says that there is work.

    ``step`` takes a step; False: the run ends with it.  ``end_run`` returns after how many
    nanoseconds there is to be another run at the soonest; None: none before ``wake``.  At least
    ``steps_min`` steps are taken, whatever time they need.
    """

    def __init__(
        self,
        clock: Clock,
        step: Callable[[], bool],
        end_run: Callable[[], int | None],
        is_receiving: Callable[[], bool],
        steps_min: int = 1,
    ) -> None:
        self._steps_min = steps_min
        self._clock = clock
        self._step = step
        self._end_run = end_run
        self._is_receiving = is_receiving
        self._loop: Loop | None = None
        self._timer: Timer | None = None

    def attach(self, loop: Loop) -> None:
        """Run on ``loop`` from now on."""
        self._loop = loop

    def wake(self) -> None:
        """There is work; a run that is to come anyway comes in its time."""
        if self._timer is None or not self._timer.pending:
            self._arm(0)

    def close(self) -> None:
        """Run no more."""
        if self._loop is not None and self._timer is not None:
            self._loop.timers.cancel(self._timer)

    def _run(self) -> None:
        began_ns = self._clock.monotonic_ns()
        for number in range(STEPS_MAX):
            is_late = number >= self._steps_min and self._clock.monotonic_ns() >= began_ns + RUN_NS
            if is_late or not self._step():
                break
        wanted_ns = self._end_run()
        if wanted_ns is not None:
            took_ns = self._clock.monotonic_ns() - began_ns
            pause_ns = took_ns if self._is_receiving() else 0
            # at least, other work of the loop is done
            self._arm(max(wanted_ns, took_ns + pause_ns + 1))

    def _arm(self, pause_ns: int) -> None:
        loop = self._loop
        if loop is None:
            return
        deadline_ns = loop.now_ns + pause_ns
        if self._timer is None:
            self._timer = loop.timers.schedule(deadline_ns, self._run)
        else:
            loop.timers.reschedule(self._timer, deadline_ns)
