"""One connection: its socket on one side, its session on the other, its timer between them.

Theory of operation.  The connection is in one of three stages.  *Talking*: octets go to the
session, replies go out, questions go to whom they concern.  *Lingering*: the last reply is
written and our FIN sent; what the client still sends is drained for a while, because closing a
socket with unread input sends a reset, which can destroy the last reply on its way (RFC 9293
section 3.6.1).  *Closed*.

Nobody is read from who does not read: while output is pending, or too much input waits for a
verdict, the socket is not watched for reading, and the kernel holds the sender back.

There is one timer.  It is moved only when the deadline comes nearer; when it goes off before the
deadline that holds by then, it is set anew.  So a received chunk costs no wheel operation.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Protocol

from mailsrv import reply
from mailsrv.deadlines import Deadlines, Limit, Patience
from mailsrv.deliberation import Counsel, Panel
from mailsrv.house import House
from mailsrv.journal import Journal
from mailsrv.loop import Loop
from mailsrv.policy import Policy
from mailsrv.poll import READ, WRITE
from mailsrv.question import Question, Stage
from mailsrv.reply import Reply
from mailsrv.session import Session
from mailsrv.state import State
from mailsrv.timers import Timer

CHUNK_OCTETS = 64 * 1024
"""One read.  Also what a session may hold beyond its pause before reading stops."""
LINGER_MAX_OCTETS = 64 * 1024
"""How much is drained from a client that goes on sending after our FIN."""


class Tap(Protocol):
    """Somebody who watches raw octets pass: a recorder, a test's book-keeping."""

    def opened(self, connection: Connection) -> None:
        """A connection was accepted."""

    def received(self, connection: Connection, octets: bytes) -> None:
        """These octets were read from the socket; none is the client's FIN."""

    def sent(self, connection: Connection, octets: bytes) -> None:
        """These octets were written to the socket; none is our FIN."""

    def closed(self, connection: Connection) -> None:
        """The socket is closed."""


class Premises:
    """What all connections of a server share."""

    __slots__ = ("closed", "house", "journal", "loop", "panel", "patience", "policy", "tap")

    def __init__(
        self,
        *,
        house: House,
        policy: Policy,
        panel: Panel,
        loop: Loop,
        journal: Journal,
        tap: Tap | None,
        closed: Callable[[Connection], None],
    ) -> None:
        self.house = house
        self.policy = policy
        self.panel = panel
        self.loop = loop
        self.journal = journal
        self.tap = tap
        self.closed = closed
        self.patience = Patience(house.settings)


class Life(Enum):
    """The three stages of a connection."""

    TALKING = "talking"
    LINGERING = "lingering"
    CLOSED = "closed"


_PHASE_OF = {
    Stage.SENDER: Limit.LOOKUP,
    Stage.RECIPIENT: Limit.LOOKUP,
    Stage.MESSAGE: Limit.DELIVERY,
    Stage.PAUSE: Limit.PAUSE,
}


# Attributes of an Enum class are slow to look up; these are used for every chunk.
_TALKING, _CLOSED, _GREET_WAIT = Life.TALKING, Life.CLOSED, Limit.GREET_WAIT
_IDLE, _COMMAND, _CONTENT_IDLE = Limit.IDLE, Limit.COMMAND, Limit.CONTENT_IDLE
_CONTENT, _MESSAGE = State.CONTENT, Stage.MESSAGE


class Connection:
    """See the module.  ``client`` is the address as text, ``number`` counts from 1."""

    __slots__ = (
        "_asked",
        "_asking",
        "_at_eof",
        "_counsel",
        "_deadlines",
        "_drained_octets",
        "_events",
        "_life",
        "_lines",
        "_pending",
        "_premises",
        "_sock",
        "_tap",
        "_timer",
        "client",
        "number",
        "session",
    )

    def __init__(self, premises: Premises, sock: socket.socket, client: str, number: int) -> None:
        self._premises = premises
        self._tap = premises.tap
        self._sock = sock
        self.client = client
        self.number = number
        self.session = Session(premises.house, client)
        self._asked: Question | None = None
        self._asking = False
        self._at_eof = False
        self._counsel: Counsel | None = None
        self._life = _TALKING
        self._lines = 0
        self._drained_octets = 0
        self._pending = b""
        self._events = READ
        loop = premises.loop
        self._deadlines = Deadlines(premises.patience, loop.now_ns)
        self._timer: Timer | None = None
        loop.poll.watch(sock, READ, self)
        if self._tap is not None:
            self._tap.opened(self)

    # -- the shell's side -------------------------------------------------------------------------

    def begin(self) -> None:
        """Greet, now or after the greet wait, and begin to find out about the client."""
        premises = self._premises
        if premises.policy.stages:
            self._counsel = Counsel(premises.policy, premises.panel, self.client, self._note)
            self._counsel.begin()
        if self._premises.patience.ns[_GREET_WAIT]:
            self._deadlines.enter(_GREET_WAIT, self._premises.loop.now_ns)
            self._arm()
        else:
            self._greet()

    def refuse(self, last: Reply) -> None:
        """Say ``last`` instead of a greeting, and close."""
        self.session.end(last)
        self._settle()

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""
        if events & WRITE:
            self._flush()
            self._settle()
        if events & self._events & READ:
            try:
                chunk = self._sock.recv(CHUNK_OCTETS)
            except BlockingIOError:
                return
            except OSError as error:
                self._close(error.strerror or "lost")
                return
            if self._tap is not None:
                self._tap.received(self, chunk)
            if chunk and self._life is _TALKING:
                self._hear(chunk)
            else:
                self._hear_the_end(chunk)

    @property
    def in_transaction(self) -> bool:
        """True from an accepted MAIL to the reply to its message."""
        return self.session.envelope is not None

    @property
    def reading(self) -> bool:
        """True while the socket is watched for input."""
        return bool(self._events & READ) and self._life is not _CLOSED

    @property
    def pending_octets(self) -> int:
        """Said and not yet taken by the kernel."""
        return len(self._pending)

    @property
    def sock(self) -> socket.socket:
        """The socket, for those who must ask the kernel about it."""
        return self._sock

    def end(self, last: Reply) -> None:
        """Say ``last`` and close, whatever was going on."""
        if self._life is _TALKING and not self.session.closing:
            self._asked = None
            self.session.end(last)
            self._settle()

    def drop(self) -> None:
        """Close at once, without a word."""
        self._close("dropped")

    # -- reading ----------------------------------------------------------------------------------

    def _hear(self, chunk: bytes) -> None:
        session, deadlines = self.session, self._deadlines
        phase = deadlines.phase
        if phase is _CONTENT_IDLE:
            deadlines.content_came(len(chunk), self._premises.loop.now_ns)
        elif phase is _GREET_WAIT:
            self._note("early talker", octets=len(chunk))
            session.end(reply.talked_too_early(self._premises.house.settings.hostname))
            self._settle()
            return
        elif session.question is not None:
            session.receive(chunk)
            if session.buffered_octets > CHUNK_OCTETS:
                self._watch()
            return
        session.receive(chunk)
        if (
            session.question is not None
            or session.closing
            or session.congested
            or session.events is not None
        ):
            self._settle()
        elif self._flush():
            if phase is _IDLE and session.state is not _CONTENT and not session.mid_command:
                deadlines.since_ns = self._premises.loop.now_ns  # idle again, as nearly always
            else:
                self._enter_phase()
        elif self._life is _TALKING:
            self._settle()

    def _hear_the_end(self, chunk: bytes) -> None:
        """The client's FIN, or what it still sends after ours."""
        if self._life is _TALKING:
            self._at_eof = True
            self._watch()
            self._settle()
        else:
            self._drained_octets += len(chunk)
            if not chunk or self._drained_octets >= LINGER_MAX_OCTETS:
                self._close("drained")

    # -- after anything happened ------------------------------------------------------------------

    def _settle(self) -> None:
        """Bring everything in line with the session: questions, output, end, deadline."""
        session = self.session
        while True:
            while session.question is not None and session.question is not self._asked:
                self._ask(session.question)
            if session.events is not None:
                self._premises.journal.record(self.number, self.client, session.events)
                session.events = None
            if session.output and not self._pending:
                self._flush()
            if self._life is not _TALKING:
                return
            if self._pending or session.question is not None:
                break
            if session.closing:
                self._finish()
                return
            if not session.congested:
                break
            session.proceed()
        if session.question is not None or self._pending:
            self._watch()
        elif self._at_eof:
            self._finish()
            return
        elif self._events != READ:
            self._watch()
        self._enter_phase()

    def _enter_phase(self) -> None:
        """Let the deadlines follow; the timer moves only with the phase (see ``Deadlines``)."""
        session, deadlines = self.session, self._deadlines
        now_ns = self._premises.loop.now_ns
        before, is_next = deadlines.phase, session.lines != self._lines
        self._lines = session.lines
        if self._pending:
            deadlines.enter(Limit.UNREAD, now_ns)
        elif session.question is not None:
            waiting = _PHASE_OF[session.question.stage]
            if before is not waiting or is_next:
                deadlines.enter(waiting, now_ns)
        elif session.state is _CONTENT:
            if before is not _CONTENT_IDLE or is_next:
                deadlines.enter_content(now_ns, session.content_octets or 0)
        elif not session.mid_command:
            deadlines.phase, deadlines.since_ns = _IDLE, now_ns
        elif before is not _COMMAND or is_next:
            deadlines.enter(_COMMAND, now_ns)
        if deadlines.phase is not before or self._timer is None:
            self._arm()

    def _watch(self) -> None:
        """Watch the socket for what we can use now."""
        events = WRITE if self._pending else 0
        if not (self._at_eof or self._pending or self._is_full()):
            events |= READ
        if events != self._events:
            poll = self._premises.loop.poll
            if not events:
                poll.forget(self._sock)
            elif self._events:
                poll.change(self._sock, events, self)
            else:
                poll.watch(self._sock, events, self)
            self._events = events

    def _is_full(self) -> bool:
        return self.session.buffered_octets > CHUNK_OCTETS and self._life is _TALKING

    # -- questions --------------------------------------------------------------------------------

    def _ask(self, question: Question) -> None:
        """Ask whom it concerns; the answer may come within the call."""
        self._asked, self._asking = question, True
        stage = question.stage
        if stage is _MESSAGE:
            assert self.session.sink is not None
            self.session.sink.finish(partial(self._answered, question))
        elif stage is not Stage.PAUSE:  # that one the timer answers
            assert self._counsel is not None
            self._counsel.ask(question, partial(self._answered, question))
        self._asking = False

    def _answered(self, question: Question, verdict: Reply | None) -> None:
        session = self.session
        if session.question is not question:
            return  # nobody waits for this answer any more
        session.answer(verdict)
        if not self._asking:
            self._settle()

    # -- writing ----------------------------------------------------------------------------------

    def _flush(self) -> bool:
        """Write what the session said, a flight a call; False unless the kernel took it all."""
        output = self.session.output
        if self._pending:
            output.insert(0, self._pending)
            self._pending = b""
        flights = iter(output)
        for flight in flights:
            try:
                written = self._sock.send(flight)
            except BlockingIOError:
                written = 0
            except OSError as error:
                output.clear()
                self._close(error.strerror or "lost")
                return False
            if self._tap is not None and written:
                self._tap.sent(self, flight[:written])
            if written != len(flight):
                self._pending = flight[written:] + b"".join(flights)
                output.clear()
                return False
        output.clear()
        return True

    # -- the timer --------------------------------------------------------------------------------

    def _arm(self) -> None:
        """See to it that the timer goes off no later than the next deadline."""
        timer, timers = self._timer, self._premises.loop.timers
        if timer is None:
            self._timer = timers.schedule(self._deadlines.next()[0], self._went_off)
        elif not timer.pending:
            timers.reschedule(timer, self._deadlines.next()[0])
        elif timer.deadline_ns > self._deadlines.phase_due_ns:
            due_ns, _ = self._deadlines.next()
            if due_ns < timer.deadline_ns:
                timers.reschedule(timer, due_ns)

    def _went_off(self) -> None:
        due_ns, limit = self._deadlines.next()
        try:
            if due_ns <= self._premises.loop.now_ns:
                self._run_out(limit)
        except Exception:
            self._close("dropped")  # the loop knows no connection here; it logs what is raised
            raise
        if self._life is not _CLOSED:
            self._arm()

    def _run_out(self, limit: Limit) -> None:
        if limit is _GREET_WAIT:
            self._greet()
        elif limit is Limit.PAUSE:
            self.session.answer(None)
            self._settle()
        elif limit is Limit.LOOKUP:
            assert self._counsel is not None
            self._counsel.expire()
        elif limit is Limit.DELIVERY:
            self._give_up(reply.DELIVERY_SLOW)
        elif limit in (Limit.UNREAD, Limit.LINGER):
            self._close(limit.value)
        else:
            self._time_out(limit)

    def _greet(self) -> None:
        self._deadlines.enter(_IDLE, self._premises.loop.now_ns)
        self.session.greet()
        self._settle()

    def _give_up(self, verdict: Reply) -> None:
        """Answer the open question ourselves; the true answer will find nobody waiting."""
        self._note("no answer", limit=self._deadlines.phase.value)
        self.session.answer(verdict)
        self._settle()

    def _time_out(self, limit: Limit) -> None:
        self._note("timeout", limit=limit.value)
        if self._pending:
            self._close(limit.value)  # who does not read cannot be told
            return
        patience = self._premises.patience
        hostname = self._premises.house.settings.hostname
        self.session.end(reply.timed_out(hostname, patience.sentence(limit)))
        self._settle()

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Everything is said: send our FIN and drain, or close if the client's FIN is here."""
        if self._at_eof:
            self._close("closed")
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._close(error.strerror or "lost")
            return
        if self._tap is not None:
            self._tap.sent(self, b"")
        self._life = Life.LINGERING
        self._watch()
        self._deadlines.enter(Limit.LINGER, self._premises.loop.now_ns)
        self._arm()

    def _close(self, how: str) -> None:
        if self._life is _CLOSED:
            return
        if self._life is _TALKING and not self.session.closing:
            self._note("disconnect", how=how, state=self.session.state.value)
        self._life = _CLOSED
        if self._counsel is not None:
            self._counsel.cancel()
        loop = self._premises.loop
        if self._timer is not None:
            loop.timers.cancel(self._timer)
        if self._events:
            loop.poll.forget(self._sock)
            self._events = 0
        self._pending = b""
        with contextlib.suppress(OSError):  # a close that fails has closed all the same
            self._sock.close()
        if self._tap is not None:
            self._tap.closed(self)
        self._premises.closed(self)
        self.session.lose()  # last: it calls the courier, whose defects must not keep us here

    def _note(self, event: str, **values: object) -> None:
        self._premises.journal.note(event, connection=self.number, client=self.client, **values)
