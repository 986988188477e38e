"""The sending side of one SMTP or LMTP conversation, without I/O and without a clock.

How a connection drives it.  The socket is connected (and, for TLS from the first octet, the
handshake done): make a ``SendingSession``.  Then do as ``want`` says, again and again:

- ``Want.REPLY``: read, and ``receive`` what came.
- ``Want.HANDSHAKE``: once the output has gone, begin the TLS handshake; then ``secured`` or
  ``handshake_failed``.
- ``Want.MESSAGE``: nothing is under way.  ``start`` a message, or ``quit``, or keep the connection.
- ``Want.CONTENT``: once the output has gone, ``feed`` the next piece of the message's content,
  or ``end_content``, or ``fail_content`` if it cannot be read.
- ``Want.CLOSE``: send the output, as far as it goes at once, and close.

Whatever ``want`` is:

- ``output`` is what is to be sent, in order; the connection empties it.
- Reading never stops: what comes is handed to ``receive`` at any time (never while a handshake is
  under way), a FIN or a broken connection to ``lost``.
- ``timeout`` is what is waited for, None in ``Want.MESSAGE``.  ``waits`` counts the waits: whenever
  it has changed, the timer is set anew to now + the nanoseconds for ``timeout``
  (``SENDING_TIMEOUTS_NS``).  When it comes up: ``timed_out``.
- ``take_outcomes`` returns the outcomes of the message once all are known, one for each place, and
  None otherwise; ask after each call.  They may come before ``want`` is MESSAGE again (RSET may be
  under way).
- ``trouble`` is set once when the connection cannot go on, together with ``Want.CLOSE`` and the
  outcomes of a message that was under way: every recipient that had no outcome yet is DEFERRED.
  ``Want.CLOSE`` without trouble is an orderly end, or that of a message that could not be ended in
  any other way.

No method raises, whatever the next hop sends.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailsrv.smtp.sending.conversation import Conversation, Trouble, Want
from mailsrv.smtp.sending.handlers import ONLY_IN, REPLIES, closing, unexpected
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.smtp.sending.reply_reader import ReceivedReply, ReplyError
from mailsrv.smtp.sending.state_machine import State, Step
from mailsrv.smtp.sending.timeouts import SendingTimeout
from mailsrv.smtp.sending.verdict import SERVICE_NOT_AVAILABLE, deferred

__all__ = ["SendingSession", "Trouble", "Want"]

_DEAF = (State.HANDSHAKE, State.CLOSED)


class SendingSession(Conversation):
    """See the module.  ``tls`` is the version and cipher suite in use, "" in the clear."""

    __slots__ = ()

    @property
    def busy(self) -> bool:
        """A message is under way, or its outcomes were not taken: ``start`` may not be called."""
        in_hand = (self.transaction, self._next, self._outcomes)
        return any(one is not None for one in in_hand)

    @property
    def transactions_max(self) -> int | None:
        """How many messages the next hop takes on a connection (RFC 9422), None if unsaid."""
        return self.extensions.transactions_max

    def start(self, message: OutgoingMessage) -> None:
        """Send ``message`` as soon as the next hop is ready: at once in ``Want.MESSAGE``, or after
        greeting, EHLO, TLS or RSET.  It has one place at least.

        Raises RuntimeError while ``busy`` and after ``Want.CLOSE``.
        """
        if self.busy or self.state in (State.QUIT, State.CLOSED):
            raise RuntimeError("a message for a session that cannot take one")
        self.take(message)

    def receive(self, octets: bytes) -> None:
        """Take octets of the next hop."""
        if self.state in _DEAF:
            return
        self.reader.receive(octets)
        try:
            while self.state not in _DEAF and (reply := self.reader.next()) is not None:
                self._take_reply(reply)
            # Behind the reply to STARTTLS an attacker may have put it (RFC 3207 section 4.2).
            if not self.due and self.reader.pending and not self._is_amid_content:
                raise ReplyError("a reply that belongs to no command")
        except ReplyError as error:
            self._break(error)

    def lost(self, how: str) -> None:
        """The next hop has closed, or the connection broke: ``how`` says what the system said."""
        if self.timeout is None or self.state is State.QUIT:
            if self.state is not State.CLOSED:
                self.close(deferred("4.4.2", "the next hop closed the connection"))
        elif self.state is State.HANDSHAKE:
            self.handshake_failed(how)
        else:
            waited = self.timeout.value
            self.give_up(deferred("4.4.2", f"connection lost, waiting for the {waited}: {how}"))

    def timed_out(self) -> None:
        """What ``timeout`` names took too long."""
        if self.state is State.QUIT:
            self.close(deferred("4.4.2", "the next hop did not answer QUIT"))
        elif self.timeout is not None:
            self.give_up(deferred("4.4.2", f"timed out, waiting for the {self.timeout.value}"))

    def secured(self, tls: str) -> None:
        """The TLS handshake is done, with this version and cipher suite: all begins anew."""
        self.step(Step.SECURED)
        self.tls = tls
        self.say_hello("LHLO" if self.lmtp else "EHLO")

    def handshake_failed(self, how: str) -> None:
        """The TLS handshake failed, or the certificate is not the one that is asked for."""
        self.give_up(deferred("4.7.5", f"TLS handshake failed: {how}"))

    def feed(self, piece: bytes) -> None:
        """The next octets of the content, trace fields first; at most 256 KiB."""
        transaction = self.message_in_hand
        if self.state is State.PREVIEW:
            if transaction.look_at(piece):
                self.send_envelope()
            else:
                self.wait(SendingTimeout.CONTENT, Want.CONTENT)
        else:
            self._send_content(piece)

    def end_content(self) -> None:
        """There is no more content."""
        self.message_in_hand.whole = True
        if self.state is State.PREVIEW:
            self.send_envelope()
        else:
            self._send_content(b"")

    def fail_content(self, why: str) -> None:
        """The content cannot be read: the message is deferred, and the connection closed if a part
        of the message was sent."""
        verdict = deferred("4.3.0", why)
        if self.state is State.PREVIEW:
            self.message_in_hand.decide_rest(verdict)
            self.pass_over()
        else:
            self.close(verdict)

    def take_outcomes(self) -> Sequence[Outcome] | None:
        """The outcomes of the message, once: when all are known."""
        outcomes, self._outcomes = self._outcomes, None
        return outcomes

    def quit(self) -> None:
        """Send QUIT; a message under way is deferred, and its connection closed without a word."""
        if self.state is State.READY:
            self.step(Step.QUIT)
            self.send(b"QUIT\r\n")
            self.wait(SendingTimeout.QUIT)
        elif self.state is not State.CLOSED:
            self.close(deferred("4.3.2", "the connection was closed here"))

    # -- the rest ---------------------------------------------------------------------------------

    def _take_reply(self, reply: ReceivedReply) -> None:
        """Raises ReplyError for one that cannot be the reply to what was sent."""
        if reply.code == SERVICE_NOT_AVAILABLE and self.state is not State.QUIT:
            closing(self, reply)
            return
        if self.due:
            self.due -= 1
        elif self.state is not State.CONTENT:
            raise ReplyError(f"a reply that belongs to no command: {reply.diagnostic}")
        handler = REPLIES[self.state].get(reply.code // 100)
        if handler is None or self.state not in ONLY_IN.get(reply.code, (self.state,)):
            raise unexpected(self, reply)
        handler(self, reply)

    @property
    def _is_amid_content(self) -> bool:
        """Content was sent and more is to come, so a part of a reply may become a refusal."""
        return self.state is State.CONTENT and not self.message_in_hand.block

    def _send_content(self, piece: bytes) -> None:
        transaction = self.message_in_hand
        fault = transaction.take(piece)
        if fault is not None:
            self.close(fault)  # without its end the message is not taken
            return
        try:
            if not transaction.chunked:
                self.send_block()
                return
            if transaction.whole:
                self.step(Step.CONTENT_SENT)
            if transaction.block or transaction.whole:
                self.send_chunk()
        except ReplyError as error:
            self._break(error)

    def _break(self, error: ReplyError) -> None:
        self.give_up(deferred("4.5.0", f"protocol error: {error}"))
