"""The queue: which message is attempted when, and what is written about it.

Theory of operation.  Messages come from three places of the spool, in turn: those that waited for
a way out which has room again, those that are due, and the fresh ones, each in its order.  At most
``ACTIVE_MAX`` are in memory.  The pending recipients of a message are grouped by way out, and each
group is one job.  Outcomes are written down as soon as a job ends, with the spool's next
transaction: a process that is killed delivers again only what had no outcome on the disk.

A way out without room starves no other: what goes there is set aside in the database, by the name
of the way, and is taken up again in order when there is room.  Where all mail takes one way there
is nothing to overtake, and the queue just waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice

from mailsrv.delivery.queue.attempt import Attempt
from mailsrv.delivery.queue.commands import Verb, carried_out
from mailsrv.delivery.queue.notifier import NoticeMaker, no_notices
from mailsrv.delivery.queue.reports import Note, report
from mailsrv.delivery.queue.retries import RandomBits, Retries
from mailsrv.delivery.queue.ways import Way, Ways
from mailsrv.delivery.spool.queue_table import QueueTable
from mailsrv.delivery.spool.rows import Entry, NewMessage, QueueRow, SpoolError
from mailsrv.delivery.spool.spool import Spool
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_MS, NS_PER_S

ACTIVE_MAX = 512
"""Messages in memory."""
RECIPIENTS_MAX = 20_000
"""Of the messages in memory: beyond that no other is taken."""
AHEAD_MAX = 64
"""Messages that are looked up at once."""
TAKEN_MAX = 32
RUN_NS = NS_PER_MS
"""Messages that are begun in one go, and how long that may take: one with many recipients takes
milliseconds.  Other work of the loop comes in between."""
NAMES_MAX = 10_000
NAMES_LOOKED_AT_MAX = 256
"""Ways out without room that are remembered, and those that are looked at in one go."""
BLOCKED_PAUSE_NS = NS_PER_S
"""How often a way out is looked at that had no room, and none of our jobs."""
BLOCKED_MAX_NS = 60 * NS_PER_S
"""How long a message waits for one way out while others of its ways may have room."""
TROUBLE_PAUSE_NS = NS_PER_S
"""How long the queue waits when the spool cannot be read."""
LOOK_NS = 3600 * NS_PER_S
"""The longest that the queue sleeps while something is due later: the time of day may be set."""

COMMANDS_MAX = 32
"""An operator's commands that are carried out in one go."""
UNWRITTEN_PAUSE_NS = NS_PER_S // 10
"""How long a command waits for what became of its message to be written."""
LOOK_AT_ALL_NS = NS_PER_S
"""How often what is due is looked at from the first on.  In between, what was taken already, and is
still under way, is passed over."""

EXPIRED_STATUS = "4.4.7"  # RFC 3463 section 3.5: delivery time expired
_BEFORE_ALL = (-1, 0)


class Queue:
    """Delivers from ``spool``; call ``use`` with the ways out, then ``attach`` it to a loop."""

    def __init__(
        self,
        spool: Spool,
        clock: Clock,
        dice: RandomBits,
        note: Note,
        *,
        retries: Retries = Retries(),  # noqa: B008 - immutable
        make_notices: NoticeMaker = no_notices,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._dice = dice
        self._note = note
        self.retries = retries
        self.make_notices = make_notices
        self.on_retry: Callable[[], object] = lambda: None
        """Called when an operator wants messages to be tried now."""
        self._ways: Ways | None = None
        self._loop: Loop | None = None
        self._timer: Timer | None = None
        self._active: dict[int, Attempt] = {}
        self._recipients = 0
        self._fresh: list[Entry] = []  # in reverse order
        self._position = spool.read(QueueTable.fresh_from) - 1  # of the last one taken
        self._due: list[Entry] = []  # in reverse order
        self._due_behind = _BEFORE_ALL
        self._due_from_ns: int | None = 0  # nothing is due before; None: nothing is due at all
        self._looked_at_all_ns = 0
        self._set_aside: dict[str, Way | None] = {}  # ways that messages wait for, as far as known
        self._name_behind: str | None = ""  # names up to here are known; None: all
        self._again: list[Attempt] = []  # to be begun anew, by other ways
        self._turn = 0
        self._may_have_commands = True
        self._stopping = False
        # What is due at once after a crash may have been under way.
        self._killed_before = spool.next_number if spool.was_killed else 0
        self._began_ns = clock.realtime_ns()
        spool.on_stored = self.wake

    # -- for the process --------------------------------------------------------------------------

    def use(self, ways: Ways) -> None:
        """Deliver by ``ways`` from now on.  What is under way to a next hop is finished; what is
        on its way into a local folder is begun anew."""
        old, self._ways = self._ways, ways
        if old is not None and old is not ways:
            old.close()
            for attempt in list(self._active.values()):
                for way in [way for way in attempt.under_way if way.local]:
                    del attempt.under_way[way]
            self._again = [one for one in self._active.values() if not one.under_way]
            self._set_aside = dict.fromkeys(self._set_aside)  # the name may mean another now
        self.wake()

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._loop = loop
        self.wake()

    def wake(self) -> None:
        """There is something to do."""
        self._arm(0)

    def look_for_commands(self) -> None:
        """An operator may have written commands into the database."""
        self._may_have_commands = True
        self.wake()

    def stop(self) -> None:
        """Begin nothing more, but for what goes into a local folder at once."""
        self._stopping = True

    def close(self) -> None:
        """Work on the loop no more; what waits is in the spool."""
        if self._loop is not None and self._timer is not None:
            self._loop.timers.cancel(self._timer)
        self._loop = None

    @property
    def busy(self) -> bool:
        """Whether waiting a little longer gets something delivered."""
        if any(not way.failing() for one in self._active.values() for way in one.under_way):
            return True
        only = self._only()
        if only is None or not only.local or only.failing():
            return False
        try:
            return bool(self._peek_fresh())
        except SpoolError:
            return False

    @property
    def active(self) -> int:
        """Messages that are being delivered."""
        return len(self._active)

    def oldest_s(self) -> float | None:
        """The age of the oldest message; 0 without any, None if that cannot be read."""
        try:
            oldest_ns = self._spool.read(QueueTable.oldest_ns)
        except SpoolError:
            return None
        age_ns = self._clock.realtime_ns() - oldest_ns if oldest_ns is not None else 0
        return max(age_ns, 0) / NS_PER_S

    # -- taking -----------------------------------------------------------------------------------

    def _run(self) -> None:
        """Begin attempts, and set the timer for the next time."""
        if self._spool.trouble:  # what is delivered could not be forgotten
            self._spool.commit()
            if self._spool.trouble:
                self._arm(TROUBLE_PAUSE_NS)
                return
        fresh = [number for number, one in self._active.items() if one.row is None]
        self._spool.none_is_fresh_below(min(fresh, default=self._position + 1))
        try:
            if self._may_have_commands:
                self.carry_out_commands()
            over_ns = self._clock.monotonic_ns() + RUN_NS
            for _ in range(TAKEN_MAX):
                if not self._take_one():
                    self._arm_for_due()
                    return
                if self._clock.monotonic_ns() >= over_ns:
                    break
        except SpoolError:  # the spool says so in the log when it cannot store
            self._arm(TROUBLE_PAUSE_NS)
            return
        self._arm(1)

    def _take_one(self) -> bool:
        """Begin an attempt; False if there is nothing to be begun now.  Raises SpoolError."""
        if self._again:
            self._begin(self._again.pop())
            return True
        if len(self._active) >= ACTIVE_MAX or self._recipients >= RECIPIENTS_MAX:
            return False
        only = self._only()
        if only is not None and only.out.room() <= 0:
            return False
        sources = (self._take_waiting, self._take_due, self._take_fresh)
        for _ in sources:
            self._turn = (self._turn + 1) % len(sources)
            if self._stopping and not (self._turn == 2 and only is not None and only.local):
                continue
            if sources[self._turn]():
                return True
        return False

    def _only(self) -> Way | None:
        return None if self._ways is None else self._ways.only

    def _peek_fresh(self) -> list[Entry]:
        if not self._fresh:
            found = self._spool.read(lambda table: table.fresh(self._position, AHEAD_MAX))
            self._fresh = found[::-1]
        return self._fresh

    def _take_fresh(self) -> bool:
        while self._peek_fresh():
            entry = self._fresh.pop()
            self._position = entry.message.number
            if self._is_free(entry.message.number):
                self._open(entry)
                return True
        return False

    def _take_due(self) -> bool:
        while self._due or self._read_due():
            entry = self._due.pop()
            if entry.row is not None:
                self._due_behind = (entry.row.due_ns or 0, entry.message.number)
            if self._is_free(entry.message.number):
                self._open(entry)
                return True
        return False

    def _read_due(self) -> bool:
        now_ns = self._clock.realtime_ns()
        if self._due_from_ns is None or now_ns < self._due_from_ns:
            return False
        if abs(now_ns - self._looked_at_all_ns) >= LOOK_AT_ALL_NS:
            self._looked_at_all_ns = now_ns
            self._due_behind = _BEFORE_ALL
        behind = self._due_behind
        self._due = self._spool.read(lambda table: table.due(now_ns, behind, AHEAD_MAX))[::-1]
        if not self._due:
            due_ns = self._spool.next_due_ns(now_ns)
            if behind != _BEFORE_ALL:  # there may be more before it
                due_ns = min(due_ns or now_ns + LOOK_AT_ALL_NS, now_ns + LOOK_AT_ALL_NS)
            self._due_from_ns = due_ns
        return bool(self._due)

    def _take_waiting(self) -> bool:
        """The next message that waits for a way out which has room."""
        if self._name_behind is not None and len(self._set_aside) < NAMES_MAX:
            behind = self._name_behind
            self._name_behind = self._spool.read(lambda table: table.next_name(behind))
            if self._name_behind is not None:
                self._set_aside.setdefault(self._name_behind, None)
        for name in list(islice(self._set_aside, NAMES_LOOKED_AT_MAX)):
            way = self._set_aside[name] = self._set_aside.pop(name)  # the last one of the next time
            if way is not None and way.out.room() <= 0:
                continue
            at_most = len(self._active) + self._spool.unwritten + 1
            found = self._spool.read(partial(QueueTable.waiting, name=name, at_most=at_most))
            number = next(filter(self._is_free, found), None)
            entry = (
                None if number is None else self._spool.read(partial(QueueTable.one, number=number))
            )
            if entry is not None:
                self._due.clear()  # it may be among them
                self._open(entry, name)
                return True
            if not found and not self._spool.unwritten:
                del self._set_aside[name]
        return False

    def _set_aside_for(self, name: str, way: Way | None) -> None:
        if len(self._set_aside) < NAMES_MAX or name in self._set_aside:
            self._set_aside[name] = way
        else:
            self._name_behind = ""  # there is room for names again later

    def _is_free(self, number: int) -> bool:
        """Whether a message is not in memory, and what the database says of it is the latest."""
        return number not in self._active and self._spool.is_written(number)

    # -- an attempt -------------------------------------------------------------------------------

    def _open(self, entry: Entry, waited_for: str | None = None) -> None:
        """Begin with a message that was taken."""
        try:
            attempt = Attempt(entry, waited_for)
        except ValueError as error:
            self._note("message unreadable", id=entry.message.id, error=error)
            row = entry.row or QueueRow(entry.message.number, entry.message.id)
            self._put(row._replace(due_ns=None, waits_for=None, held=True))
            return
        self._active[entry.message.number] = attempt
        self._recipients += len(attempt.envelope.forward_paths)
        self._begin(attempt)

    def _begin(self, attempt: Attempt) -> None:
        """Hand its jobs to the ways out that have room."""
        assert self._ways is not None, "the ways out are set before the first attempt"
        ready: list[tuple[Way, tuple[int, ...]]] = []
        attempt.ways, attempt.blocked = self._ways, {}
        for way, places in attempt.places_by_way(self._ways).items():
            if way.out.room() > 0:
                ready.append((way, places))
            else:
                attempt.blocked[way] = None
        if not ready:
            self._finish(attempt, (), soon=False)
            return
        attempt.under_way.update(ready)  # before the first of them may end
        if attempt.message.number < self._killed_before:
            self._tell_of_repetition(attempt)
        for way, places in ready:
            job = attempt.job(places, partial(self._spool.content, attempt.message))
            way.out.deliver(job, partial(self._done, attempt, way))

    def _tell_of_repetition(self, attempt: Attempt) -> None:
        """It may have been under way when the process before this one was killed."""
        row = attempt.row
        was_due = row is None or (row.due_ns is not None and row.due_ns <= self._began_ns)
        if was_due and any(not way.local for way in attempt.under_way):
            self._note("may be sent twice", id=attempt.message.id)

    def _done(self, attempt: Attempt, way: Way, outcomes: Sequence[Outcome]) -> None:
        """A job has ended."""
        if way not in attempt.under_way:
            return  # it was begun anew elsewhere, or tells twice
        message = attempt.message
        told = attempt.ended(way, outcomes)
        now_ns = self._clock.realtime_ns()
        if attempt.content_trouble:
            self._note("message unreadable", id=message.id, error=attempt.content_trouble)
        elif attempt.deferred and self.retries.is_over(message.received_ns, now_ns):
            told = [_expired(one) for one in told]
            attempt.progress.add(told)
        report(self._note, attempt, way, told)
        notices = self._notices(attempt, told, now_ns)
        if attempt.under_way:
            self._put(attempt.kept(0), notices, soon=not way.local)  # due after a crash
        else:
            self._finish(attempt, notices, soon=not way.local)
        self.wake()

    def _finish(self, attempt: Attempt, notices: Iterable[NewMessage], *, soon: bool) -> None:
        """No job is under way any more: forget the message, or say when it is tried again."""
        message = attempt.message
        del self._active[message.number]
        self._recipients -= len(attempt.envelope.forward_paths)
        row = self._row_after(attempt) if attempt.pending else None
        if row is not None and attempt.verb:
            row = carried_out(attempt.verb, row, self._clock.realtime_ns())
        if row is None:
            self._spool.forget(message, notices, soon=soon)
        else:
            self._put(row, notices, soon=soon)

    def _row_after(self, attempt: Attempt) -> QueueRow:
        if attempt.content_trouble:
            return attempt.kept(None, held=True)
        due_ns, waits_for = None, None
        if attempt.deferred and self._stopping:
            due_ns = self._clock.realtime_ns()  # it may be for our own end that it was deferred
        elif attempt.deferred:
            due_ns = attempt.next_due_ns(self.retries, self._clock.realtime_ns(), self._dice)
        elif attempt.waited_for is not None and attempt.row is not None:
            due_ns = attempt.row.due_ns
        for way in attempt.blocked:
            waits_for = way.name
            # What was a way out when this was begun may never have room again.
            self._set_aside_for(waits_for, way if attempt.ways is self._ways else None)
        if due_ns is None and len(attempt.blocked) != 1:
            # For one of several ways it cannot wait for long; without any, they changed meanwhile.
            due_ns = self._clock.realtime_ns() + BLOCKED_MAX_NS * bool(attempt.blocked)
        return attempt.kept(due_ns, waits_for)

    def _notices(
        self, attempt: Attempt, outcomes: Sequence[Outcome], now_ns: int
    ) -> Iterable[NewMessage]:
        """What the sender is to be told of these outcomes; of a delay once."""
        message, progress = attempt.message, attempt.progress
        told = outcomes
        if attempt.deferred:
            told = [one for one in outcomes if one.kind is not OutcomeKind.DEFERRED]
            is_delayed = self.retries.is_delayed(message.received_ns, now_ns)
            if is_delayed and not progress.delay_told and len(told) < len(outcomes):
                progress.delay_told = True
                told = outcomes
        if not told:
            return ()
        content = partial(self._spool.content, message)
        return self.make_notices(message, attempt.envelope, told, content)

    def _put(
        self, row: QueueRow, notices: Iterable[NewMessage] = (), *, soon: bool = False
    ) -> None:
        self._spool.put(row, notices, soon=soon)
        due_ns, known_ns = row.due_ns, self._due_from_ns
        if due_ns is not None and (known_ns is None or due_ns < known_ns):
            self._due_from_ns = due_ns

    # -- an operator's commands -------------------------------------------------------------------

    def carry_out_commands(self) -> bool:
        """Do what an operator asked for in the database, some of it; False if there is nothing.
        Raises SpoolError."""
        commands = self._spool.commands(COMMANDS_MAX)
        self._may_have_commands = bool(commands)
        if any(one.verb in (Verb.RETRY.value, Verb.RELEASE.value) for one in commands):
            self.on_retry()
        if commands:
            self._fresh.clear()  # what was read ahead may be changed now
            self._due.clear()
            self._looked_at_all_ns = 0
        for command in commands:
            if not self._spool.is_written(command.message):
                self._arm(UNWRITTEN_PAUSE_NS)
                break
            entry = self._spool.read(partial(QueueTable.one, number=command.message))
            if entry is not None:
                self._note("queue command", verb=command.verb, id=entry.message.id)
                self._carry_out(command.verb, entry)
            self._spool.carried_out(command.number)
        return bool(commands)

    def _carry_out(self, verb: str, entry: Entry) -> None:
        message, attempt = entry.message, self._active.get(entry.message.number)
        if attempt is not None:
            attempt.verb = verb  # it is under way: once it is not
            return
        now_ns = self._clock.realtime_ns()
        row = entry.row or QueueRow(message.number, message.id, now_ns)
        changed = carried_out(verb, row, now_ns)
        if changed is None:
            self._spool.forget(message, soon=True)
        elif changed != row:
            self._put(changed, soon=True)

    # -- when to look again -----------------------------------------------------------------------

    def _arm_for_due(self) -> None:
        """Nothing can be begun now: set the timer for when something is due."""
        if self._stopping:
            return
        now_ns, due_ns = self._clock.realtime_ns(), self._due_from_ns
        if due_ns is not None and due_ns > now_ns:
            self._arm(min(due_ns - now_ns, LOOK_NS))
        if self._set_aside:
            self._arm(BLOCKED_PAUSE_NS)

    def _arm(self, pause_ns: int) -> None:
        """Look again after a pause, or sooner if that was wanted already."""
        loop = self._loop
        if loop is None:
            return
        deadline_ns = loop.now_ns + pause_ns
        if self._timer is None:
            self._timer = loop.timers.schedule(deadline_ns, self._run)
        elif not self._timer.pending or deadline_ns < self._timer.deadline_ns:
            loop.timers.reschedule(self._timer, deadline_ns)


def _expired(outcome: Outcome) -> Outcome:
    """A deferral after the queue's lifetime is final; the reason stays that of the last attempt."""
    if outcome.kind is not OutcomeKind.DEFERRED:
        return outcome
    return outcome._replace(kind=OutcomeKind.FAILED, status=EXPIRED_STATUS)
