"""One connection once its client is known: session, transport and timer, kept in line.

Theory of operation.  Whatever happens to a connection ends in ``_settle``: it logs what the session
reports, passes its questions on to the policy or to the courier, sends its replies, and brings the
end, the next turn, what the socket is watched for and the deadline in line with the session.

Accepted means accepted: the event log writes the line of an accepted message at once, and the reply
leaves only after ``_settle`` has logged it.

There is one timer (``TimeoutTimer``); a received chunk costs no timer operation.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from enum import Enum
from functools import partial

from mailsrv.inbound.connection_context import ConnectionContext
from mailsrv.inbound.timeout_timer import TimeoutTimer
from mailsrv.policy.runner import PolicyRunner
from mailsrv.runtime.poll import READ
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question, Stage
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.session import Session
from mailsrv.smtp.state_machine import State
from mailsrv.smtp.timeouts import Timeout
from mailsrv.transport.closing_drain import ClosingDrain
from mailsrv.transport.transport import Transport

LOG_LINES_MAX = 100
"""Of one connection, beside the lines of accepted messages; the rest are counted."""
INPUT_OCTETS_MAX = 64 * 1024
"""Above it a connection that waits for a verdict is not read from."""
TLS_OCTETS = 48 * 1024
"""What TLS costs a connection in memory, about."""
MESSAGE_COMMANDS = 4
"""What a message that is stored counts in its turn beside its commands."""


class ConnectionStage(Enum):
    """The stages of a connection."""

    PREFACE = "preface"
    HANDSHAKE = "handshake"
    SESSION = "session"
    DRAINING = "draining"
    CLOSED = "closed"


# Attributes of an Enum class are slow to look up; these are used for every chunk.
_PREFACE, _HANDSHAKE, _SESSION, _DRAINING, _CLOSED = ConnectionStage
_GREET_WAIT, _LOOKUP, _IDLE = Timeout.GREET_WAIT, Timeout.LOOKUP, Timeout.IDLE
_LINGER = Timeout.LINGER
_MESSAGE = Stage.MESSAGE
_SAID_ALL, _UPGRADING = State.CLOSED, State.HANDSHAKE


class Conversation(ABC):
    """See the module.  ``client`` is the address as text, ``number`` counts from 1; ``admitted``
    is True once the client is known and was let in.  How a connection begins, and how it is read,
    is for ``Connection``."""

    __slots__ = (
        *("_asked", "_asking", "_at_eof", "_by_turns", "_context", "_drain", "_held_octets"),
        *("_in_backlog", "_lines_left", "_memory", "_policy_runner", "_stage"),
        *("_timer", "_transport", "admitted", "client", "number", "session"),
    )

    def __init__(
        self,
        context: ConnectionContext,
        sock: socket.socket,
        client: str,
        number: int,
    ) -> None:
        self._context = context
        self.client = client
        self.number = number
        self.admitted = False
        self.session = Session(context.session_context, client)
        self._policy_runner: PolicyRunner | None = None
        self._asked: Question | None = None
        self._asking = False
        self._at_eof = False
        self._drain: ClosingDrain | None = None
        self._stage = _SESSION
        self._by_turns = False  # read from the backlog only
        self._in_backlog = False
        self._memory = context.memory
        self._held_octets = 0
        self._lines_left = LOG_LINES_MAX
        self._timer = TimeoutTimer(context.timeouts, context.loop, self)
        self._transport = Transport(sock, context.loop.poll, self, context.tap)
        if context.tap is not None:
            context.tap.opened(self, sock)

    @abstractmethod
    def ready(self, events: int) -> None:
        """The poll found the socket ready."""

    @abstractmethod
    def take_turn(self) -> None:
        """The loop's backlog has come to this connection."""

    @abstractmethod
    def _start_tls(self, rest: bytes) -> None:
        """Begin the handshake, to which ``rest`` belongs."""

    # -- what the server, the policy and the timer call --------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """True from an accepted MAIL to the reply to its message."""
        return self.session.envelope is not None

    @property
    def idle_since_ns(self) -> int | None:
        """Since when it has waited for a command outside of a transaction; None if it does not."""
        if self._stage is not _SESSION or self.session.state is _SAID_ALL or self.in_transaction:
            return None
        return self._timer.since_ns if self._timer.phase is _IDLE else None

    @property
    def pending_octets(self) -> int:
        """Replies that the kernel has not taken yet."""
        return self._transport.unsent_octets

    def change_timeouts(self, context: ConnectionContext) -> None:
        """Take the timeouts and error limits of ``context``.  A connection that came under
        another configuration keeps its rules, but for the timeouts."""
        if self._stage is not _CLOSED:
            self._timer.timeouts = context.timeouts
            if context.policy is self._context.policy:
                self.session.context = context.session_context
            self._timer.arm()

    def end(self, last: Reply) -> None:
        """Send ``last`` and close, whatever was going on."""
        if self._stage is _SESSION and not self.session.closing:
            self._asked = None
            self.session.end(last)
            self._settle()
        elif self._stage is _PREFACE or self._stage is _HANDSHAKE:
            self.drop()

    def drop(self) -> None:
        """Close at once, without a reply."""
        self._close("dropped")

    def lost(self, how: str) -> None:
        """The socket failed, or TLS on it."""
        if self._stage is _HANDSHAKE and not self._is_health_check():
            self._note("tls failed", why=how)
        self._close(how)

    def laborious(self) -> None:
        """What is read is more work than its octets tell: read it by turns."""
        self._by_turns = True

    # -- after anything happened -------------------------------------------------------------------

    def _settle(self) -> None:
        """Bring everything in line with the session: questions, output, end, deadline."""
        session, transport = self.session, self._transport
        while True:
            if session.events is not None:
                self._record()  # before the next question, and before replies leave
            question = session.question
            if question is None or question is self._asked:
                break
            self._ask(question)
        session.attention = False
        if session.output and not transport.unsent_octets:
            transport.send(session.output)
        if self._stage is not _SESSION:
            if self._stage is _HANDSHAKE:
                self._watch()
            return
        if session.question is not None or transport.unsent_octets:
            self._account()
            self._watch()
        elif session.state is _SAID_ALL:
            self._finish()
            return
        elif session.state is _UPGRADING:
            self._upgrade()
            return
        elif session.unfinished:
            self._account()
            self._put_off()
        elif self._at_eof:
            self._finish()
            return
        else:
            if self._held_octets:
                self._account()
            if transport.events != READ:
                self._watch()
        self._timer.follow(session, transport.unsent_octets)

    def _upgrade(self) -> None:
        """The 220 to STARTTLS is written."""
        if self._at_eof:
            self._close("closed")
        else:
            self._start_tls(self.session.take_rest())

    def _record(self) -> None:
        """Write the session's events into the log."""
        session, context = self.session, self._context
        events, session.events = session.events, None
        if not events:
            return
        self._lines_left = context.event_log.record(
            self.number, self.client, context.loop.now_ns, events, self._lines_left
        )
        if session.refused_recipients:
            context.rates.charge_refusals(self.client, events)

    def _watch(self) -> None:
        """Watch the socket for what can be used now."""
        self._transport.watch(reading=self._wants_input())

    def _wants_input(self) -> bool:
        """False while input could not be used, or its replies would not be read."""
        return not (
            self._at_eof
            or self._transport.unsent_octets
            or (self.session.buffered_octets > INPUT_OCTETS_MAX and self._stage is _SESSION)
        )

    def _account(self) -> None:
        """Tell the memory budget what is held: input not yet used, replies not yet taken."""
        held = self.session.buffered_octets + self._transport.unsent_octets
        if self._transport.under_tls:
            held += TLS_OCTETS
        if self._stage is _CLOSED:
            held = 0
        self._memory.hold(held - self._held_octets)
        self._held_octets = held

    def _put_off(self) -> None:
        """Wait for a turn in the loop's backlog."""
        if not self._in_backlog:
            self._in_backlog = self._by_turns = True
            self._context.loop.put_off(self)

    def _greet(self) -> None:
        self._timer.enter(_IDLE, self._context.loop.now_ns)
        self.session.greet()
        self._settle()

    # -- questions ---------------------------------------------------------------------------------

    def _ask(self, question: Question) -> None:
        """Pass a question on to the courier or the policy, which may answer within the call."""
        self._asked, self._asking = question, True
        stage = question.stage
        if stage is _MESSAGE:
            session = self.session
            assert session.transaction is not None
            assert session.transaction.sink is not None
            session.turn_end -= MESSAGE_COMMANDS
            session.transaction.sink.finish(partial(self._answered, question))
        elif stage is not Stage.PAUSE:  # that one the timer answers
            assert self._policy_runner is not None, "stages are asked about where a policy runs"
            self._policy_runner.ask(question, partial(self._answered, question))
        self._asking = False

    def _answered(self, question: Question, verdict: Reply | None) -> None:
        """Go on with an answer.  It may come while the loop works for another handler: a defect
        of ours must not leave this connection hanging."""
        session = self.session
        if session.question is not question:
            return  # it is not awaited any more
        context = self._context
        session.now_ns = context.loop.now_ns
        if context.rates.limits_mail and verdict is not None and verdict.positive:
            context.rates.charge_message(self.client)  # nothing but a message is answered so
        if self._asking:
            session.answer(verdict)
            return
        try:
            session.answer(verdict)
            self._settle()
        except Exception:
            self._close("dropped")
            raise

    # -- timeouts ----------------------------------------------------------------------------------

    def timed_out(self, limit: Timeout) -> None:
        """A limit was reached."""
        self.session.now_ns = self._context.loop.now_ns
        if limit is _GREET_WAIT:
            self._greet()
        elif limit is Timeout.PAUSE:
            self.session.answer(None)
            self._settle()
        elif limit is _LOOKUP:
            assert self._policy_runner is not None
            self._policy_runner.expire()
        elif limit is Timeout.DELIVERY:
            # The true answer, when it comes, is not awaited any more.
            self._note("no answer", limit=limit.value)
            self.session.answer(reply.DELIVERY_SLOW)
            self._settle()
        elif limit in (Timeout.UNREAD, Timeout.LINGER):
            self._close(limit.value)
        elif limit in (Timeout.PROXY, Timeout.HANDSHAKE):
            self._note("timeout", limit=limit.value)
            self._close(limit.value)
        else:
            self._time_out(limit)

    def _time_out(self, limit: Timeout) -> None:
        self._note("timeout", limit=limit.value)
        if self._transport.unsent_octets or self._stage is not _SESSION:
            self._close(limit.value)  # it does not read, or has no TLS yet: it cannot be told
            return
        hostname = self._context.session_context.settings.hostname
        self.session.end(reply.timed_out(hostname, self._timer.timeouts.sentence(limit)))
        self._settle()

    # -- the end -----------------------------------------------------------------------------------

    def _finish(self) -> None:
        """The last reply is sent: send our FIN and drain, or close if the client's FIN is here."""
        if self._at_eof:
            self._close("closed")
            return
        if self._transport.half_close():
            self._stage = _DRAINING
            self._drain = ClosingDrain()
            self._watch()
            self._timer.begin(_LINGER)

    def _close(self, how: str) -> None:
        if self._stage is _CLOSED:
            return
        session, stage, self._stage = self.session, self._stage, _CLOSED
        said_all = session.state is _SAID_ALL
        if stage is _SESSION and not said_all and not self._is_health_check():
            self._note("disconnect", how=how, state=session.state.value)
        self._timer.cancel()
        self._transport.close()
        if self._held_octets:
            self._account()
        self._context.closed(self)
        if self._policy_runner is not None:
            self._policy_runner.cancel()
        try:
            # It calls the courier, whose defects must not keep us here.
            if not said_all:
                session.lose()
        finally:
            if session.events is not None:
                self._record()
            if self._lines_left < 0:
                self._context.event_log.note(
                    "lines left out",
                    connection=self.number,
                    client=self.client,
                    lines=-self._lines_left,
                )

    def _is_health_check(self) -> bool:
        """True for a load balancer that connected and left again without a command."""
        return not self.session.lines and self.client in self._context.health_checks

    def _note(self, event: str, **values: object) -> None:
        event_log = self._context.event_log
        self._lines_left -= 1
        if self._lines_left >= 0:
            event_log.note(event, connection=self.number, client=self.client, **values)
        else:
            event_log.count(event, **values)
