"""The receiving side of one SMTP conversation, without I/O and without a clock (RFC 5321).

Theory of operation.  Octets come in through ``receive``; what the server says collects in
``output``; when somebody else must decide, ``question`` is set and nothing more is parsed until
``answer``: so replies can never overtake one another.  ``closing`` means that the last reply has
been said; ``upgrading`` that the next octets belong to a TLS handshake.  Here is how lines and
content are told apart, how replies go out and how a session ends; what each command does, and in
which state, stands in ``handlers``.

Output is a list of flights.  Replies that RFC 2920 section 3.2 lets a server hold back are
joined to the flight before them; the others close their flight, to be written by itself.
"""

from __future__ import annotations

from mailsrv import command, reply
from mailsrv.address import NULL_PATH, Path
from mailsrv.chunking import RefusedChunk
from mailsrv.command import TLS_HANDSHAKE
from mailsrv.envelope import Envelope, Notice
from mailsrv.handlers import DECIDED, FOLLOWED, TABLE, WAITED_FOR, content_ended
from mailsrv.house import House
from mailsrv.question import Event, Question, Refusal, Remark, Stage
from mailsrv.reply import Reply
from mailsrv.seams import Sink
from mailsrv.state import State
from mailsrv.transaction import Transaction

OUTPUT_MAX_OCTETS = 64 * 1024
"""Said but not yet taken away; above it no further command is carried out."""
DISCARD_MAX_OCTETS = 1024 * 1024
"""How much of one endless command line is thrown away before the session ends."""

# Attributes of an Enum class are slow to look up; these are used for every command.
_PAUSE, _CONTENT, _CONNECTED, _GREETED = Stage.PAUSE, State.CONTENT, State.CONNECTED, State.GREETED


class Session:
    """One conversation.

    For the connection: ``state``, ``question``, ``output``, ``closing`` and ``upgrading``, see
    the module; ``events`` are what nobody has logged yet, None for nothing; ``lines`` counts the
    commands read; ``mid_command`` says that one has begun and not ended; ``congested`` that
    ``proceed`` is to be called when the output is taken away.  It sets ``now_ns``, the loop's
    instant, before it hands over octets.

    For the handlers: ``helo`` is the name that the client gave, "" for none yet; ``protocol``
    the keyword of RFC 3848; ``tls`` the protocol version and cipher suite, "" in the clear;
    ``errors`` counts permanent negative replies, and ``junk`` commands that brought no mail
    nearer, since the last accepted message; ``asked`` the recipient that a question is about.
    """

    __slots__ = (
        "_discarded_octets",
        "_errors_soft",
        "_held",
        "_input",
        "_joinable",
        "_line_octets_max",
        "_refused_chunk",
        "_stopped",
        "_watching",
        "asked",
        "client",
        "closing",
        "congested",
        "errors",
        "events",
        "helo",
        "house",
        "junk",
        "lines",
        "mid_command",
        "now_ns",
        "output",
        "protocol",
        "question",
        "state",
        "tls",
        "transaction",
        "transactions",
        "upgrading",
    )

    def __init__(self, house: House, client: str) -> None:
        settings = house.settings
        self.house = house
        self.client = client
        self.state = _CONNECTED
        self.question: Question | None = None
        self.output: list[bytes] = []
        self.closing = False
        self.upgrading = False
        self.events: list[Event] | None = None
        self.congested = False
        self.transaction: Transaction | None = None
        self.errors = 0
        self.lines = 0
        self.mid_command = False
        self.now_ns = 0
        self.tls = ""
        self.helo = ""
        self.protocol = "SMTP"
        self.junk = 0
        self.transactions = 0
        self.asked: tuple[Path, Notice | None] | None = None
        self._input = b""
        self._line_octets_max = settings.command_line_octets
        self._errors_soft = house.errors_soft
        self._watching = settings.unsolicited_pipelining != "off"
        self._stopped = False
        self._joinable = False
        self._discarded_octets = 0
        self._refused_chunk: RefusedChunk | None = None
        self._held: tuple[Reply, bool] | None = None

    # -- what the connection calls ----------------------------------------------------------------

    def greet(self) -> None:
        """Say the greeting."""
        self.say(self.house.greeting)

    def receive(self, chunk: bytes) -> None:
        """Take octets from the client and do what can be done with them."""
        self._input = self._input + chunk if self._input else chunk
        self.proceed()

    def proceed(self) -> None:
        """Go on with what was received, until it is used up, a question is open, the output is
        full (``congested``), or the session closes or waits for its TLS handshake."""
        data, at = self._input, 0
        size = len(data)
        self.congested = False
        while at < size and self.question is None and not self._stopped:
            if self.output and sum(map(len, self.output)) >= OUTPUT_MAX_OCTETS:
                self.congested = True
                break
            if self.state is _CONTENT:
                at = self._take_content(data, at)
                continue
            if data[at] == TLS_HANDSHAKE and not self._discarded_octets:
                self.turn_away(reply.not_smtp("a TLS handshake"))
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
                self._refuse_long_line(len(line))
            elif whole:
                self._carry_out(line, at < size)
            else:
                self.refuse(reply.BARE_LF_COMMAND)
        if at == size or self.closing:
            self._input = b""
            self.mid_command = self._discarded_octets > 0
        else:
            self._input = data[at:]
            self.mid_command = self.state is not _CONTENT

    def answer(self, verdict: Reply | None) -> None:
        """Answer the open question and go on; None is "no objection"."""
        question, self.question = self.question, None
        if question is None:
            raise RuntimeError("an answer without a question")
        stage = question.stage
        if stage is not _PAUSE:
            DECIDED[stage](self, verdict)
        elif self._held is not None:
            held, self._held = self._held, None
            self.say(*held, at_once=True)
        if self._input:
            self.proceed()

    def end(self, last: Reply) -> None:
        """Say ``last`` and close, whatever was going on."""
        self._stop(None if last.positive else last)
        self._input = b""
        self.say(last, at_once=True)

    def lose(self) -> None:
        """The client is gone: forget the transaction."""
        self._stop(None)

    def _stop(self, verdict: Reply | None) -> None:
        self.question = None
        self.closing = self._stopped = True
        self.drop(verdict)

    def take_rest(self) -> bytes:
        """Give away what was received behind STARTTLS: it is for the handshake, never for us."""
        rest, self._input = self._input, b""
        self.mid_command = False
        return rest

    def secured(self, tls: str) -> None:
        """The TLS handshake is done, with this version and cipher suite: begin anew.

        What the client said before, anybody on the way may have said for it (RFC 3207 section
        4.2).  What it did, its errors and its transactions, still counts.
        """
        self.tls = tls
        self.helo, self.protocol = "", "SMTP"
        self.drop()
        self.upgrading = False
        self._stopped = self.closing

    @property
    def envelope(self) -> Envelope | None:
        """That of the transaction in progress, None outside of one."""
        return None if self.transaction is None else self.transaction.envelope

    @property
    def sink(self) -> Sink | None:
        """Where the content goes that is being received."""
        return None if self.transaction is None else self.transaction.sink

    @property
    def buffered_octets(self) -> int:
        """Received and not yet used."""
        return len(self._input)

    @property
    def content_octets(self) -> int | None:
        """Octets received since 354, or of the present chunk; None outside of content."""
        if self.state is not _CONTENT:
            return None
        if self._refused_chunk is not None:
            return self._refused_chunk.received_octets
        assert self.transaction is not None
        assert self.transaction.reader is not None
        return self.transaction.reader.received_octets

    # -- lines and content ------------------------------------------------------------------------

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
            self._turn_away_endless_line()
        return size

    def _refuse_long_line(self, rest_octets: int) -> None:
        """The end of an overlong line has come, with the last ``rest_octets`` of it.

        The bound holds here too: it must not matter in which pieces the line came.
        """
        line_octets, self._discarded_octets = self._discarded_octets + rest_octets, 0
        if line_octets > DISCARD_MAX_OCTETS:
            self._turn_away_endless_line()
        else:
            self.refuse(reply.LINE_TOO_LONG)

    def _turn_away_endless_line(self) -> None:
        self.turn_away(reply.endless_line(self.house.settings.hostname, DISCARD_MAX_OCTETS))

    def _carry_out(self, line: bytes, followed: bool) -> None:
        parts = command.split(line)
        if isinstance(parts, Reply):
            self.refuse(parts)
            return
        verb, argument = parts
        handler = TABLE[self.state].get(verb)
        if handler is not None:
            if followed and self._watching:
                self._notice_pipelining(verb)
                if self.closing:
                    return
            handler(self, argument)
        elif verb in command.HTTP_VERBS:
            self.turn_away(reply.not_smtp("an HTTP request"))
        elif verb in command.NOT_IMPLEMENTED:
            self.refuse(reply.NOT_IMPLEMENTED)
        else:
            self.refuse(reply.UNKNOWN_COMMAND)

    def _notice_pipelining(self, verb: str) -> None:
        """Octets were sent behind ``verb`` before it was answered: was that allowed?"""
        if verb in WAITED_FOR or (self.protocol == "SMTP" and verb not in FOLLOWED):
            settings = self.house.settings
            if settings.unsolicited_pipelining == "reject":
                self.turn_away(reply.unsolicited_pipelining(settings.hostname, verb))
            else:
                self._watching = False  # once a session is enough
                self._tell(Remark("unsolicited pipelining", verb))

    def _take_content(self, data: bytes, at: int) -> int:
        """Take content from ``at`` on; give where in ``data`` it ended."""
        chunk = self._refused_chunk
        if chunk is not None:
            taken = chunk.pass_over(len(data) - at)
            if taken < 0:
                return len(data)
            self._deny_chunk(chunk.refusal)
            return at + taken
        assert self.transaction is not None
        after = self.transaction.take(data, at)
        if after < 0:
            return len(data)
        content_ended(self)
        return after

    # -- what the handlers call: replies ----------------------------------------------------------

    def say(self, said: Reply, joinable: bool = False, at_once: bool = False) -> None:
        """Say ``said``; after many errors a moment later, unless ``at_once``.  ``joinable``: what
        is said next may be joined to it."""
        if self.errors > self._errors_soft and not at_once:
            self._held = said, joinable
            self.ask(_PAUSE)
            return
        if self._joinable and self.output:
            self.output[-1] += said.wire
        else:
            self.output.append(said.wire)
        self._joinable = joinable

    def refuse(
        self, said: Reply, joinable: bool = False, recipient: Path | None = None
    ) -> None:
        """Say a negative reply that does not end the transaction, and tell the log."""
        envelope = self.envelope
        if envelope is None:
            self._tell(Refusal(None, None, recipient, said))
        else:
            self._tell(Refusal(envelope.id, envelope.reverse_path, recipient, said))
        self.deny(said, joinable)

    def deny(self, said: Reply, joinable: bool = False) -> None:
        """Say a negative reply that the log knows of; permanent ones count, slow the session
        down and at last end it.

        Temporary ones do not count: a client that is greylisted for each of a hundred
        recipients does nothing wrong.
        """
        if said.code >= 500:
            self.errors += 1
            settings = self.house.settings
            if self.errors >= settings.errors_hard:
                self.say(said, joinable=True, at_once=True)
                self.turn_away(reply.too_many_errors(settings.hostname, settings.errors_hard))
                return
        self.say(said, joinable)

    def fail(self, verdict: Reply) -> None:
        """Let ``verdict`` be the end of the transaction; outside of one, just tell the log."""
        if self.transaction is None:
            self._tell(Refusal(None, None, None, verdict))
        else:
            self.drop(verdict)

    def turn_away(self, last: Reply) -> None:
        """End a session that broke a limit, or speaks another protocol."""
        self.fail(last)
        self.end(last)

    def count_junk(self) -> bool:
        """Count a command that brings no mail nearer; True if that was one too many."""
        self.junk += 1
        settings = self.house.settings
        if self.junk <= settings.junk_commands:
            return False
        self.turn_away(reply.too_many_junk_commands(settings.hostname, settings.junk_commands))
        return True

    def _tell(self, event: Event) -> None:
        if self.events is None:
            self.events = [event]
        else:
            self.events.append(event)

    # -- what the handlers call: the rest ---------------------------------------------------------

    def ask(self, stage: Stage, forward_path: Path | None = None) -> None:
        """Let somebody else decide; for SENDER, RECIPIENT and MESSAGE see ``DECIDED``."""
        transaction = self.transaction
        reverse_path = NULL_PATH if transaction is None else transaction.envelope.reverse_path
        self.question = Question(stage, self.client, self.helo, reverse_path, forward_path)

    def drop(self, verdict: Reply | None = None) -> None:
        """The transaction, if there is one, is over.  ``verdict`` decided it; None: the client
        gave it up."""
        transaction, self.transaction = self.transaction, None
        self.state = _GREETED if self.helo else _CONNECTED
        if transaction is not None:
            self._tell(transaction.ended(verdict))
            if transaction.sink is not None:
                transaction.abandon()  # last: a defect in it must not keep the transaction alive

    def pass_over(self, octets: int, refusal: Reply) -> None:
        """A chunk is refused, and the transaction with it: say so once its octets have passed."""
        self.fail(refusal)
        if octets:
            self._refused_chunk = RefusedChunk(octets, refusal)
            self.state = _CONTENT
        else:
            self.deny(refusal, joinable=True)

    def _deny_chunk(self, refusal: Reply) -> None:
        self._refused_chunk = None
        self.state = _GREETED if self.helo else _CONNECTED
        self.deny(refusal, joinable=True)

    def upgrade(self) -> None:
        """Say 220 to STARTTLS: what follows is the handshake."""
        self.drop()  # what was said in the clear is forgotten (RFC 3207 section 4.2)
        self.say(reply.START_TLS, at_once=True)
        self.upgrading = self._stopped = True
