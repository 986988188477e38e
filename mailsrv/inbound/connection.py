"""One connection: its transport on one side, its session on the other, its timer between them.

Theory of operation.  A connection goes through up to five stages.  *Preface*: a proxy has still
to say whose connection it is (``proxy_preface``).  *Handshake*: a TLS handshake is going on.
*Session*: octets go to the session, its replies go out, its questions go to the policy or to the
courier.  *Draining*: the last reply is written and our FIN sent; what the client still sends is
read and thrown away for a while (``closing_drain``).  *Closed*.

Backpressure: a client that does not read its replies is not read from.  While output is pending,
or too much input waits for a verdict, the socket is not watched for reading, and the kernel holds
the sender back.

There is one timer (``TimeoutTimer``); a received chunk costs no timer operation.
"""

from __future__ import annotations

import socket
from enum import Enum
from functools import partial

from mailsrv.inbound.connection_context import ConnectionContext
from mailsrv.inbound.proxy_preface import ProxyPreface
from mailsrv.inbound.timeout_timer import TimeoutTimer
from mailsrv.policy.runner import PolicyRunner
from mailsrv.runtime.poll import READ, WRITE
from mailsrv.smtp import reply
from mailsrv.smtp.events import Ended, Question, Stage
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.session import Session
from mailsrv.smtp.state_machine import State
from mailsrv.smtp.timeouts import Timeout
from mailsrv.transport.closing_drain import ClosingDrain
from mailsrv.transport.proxy_protocol import ProxyFault
from mailsrv.transport.transport import CHUNK_OCTETS, Transport


class ConnectionStage(Enum):
    """The stages of a connection."""

    PREFACE = "preface"
    HANDSHAKE = "handshake"
    SESSION = "session"
    DRAINING = "draining"
    CLOSED = "closed"


# Attributes of an Enum class are slow to look up; these are used for every chunk.
_PREFACE, _HANDSHAKE, _SESSION, _DRAINING, _CLOSED = ConnectionStage
_GREET_WAIT, _LOOKUP = Timeout.GREET_WAIT, Timeout.LOOKUP
_IDLE, _CONTENT_IDLE = Timeout.IDLE, Timeout.CONTENT_IDLE
_CONTENT, _MESSAGE = State.CONTENT, Stage.MESSAGE
_NO_MORE_COMMANDS = frozenset((State.HANDSHAKE, State.CLOSED))


class Connection:
    """See the module.  ``client`` is the address as text, ``number`` counts from 1; ``admitted``
    is True once the client is known and was let in."""

    __slots__ = (
        *("_asked", "_asking", "_at_eof", "_context", "_drain", "_implicit_tls"),
        *("_policy_runner", "_preface", "_stage", "_timer", "_tls", "_transport"),
        *("admitted", "client", "number", "session"),
    )

    def __init__(
        self,
        context: ConnectionContext,
        sock: socket.socket,
        client: str,
        number: int,
        *,
        implicit_tls: bool = False,
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
        self._preface: ProxyPreface | None = None
        self._drain: ClosingDrain | None = None
        self._implicit_tls = implicit_tls
        self._tls = ""
        self._stage = _SESSION
        self._timer = TimeoutTimer(context.timeouts, context.loop, self)
        self._transport = Transport(sock, context.loop.poll, self, context.tap)
        if context.tap is not None:
            context.tap.opened(self, sock)

    # -- what the server and the loop call ---------------------------------------------------------

    def begin(self) -> None:
        """Find out whose connection it is, and admit the client."""
        if self.client in self._context.proxies:
            self._stage = _PREFACE
            self._preface = ProxyPreface(self)
            self._timer.begin(Timeout.PROXY)
        else:
            self._admit(b"")

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""
        transport = self._transport
        if events & WRITE:
            transport.resume()
            self._settle()
        if events & transport.events & READ:
            if self._stage is _HANDSHAKE:
                self._handshake()
                return
            chunk = transport.receive()
            if chunk is None:
                return
            if chunk and self._stage is _SESSION:
                self._receive(chunk)
            else:
                self._receive_otherwise(chunk)

    @property
    def in_transaction(self) -> bool:
        """True from an accepted MAIL to the reply to its message."""
        return self.session.envelope is not None

    @property
    def reading(self) -> bool:
        """True while the socket is watched for input."""
        return bool(self._transport.events & READ) and self._stage is not _CLOSED

    @property
    def pending_octets(self) -> int:
        """Replies that the kernel has not taken yet."""
        return self._transport.unsent_octets

    @property
    def sock(self) -> socket.socket:
        """The socket, for questions to the kernel."""
        return self._transport.sock

    def change_timeouts(self, context: ConnectionContext) -> None:
        """Take the timeouts and error limits of ``context``.  A connection that came under
        another configuration keeps its rules, but for the timeouts."""
        if self._stage is not _CLOSED:
            self._timer.patience = context.timeouts
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
        if self._stage is _HANDSHAKE:
            self._note("tls failed", why=how)
        self._close(how)

    # -- before the session begins -----------------------------------------------------------------

    def proxied(self, client: str | None, rest: bytes) -> None:
        """The preface is whole: see ``ProxiedConnection``."""
        self._preface = None
        if client is not None:
            self.client = self.session.client = client
        self._stage = _SESSION
        self._admit(rest)

    def preface_failed(self, fault: ProxyFault | None) -> None:
        """There is none, or no whole one."""
        if fault is not None:
            self._note("proxy header refused", why=fault)
        self._close("closed" if fault is None else "refused")

    def _admit(self, rest: bytes) -> None:
        """The client is known, and has sent ``rest`` already: admit it, or turn it away."""
        context = self._context
        refusal = context.admit(self)
        if refusal is not None:
            if self._implicit_tls:
                self._close("refused")  # a reply in the clear would mean nothing to it
            else:
                self.session.end(refusal)
                self._settle()
            return
        self.admitted = True
        if context.policy.stages:
            self._policy_runner = PolicyRunner(
                context.policy, context.policy_context, self.client, self._note
            )
            self._policy_runner.begin()
        if self._implicit_tls:
            self._start_tls(rest)
        else:
            self._before_greeting(rest)

    def _before_greeting(self, rest: bytes) -> None:
        """Send the greeting, now or after the greet wait."""
        context = self._context
        if context.timeouts.ns[_GREET_WAIT]:
            self._timer.begin(_GREET_WAIT)
            if context.session_context.settings.greet_teaser:
                self.session.output.append(reply.teaser(context.session_context.settings.hostname))
                self._transport.send(self.session.output)
            if rest:
                self._receive(rest)
            return
        early: bytes | None = rest or None
        rule = context.session_context.settings.early_talkers
        if rule != "off" and not rest:
            early = self._transport.receive()
        if early and rule != "off" and self._receive_too_early(early, refuse=rule == "reject"):
            return
        if self._stage is _SESSION:
            self._greet()
        if self._stage is _SESSION:
            self._receive_at_once(early)

    def _receive_too_early(self, chunk: bytes, *, refuse: bool) -> bool:
        """The client sent octets before the greeting; True if that ended the connection."""
        self._note("early talker", octets=len(chunk))
        if refuse:
            self.session.turn_away(
                reply.talked_too_early(self._context.session_context.settings.hostname)
            )
            self._settle()
        return refuse

    def _receive_at_once(self, chunk: bytes | None) -> None:
        """What came along with the end of a stage: octets, the client's FIN, or nothing."""
        if chunk:
            self._receive(chunk)
        elif chunk is not None:
            self._receive_otherwise(chunk)

    def _greet(self) -> None:
        self._timer.enter(_IDLE, self._context.loop.now_ns)
        self.session.greet()
        self._settle()

    # -- TLS ---------------------------------------------------------------------------------------

    def _start_tls(self, rest: bytes) -> None:
        """Begin the handshake.  What came behind STARTTLS belongs to it, and makes it fail if it
        is no handshake: it is never interpreted (CVE-2011-0411)."""
        context = self._context
        assert context.tls is not None, "TLS is offered where there is a certificate only"
        self._stage = _HANDSHAKE
        self._timer.begin(Timeout.HANDSHAKE)
        self._transport.start_tls(context.tls, rest, self._secured)
        if rest:
            self._handshake()

    def _secured(self, tls: str) -> None:
        self._tls = tls

    def _handshake(self) -> None:
        """Go on with the handshake; what comes behind it in the same read is used at once."""
        chunk = self._transport.receive()
        if self._stage is not _HANDSHAKE:
            return
        if not self._tls:
            if chunk is None:
                self._watch()
            else:
                self.lost("the client left")
            return
        self._stage = _SESSION
        self._context.event_log.note(
            "tls", connection=self.number, client=self.client, version=self._tls
        )
        self.session.secured(self._tls)
        if self._implicit_tls:
            self._before_greeting(chunk or b"")
        else:
            self._settle()
            if self._stage is _SESSION:
                self._receive_at_once(chunk)

    # -- reading -----------------------------------------------------------------------------------

    def _receive(self, chunk: bytes) -> None:
        session, timer = self.session, self._timer
        phase = timer.phase
        now_ns = session.now_ns = self._context.loop.now_ns
        if phase is _CONTENT_IDLE:
            timer.content_came(len(chunk), now_ns)
        elif phase is _GREET_WAIT:
            self._receive_too_early(chunk, refuse=True)
            return
        elif session.question is not None:
            session.receive(chunk)
            if session.buffered_octets > CHUNK_OCTETS:
                self._watch()
            return
        session.receive(chunk)
        if (
            session.question is not None
            or session.state in _NO_MORE_COMMANDS
            or session.congested
            or session.events is not None
        ):
            self._settle()
        elif self._transport.send(session.output):
            if phase is _IDLE and session.state is not _CONTENT and not session.mid_command:
                timer.since_ns = now_ns  # idle again, as nearly always
            else:
                timer.follow(session, 0)
        elif self._stage is _SESSION:
            self._settle()

    def _receive_otherwise(self, chunk: bytes) -> None:
        """The client's FIN, what it still sends after ours, or a proxy's preface."""
        if self._stage is _SESSION:
            self._at_eof = True
            self._watch()
            self._settle()
        elif self._preface is not None:
            self._preface.receive(chunk)
        elif self._drain is None or self._drain.receive(chunk):
            self._close("drained")

    # -- after anything happened -------------------------------------------------------------------

    def _settle(self) -> None:
        """Bring everything in line with the session: questions, output, end, deadline."""
        session, transport = self.session, self._transport
        while True:
            if session.events is not None:
                self._record()  # before the next question: what was accepted counts in it
            while session.question is not None and session.question is not self._asked:
                self._ask(session.question)
                if session.events is not None:
                    self._record()
            if session.output and not transport.unsent_octets:
                transport.send(session.output)
            if self._stage is _HANDSHAKE:
                self._watch()
            if self._stage is not _SESSION:
                return
            if transport.unsent_octets or session.question is not None:
                break
            if session.closing:
                self._finish()
                return
            if session.upgrading:
                self._upgrade()
                return
            if not session.congested:
                break
            session.proceed()
        if session.question is not None or transport.unsent_octets:
            self._watch()
        elif self._at_eof:
            self._finish()
            return
        elif transport.events != READ:
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
        context.event_log.record(self.number, self.client, context.loop.now_ns, events)
        if context.rates is not None:
            for one in events:
                if isinstance(one, Ended) and one.verdict is not None and one.verdict.positive:
                    context.rates.charge_message(self.client)

    def _watch(self) -> None:
        """Watch the socket for what can be used now."""
        transport = self._transport
        transport.watch(reading=not (self._at_eof or transport.unsent_octets or self._is_full()))

    def _is_full(self) -> bool:
        return self.session.buffered_octets > CHUNK_OCTETS and self._stage is _SESSION

    # -- questions ---------------------------------------------------------------------------------

    def _ask(self, question: Question) -> None:
        """Pass a question on to the courier or the policy, which may answer within the call."""
        self._asked, self._asking = question, True
        stage = question.stage
        if stage is _MESSAGE:
            assert self.session.sink is not None
            self.session.sink.finish(partial(self._answered, question))
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
        session.now_ns = self._context.loop.now_ns
        if self._asking:
            session.answer(verdict)
            return
        try:
            session.answer(verdict)
            self._settle()
        except Exception:
            self._close("dropped")
            raise

    # -- limits ------------------------------------------------------------------------------------

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
            self._close(
                limit.value
            )  # a client that does not read, or has no TLS yet, cannot be told
            return
        hostname = self._context.session_context.settings.hostname
        self.session.end(reply.timed_out(hostname, self._timer.patience.sentence(limit)))
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
            self._timer.begin(Timeout.LINGER)

    def _close(self, how: str) -> None:
        if self._stage is _CLOSED:
            return
        if self._stage is _SESSION and not self.session.closing:
            self._note("disconnect", how=how, state=self.session.state.value)
        self._stage = _CLOSED
        self._timer.cancel()
        self._transport.close()
        self._context.closed(self)
        if self._policy_runner is not None:
            self._policy_runner.cancel()
        try:
            # It calls the courier, whose defects must not keep us here.
            self.session.lose()
        finally:
            if self.session.events is not None:
                self._record()

    def _note(self, event: str, **values: object) -> None:
        self._context.event_log.note(event, connection=self.number, client=self.client, **values)
