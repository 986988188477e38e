"""What the ways out into Maildirs have in common: jobs that wait, and are done one after the other
in paced runs on a loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator
from typing import NamedTuple

from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.mailbox.paced_runs import PacedRuns
from mailsrv.delivery.spool.spool import Spool
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop

JOBS_MAX = 64
"""Jobs that are taken before the first of them is done."""

Assigned = tuple[Job, Done]


class SpoolView(NamedTuple):
    """What a delivery knows of the spool.

    ``is_receiving`` is whether mail is on its way in.  Messages below ``left_over_before`` were
    left by an earlier process: they may be in a Maildir already, and even be read.
    """

    is_receiving: Callable[[], bool] = lambda: False
    left_over_before: int = 0


def at_start(spool: Spool) -> SpoolView:
    """The view of a spool that this process has just opened."""
    return SpoolView(lambda: spool.is_receiving, spool.next_number if spool.messages else 0)


class LocalDelivery(ABC):
    """A way out onto a disk of this machine; call ``attach`` with a loop.

    ``_jobs`` has the oldest first, ``_work`` is that of the oldest, as far as it was begun.  At
    least ``steps_min`` steps are taken in a run.
    """

    def __init__(self, clock: Clock, spool: SpoolView, steps_min: int = 1) -> None:
        self._runs = PacedRuns(clock, self._take_step, self._end_run, spool.is_receiving, steps_min)
        self._left_over_before = spool.left_over_before
        self._jobs: deque[Assigned] = deque()
        self._work: Generator[None, None, None] | None = None

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._runs.attach(loop)
        if self._jobs:
            self._runs.wake()

    # -- the way out ------------------------------------------------------------------------------

    def deliver(self, job: Job, done: Done) -> None:
        """Take a job; ``done`` is called once, later."""
        self._jobs.append((job, done))
        self._runs.wake()

    def room(self) -> int:
        """How many jobs it takes now."""
        return JOBS_MAX - len(self._jobs)

    def close(self) -> None:
        """Work no more."""
        self._give_up_work()  # its name would be synced in the wrong place
        self._jobs.clear()
        self._runs.close()

    # -- runs -------------------------------------------------------------------------------------

    @abstractmethod
    def _take_step(self) -> bool:
        """Go on with the oldest job; False: the run ends."""

    @abstractmethod
    def _end_run(self) -> int | None:
        """Have on the disk what was written, and tell of it; as ``PacedRuns`` has it."""

    def _is_left_over(self, job: Job) -> bool:
        return job.message.number < self._left_over_before

    def _give_up_work(self) -> None:
        """Stop in the middle of the message; it is still the next one."""
        work, self._work = self._work, None
        if work is not None:
            work.close()
