"""A connection's deadlines as its session goes on, with the one timer that keeps them.

The timer is moved only when the deadline comes nearer; when it goes off before the deadline that
holds by then, it is set anew.  So a received chunk costs no wheel operation.
"""

from __future__ import annotations

import sys
from typing import Protocol

from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.smtp.events import Stage
from mailsrv.smtp.session import Session
from mailsrv.smtp.state_machine import State
from mailsrv.smtp.timeouts import ConnectionTimeouts, Timeout, Timeouts

_PHASE_OF = {
    Stage.SENDER: Timeout.LOOKUP,
    Stage.RECIPIENT: Timeout.LOOKUP,
    Stage.MESSAGE: Timeout.DELIVERY,
    Stage.PAUSE: Timeout.PAUSE,
}

# Attributes of an Enum class are slow to look up; these are used for every message.
_IDLE, _COMMAND, _CONTENT_IDLE = Timeout.IDLE, Timeout.COMMAND, Timeout.CONTENT_IDLE
_CONTENT, _CHUNKS, _CONTENT_START = State.CONTENT, State.CHUNKS, Timeout.CONTENT_START
_NEVER_NS = sys.maxsize


class TimedConnection(Protocol):
    """The connection whose timeouts are kept."""

    def timed_out(self, limit: Timeout) -> None:
        """``limit`` has been reached."""

    def drop(self) -> None:
        """Close: ``timed_out`` raised."""


class TimeoutTimer(ConnectionTimeouts):
    """See the module.  It is set from its first phase on until ``cancel``; the wheel's timer calls
    it, and needs no bound method for that, of which each connection would have one."""

    __slots__ = ("_armed_ns", "_connection", "_lines", "_loop", "_timer")

    def __init__(self, timeouts: Timeouts, loop: Loop, connection: TimedConnection) -> None:
        super().__init__(timeouts, loop.now_ns)
        self._loop = loop
        self._connection: TimedConnection | None = connection
        self._timer: Timer | None = None
        self._armed_ns = _NEVER_NS  # when it goes off
        self._lines = 0

    def begin(self, phase: Timeout) -> None:
        """Enter ``phase`` now."""
        self.enter(phase, self._loop.now_ns)
        self.arm()

    def follow(self, session: Session, unsent_octets: int) -> None:
        """Let the phase follow from what the session does; the timer moves only with it."""
        now_ns = self._loop.now_ns
        before: Timeout | None = self.phase
        is_next = session.lines != self._lines
        self._lines = session.lines
        state, transaction = session.state, session.transaction
        if state is _CHUNKS:
            assert transaction is not None
            assert transaction.reader is not None
            self.pause_message(transaction.envelope.began_ns, transaction.reader.size_octets)
        elif self.message_due_ns:
            self.message_due_ns = 0
            before = None  # the session's own limit holds again
        if unsent_octets:
            self.enter(Timeout.UNREAD, now_ns)
        elif session.question is not None:
            waiting = _PHASE_OF[session.question.stage]
            if before is not waiting or is_next:
                self.enter(waiting, now_ns)
        elif state is _CONTENT:
            if transaction is None:  # a refused chunk, which belongs to no message
                began_ns, octets = now_ns, session.content_octets or 0
            else:
                assert transaction.reader is not None
                began_ns = transaction.envelope.began_ns
                octets = transaction.reader.received_octets
            if (
                is_next
                or (before is not _CONTENT_IDLE and before is not _CONTENT_START)
                or (before is _CONTENT_START and octets)
            ):
                self.enter_content(now_ns, octets, began_ns)
        elif not session.mid_command:
            self.phase, self.since_ns = _IDLE, now_ns
        elif before is not _COMMAND or is_next:
            self.enter(_COMMAND, now_ns)
        if self.phase is not before or self._timer is None:
            self.arm()

    def arm(self) -> None:
        """See to it that the timer goes off no later than the next deadline."""
        armed_ns = self._armed_ns
        if armed_ns > self.since_ns + self.timeouts.ns[self.phase] or (
            armed_ns > self.session_due_ns
        ):
            due_ns, _ = self.next()
            if due_ns < armed_ns:
                timers = self._loop.timers
                if self._timer is None:
                    self._timer = timers.schedule(due_ns, self)
                else:
                    timers.reschedule(self._timer, due_ns)
                self._armed_ns = due_ns

    def cancel(self) -> None:
        """Call nothing any more; to be armed no more, either."""
        self._connection = None
        timer, self._timer = self._timer, None  # which refers to us: no circle is left behind
        if timer is not None:
            self._loop.timers.cancel(timer)

    def __call__(self) -> None:
        """The timer went off."""
        self._armed_ns = _NEVER_NS
        connection = self._connection
        if connection is None:
            return
        due_ns, limit = self.next()
        if due_ns <= self._loop.now_ns:
            try:
                connection.timed_out(limit)
            except Exception:
                connection.drop()  # the loop knows no connection here; it logs what is raised
                raise
        if self._connection is not None:
            self.arm()
