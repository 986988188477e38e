"""The way out that leads into a Maildir.

A small message is one step, a large one as many as it has pieces.  Steps are taken in paced runs,
at the end of which the Maildir's names are synced.  A Maildir that fails is tried again, after
longer and longer pauses; the messages wait here and in the spool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.mailbox.maildir import Maildir, file_name, shared_head
from mailsrv.delivery.mailbox.paced_runs import PacedRuns
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_S

JOBS_MAX = 64
"""Jobs that are taken before the first of them is done."""
STEPS_MIN = 4
"""In a run, for which the names are synced once."""
RETRY_MIN_NS = NS_PER_S
RETRY_MAX_NS = 60 * NS_PER_S
"""The pauses before a Maildir that fails is tried again; each is twice the one before."""

_DELIVERED = OutcomeKind.DELIVERED, "2.0.0", "Delivered"
_DEFERRED = OutcomeKind.DEFERRED, "4.3.0"

Note = Callable[..., object]
"""Called with an event for the log and its values."""
Assigned = tuple[Job, Done]


class MaildirDelivery:
    """Delivers into ``maildir``; call ``attach`` with a loop.

    ``is_receiving`` is whether mail is on its way in.  Messages below ``left_over_before`` were
    left by an earlier process: they may be in the Maildir already, and even be read.
    """

    def __init__(
        self,
        maildir: Maildir,
        clock: Clock,
        note: Note,
        *,
        is_receiving: Callable[[], bool] = lambda: False,
        left_over_before: int = 0,
    ) -> None:
        self._maildir = maildir
        self._clock = clock
        self._note = note
        self._runs = PacedRuns(clock, self._take_step, self._end_run, is_receiving, STEPS_MIN)
        self._jobs: deque[Assigned] = deque()
        self._linked: list[Assigned] = []
        self._work: Generator[None, None, None] | None = None
        self._retry_ns = RETRY_MIN_NS
        self._failing = self._interrupted = False
        self._left_over_before = left_over_before
        self._seen = maildir.names_seen() if left_over_before else set()

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._runs.attach(loop)
        if self._jobs:
            self._runs.wake()

    # -- the way out ------------------------------------------------------------------------------

    def deliver(self, job: Job, done: Done) -> None:
        self._jobs.append((job, done))
        self._runs.wake()

    def room(self) -> int:
        return 0 if self._failing else JOBS_MAX - len(self._jobs)

    def close(self) -> None:
        self._give_up_work()  # its name would be synced in the wrong place
        self._jobs.clear()
        self._runs.close()

    @property
    def failing(self) -> bool:
        """Whether the Maildir failed, and is tried again later."""
        return self._failing

    # -- runs -------------------------------------------------------------------------------------

    def _take_step(self) -> bool:
        if not self._jobs:
            return False
        self._step()
        return not self._interrupted

    def _end_run(self) -> int | None:
        self._sync()
        interrupted, self._interrupted = self._interrupted, False
        if interrupted:
            return self._retry_ns
        return 0 if self._jobs else None

    def _step(self) -> None:
        """Go on with the oldest job."""
        try:
            if self._work is None:
                self._work = self._deliver(*self._jobs[0])
            next(self._work)
        except StopIteration:
            self._work = None
        except (OSError, SpoolError) as error:
            self._work = None
            self._fails(error)

    def _deliver(self, job: Job, done: Done) -> Generator[None, None, None]:
        """Raises OSError if the Maildir fails, SpoolError if the spool does."""
        if not (self._seen and self._is_seen(job)):
            try:
                yield from self._write(job)
            except ValueError as error:  # its content is not there, or damaged
                self._jobs.popleft()
                done([Outcome(place, *_DEFERRED, str(error)) for place in job.places])
                return
        self._linked.append(self._jobs.popleft())

    def _is_seen(self, job: Job) -> bool:
        return job.message.number < self._left_over_before and file_name(job.message) in self._seen

    def _sync(self) -> None:
        """Have what is in the Maildir there for good: it is delivered."""
        linked, self._linked = self._linked, []
        if not linked:
            return
        try:
            self._maildir.sync()
        except OSError as error:
            self._give_up_work()
            self._jobs.extendleft(reversed(linked))
            self._fails(error)
            return
        for job, done in linked:
            done([Outcome(place, *_DELIVERED) for place in job.places])
        if self._failing:
            self._failing = False
            self._retry_ns = RETRY_MIN_NS
            self._note("delivery works again")

    def _give_up_work(self) -> None:
        """Stop in the middle of the message; it is still the next one."""
        work, self._work = self._work, None
        if work is not None:
            work.close()

    def _write(self, job: Job) -> Generator[None, None, None]:
        writer = self._maildir.begin(job.message, shared_head(job))
        try:
            for number, piece in enumerate(job.content()):
                if number:
                    yield
                writer.write(piece)
            writer.finish()
        finally:
            writer.abandon()

    def _fails(self, error: OSError | SpoolError) -> None:
        self._interrupted = True
        if self._failing:
            self._retry_ns = min(2 * self._retry_ns, RETRY_MAX_NS)
            return
        self._failing = True
        why = error.strerror if isinstance(error, OSError) else str(error)
        self._note("delivery failed", error=why)
