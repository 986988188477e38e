"""The receiving side of one SMTP conversation, without I/O and without a clock (RFC 5321).

Theory of operation.  Octets come in through ``receive``; replies collect in ``output``; when policy
or courier must decide, ``question`` is set and nothing more is parsed until ``answer``: so replies
can never overtake one another.  ``closing`` means that the last reply is in the output, the state
HANDSHAKE that the next octets belong to a TLS handshake.  This module separates lines from content;
``state`` sends replies and ends sessions, ``handlers`` has the commands, and ``state_machine`` the
states and the ways between them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mailsrv.smtp import command, reply
from mailsrv.smtp.command import TLS_HANDSHAKE, split, split_whole
from mailsrv.smtp.events import ProtocolNote, Stage
from mailsrv.smtp.handlers import DECIDED, FOLLOWED, TABLE, WAITED_FOR, Handler, content_ended
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.state import SessionContext, SessionState
from mailsrv.smtp.state_machine import State, Step

TURN_COMMANDS = 8
"""Commands that are carried out in one turn; then other connections have theirs.  Nor is there more
output than a turn's replies that waits to be taken away."""
DISCARD_MAX_OCTETS = 1024 * 1024
"""Thrown away of one endless command line before the session ends."""

# Attributes of an Enum class are slow to look up; these are used for every command.
_PAUSE, _CONTENT, _CLOSED = Stage.PAUSE, State.CONTENT, State.CLOSED


class Session(SessionState):
    """One conversation.

    For the connection: ``state``, ``question``, ``output`` and ``closing``, see the module;
    ``events`` are those not yet logged, None for none; ``lines`` counts the commands read, and the
    turn is over when it reaches ``turn_end``; ``mid_command`` says that a command has begun and not
    ended; ``unfinished`` that ``proceed`` is to be called in another turn.  The connection sets
    ``now_ns``, the loop's instant, before it hands over octets.
    """

    __slots__ = (
        "_discarded_octets",
        "_line_octets_max",
        "_watching",
        "lines",
        "mid_command",
        "turn_end",
        "unfinished",
    )

    def __init__(self, context: SessionContext, client: str) -> None:
        super().__init__(context, client)
        self.lines = 0
        self.mid_command = False
        self.turn_end = sys.maxsize
        self.unfinished = False
        self._line_octets_max = context.settings.command_line_octets
        self._watching = context.settings.unsolicited_pipelining != "off"
        self._discarded_octets = 0

    # -- what the connection calls ----------------------------------------------------------------

    def greet(self) -> None:
        """Send the greeting."""
        self.send(self.context.greeting)

    def receive(self, chunk: bytes) -> None:
        """Take octets from the client and do what can be done with them."""
        # One whole command that is known here, as nearly always: ``proceed`` takes twice as long.
        commands = TABLE[self.state]
        if (
            commands
            and len(chunk) <= self._line_octets_max
            and not self._input
            and self.question is None
            and not self._discarded_octets
        ):
            parts = split_whole(chunk)
            if parts is not None and (handler := commands.get(parts[0])):
                self.lines += 1
                self.command = chunk
                handler(self, parts[1])
                return
        self._input = self._input + chunk if self._input else chunk
        self.proceed()

    def proceed(self) -> None:
        """Go on with what was received, until it is used up, a question is open, the turn is over
        (``unfinished``), or the session closes or waits for its TLS handshake."""
        data, at = self._input, 0
        size = len(data)
        self.unfinished = False
        while at < size and self.question is None:
            state = self.state
            if state is _CONTENT:
                at = self._take_content(data, at)
                continue
            commands = TABLE[state]
            if not commands:
                break  # closed, or the octets are for the TLS handshake
            if at and self.lines >= self.turn_end:  # one command is always carried out
                self.unfinished = self.attention = True
                break
            if data[at] == TLS_HANDSHAKE and not self._discarded_octets:
                self.command = b""
                self.turn_away(reply.not_smtp("a TLS handshake"))
                break
            end = data.find(b"\n", at)
            if end < 0:
                at = self._wait_for_line_end(at, size)
                break
            self.lines += 1
            whole = data.endswith(b"\r", at, end)
            line = data[at : end - 1] if whole else data[at:end]
            self.command = line
            at = end + 1
            if self._discarded_octets or len(line) > self._line_octets_max:
                self._refuse_long_line(len(line))
            elif whole:
                self._carry_out(line, commands, at < size)
            else:
                self.refuse(reply.BARE_LF_COMMAND)
        if at == size or self.state is _CLOSED:
            self._input = b""
            self.mid_command = self._discarded_octets > 0
        else:
            self._input = data[at:]
            self.mid_command = self.state is not _CONTENT

    def begin_turn(self) -> None:
        """Allow ``TURN_COMMANDS``; until this is called they are not counted."""
        self.turn_end = self.lines + TURN_COMMANDS

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
            self.send(*held, at_once=True)
        if self._input:
            if self.lines < self.turn_end:
                self.proceed()
            else:
                self.unfinished = self.attention = True

    def lose(self) -> None:
        """The client is gone: forget the transaction."""
        self._stop(None)

    def take_rest(self) -> bytes:
        """Return what was received behind STARTTLS: it belongs to the handshake and is never read
        as commands."""
        rest, self._input = self._input, b""
        self.mid_command = False
        return rest

    def secured(self, tls: str) -> None:
        """The TLS handshake is done, with this version and cipher suite: begin anew.

        What came before may have been put in by an attacker on the way (RFC 3207 section 4.2).
        The client's errors and transactions still count.
        """
        self.step(Step.SECURED)
        self.tls = tls
        self.helo, self.protocol = "", "SMTP"

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
        """The rest of the line has not come; return where to go on when it has.

        An overlong beginning is thrown away.
        """
        pending = size - at
        # One octet more than allowed, and the CR that may end the line.
        if not self._discarded_octets and pending <= self._line_octets_max + 1:
            return at
        self._discarded_octets += pending
        self.command = b""
        if self._discarded_octets > DISCARD_MAX_OCTETS:
            self._turn_away_endless_line()
        return size

    def _refuse_long_line(self, rest_octets: int) -> None:
        """The end of an overlong line has come, with the last ``rest_octets`` of it.

        The bound holds here too: it must not matter in which pieces the line came.
        """
        line_octets, self._discarded_octets = self._discarded_octets + rest_octets, 0
        self.command = b""
        if line_octets > DISCARD_MAX_OCTETS:
            self._turn_away_endless_line()
        else:
            self.refuse(reply.LINE_TOO_LONG)

    def _turn_away_endless_line(self) -> None:
        self.turn_away(reply.endless_line(self.context.settings.hostname, DISCARD_MAX_OCTETS))

    def _carry_out(self, line: bytes, commands: Mapping[str, Handler], followed: bool) -> None:
        parts = split(line)
        if isinstance(parts, Reply):
            self.refuse(parts)
            return
        verb, argument = parts
        handler = commands.get(verb)
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
            settings = self.context.settings
            if settings.unsolicited_pipelining == "reject" and not self.tolerates("pipelining"):
                self.turn_away(reply.unsolicited_pipelining(settings.hostname, verb))
            else:
                self._watching = False  # once a session is enough
                self._report(ProtocolNote("unsolicited pipelining", verb))

    def _take_content(self, data: bytes, at: int) -> int:
        """Take content from ``at`` on; return where in ``data`` it ended."""
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

    def _deny_chunk(self, refusal: Reply) -> None:
        self._refused_chunk = None
        self.step(Step.CHUNK_PASSED if self.helo else Step.CHUNK_PASSED_EARLY)
        self.deny(refusal, joinable=True)
