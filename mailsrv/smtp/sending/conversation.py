"""What a sending session knows and does, for the handlers of its replies to act on.

``session`` has the interface that a connection drives, and says what each thing here is for;
``handlers`` what each reply leads to.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from mailsrv.smtp.sending.extensions import NO_EXTENSIONS
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import Dialect, SendingOptions, TlsPolicy
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.sending.reply_reader import ReplyError, ReplyReader
from mailsrv.smtp.sending.state_machine import TRANSITIONS, State, Step
from mailsrv.smtp.sending.timeouts import SendingTimeout
from mailsrv.smtp.sending.transaction import SendingTransaction
from mailsrv.smtp.sending.verdict import Verdict

RECIPIENTS_MAX = 100
"""In a transaction, where the next hop names no number: RFC 5321 section 4.5.3.1.8."""
RECIPIENTS_OFFERED_MAX = 1_000
"""In a transaction, however many the next hop offers to take."""
CHUNKS_AHEAD_MAX = 1
"""Chunks that are sent before the reply to the one before them."""


class Want(Enum):
    """What the session waits for."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    REPLY = "a reply"
    HANDSHAKE = "a TLS handshake"
    MESSAGE = "a message, or the end"
    CONTENT = "a piece of the content, once the output has gone"
    CLOSE = "the connection to be closed"


class Trouble(NamedTuple):
    """Why a connection cannot go on.

    ``kind`` (DEFERRED, or FAILED where the next hop says that it never takes mail), ``status``
    and ``diagnostic`` are as in ``Outcome``.  ``elsewhere``: no recipient's message can have been
    taken, so those that were deferred may be tried at once at another address of the destination.
    ``in_the_clear``: opportunistic TLS failed; the same address is to be tried once more with
    ``TlsPolicy.NEVER``.
    """

    kind: OutcomeKind
    status: str
    diagnostic: str
    elsewhere: bool = True
    in_the_clear: bool = False


class Conversation:
    """See the module.  ``due`` counts the replies that the next hop owes us."""

    __slots__ = (
        *("_next", "_outcomes", "due", "extensions", "options", "output", "reader", "remote"),
        *("state", "timeout", "tls", "transaction", "trouble", "waits", "want"),
    )

    def __init__(self, options: SendingOptions, remote: str, tls: str = "") -> None:
        """``remote`` names the next hop in outcomes; ``tls`` is set if the handshake came first."""
        self.options = options
        self.remote = remote
        self.tls = tls
        self.output: list[bytes] = []
        self.want = Want.REPLY
        self.timeout: SendingTimeout | None = SendingTimeout.GREETING
        self.waits = 0
        self.trouble: Trouble | None = None
        self.state = State.GREETING
        self.extensions = NO_EXTENSIONS
        self.reader = ReplyReader()
        self.due = 1
        self.transaction: SendingTransaction | None = None
        self._next: OutgoingMessage | None = None
        self._outcomes: Sequence[Outcome] | None = None

    @property
    def lmtp(self) -> bool:
        return self.options.dialect is Dialect.LMTP

    @property
    def message_in_hand(self) -> SendingTransaction:
        assert self.transaction is not None, "the states of a transaction have one"
        return self.transaction

    @property
    def recipients_max(self) -> int:
        """How many recipients of one message are sent in a transaction; more are DEFERRED with
        4.5.3 at once.  Known once the next hop has answered EHLO."""
        offered = self.extensions.recipients_max
        return RECIPIENTS_MAX if offered is None else min(offered, RECIPIENTS_OFFERED_MAX)

    def step(self, step: Step) -> None:
        """Take a step of the table; a step that is not in it is a defect and raises KeyError."""
        self.state = TRANSITIONS[self.state][step]

    # -- what is sent and waited for --------------------------------------------------------------

    def send(self, octets: bytes, replies: int = 1) -> None:
        """Send what is answered with so many ``replies``.

        Raises ReplyError if there is a reply already, which then belongs to no command: it would be
        taken for the reply to this one, and all that follow for those to the wrong ones.
        """
        if not self.due and self.reader.pending:
            raise ReplyError("a reply that belongs to no command")
        self.output.append(octets)
        self.due += replies

    def wait(self, timeout: SendingTimeout | None, want: Want = Want.REPLY) -> None:
        """Wait anew, for what ``timeout`` names."""
        self.want = want
        self.timeout = timeout
        self.waits += 1

    def say_hello(self, verb: str) -> None:
        self.send(f"{verb} {self.options.hostname}\r\n".encode())
        self.wait(SendingTimeout.HELLO)

    def take(self, message: OutgoingMessage) -> None:
        """Begin with ``message`` now, or when ready."""
        self._next = message
        if self.state is State.READY:
            self.be_ready()

    def be_ready(self) -> None:
        """No transaction is open: begin with the message that waits, if one does."""
        message, self._next = self._next, None
        if message is None:
            self.wait(None, Want.MESSAGE)
            return
        self.step(Step.MESSAGE)
        self.transaction = SendingTransaction(
            message, self.extensions, self.options, self.recipients_max
        )
        if message.probe:
            self.send_envelope()
        else:
            self.wait(SendingTimeout.CONTENT, Want.CONTENT)

    # -- a transaction ----------------------------------------------------------------------------

    def send_envelope(self) -> None:
        """Send MAIL, and in the same flight all that may go with it (RFC 2920 section 3.1)."""
        transaction = self.message_in_hand
        if not transaction.prepare():
            self.pass_over()
            return
        self.step(Step.ENVELOPE)
        flight = [transaction.mail()]
        if self.extensions.pipelining:
            while transaction.unasked:
                flight.append(transaction.next_rcpt())
            # LMTP says nowhere how many replies BDAT has where no recipient was taken.
            if not transaction.message.probe and not (
                transaction.chunked and (self.lmtp or not transaction.whole)
            ):
                flight.append(self.content_command())
        self.send(b"".join(flight), replies=len(flight))
        self.wait(SendingTimeout.MAIL)

    def pass_over(self) -> None:
        """Nothing of the message was sent, and nothing will be."""
        self.step(Step.UNSENDABLE)
        self.end_transaction()
        self.be_ready()

    def content_command(self) -> bytes:
        """DATA, or BDAT with the block that is at hand."""
        transaction = self.message_in_hand
        transaction.content_asked = True
        if not transaction.chunked:
            return b"DATA\r\n"
        block, transaction.block = transaction.block, b""
        transaction.ended = transaction.whole
        last = b" LAST" if transaction.whole else b""
        return b"BDAT %d%s\r\n%s" % (len(block), last, block)

    def send_chunk(self) -> None:
        """Send the block at hand with BDAT, and wait for more content or for the reply."""
        transaction = self.message_in_hand
        self.send(self.content_command())
        if transaction.ended:
            self.due += len(transaction.taken) - 1 if self.lmtp else 0
            self.wait(SendingTimeout.END)
        elif self.due > (CHUNKS_AHEAD_MAX if self.extensions.pipelining and not self.lmtp else 0):
            self.wait(SendingTimeout.CHUNK)
        else:
            self.wait(SendingTimeout.CONTENT, Want.CONTENT)

    def send_block(self) -> None:
        """Send the block at hand after DATA, and wait for more content or for the reply."""
        transaction = self.message_in_hand
        block, transaction.block = transaction.block, b""
        if transaction.whole:
            self.send(block, replies=len(transaction.taken) if self.lmtp else 1)
            transaction.ended = True
            self.step(Step.CONTENT_SENT)
            self.wait(SendingTimeout.END)
        else:
            self.output.append(block)
            self.wait(SendingTimeout.CONTENT, Want.CONTENT)

    def reset(self) -> None:
        """The transaction is over, though the next hop may still hold it open."""
        self.end_transaction()
        self.send(b"RSET\r\n")
        self.wait(SendingTimeout.RSET)

    def end_transaction(self) -> None:
        """Every recipient has its verdict."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            self._outcomes = transaction.outcomes(self.remote, dsn=self.extensions.dsn)

    # -- the end ----------------------------------------------------------------------------------

    def give_up(self, verdict: Verdict) -> None:
        """The connection cannot go on; a message under way is decided by ``verdict``."""
        transaction = self.transaction
        may_be_taken = (
            transaction is not None
            and transaction.ended
            and bool(transaction.asked or transaction.taken)
        )
        in_the_clear = self.options.tls is TlsPolicy.OPPORTUNISTIC and (
            self.state in (State.STARTTLS, State.HANDSHAKE)
            or (self.state is State.EHLO and bool(self.tls))
        )
        self.trouble = Trouble(*verdict, elsewhere=not may_be_taken, in_the_clear=in_the_clear)
        self.close(verdict)

    def close(self, verdict: Verdict) -> None:
        """The connection is done with; a message under way is decided by ``verdict``."""
        message, self._next = self._next, None
        if self.transaction is not None:
            self.transaction.decide_rest(verdict)
            self.end_transaction()
        elif message is not None:
            self._outcomes = tuple(
                Outcome(place, *verdict, self.remote) for place in message.places
            )
        self.step(Step.CLOSE)
        self.wait(None, Want.CLOSE)
