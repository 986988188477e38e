"""One connection: how it begins, and how it is read.

Theory of operation.  A connection goes through up to five stages.  *Preface*: a proxy has still
to say whose connection it is (``proxy_preface``).  *Handshake*: a TLS handshake is going on.
*Session*: octets go to the session, its replies go out, its questions go to the policy or to the
courier.  *Draining*: the last reply is written and our FIN sent; what the client still sends is
read and thrown away for a while (``closing_drain``).  *Closed*.

Backpressure: a client that does not read its replies is not read from.  While output is pending,
or too much input waits for a verdict, the socket is not watched for reading, and the kernel holds
the sender back.

Fairness: a turn is ``TURN_COMMANDS`` commands.  A connection whose turn is over waits in the loop's
backlog for another one, and so does a read that will be work for a while: of bulk content, of many
TLS records, of a step of a TLS handshake.  The first command of a read needs no turn: so a client
that waits for its replies never meets the backlog.
"""

from __future__ import annotations

import socket

from mailsrv.inbound.connection_context import ConnectionContext
from mailsrv.inbound.conversation import INPUT_OCTETS_MAX, ConnectionStage, Conversation
from mailsrv.inbound.proxy_preface import ProxyPreface
from mailsrv.policy.runner import PolicyRunner
from mailsrv.runtime.poll import READ, WRITE
from mailsrv.smtp import reply
from mailsrv.smtp.state_machine import State
from mailsrv.smtp.timeouts import Timeout
from mailsrv.transport.proxy_protocol import ProxyFault

BULK_OCTETS = 16 * 1024
"""Content that comes in reads of this size is read by turns."""

# Attributes of an Enum class are slow to look up; these are used for every chunk.
_PREFACE, _HANDSHAKE, _SESSION, _, _CLOSED = ConnectionStage
_GREET_WAIT, _IDLE, _CONTENT_IDLE = Timeout.GREET_WAIT, Timeout.IDLE, Timeout.CONTENT_IDLE
_IN_MESSAGE = frozenset((State.CONTENT, State.CHUNKS))


class Connection(Conversation):
    """See the module."""

    __slots__ = ("_implicit_tls", "_preface", "_tls")

    def __init__(
        self,
        context: ConnectionContext,
        sock: socket.socket,
        client: str,
        number: int,
        *,
        implicit_tls: bool = False,
    ) -> None:
        super().__init__(context, sock, client, number)
        self._preface: ProxyPreface | None = None
        self._implicit_tls = implicit_tls
        self._tls = ""
        self.session.begin_turn()

    # -- what the server and the loop call ---------------------------------------------------------

    def begin(self) -> None:
        """Find out whose connection it is, and admit the client."""
        if self.client in self._context.proxies:
            self._stage = _PREFACE
            self._preface = ProxyPreface()
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
            if not self._by_turns:
                chunk = transport.receive(self._memory.read_octets)
                if chunk and self._stage is _SESSION:
                    self._receive(chunk)
                elif chunk is not None:
                    self._receive_otherwise(chunk)
            elif self._in_backlog:
                transport.watch(reading=False)  # or the poll would tell it again in each pass
            else:
                self._put_off()

    def take_turn(self) -> None:
        """The loop's backlog has come to this connection."""
        if self._stage is _CLOSED:
            return
        session, loop = self.session, self._context.loop
        self._in_backlog = self._by_turns = False
        session.begin_turn()
        before = session.lines
        if self._stage is _HANDSHAKE:
            self._handshake()
        elif self._stage is _SESSION and session.unfinished:
            session.now_ns = loop.now_ns
            session.proceed()
            self._settle()
        elif self._wants_input():
            self._read()
        if self._stage is _HANDSHAKE or session.lines > before + 1:
            self._by_turns = True  # it sends many commands at once, and will again
        if not self._in_backlog:
            self._watch()

    @property
    def reading(self) -> bool:
        """True while the socket is watched for input."""
        return bool(self._transport.events & READ) and self._stage is not _CLOSED

    @property
    def sock(self) -> socket.socket:
        """The socket, for questions to the kernel."""
        return self._transport.sock

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
        settings = context.session_context.settings
        if context.timeouts.ns[_GREET_WAIT] and not self._may_talk_early():
            self._timer.begin(_GREET_WAIT)
            if settings.greet_teaser:
                self.session.output.append(reply.teaser(settings.hostname))
                self._transport.send(self.session.output)
            if rest:
                self._receive(rest)
            return
        early: bytes | None = rest or None
        rule = settings.early_talkers
        if rule != "off":
            early = early or self._transport.receive(self._memory.read_octets)
            if early:
                refuse = rule == "reject" and not self._may_talk_early()
                if self._receive_too_early(early, refuse=refuse):
                    return
        if self._stage is _SESSION:
            self._greet()
        if self._stage is _SESSION:
            self._receive_at_once(early)

    def _may_talk_early(self) -> bool:
        return self._context.policy.tolerates("early_talker", self.client)

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

    # -- TLS ---------------------------------------------------------------------------------------

    def _start_tls(self, rest: bytes) -> None:
        """Begin the handshake.  What came behind STARTTLS belongs to it, and makes it fail if it
        is no handshake: it is never interpreted (CVE-2011-0411)."""
        context = self._context
        assert context.tls is not None, "TLS is offered where there is a certificate only"
        self._stage = _HANDSHAKE
        self._by_turns = True
        self._timer.begin(Timeout.HANDSHAKE)
        self._transport.start_tls(context.tls, rest, self._secured)
        self._account()
        if rest:
            self._put_off()

    def _secured(self, tls: str) -> None:
        self._tls = tls

    def _handshake(self) -> None:
        """Go on with the handshake; what comes behind it in the same read is used at once."""
        chunk = self._transport.receive(self._memory.read_octets)
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

    def _read(self) -> None:
        chunk = self._transport.receive(self._memory.read_octets)
        if chunk and self._stage is _SESSION:
            self._receive(chunk)
        elif chunk is not None:
            self._receive_otherwise(chunk)

    def _receive(self, chunk: bytes) -> None:
        session, timer = self.session, self._timer
        phase = timer.phase
        now_ns = session.now_ns = self._context.loop.now_ns
        if phase is _IDLE:
            pass  # as nearly always
        elif phase is _CONTENT_IDLE:
            timer.content_came(len(chunk), now_ns)
            if len(chunk) >= BULK_OCTETS:
                self._by_turns = True
        elif phase is _GREET_WAIT:
            self._receive_too_early(chunk, refuse=True)
            return
        elif session.question is not None:
            session.receive(chunk)
            self._account()
            if session.buffered_octets > INPUT_OCTETS_MAX:
                self._watch()
            return
        session.receive(chunk)
        if session.attention:
            self._settle()
        elif self._transport.send(session.output):
            if phase is _IDLE and not session.mid_command and session.state not in _IN_MESSAGE:
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
            self._preface.receive(self, chunk)
        elif self._drain is None or self._drain.receive(chunk):
            self._close("drained")
