"""The receiving side of one SMTP conversation, without I/O and without a clock (RFC 5321).

Theory of operation.  Octets come in through ``receive``; what the server says collects in
``output``; when somebody else must decide, ``question`` is set and nothing more is parsed until
``answer``: so replies can never overtake one another.  ``closing`` means that the last reply has
been said.  Which command is legal when stands in ``_TABLE``: every change of ``state`` follows
from it.

Output is a list of flights.  Replies that RFC 2920 section 3.2 lets a server hold back are
joined to the flight before them; the others close their flight, to be written by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from mailsrv import command, reply
from mailsrv.address import Path
from mailsrv.command import TLS_HANDSHAKE
from mailsrv.content import ContentReader
from mailsrv.envelope import Envelope
from mailsrv.house import House
from mailsrv.question import Ended, Event, Question, Refusal, Stage
from mailsrv.reply import Reply
from mailsrv.seams import Sink
from mailsrv.state import State

OUTPUT_MAX_OCTETS = 64 * 1024
"""Said but not yet taken away; above it no further command is carried out."""
DISCARD_MAX_OCTETS = 1024 * 1024
"""How much of one endless command line is thrown away before the session ends."""


# Attributes of an Enum class are slow to look up; these are used for every command.
_ASK_SENDER, _ASK_RECIPIENT, _MESSAGE = Stage.SENDER, Stage.RECIPIENT, Stage.MESSAGE
_CONNECTED, _GREETED, _SENDER, _RECIPIENT, _CONTENT = State


class Session:
    """One conversation.

    ``state``, ``question``, ``output``, ``closing``: see the module.  ``envelope`` and ``sink``
    belong to the transaction in progress, None outside of one.  ``errors`` counts permanent
    negative replies since the last accepted message.  ``events`` are what nobody has logged
    yet, None for nothing.  ``lines`` counts the commands read.
    """

    __slots__ = (
        "_asked_path",
        "_content",
        "_discarded_octets",
        "_errors_soft",
        "_held",
        "_helo",
        "_house",
        "_input",
        "_joinable",
        "_junk",
        "_line_octets_max",
        "_protocol",
        "_rejected",
        "_transactions",
        "client",
        "closing",
        "congested",
        "envelope",
        "errors",
        "events",
        "lines",
        "mid_command",
        "output",
        "question",
        "sink",
        "state",
    )

    def __init__(self, house: House, client: str) -> None:
        self._house = house
        self.client = client
        self.state = _CONNECTED
        self.question: Question | None = None
        self.output: list[bytes] = []
        self.closing = False
        self.events: list[Event] | None = None
        self.congested = False
        self.envelope: Envelope | None = None
        self.sink: Sink | None = None
        self.errors = 0
        self.lines = 0
        self.mid_command = False
        self._input = b""
        self._line_octets_max = house.settings.command_line_octets
        self._errors_soft = house.errors_soft
        self._content: ContentReader | None = None
        self._helo = ""
        self._protocol = "SMTP"
        self._joinable = False
        self._junk = 0
        self._transactions = 0
        self._rejected = 0
        self._discarded_octets = 0
        self._held: tuple[Reply, bool] | None = None
        self._asked_path: Path | None = None

    # -- what the shell calls ---------------------------------------------------------------------

    def greet(self) -> None:
        """Say the greeting."""
        self._say(self._house.greeting)

    def receive(self, chunk: bytes) -> None:
        """Take octets from the client and do what can be done with them."""
        self._input = self._input + chunk if self._input else chunk
        self.proceed()

    def proceed(self) -> None:
        """Go on with what was received, until it is used up, a question is open, the output is
        full (``congested``), or the session closes."""
        data, at = self._input, 0
        size = len(data)
        self.congested = False
        while at < size and self.question is None and not self.closing:
            if self.output and sum(map(len, self.output)) >= OUTPUT_MAX_OCTETS:
                self.congested = True
                break
            if self._content is not None:
                at = self._take_content(self._content, data, at)
                continue
            if data[at] == TLS_HANDSHAKE and not self._discarded_octets:
                self._refuse_protocol("a TLS handshake")
                break
            end = data.find(b"\n", at)
            if end < 0:
                at = self._wait_for_line_end(at, size)
                break
            self.lines += 1
            whole = data.endswith(b"\r", at, end)
            line = data[at : end - 1] if whole else data[at:end]
            at = end + 1
            if self._discarded_octets or len(line) > self._line_octets_max:
                self._discarded_octets = 0
                self._fault(reply.LINE_TOO_LONG)
            elif whole:
                self._carry_out(line)
            else:
                self._fault(reply.BARE_LF_COMMAND)
        if at == size or self.closing:
            self._input = b""
            self.mid_command = self._discarded_octets > 0
        else:
            self._input = data[at:]
            self.mid_command = self._content is None

    def answer(self, verdict: Reply | None) -> None:
        """Answer the open question and go on; None is "no objection"."""
        question, self.question = self.question, None
        if question is None:
            raise RuntimeError("an answer without a question")
        stage = question.stage
        if stage is _MESSAGE:
            self._decide_message(verdict or reply.LOCAL_ERROR)
        elif stage is _ASK_SENDER:
            self._decide_sender(verdict)
        elif stage is _ASK_RECIPIENT:
            self._decide_recipient(verdict)
        elif self._held is not None:
            held, self._held = self._held, None
            self._utter(*held)
        if self._input:
            self.proceed()

    def end(self, last: Reply) -> None:
        """Say ``last`` and close, whatever was going on."""
        self._forget_transaction()
        self.question = None
        self._input = b""
        self._utter(last)
        self.closing = True

    def lose(self) -> None:
        """The client is gone: forget the transaction."""
        self._forget_transaction()
        self.question = None
        self.closing = True

    @property
    def buffered_octets(self) -> int:
        """Received and not yet used."""
        return len(self._input)

    @property
    def content_octets(self) -> int | None:
        """Octets received since 354, None outside of content."""
        return None if self._content is None else self._content.received_octets

    # -- lines ------------------------------------------------------------------------------------

    def _wait_for_line_end(self, at: int, size: int) -> int:
        """The rest of the line has not come; give where to go on when it has.

        An overlong beginning is thrown away.
        """
        pending = size - at
        # One octet more than allowed, and the CR that may end the line.
        if not self._discarded_octets and pending <= self._line_octets_max + 1:
            return at
        self._discarded_octets += pending
        if self._discarded_octets > DISCARD_MAX_OCTETS:
            self._turn_away(reply.endless_line(self._house.settings.hostname, DISCARD_MAX_OCTETS))
        return size

    def _carry_out(self, line: bytes) -> None:
        parts = command.split(line)
        if isinstance(parts, Reply):
            self._fault(parts)
            return
        verb, argument = parts
        handler = _TABLE[self.state].get(verb)
        if handler is not None:
            handler(self, argument)
        elif verb in command.HTTP_VERBS:
            self._refuse_protocol("an HTTP request")
        elif verb in command.NOT_IMPLEMENTED:
            self._fault(reply.NOT_IMPLEMENTED)
        else:
            self._fault(reply.UNKNOWN_COMMAND)

    def _refuse_protocol(self, heard: str) -> None:
        self._turn_away(reply.not_smtp(heard))

    # -- replies ----------------------------------------------------------------------------------

    def _say(self, said: Reply, *, joinable: bool = False) -> None:
        """Say ``said``; after many errors, a moment later."""
        if self.errors > self._errors_soft:
            self._held = said, joinable
            self._ask(Stage.PAUSE)
        else:
            self._utter(said, joinable)

    def _utter(self, said: Reply, joinable: bool = False) -> None:
        if self._joinable and self.output:
            self.output[-1] += said.wire
        else:
            self.output.append(said.wire)
        self._joinable = joinable

    def _fault(self, said: Reply, *, joinable: bool = False, recipient: Path | None = None) -> None:
        """Say a negative reply; permanent ones count, slow the session down and at last end it.

        Temporary ones do not count: a client that is greylisted for each of a hundred
        recipients does nothing wrong.
        """
        self._keep(said, recipient)
        if said.code >= 500:
            self.errors += 1
            settings = self._house.settings
            if self.errors >= settings.errors_hard:
                self._utter(said, joinable=True)
                self._turn_away(reply.too_many_errors(settings.hostname, settings.errors_hard))
                return
        self._say(said, joinable=joinable)

    def _keep(self, said: Reply, recipient: Path | None = None) -> None:
        """Keep a negative reply for the log."""
        envelope = self.envelope
        identifier = envelope.id if envelope else None
        sender = envelope.reverse_path if envelope else None
        self._tell(Refusal(identifier, sender, recipient, said))

    def _tell(self, event: Event) -> None:
        self.events = [*(self.events or ()), event]

    def _turn_away(self, last: Reply) -> None:
        """End a session that broke a limit, or speaks another protocol."""
        self._keep(last)
        self.end(last)

    def _ask(self, stage: Stage, forward_path: Path | None = None) -> None:
        reverse_path = self.envelope.reverse_path if self.envelope else Path("", "")
        self.question = Question(stage, self.client, self._helo, reverse_path, forward_path)

    def _count_junk(self) -> bool:
        """Count a command that brings no mail nearer; True if that was one too many."""
        self._junk += 1
        settings = self._house.settings
        if self._junk <= settings.junk_commands:
            return False
        self._turn_away(reply.too_many_junk_commands(settings.hostname, settings.junk_commands))
        return True

    # -- commands, in the order of RFC 5321 section 4.1.1 -----------------------------------------

    def _do_ehlo(self, argument: str) -> None:
        self._hello(argument, self._house.extended_hello, "ESMTP")

    def _do_helo(self, argument: str) -> None:
        self._hello(argument, self._house.hello, "SMTP")

    def _hello(self, argument: str, said: Reply, protocol: str) -> None:
        if self._count_junk():
            return
        if not argument:
            self._fault(reply.NEED_ARGUMENT)  # and the transaction stays as it is
        elif not argument.isascii():  # RFC 6531 section 3.7.1: A-labels only
            self._fault(reply.NOT_ASCII)
        else:
            self._helo, self._protocol = argument, protocol
            self._forget_transaction()
            self.state = _GREETED
            self._say(said)

    def _do_mail(self, argument: str) -> None:
        settings = self._house.settings
        mail = command.parse_mail(argument)
        if isinstance(mail, Reply):
            self._fault(mail, joinable=True)
        elif mail.size_octets is not None and mail.size_octets > settings.message_octets:
            self._fault(reply.message_too_large(settings.message_octets), joinable=True)
        elif self._transactions >= settings.transactions:
            self._turn_away(reply.too_many_transactions(settings.hostname, settings.transactions))
        else:
            self.envelope = Envelope(
                self.client,
                self._helo,
                "UTF8SMTP" if mail.smtputf8 else self._protocol,
                self._house.new_id(),
                mail.reverse_path,
                [],
                mail.size_octets,
                mail.body,
                mail.smtputf8,
            )
            if _ASK_SENDER in self._house.stages:
                self._ask(_ASK_SENDER)
            else:
                self._decide_sender(None)

    def _decide_sender(self, verdict: Reply | None) -> None:
        if verdict is None:
            self._transactions += 1
            self.state = _SENDER
            self._say(reply.SENDER_OK, joinable=True)
        else:
            self._fault(verdict, joinable=True)
            self.envelope = None

    def _do_rcpt(self, argument: str) -> None:
        envelope = self.envelope
        assert envelope is not None, "the table lets RCPT through only inside a transaction"
        settings = self._house.settings
        path = command.parse_rcpt(argument, envelope.smtputf8)
        if isinstance(path, Reply):
            self._fault(path, joinable=True)
        elif len(envelope.forward_paths) >= settings.recipients:
            self._fault(reply.too_many_recipients(settings.recipients), joinable=True)
        elif _ASK_RECIPIENT in self._house.stages:
            self._ask(_ASK_RECIPIENT, path)
            self._asked_path = path
        else:
            self._accept_recipient(envelope, path)

    def _decide_recipient(self, verdict: Reply | None) -> None:
        path, self._asked_path = self._asked_path, None
        assert self.envelope is not None and isinstance(path, Path)
        if verdict is None:
            self._accept_recipient(self.envelope, path)
        else:
            self._rejected += 1
            self._fault(verdict, joinable=True, recipient=path)

    def _accept_recipient(self, envelope: Envelope, path: Path) -> None:
        envelope.forward_paths.append(path)
        self.state = _RECIPIENT
        self._say(reply.RECIPIENT_OK, joinable=True)

    def _do_data_too_soon(self, argument: str) -> None:
        self._fault(reply.NO_VALID_RECIPIENTS if self._rejected else reply.NEED_RCPT)

    def _do_data(self, argument: str) -> None:
        if argument:
            self._fault(reply.NO_ARGUMENT)
            return
        assert self.envelope is not None
        self.sink = self._house.courier.begin(self.envelope)
        self._content = ContentReader()
        self.state = _CONTENT
        self._say(reply.START_CONTENT)

    def _do_rset(self, argument: str) -> None:
        if argument:
            self._fault(reply.NO_ARGUMENT)
        elif not self._count_junk():
            self._forget_transaction()
            self._say(reply.OK, joinable=True)

    def _do_noop(self, argument: str) -> None:
        if not self._count_junk():
            self._say(reply.OK)

    def _do_vrfy(self, argument: str) -> None:
        # RFC 5321 section 7.3: a server may decline to say who is there.
        if not argument:
            self._fault(reply.NEED_ARGUMENT)
        elif not self._count_junk():
            self._say(reply.CANNOT_VERIFY)

    def _do_expn(self, argument: str) -> None:
        if not self._count_junk():
            self._fault(reply.NO_EXPANSION)

    def _do_help(self, argument: str) -> None:
        if not self._count_junk():
            self._say(reply.HELP)

    def _do_quit(self, argument: str) -> None:
        if argument:
            self._fault(reply.NO_ARGUMENT)
        else:
            self.end(reply.BYE)

    # -- content ----------------------------------------------------------------------------------

    def _take_content(self, content: ContentReader, data: bytes, at: int) -> int:
        """Take content from ``at`` on; give where in ``data`` it ended."""
        octets, after = content.feed(data[at:] if at else data)
        if self.sink is not None:
            if content.bare_line_end or content.size_octets > self._house.settings.message_octets:
                # Refused at the end, and read on until then, so that the sender learns why.
                self.sink.abort()
                self.sink = None
            elif octets:
                self.sink.write(octets)
        if after < 0:
            return len(data)
        self._end_content(content)
        return at + after

    def _end_content(self, content: ContentReader) -> None:
        self._content = None
        allowed_octets = self._house.settings.message_octets
        if self.sink is not None:
            self._ask(_MESSAGE)
        elif content.bare_line_end:
            self._decide_message(reply.BARE_LINE_END)
        else:
            self._decide_message(reply.message_too_large(allowed_octets))

    def _decide_message(self, said: Reply) -> None:
        if said.positive:
            self.errors = self._junk = 0
            self.sink = None  # the message is the courier's now
            if self.envelope is not None:
                self._tell(Ended(self.envelope, said, 0))
            self._say(said, joinable=True)
        else:
            self._fault(said, joinable=True)
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        sink, self.sink = self.sink, None
        self.envelope = None
        self._content = None
        self._rejected = 0
        if self.state is not _CONNECTED:
            self.state = _GREETED
        if sink is not None:
            sink.abort()  # last: a defect in it must not keep the transaction alive


_Handler = Callable[[Session, str], None]


def _fault(said: Reply) -> _Handler:
    """What a command does that is out of order."""
    return lambda session, argument: session._fault(said)


_ANYWHERE: dict[str, _Handler] = {
    "EHLO": Session._do_ehlo,
    "HELO": Session._do_helo,
    "RSET": Session._do_rset,
    "NOOP": Session._do_noop,
    "VRFY": Session._do_vrfy,
    "EXPN": Session._do_expn,
    "HELP": Session._do_help,
    "QUIT": Session._do_quit,
    "MAIL": _fault(reply.NESTED_MAIL),
}
_NEED_HELO, _NEED_MAIL = _fault(reply.NEED_HELO), _fault(reply.NEED_MAIL)

_TABLE: dict[State, dict[str, _Handler]] = {
    State.CONNECTED: _ANYWHERE | {"MAIL": _NEED_HELO, "RCPT": _NEED_HELO, "DATA": _NEED_HELO},
    State.GREETED: _ANYWHERE | {"MAIL": Session._do_mail, "RCPT": _NEED_MAIL, "DATA": _NEED_MAIL},
    State.SENDER: _ANYWHERE | {"RCPT": Session._do_rcpt, "DATA": Session._do_data_too_soon},
    State.RECIPIENT: _ANYWHERE | {"RCPT": Session._do_rcpt, "DATA": Session._do_data},
}
"""Which command does what in which state.  RFC 5321 section 4.1.4."""
