"""Takes messages out of the spool, in the order of arrival, and into a Maildir.

A small message is one step, a large one as many as it has pieces.  Steps are taken in runs of a
few milliseconds, at the end of which the Maildir's names are synced: that holds up the loop for as
long as the disk takes.  While mail is being received, it then has as much time for that as the run
took.  A Maildir that fails is tried again, after longer and longer
pauses; the messages wait in the spool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

from mailsrv.delivery.mailbox.maildir import Maildir, file_name
from mailsrv.delivery.spool.database import SpoolError, StoredMessage
from mailsrv.delivery.spool.spool import Spool
from mailsrv.delivery.spool.stored_envelope import from_json
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_MS, NS_PER_S

AHEAD_MAX = 64
"""Messages that are looked up at once."""
RUN_NS = 2 * NS_PER_MS
STEPS_MIN = 4
STEPS_MAX = 16
"""How long a run is, and how many steps are in it whatever they take."""
RETRY_MIN_NS = NS_PER_S
RETRY_MAX_NS = 60 * NS_PER_S
"""The pauses before a Maildir that fails is tried again; each is twice the one before."""
FINISH_NS = 10 * NS_PER_S
"""How long the end of the process waits for what is still in the spool."""

Note = Callable[..., object]
"""Called with an event for the log and its values."""


class MaildirDelivery:
    """Delivers from ``spool``; call ``use`` with a Maildir, then ``attach`` it to a loop."""

    def __init__(self, spool: Spool, clock: Clock, note: Note) -> None:
        self._spool = spool
        self._clock = clock
        self._note = note
        self._maildir: Maildir | None = None
        self._loop: Loop | None = None
        self._timer: Timer | None = None
        self._ahead: deque[StoredMessage] = deque()
        self._position = 0
        self._linked: list[StoredMessage] = []
        self._work: Generator[None, None, None] | None = None
        self._retry_ns = RETRY_MIN_NS
        self._failing = self._interrupted = False
        # What an earlier process left may be delivered already, and even be read.
        self._left_over_before = spool.next_number if spool.messages else 0
        self._seen: set[str] = set()
        spool.on_stored = self.wake

    def use(self, maildir: Maildir) -> None:
        """Deliver into ``maildir`` from now on; what is half written elsewhere is begun anew."""
        self._give_up_work()  # its name would be synced in the wrong place
        self._maildir = maildir
        if self._position + 1 < self._left_over_before:
            self._seen = maildir.names_seen()

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._loop = loop
        self.wake()

    def wake(self) -> None:
        """There is something in the spool."""
        if self._timer is None or not self._timer.pending:
            self._arm(0)

    def finish(self) -> None:
        """Deliver what there is, for a while; the rest waits for the next start."""
        self._loop = None
        until_ns = self._clock.monotonic_ns() + FINISH_NS
        while self._clock.monotonic_ns() < until_ns:
            if not self._take_steps(until_ns) or self._interrupted:
                return

    def _run(self) -> None:
        if self._spool.trouble:  # what is delivered could not be forgotten
            self._spool.commit()
            if self._spool.trouble:
                self._arm(RETRY_MIN_NS)
                return
        began_ns = self._clock.monotonic_ns()
        is_more = self._take_steps(began_ns + RUN_NS)
        took_ns = self._clock.monotonic_ns() - began_ns
        if self._interrupted:
            self._arm(self._retry_ns)
        elif is_more:
            pause_ns = took_ns if self._spool.is_receiving else 0
            self._arm(took_ns + pause_ns + 1)  # at least, other work of the loop is done

    def _take_steps(self, until_ns: int) -> bool:
        """A run; False if nothing is left to do."""
        self._interrupted = False
        is_more = True
        for number in range(STEPS_MAX):
            is_more = self._step()
            is_late = number + 1 >= STEPS_MIN and self._clock.monotonic_ns() >= until_ns
            if not is_more or self._interrupted or is_late:
                break
        self._sync()
        return is_more

    def _arm(self, pause_ns: int) -> None:
        loop = self._loop
        if loop is None:
            return
        deadline_ns = loop.now_ns + pause_ns
        if self._timer is None:
            self._timer = loop.timers.schedule(deadline_ns, self._run)
        else:
            loop.timers.reschedule(self._timer, deadline_ns)

    def _step(self) -> bool:
        """Go on with the oldest message; False if there is none."""
        try:
            if self._work is None:
                message = self._next()
                if message is None:
                    return False
                self._work = self._deliver(message)
            next(self._work)
        except StopIteration:
            self._work = None
        except (OSError, SpoolError) as error:
            self._work = None
            self._fails(error)
        return True

    def _next(self) -> StoredMessage | None:
        """The oldest message that was not taken yet.  Raises SpoolError."""
        if not self._ahead:
            self._ahead.extend(self._spool.after(self._position, AHEAD_MAX))
        return self._ahead[0] if self._ahead else None

    def _deliver(self, message: StoredMessage) -> Generator[None, None, None]:
        """Raises OSError if the Maildir fails, SpoolError if the database does."""
        assert self._maildir is not None, "a Maildir is set before the first step"
        if not (self._seen and file_name(message) in self._seen):
            try:
                yield from self._write(self._maildir, message)
            except ValueError as error:  # it is of no use to try again before the next start
                self._note("message unreadable", id=message.id, error=error)
                self._taken(message)
                return
        self._taken(message)
        self._linked.append(message)

    def _sync(self) -> None:
        """Have what is in the Maildir there for good, and forget it."""
        linked, self._linked = self._linked, []
        if not linked:
            return
        assert self._maildir is not None, "a Maildir is set before the first step"
        try:
            self._maildir.sync()
        except OSError as error:
            self._give_up_work()
            self._ahead.extendleft(reversed(linked))
            self._fails(error)
            return
        for message in linked:
            self._spool.forget(message)
            self._note("delivered", id=message.id, to="maildir")
        if linked[-1].number >= self._left_over_before:
            self._seen.clear()
        if self._failing:
            self._failing = False
            self._retry_ns = RETRY_MIN_NS
            self._note("delivery works again")

    def _give_up_work(self) -> None:
        """Stop in the middle of the message; it is still the next one."""
        work, self._work = self._work, None
        if work is not None:
            work.close()

    def _write(self, maildir: Maildir, message: StoredMessage) -> Generator[None, None, None]:
        writer = maildir.begin(message, from_json(message.envelope))
        try:
            octets = 0
            for number, piece in enumerate(self._spool.content(message)):
                if number:
                    yield
                octets += len(piece)
                writer.write(piece)
            if octets != message.octets:
                raise ValueError(f"content has {octets} octets, not {message.octets}")
            writer.finish()
        finally:
            writer.abandon()

    def _taken(self, message: StoredMessage) -> None:
        self._ahead.popleft()
        self._position = max(self._position, message.number)

    def _fails(self, error: OSError | SpoolError) -> None:
        self._interrupted = True
        if self._failing:
            self._retry_ns = min(2 * self._retry_ns, RETRY_MAX_NS)
            return
        self._failing = True
        why = error.strerror if isinstance(error, OSError) else str(error)
        self._note("delivery failed", error=why)
