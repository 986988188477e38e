"""Takes messages out of the spool, in the order of arrival, and into a Maildir.

A small message is one step, a large one as many as it has pieces.  Steps are taken for a
millisecond, and then the loop has as much time for other work as they took: syncing holds up the
loop for as long as the disk takes.  A Maildir that fails is tried again, after longer and longer
pauses; the messages wait in the spool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

from mailsrv.delivery.maildir import Maildir, file_name
from mailsrv.delivery.spool import Spool
from mailsrv.delivery.spool_database import SpoolError, StoredMessage
from mailsrv.delivery.stored_envelope import from_json
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_MS, NS_PER_S

AHEAD_MAX = 64
"""Messages that are looked up at once."""
RUN_NS = NS_PER_MS
STEPS_MAX = 16
"""How long steps are taken without a pause, and how many at most."""
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
        self._work: Generator[None, None, None] | None = None
        self._retry_ns = RETRY_MIN_NS
        self._failing = False
        # What an earlier process left may be delivered already, and even be read.
        self._left_over = spool.messages
        self._seen: set[str] = set()
        spool.on_stored = self.wake

    def use(self, maildir: Maildir) -> None:
        """Deliver into ``maildir`` from the next message on."""
        self._maildir = maildir
        if self._left_over:
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
        while self._step() and not self._failing and self._clock.monotonic_ns() < until_ns:
            pass

    def _run(self) -> None:
        if self._spool.trouble:  # what is delivered could not be forgotten
            self._spool.commit()
            if self._spool.trouble:
                self._arm(RETRY_MIN_NS)
                return
        began_ns = self._clock.monotonic_ns()
        for _ in range(STEPS_MAX):
            if not self._step():
                return
            took_ns = self._clock.monotonic_ns() - began_ns
            if self._failing or took_ns >= RUN_NS:
                break
        self._arm(self._retry_ns if self._failing else took_ns + max(took_ns, RUN_NS))

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
        if not (self._left_over and file_name(message) in self._seen):
            try:
                yield from self._write(self._maildir, message)
            except ValueError as error:  # it is of no use to try again before the next start
                self._note("message unreadable", id=message.id, error=error)
                self._taken(message)
                return
        self._taken(message)
        self._spool.forget(message)
        self._note("delivered", id=message.id, to="maildir")
        if self._failing:
            self._failing = False
            self._retry_ns = RETRY_MIN_NS
            self._note("delivery works again")

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
        self._position = message.number
        if self._left_over:
            self._left_over -= 1
            if not self._left_over:
                self._seen.clear()

    def _fails(self, error: OSError | SpoolError) -> None:
        if self._failing:
            self._retry_ns = min(2 * self._retry_ns, RETRY_MAX_NS)
            return
        self._failing = True
        why = error.strerror if isinstance(error, OSError) else str(error)
        self._note("delivery failed", error=why)
