"""One connection: its wire on one side, its session on the other, its timer between them.

Theory of operation.  A connection lives in up to five stages.  *Arriving*: a proxy has still to
tell whose connection it is.  *Shaking*: a TLS handshake is going on.  *Talking*: octets go to the
session, replies go out, questions go to whom they concern.  *Lingering*: the last reply is
written and our FIN sent; what the client still sends is drained for a while, because closing a
socket with unread input sends a reset, which can destroy the last reply on its way (RFC 9293
section 3.6.1).  *Closed*.

Nobody is read from who does not read: while output is pending, or too much input waits for a
verdict, the socket is not watched for reading, and the kernel holds the sender back.

There is one timer (``TimeoutTimer``); a received chunk costs no timer operation.
"""

from __future__ import annotations

import socket
from enum import Enum
from functools import partial

from mailsrv.inbound.connection_context import ConnectionContext
from mailsrv.inbound.timeout_timer import TimeoutTimer
from mailsrv.policy.runner import PolicyRunner
from mailsrv.runtime.poll import READ, WRITE
from mailsrv.smtp import reply
from mailsrv.smtp.events import Ended, Question, Stage
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.session import Session
from mailsrv.smtp.state_machine import State
from mailsrv.smtp.timeouts import Timeout
from mailsrv.transport.proxy_protocol import ProxyFault, ProxyHeader
from mailsrv.transport.transport import CHUNK_OCTETS, Transport

LINGER_MAX_OCTETS = 64 * 1024
"""How much is drained from a client that goes on sending after our FIN."""


class ConnectionStage(Enum):
    """The stages of a connection."""

    ARRIVING = "arriving"
    SHAKING = "shaking"
    TALKING = "talking"
    LINGERING = "lingering"
    CLOSED = "closed"


# Attributes of an Enum class are slow to look up; these are used for every chunk.
_ARRIVING, _SHAKING, _TALKING, _LINGERING, _CLOSED = ConnectionStage
_GREET_WAIT, _LOOKUP = Timeout.GREET_WAIT, Timeout.LOOKUP
_IDLE, _CONTENT_IDLE = Timeout.IDLE, Timeout.CONTENT_IDLE
_CONTENT, _MESSAGE = State.CONTENT, Stage.MESSAGE
_NO_MORE_COMMANDS = frozenset((State.HANDSHAKE, State.CLOSED))


class Connection:
    """See the module.  ``client`` is the address as text, ``number`` counts from 1; ``admitted``
    is True once the client is known and was let in."""

    __slots__ = (
        *("_alarm", "_asked", "_asking", "_at_eof", "_counsel", "_drained_octets", "_header"),
        *("_implicit_tls", "_life", "_premises", "_tls", "_wire"),
        *("admitted", "client", "number", "session"),
    )

    def __init__(
        self,
        premises: ConnectionContext,
        sock: socket.socket,
        client: str,
        number: int,
        *,
        implicit_tls: bool = False,
    ) -> None:
        self._premises = premises
        self.client = client
        self.number = number
        self.admitted = False
        self.session = Session(premises.session_context, client)
        self._counsel: PolicyRunner | None = None
        self._asked: Question | None = None
        self._asking = False
        self._at_eof = False
        self._header: ProxyHeader | None = None
        self._implicit_tls = implicit_tls
        self._tls = ""
        self._life = _TALKING
        self._drained_octets = 0
        self._alarm = TimeoutTimer(premises.patience, premises.loop, self)
        self._wire = Transport(sock, premises.loop.poll, self, premises.tap)
        if premises.tap is not None:
            premises.tap.opened(self, sock)

    # -- the shell's side -------------------------------------------------------------------------

    def begin(self) -> None:
        """Find out who it is, and let it in."""
        if self.client in self._premises.proxies:
            self._life = _ARRIVING
            self._header = ProxyHeader()
            self._alarm.begin(Timeout.PROXY)
        else:
            self._come_in(b"")

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""
        wire = self._wire
        if events & WRITE:
            wire.resume()
            self._settle()
        if events & wire.events & READ:
            if self._life is _SHAKING:
                self._shake()
                return
            chunk = wire.receive()
            if chunk is None:
                return
            if chunk and self._life is _TALKING:
                self._hear(chunk)
            else:
                self._hear_otherwise(chunk)

    @property
    def in_transaction(self) -> bool:
        """True from an accepted MAIL to the reply to its message."""
        return self.session.envelope is not None

    @property
    def reading(self) -> bool:
        """True while the socket is watched for input."""
        return bool(self._wire.events & READ) and self._life is not _CLOSED

    @property
    def pending_octets(self) -> int:
        """Said and not yet taken by the kernel."""
        return self._wire.unsent_octets

    @property
    def sock(self) -> socket.socket:
        """The socket, for those who must ask the kernel about it."""
        return self._wire.sock

    def change_pace(self, premises: ConnectionContext) -> None:
        """Wait, and bear errors, as ``premises`` say from now on; who came under another
        configuration keeps its rules, but for the waiting."""
        if self._life is not _CLOSED:
            self._alarm.patience = premises.patience
            if premises.policy is self._premises.policy:
                self.session.context = premises.session_context
            self._alarm.arm()

    def end(self, last: Reply) -> None:
        """Say ``last`` and close, whatever was going on."""
        if self._life is _TALKING and not self.session.closing:
            self._asked = None
            self.session.end(last)
            self._settle()
        elif self._life is _ARRIVING or self._life is _SHAKING:
            self.drop()

    def drop(self) -> None:
        """Close at once, without a word."""
        self._close("dropped")

    def lost(self, how: str) -> None:
        """The wire broke, or TLS on it."""
        if self._life is _SHAKING:
            self._note("tls failed", why=how)
        self._close(how)

    # -- coming in --------------------------------------------------------------------------------

    def _hear_header(self, header: ProxyHeader, chunk: bytes) -> None:
        if not chunk:
            self._close("closed")
            return
        try:
            proxied = header.feed(chunk)
        except ProxyFault as fault:
            self._note("proxy header refused", why=fault)
            self._close("refused")
            return
        if proxied is not None:
            if proxied.client is not None:
                self.client = self.session.client = proxied.client
            self._life = _TALKING
            self._come_in(proxied.rest)

    def _come_in(self, rest: bytes) -> None:
        """The client is known, and has sent ``rest`` already: let it in, or turn it away."""
        premises = self._premises
        refusal = premises.admit(self)
        if refusal is not None:
            if self._implicit_tls:
                self._close("refused")  # a reply in the clear would mean nothing to it
            else:
                self.session.end(refusal)
                self._settle()
            return
        self.admitted = True
        if premises.policy.stages:
            self._counsel = PolicyRunner(premises.policy, premises.panel, self.client, self._note)
            self._counsel.begin()
        if self._implicit_tls:
            self._start_tls(rest)
        else:
            self._approach(rest)

    def _approach(self, rest: bytes) -> None:
        """Greet, now or after the greet wait."""
        premises = self._premises
        if premises.patience.ns[_GREET_WAIT]:
            self._alarm.begin(_GREET_WAIT)
            if premises.session_context.settings.greet_teaser:
                self.session.output.append(reply.teaser(premises.session_context.settings.hostname))
                self._wire.send(self.session.output)
            if rest:
                self._hear(rest)
            return
        early: bytes | None = rest or None
        rule = premises.session_context.settings.early_talkers
        if rule != "off" and not rest:
            early = self._wire.receive()
        if early and rule != "off" and self._hear_too_early(early, refuse=rule == "reject"):
            return
        if self._life is _TALKING:
            self._greet()
        if self._life is _TALKING:
            self._hear_at_once(early)

    def _hear_too_early(self, chunk: bytes, *, refuse: bool) -> bool:
        """The client talked before it was greeted; True if that was the end of it."""
        self._note("early talker", octets=len(chunk))
        if refuse:
            self.session.turn_away(
                reply.talked_too_early(self._premises.session_context.settings.hostname)
            )
            self._settle()
        return refuse

    def _hear_at_once(self, chunk: bytes | None) -> None:
        """What came along with the end of a stage: octets, the client's FIN, or nothing."""
        if chunk:
            self._hear(chunk)
        elif chunk is not None:
            self._hear_otherwise(chunk)

    def _greet(self) -> None:
        self._alarm.enter(_IDLE, self._premises.loop.now_ns)
        self.session.greet()
        self._settle()

    # -- TLS --------------------------------------------------------------------------------------

    def _start_tls(self, rest: bytes) -> None:
        """Begin the handshake.  What came behind STARTTLS belongs to it, and makes it fail if it
        is no handshake: it is never interpreted (CVE-2011-0411)."""
        premises = self._premises
        assert premises.tls is not None, "TLS is offered where there is a certificate only"
        self._life = _SHAKING
        self._alarm.begin(Timeout.HANDSHAKE)
        self._wire.start_tls(premises.tls, rest, self._secured)
        if rest:
            self._shake()

    def _secured(self, tls: str) -> None:
        self._tls = tls

    def _shake(self) -> None:
        """Go on with the handshake; what comes behind it in one read is heard at once."""
        chunk = self._wire.receive()
        if self._life is not _SHAKING:
            return
        if not self._tls:
            if chunk is None:
                self._watch()
            else:
                self.lost("the client left")
            return
        self._life = _TALKING
        self._premises.journal.note(
            "tls", connection=self.number, client=self.client, version=self._tls
        )
        self.session.secured(self._tls)
        if self._implicit_tls:
            self._approach(chunk or b"")
        else:
            self._settle()
            if self._life is _TALKING:
                self._hear_at_once(chunk)

    # -- reading ----------------------------------------------------------------------------------

    def _hear(self, chunk: bytes) -> None:
        session, alarm = self.session, self._alarm
        phase = alarm.phase
        now_ns = session.now_ns = self._premises.loop.now_ns
        if phase is _CONTENT_IDLE:
            alarm.content_came(len(chunk), now_ns)
        elif phase is _GREET_WAIT:
            self._hear_too_early(chunk, refuse=True)
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
        elif self._wire.send(session.output):
            if phase is _IDLE and session.state is not _CONTENT and not session.mid_command:
                alarm.since_ns = now_ns  # idle again, as nearly always
            else:
                alarm.follow(session, 0)
        elif self._life is _TALKING:
            self._settle()

    def _hear_otherwise(self, chunk: bytes) -> None:
        """The client's FIN, what it still sends after ours, or what a proxy says."""
        if self._life is _TALKING:
            self._at_eof = True
            self._watch()
            self._settle()
        elif self._header is not None and self._life is _ARRIVING:
            self._hear_header(self._header, chunk)
        else:
            self._drained_octets += len(chunk)
            if not chunk or self._drained_octets >= LINGER_MAX_OCTETS:
                self._close("drained")

    # -- after anything happened ------------------------------------------------------------------

    def _settle(self) -> None:
        """Bring everything in line with the session: questions, output, end, deadline."""
        session, wire = self.session, self._wire
        while True:
            if session.events is not None:
                self._record()  # before the next question: what was accepted counts in it
            while session.question is not None and session.question is not self._asked:
                self._ask(session.question)
                if session.events is not None:
                    self._record()
            if session.output and not wire.unsent_octets:
                wire.send(session.output)
            if self._life is _SHAKING:
                self._watch()
            if self._life is not _TALKING:
                return
            if wire.unsent_octets or session.question is not None:
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
        if session.question is not None or wire.unsent_octets:
            self._watch()
        elif self._at_eof:
            self._finish()
            return
        elif wire.events != READ:
            self._watch()
        self._alarm.follow(session, wire.unsent_octets)

    def _upgrade(self) -> None:
        """The 220 to STARTTLS is written."""
        if self._at_eof:
            self._close("closed")
        else:
            self._start_tls(self.session.take_rest())

    def _record(self) -> None:
        """Tell the log what the session has to say."""
        session, premises = self.session, self._premises
        events, session.events = session.events, None
        if not events:
            return
        premises.journal.record(self.number, self.client, premises.loop.now_ns, events)
        if premises.rates is not None:
            for one in events:
                if isinstance(one, Ended) and one.verdict is not None and one.verdict.positive:
                    premises.rates.charge_message(self.client)

    def _watch(self) -> None:
        """Watch the socket for what we can use now."""
        wire = self._wire
        wire.watch(reading=not (self._at_eof or wire.unsent_octets or self._is_full()))

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
            assert self._counsel is not None, "stages are asked about where there is a counsel"
            self._counsel.ask(question, partial(self._answered, question))
        self._asking = False

    def _answered(self, question: Question, verdict: Reply | None) -> None:
        """Go on with an answer.  It may come from anybody's turn of the loop: a defect of ours
        must not leave this connection hanging."""
        session = self.session
        if session.question is not question:
            return  # nobody waits for this answer any more
        session.now_ns = self._premises.loop.now_ns
        if self._asking:
            session.answer(verdict)
            return
        try:
            session.answer(verdict)
            self._settle()
        except Exception:
            self._close("dropped")
            raise

    # -- limits -----------------------------------------------------------------------------------

    def run_out(self, limit: Timeout) -> None:
        """A limit was reached."""
        self.session.now_ns = self._premises.loop.now_ns
        if limit is _GREET_WAIT:
            self._greet()
        elif limit is Timeout.PAUSE:
            self.session.answer(None)
            self._settle()
        elif limit is _LOOKUP:
            assert self._counsel is not None
            self._counsel.expire()
        elif limit is Timeout.DELIVERY:
            # The true answer will find nobody waiting.
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
        if self._wire.unsent_octets or self._life is not _TALKING:
            self._close(limit.value)  # who does not read, or not yet speak, cannot be told
            return
        hostname = self._premises.session_context.settings.hostname
        self.session.end(reply.timed_out(hostname, self._alarm.patience.sentence(limit)))
        self._settle()

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Everything is said: send our FIN and drain, or close if the client's FIN is here."""
        if self._at_eof:
            self._close("closed")
            return
        if self._wire.half_close():
            self._life = _LINGERING
            self._watch()
            self._alarm.begin(Timeout.LINGER)

    def _close(self, how: str) -> None:
        if self._life is _CLOSED:
            return
        if self._life is _TALKING and not self.session.closing:
            self._note("disconnect", how=how, state=self.session.state.value)
        self._life = _CLOSED
        self._alarm.cancel()
        self._wire.close()
        self._premises.closed(self)
        if self._counsel is not None:
            self._counsel.cancel()
        try:
            # It calls the courier, whose defects must not keep us here.
            self.session.lose()
        finally:
            if self.session.events is not None:
                self._record()

    def _note(self, event: str, **values: object) -> None:
        self._premises.journal.note(event, connection=self.number, client=self.client, **values)
