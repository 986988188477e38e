"""The way out that leads into a Maildir for each recipient.

Each mailbox gets a copy of its own, in which no other recipient is named: a step for a small one,
several for a large one.  Steps are taken in paced runs, at the end of which the names in the
Maildirs that were written to are synced.  A mailbox that fails keeps nobody else waiting: its
recipients are deferred, for the queue to try again.

There is no looking for Delivered-To here: a message ends in a mailbox, and cannot go round by that.
What goes round by an alias is stopped when it comes in (``aliasing``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator

from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.mailbox.mailboxes import Mailboxes, OpenMailbox
from mailsrv.delivery.mailbox.maildir import file_name, own_head
from mailsrv.delivery.mailbox.paced_runs import PacedRuns
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.policy.recipients import Mailbox
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

JOBS_MAX = 64
"""Jobs that are taken before the first of them is done."""

_DELIVERED = OutcomeKind.DELIVERED, "2.0.0", "Delivered"
_DEFERRED = OutcomeKind.DEFERRED, "4.3.0"
_NO_MAILBOX = OutcomeKind.FAILED, "5.1.1", "There is no such mailbox"

Verdict = tuple[OutcomeKind, str, str]
"""Kind, status and diagnostic of an outcome."""


class _Copy:
    """One mailbox's copy: which of the job's recipients it is for, and whose mailbox it is."""

    __slots__ = ("assignment", "mailbox", "places")

    def __init__(self, assignment: _Assignment, mailbox: Mailbox | None) -> None:
        self.assignment = assignment
        self.mailbox = mailbox
        self.places: list[int] = []

    def ends(self, verdict: Verdict) -> None:
        """What became of it."""
        self.assignment.outcomes += [Outcome(place, *verdict) for place in self.places]


class _Assignment:
    """A job, its copies, and its outcomes so far."""

    __slots__ = ("done", "job", "outcomes", "waiting")

    def __init__(self, job: Job, done: Done, mailbox_of: MailboxOf) -> None:
        self.job = job
        self.done = done
        self.outcomes: list[Outcome] = []
        copies: dict[Mailbox | None, _Copy] = {}
        for place in job.places:
            mailbox = mailbox_of(job.envelope.forward_paths[place])
            copies.setdefault(mailbox, _Copy(self, mailbox)).places.append(place)
        self.waiting = deque(copies.values())

    @property
    def is_complete(self) -> bool:
        return len(self.outcomes) == len(self.job.places)


MailboxOf = Callable[[MailPath], Mailbox | None]
"""Whose mailbox the mail for a recipient goes into; None if there is none."""


class MailboxDelivery:
    """Delivers into ``mailboxes``; call ``attach`` with a loop.

    ``is_receiving`` is whether mail is on its way in.  Messages below ``left_over_before`` were
    left by an earlier process: they may be in a mailbox already, and even be read.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        mailbox_of: MailboxOf,
        clock: Clock,
        *,
        is_receiving: Callable[[], bool] = lambda: False,
        left_over_before: int = 0,
    ) -> None:
        self._mailboxes = mailboxes
        self._mailbox_of = mailbox_of
        self._runs = PacedRuns(clock, self._take_step, self._end_run, is_receiving)
        self._left_over_before = left_over_before
        self._jobs: deque[_Assignment] = deque()
        self._work: Generator[None, None, None] | None = None
        self._written: list[tuple[_Copy, OpenMailbox]] = []
        self._given_out: list[_Assignment] = []

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._runs.attach(loop)
        if self._jobs:
            self._runs.wake()

    # -- the way out ------------------------------------------------------------------------------

    def deliver(self, job: Job, done: Done) -> None:
        self._jobs.append(_Assignment(job, done, self._mailbox_of))
        self._runs.wake()

    def room(self) -> int:
        return JOBS_MAX - len(self._jobs)

    def close(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.close()
        self._jobs.clear()
        self._runs.close()

    # -- runs -------------------------------------------------------------------------------------

    def _take_step(self) -> bool:
        """Go on with the oldest job."""
        if not self._jobs:
            return False
        if self._work is None:
            self._work = self._deliver(self._jobs[0])
        try:
            next(self._work)
        except StopIteration:
            self._work = None
            self._given_out.append(self._jobs.popleft())
        return True

    def _deliver(self, assignment: _Assignment) -> Generator[None, None, None]:
        while assignment.waiting:
            copy = assignment.waiting.popleft()
            try:
                yield from self._write(copy)
            except (OSError, SpoolError, ValueError) as error:  # the spool's, or the mailbox's
                self._fails(copy, error)
            if assignment.waiting:
                yield

    def _write(self, copy: _Copy) -> Iterator[None]:
        """Raises OSError if the mailbox fails, SpoolError and ValueError if the spool does."""
        if copy.mailbox is None:
            copy.ends(_NO_MAILBOX)
            return
        job = copy.assignment.job
        opened = self._mailboxes.open(copy.mailbox)
        is_left_over = job.message.number < self._left_over_before
        if not (is_left_over and opened.has_seen(file_name(job.message))):
            recipient = job.envelope.forward_paths[copy.places[0]]
            writer = opened.maildir.begin(job.message, own_head(job, recipient))
            try:
                for number, piece in enumerate(job.content()):
                    if number:
                        yield
                    writer.write(piece)
                writer.finish()
            finally:
                writer.abandon()
        self._written.append((copy, opened))

    def _fails(self, copy: _Copy, error: Exception) -> None:
        if isinstance(error, OSError):
            assert copy.mailbox is not None
            self._mailboxes.forget(copy.mailbox)
        why = error.strerror if isinstance(error, OSError) else str(error)
        copy.ends((*_DEFERRED, why or "it cannot be written"))

    def _end_run(self) -> int | None:
        written, self._written = self._written, []
        failures: dict[OpenMailbox, OSError | None] = {}
        for copy, opened in written:
            if opened not in failures:
                failures[opened] = self._sync(opened)
            failure = failures[opened]
            if failure is None:
                copy.ends(_DELIVERED)
            else:
                self._fails(copy, failure)
        given_out, self._given_out = self._given_out, []
        for assignment in given_out:
            assert assignment.is_complete, "each copy has ended"
            assignment.done(assignment.outcomes)
        return 0 if self._jobs else None

    def _sync(self, opened: OpenMailbox) -> OSError | None:
        try:
            opened.maildir.sync()
        except OSError as error:
            return error
        return None
