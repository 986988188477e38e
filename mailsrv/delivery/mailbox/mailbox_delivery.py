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
from mailsrv.delivery.mailbox.local_delivery import LocalDelivery, SpoolView
from mailsrv.delivery.mailbox.mailboxes import Mailboxes, OpenMailbox
from mailsrv.delivery.mailbox.maildir import file_name, own_head
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.policy.recipients import Mailbox
from mailsrv.runtime.clock import Clock
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

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


class MailboxDelivery(LocalDelivery):
    """Delivers into ``mailboxes``; call ``attach`` with a loop."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        mailbox_of: MailboxOf,
        clock: Clock,
        spool: SpoolView,
    ) -> None:
        super().__init__(clock, spool)
        self._mailboxes = mailboxes
        self._mailbox_of = mailbox_of
        self._written: list[tuple[_Copy, OpenMailbox]] = []
        self._given_out: list[_Assignment] = []

    # -- runs -------------------------------------------------------------------------------------

    def _take_step(self) -> bool:
        if not self._jobs:
            return False
        if self._work is None:
            self._work = self._deliver(_Assignment(*self._jobs[0], self._mailbox_of))
        try:
            next(self._work)
        except StopIteration:
            self._work = None
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
        self._jobs.popleft()
        self._given_out.append(assignment)

    def _write(self, copy: _Copy) -> Iterator[None]:
        """Raises OSError if the mailbox fails, SpoolError and ValueError if the spool does."""
        if copy.mailbox is None:
            copy.ends(_NO_MAILBOX)
            return
        job = copy.assignment.job
        opened = self._mailboxes.open(copy.mailbox)
        if not (self._is_left_over(job) and opened.has_seen(file_name(job.message))):
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
