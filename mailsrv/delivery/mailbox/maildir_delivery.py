"""The way out that leads into a Maildir.

A small message is one step, a large one as many as it has pieces.  Steps are taken in paced runs,
at the end of which the Maildir's names are synced.  A Maildir that fails is tried again, after
longer and longer pauses; the messages wait here and in the spool.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.mailbox.local_delivery import Assigned, LocalDelivery, SpoolView
from mailsrv.delivery.mailbox.maildir import Maildir, file_name, shared_head
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.runtime.clock import Clock
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_S

STEPS_MIN = 4
"""In a run, for which the names are synced once."""
RETRY_MIN_NS = NS_PER_S
RETRY_MAX_NS = 60 * NS_PER_S
"""The pauses before a Maildir that fails is tried again; each is twice the one before."""

_DELIVERED = OutcomeKind.DELIVERED, "2.0.0", "Delivered"
_DEFERRED = OutcomeKind.DEFERRED, "4.3.0"

Note = Callable[..., object]
"""Called with an event for the log and its values."""


class MaildirDelivery(LocalDelivery):
    """Delivers into ``maildir``; call ``attach`` with a loop."""

    def __init__(self, maildir: Maildir, clock: Clock, note: Note, spool: SpoolView) -> None:
        super().__init__(clock, spool, STEPS_MIN)
        self._maildir = maildir
        self._note = note
        self._linked: list[Assigned] = []
        self._retry_ns = RETRY_MIN_NS
        self._failing = self._interrupted = False
        self._seen = maildir.names_seen() if spool.left_over_before else set()

    def room(self) -> int:
        """How many jobs it takes now; none while the Maildir fails."""
        return 0 if self._failing else super().room()

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
        return self._is_left_over(job) and file_name(job.message) in self._seen

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
