"""The part of a session that the command handlers act on, and what all sessions share.

Theory of operation.  ``SessionContext`` is made once for a server's settings and holds what is the
same for every session, with its replies encoded once.  ``SessionState`` is one session without its
input: the state (``state_machine``), the transaction in progress, the counts of errors and of
commands without use, and the output.  The handlers change it through its methods alone; ``Session``
adds the parsing of octets on top.

Output is a list of flights, each to be written by itself.  A reply that RFC 2920 section 3.2 lets a
server hold back is joined to the flight before it; any other closes its flight.  After
``errors_soft`` errors each reply is held until the connection has waited ``error_pause_s``, which
is a question of the stage PAUSE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.content import RefusedChunk
from mailsrv.smtp.courier import Courier
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.events import Event, NegativeReply, ProtocolNote, Question, RefusedReply, Stage
from mailsrv.smtp.path import NULL_PATH, MailPath
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.state_machine import TRANSITIONS, State, Step
from mailsrv.smtp.transaction import Transaction


class SessionReplies(NamedTuple):
    """The replies that are the same in all sessions of a server, encoded once."""

    greeting: Reply
    hello: Reply
    extended_hello: Reply
    secured_hello: Reply
    """The answer to EHLO within TLS."""
    shutting_down: Reply

    @classmethod
    def of(cls, settings: Settings, tls: bool, dsn: bool) -> SessionReplies:
        """Those of ``settings``.  ``tls``: STARTTLS is offered; ``dsn``: senders get the notices
        that they ask for (RFC 3461)."""
        return cls(
            reply.greeting(settings.hostname),
            reply.hello(settings.hostname),
            reply.extended_hello(settings, starttls=tls, dsn=dsn),
            reply.extended_hello(settings, starttls=False, dsn=dsn),
            reply.shutting_down(settings.hostname),
        )


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions of a server share.

    ``stages`` names the questions that the policy decides: the others are not asked.
    ``new_id`` makes the identifier of a mail transaction.
    """

    settings: Settings
    courier: Courier
    stages: Container[Stage]
    new_id: Callable[[], str]
    greeting: Reply
    hello: Reply
    extended_hello: Reply
    secured_hello: Reply
    shutting_down: Reply
    errors_soft: float
    """Errors after which replies are held back; infinite where no pause is set."""
    tls: bool
    """There is a certificate: STARTTLS is offered."""
    tolerates: Callable[[str, str, Sequence[str]], bool] | None = None
    """Whether a check of the protocol is not made, by its name, the client and the recipients;
    None: there are no exceptions."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        courier: Courier,
        stages: Container[Stage],
        new_id: Callable[[], str],
        tls: bool = False,
        dsn: bool = False,
        tolerates: Callable[[str, str, Sequence[str]], bool] | None = None,
        replies: SessionReplies | None = None,
    ) -> SessionContext:
        """Make the context.  ``replies`` are those of ``settings``, ``tls`` and ``dsn``, where they
        are encoded already."""
        return cls(
            settings,
            courier,
            stages,
            new_id,
            *(replies or SessionReplies.of(settings, tls, dsn)),
            settings.errors_soft if settings.error_pause_s else math.inf,
            tls,
            tolerates,
        )


COMMAND_SHOWN_OCTETS_MAX = 512
"""Of a refused command, for the log."""

# Attributes of an Enum class are slow to look up; these are used for every command.
_CONNECTED, _CLOSED, _PAUSE = State.CONNECTED, State.CLOSED, Stage.PAUSE
_REFUSED, _CLOSE = Step.REFUSED, Step.CLOSE
_make_tuple = tuple.__new__
"""What a NamedTuple's constructor, which is a Python call, would call for every message."""


class SessionState:
    """One session as the handlers act on it.

    ``helo`` is the name given with HELO or EHLO, "" for none yet; ``protocol`` the keyword of RFC
    3848; ``tls`` the protocol version and cipher suite, "" in the clear; ``errors`` counts
    permanent negative replies, and ``junk`` commands of no use, since the last accepted message;
    ``refused_recipients`` counts over the whole session; ``asked`` is the recipient that a question
    is about; ``command`` the line that is being answered, with or without its CRLF.  ``output``,
    ``question``, ``closing`` and ``events`` are for the connection, see ``Session``; ``attention``
    is set with each of them, and with a question: there is more to do than to send output.
    """

    __slots__ = (
        "_errors_soft",
        "_held",
        "_input",
        "_joinable",
        "_refused_chunk",
        "asked",
        "attention",
        "client",
        "command",
        "context",
        "errors",
        "events",
        "helo",
        "junk",
        "now_ns",
        "output",
        "protocol",
        "question",
        "refused_recipients",
        "state",
        "tls",
        "transaction",
        "transactions",
    )

    def __init__(self, context: SessionContext, client: str) -> None:
        self.context = context
        self.client = client
        self.state = _CONNECTED
        self.question: Question | None = None
        self.output: list[bytes] = []
        self.attention = False
        self.events: list[Event] | None = None
        self.transaction: Transaction | None = None
        self.errors = 0
        self.now_ns = 0
        self.command = b""
        self.refused_recipients = 0
        self.tls = ""
        self.helo = ""
        self.protocol = "SMTP"
        self.junk = 0
        self.transactions = 0
        self.asked: tuple[MailPath, Notice | None] | None = None
        self._input = b""
        self._errors_soft = context.errors_soft
        self._joinable = False
        self._refused_chunk: RefusedChunk | None = None
        self._held: tuple[Reply, bool] | None = None

    @property
    def envelope(self) -> Envelope | None:
        """That of the transaction in progress, None outside of one."""
        return None if self.transaction is None else self.transaction.envelope

    @property
    def closing(self) -> bool:
        """The last reply is in the output."""
        return self.state is _CLOSED

    def tolerates(self, check: str, recipients: Sequence[str] = ()) -> bool:
        """Whether an exception says that this check of the protocol is not made."""
        tolerates = self.context.tolerates
        return tolerates is not None and tolerates(check, self.client, recipients)

    # -- replies ----------------------------------------------------------------------------------

    def send(self, answer: Reply, joinable: bool = False, at_once: bool = False) -> None:
        """Put a reply into the output; after many errors a moment later, unless ``at_once``.
        ``joinable``: the next one may be joined to it."""
        if self.errors > self._errors_soft and not at_once:
            self._held = answer, joinable
            self.ask(_PAUSE)
            return
        if answer.code >= 400:
            self._report(NegativeReply(answer))
        if self._joinable and self.output:
            self.output[-1] += answer.wire
        else:
            self.output.append(answer.wire)
        self._joinable = joinable

    def refuse(
        self, answer: Reply, joinable: bool = False, recipient: MailPath | None = None
    ) -> None:
        """Send a negative reply that does not end the transaction, and log it."""
        self._report_refusal(answer, recipient)
        self.step(_REFUSED)
        self.deny(answer, joinable)

    def refuse_recipient(self, answer: Reply, recipient: MailPath | None = None) -> None:
        """Refuse a recipient, None for one that cannot be read; too many end the session."""
        self.refused_recipients += 1
        settings = self.context.settings
        if self.refused_recipients < settings.refused_recipients:
            self.refuse(answer, joinable=True, recipient=recipient)
            return
        self._report_refusal(answer, recipient)
        self.send(answer, joinable=True, at_once=True)
        self.turn_away(
            reply.too_many_refused_recipients(settings.hostname, settings.refused_recipients)
        )

    def deny(self, answer: Reply, joinable: bool = False) -> None:
        """Send a negative reply that is logged already; permanent ones count, slow the session
        down and at last end it.

        Temporary ones do not count: a client that is greylisted for each of a hundred
        recipients does nothing wrong.
        """
        if answer.code >= 500:
            self.errors += 1
            settings = self.context.settings
            if self.errors >= settings.errors_hard:
                self.send(answer, joinable=True, at_once=True)
                self.turn_away(reply.too_many_errors(settings.hostname, settings.errors_hard))
                return
        self.send(answer, joinable)

    def turn_away(self, last: Reply) -> None:
        """End a session that broke a limit, or speaks another protocol."""
        if self.transaction is None:
            self._report_refusal(last)
        self.end(last)

    def count_junk(self) -> bool:
        """Count a command of no use; True if that was one too many and the session has ended."""
        self.junk += 1
        settings = self.context.settings
        if self.junk <= settings.junk_commands:
            return False
        self.turn_away(reply.too_many_junk_commands(settings.hostname, settings.junk_commands))
        return True

    def note(self, event: str, detail: str) -> None:
        """Log a breach of the protocol that is tolerated."""
        self._report(ProtocolNote(event, detail))

    def note_dropped(self, parameters: Iterable[str]) -> None:
        """Log parameters that were taken and not used."""
        for parameter in parameters:
            self._report(ProtocolNote("parameter dropped", parameter))

    def _report_refusal(self, answer: Reply, recipient: MailPath | None = None) -> None:
        envelope = self.envelope
        line = self.command.removesuffix(b"\r\n")[:COMMAND_SHOWN_OCTETS_MAX]
        command = line.decode("utf-8", "backslashreplace")
        about = (None, None) if envelope is None else (envelope.id, envelope.reverse_path)
        self._report(RefusedReply(about[0], self.helo, about[1], recipient, command, answer))

    def _report(self, event: Event) -> None:
        self.attention = True
        if self.events is None:
            self.events = [event]
        else:
            self.events.append(event)

    # -- state and transaction --------------------------------------------------------------------

    def ask(self, stage: Stage, forward_path: MailPath | None = None) -> None:
        """Ask a question; ``DECIDED`` says how the command goes on with the answer."""
        transaction = self.transaction
        reverse_path = NULL_PATH if transaction is None else transaction.envelope.reverse_path
        self.attention = True
        self.question = _make_tuple(
            Question, (stage, self.client, self.helo, reverse_path, forward_path)
        )

    def step(self, step: Step) -> None:
        """Go to the next state.  The steps of an ordinary message look it up without this call,
        which would cost them 1 %."""
        self.state = TRANSITIONS[self.state][step]

    def drop(self, verdict: Reply | None = None) -> None:
        """End the transaction, if there is one.  ``verdict`` decided it; None: the client gave it
        up."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            self._report(transaction.ended(verdict))
            if transaction.sink is not None:
                transaction.abandon()  # last: a defect in it must not keep the transaction alive

    def refuse_chunk(self, refusal: Reply, octets: int, joinable: bool = True) -> None:
        """Refuse BDAT, and the transaction with it; ``refusal`` is sent once the chunk's
        ``octets`` have passed."""
        self.step(Step.CHUNK_REFUSED if octets else Step.NO_CHUNK)
        if self.transaction is None:
            self._report_refusal(refusal)
        else:
            self.drop(refusal)
        if octets:
            self._refused_chunk = RefusedChunk(octets, refusal)
        else:
            self.deny(refusal, joinable)

    def upgrade(self) -> None:
        """Send 220 to STARTTLS: what follows is the handshake."""
        self.attention = True
        self.step(Step.STARTTLS)
        self.drop()  # what came in the clear is forgotten (RFC 3207 section 4.2)
        self.send(reply.START_TLS, at_once=True)

    def end(self, last: Reply) -> None:
        """Send ``last`` and close, whatever was going on."""
        self._stop(None if last.code < 400 else last)
        self._input = b""
        self.send(last, at_once=True)

    def _stop(self, verdict: Reply | None) -> None:
        self.question = None
        self.attention = True
        self.state = TRANSITIONS[self.state][_CLOSE]
        if self.transaction is not None:
            self.drop(verdict)
