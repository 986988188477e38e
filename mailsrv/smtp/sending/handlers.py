"""What each reply leads to, by the state in which it comes and the first digit of its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mailsrv.smtp.sending.conversation import Conversation, Want
from mailsrv.smtp.sending.extensions import NO_EXTENSIONS, parse_extensions
from mailsrv.smtp.sending.options import TlsPolicy
from mailsrv.smtp.sending.outcome import OutcomeKind
from mailsrv.smtp.sending.reply_reader import ReceivedReply, ReplyError
from mailsrv.smtp.sending.state_machine import State, Step
from mailsrv.smtp.sending.timeouts import SendingTimeout
from mailsrv.smtp.sending.verdict import (
    NEVER_TAKES_MAIL,
    Verdict,
    deferred,
    put_off,
    refused,
    status_of,
)

Handler = Callable[[Conversation, ReceivedReply], None]

# -- before a transaction -------------------------------------------------------------------------


def _greeted(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.step(Step.GREETED)
    conversation.say_hello("LHLO" if conversation.lmtp else "EHLO")


def unwelcome(conversation: Conversation, reply: ReceivedReply) -> None:
    """The next hop does not want to talk now; another may, so this is no judgement of the mail."""
    state = conversation.state
    never = state is State.GREETING and reply.code == NEVER_TAKES_MAIL
    _take_leave(conversation, refused(reply, state) if never else put_off(reply, state))


def _take_leave(conversation: Conversation, verdict: Verdict) -> None:
    """Say QUIT, whose reply is not waited for (RFC 5321 section 4.1.1.10), and give up."""
    conversation.output.append(b"QUIT\r\n")
    conversation.give_up(verdict)


def closing(conversation: Conversation, reply: ReceivedReply) -> None:
    """421: the next hop closes the connection now, whatever was sent."""
    conversation.give_up(put_off(reply, conversation.state))


def _hello(conversation: Conversation, reply: ReceivedReply) -> None:
    extended = conversation.state is State.EHLO
    conversation.extensions = parse_extensions(reply) if extended else NO_EXTENSIONS
    conversation.step(Step.HELLO)
    policy = conversation.options.tls
    if conversation.tls or policy is TlsPolicy.NEVER:
        conversation.be_ready()
    elif conversation.extensions.starttls:
        conversation.step(Step.ASK_TLS)
        conversation.send(b"STARTTLS\r\n")
        conversation.wait(SendingTimeout.STARTTLS)
    elif policy is TlsPolicy.OPPORTUNISTIC:
        conversation.be_ready()
    else:
        _take_leave(
            conversation,
            deferred("4.7.4", "TLS is required, and the next hop does not offer STARTTLS"),
        )


def _no_ehlo(conversation: Conversation, reply: ReceivedReply) -> None:
    """An old server (RFC 5321 section 3.2).  LMTP has nothing older to fall back to."""
    if conversation.lmtp:
        unwelcome(conversation, reply)
        return
    conversation.step(Step.NO_EHLO)
    conversation.say_hello("HELO")


def _tls_granted(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.step(Step.TLS_GRANTED)
    conversation.wait(SendingTimeout.HANDSHAKE, Want.HANDSHAKE)


def _tls_denied(conversation: Conversation, reply: ReceivedReply) -> None:
    if conversation.options.tls is TlsPolicy.OPPORTUNISTIC:
        conversation.step(Step.TLS_DENIED)
        conversation.be_ready()
    else:
        unwelcome(conversation, reply)


# -- the envelope ---------------------------------------------------------------------------------


def _mail_taken(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.step(Step.MAIL_TAKEN)
    _ask_next(conversation)


def _mail_refused(conversation: Conversation, reply: ReceivedReply) -> None:
    transaction = conversation.message_in_hand
    # A probe's null reverse-path is no recipient's fault.
    judge = put_off if transaction.message.probe else refused
    transaction.decide_rest(judge(reply, State.MAIL))
    if conversation.due:
        conversation.step(Step.REFUSED_TOGETHER)
        conversation.wait(SendingTimeout.RCPT)
    else:
        conversation.step(Step.MAIL_REFUSED)
        conversation.end_transaction()
        conversation.be_ready()


def _rcpt_taken(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.message_in_hand.answer_rcpt(None)
    _rcpt_answered(conversation, reply)


def _rcpt_refused(conversation: Conversation, reply: ReceivedReply) -> None:
    transaction = conversation.message_in_hand
    verdict = refused(reply, State.RCPT, others_taken=bool(transaction.taken))
    transaction.answer_rcpt(verdict)
    _rcpt_answered(conversation, reply)


def _rcpt_answered(conversation: Conversation, reply: ReceivedReply) -> None:
    transaction = conversation.message_in_hand
    if transaction.asked or transaction.unasked:
        conversation.step(Step.RCPT_ANSWERED)
        _ask_next(conversation)
    elif transaction.message.probe:
        conversation.step(Step.PROBED)
        transaction.decide_rest(_taken(conversation, reply))
        conversation.reset()
    elif transaction.taken:
        _begin_content(conversation)
    elif conversation.due:
        conversation.step(Step.REFUSED_TOGETHER)
        conversation.wait(SendingTimeout.DATA)
    else:
        conversation.step(Step.NO_RCPT)
        conversation.reset()


def _ask_next(conversation: Conversation) -> None:
    """Send the next RCPT, unless they are on their way."""
    transaction = conversation.message_in_hand
    if not transaction.asked:
        conversation.send(transaction.next_rcpt())
    conversation.wait(SendingTimeout.RCPT)


def _begin_content(conversation: Conversation) -> None:
    """Every recipient is answered, and one at least was taken."""
    transaction = conversation.message_in_hand
    if not transaction.chunked:
        conversation.step(Step.DATA_SENT)
        if not transaction.content_asked:
            conversation.send(conversation.content_command())
        conversation.wait(SendingTimeout.DATA)
        return
    conversation.step(Step.WHOLE_SENT if transaction.whole else Step.CHUNK_SENT)
    if transaction.content_asked:
        conversation.wait(SendingTimeout.END)
    else:
        conversation.send_chunk()


# -- the content ----------------------------------------------------------------------------------


def _go_ahead(conversation: Conversation, reply: ReceivedReply) -> None:
    """Send the content, unless another reply has come with this one: that one counts then."""
    conversation.step(Step.GO_AHEAD)
    if not conversation.reader.pending:
        conversation.send_block()


def _data_refused(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.message_in_hand.decide_rest(refused(reply, State.DATA))
    conversation.step(Step.DATA_REFUSED)
    conversation.reset()


def _refused_early(conversation: Conversation, reply: ReceivedReply) -> None:
    """Amid the content.  Whether another reply will follow its end nobody knows, so there is none:
    without its end the message is not taken."""
    conversation.close(refused(reply, State.END))


def _chunk_taken(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.step(Step.CHUNK_TAKEN)
    conversation.wait(SendingTimeout.CONTENT, Want.CONTENT)


def _chunk_refused(conversation: Conversation, reply: ReceivedReply) -> None:
    """RFC 3030 section 2: the message cannot become whole any more."""
    conversation.message_in_hand.decide_rest(refused(reply, State.END))
    if conversation.due:
        conversation.step(Step.REFUSED_TOGETHER)
        conversation.wait(SendingTimeout.CHUNK)
    else:
        conversation.step(Step.CHUNK_REFUSED)
        conversation.reset()


def _end_taken(conversation: Conversation, reply: ReceivedReply) -> None:
    if conversation.lmtp:
        _answer_one(conversation, _taken(conversation, reply))
    elif conversation.due:
        conversation.step(Step.CHUNK_TAKEN)
        conversation.wait(SendingTimeout.END)
    else:
        _message_answered(conversation, _taken(conversation, reply))


def _end_refused(conversation: Conversation, reply: ReceivedReply) -> None:
    if conversation.lmtp:
        _answer_one(conversation, refused(reply, State.END))
    elif conversation.message_in_hand.chunked:
        _chunk_refused(conversation, reply)
    else:
        _message_answered(conversation, refused(reply, State.END))


def _answer_one(conversation: Conversation, verdict: Verdict) -> None:
    """LMTP has a reply for each recipient that was taken (RFC 2033 section 4.2)."""
    conversation.message_in_hand.answer_one(verdict)
    if conversation.due:
        conversation.step(Step.RCPT_DONE)
        conversation.wait(SendingTimeout.END)
    else:
        _message_answered(conversation, verdict)


def _message_answered(conversation: Conversation, verdict: Verdict) -> None:
    conversation.message_in_hand.decide_rest(verdict)
    conversation.step(Step.DONE)
    conversation.end_transaction()
    conversation.be_ready()


def _taken(conversation: Conversation, reply: ReceivedReply) -> Verdict:
    """LMTP delivers into a mailbox, unless it offers to send notices of its own about that."""
    delivered = conversation.lmtp and not conversation.extensions.dsn
    kind = OutcomeKind.DELIVERED if delivered else OutcomeKind.RELAYED
    return Verdict(kind, status_of(reply, State.END), reply.diagnostic)


# -- what was sent together with a refused command ------------------------------------------------


def _passed(conversation: Conversation, reply: ReceivedReply) -> None:
    if conversation.due:
        conversation.message_in_hand.taken_regardless |= reply.code < 300
        conversation.step(Step.REPLY_PASSED)
        conversation.wait(SendingTimeout.RCPT)
    else:
        conversation.step(Step.REPLIES_PASSED)
        conversation.reset()


def _passed_go_ahead(conversation: Conversation, reply: ReceivedReply) -> None:
    """A go-ahead for content that nobody is to have: its end alone is sent (RFC 2920 section 3.1),
    unless the next hop would take that for a message of no octets, or sends who knows how many
    replies (LMTP)."""
    transaction = conversation.message_in_hand
    if conversation.due or transaction.chunked or not transaction.content_asked:
        raise unexpected(conversation, reply)
    if transaction.taken_regardless or conversation.lmtp:
        conversation.close(put_off(reply, State.REFUSED))
        return
    conversation.step(Step.NOTHING_SENT)
    conversation.end_transaction()
    conversation.send(b".\r\n")
    conversation.wait(SendingTimeout.END)


def _nothing_answered(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.step(Step.DONE)
    conversation.be_ready()


# -- the end --------------------------------------------------------------------------------------


def _reset_done(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.step(Step.RESET)
    conversation.be_ready()


def _gone(conversation: Conversation, reply: ReceivedReply) -> None:
    conversation.close(put_off(reply, State.QUIT))


def unexpected(conversation: Conversation, reply: ReceivedReply) -> ReplyError:
    """The error of a reply that cannot be one to what was sent."""
    waited = conversation.state.value
    return ReplyError(f"unexpected reply, waiting for {waited}: {reply.diagnostic}")


REPLIES: Mapping[State, Mapping[int, Handler]] = {
    State.GREETING: {2: _greeted, 4: unwelcome, 5: unwelcome},
    State.EHLO: {2: _hello, 4: unwelcome, 5: _no_ehlo},
    State.HELO: {2: _hello, 4: unwelcome, 5: unwelcome},
    State.STARTTLS: {2: _tls_granted, 4: _tls_denied, 5: _tls_denied},
    State.HANDSHAKE: {},
    State.READY: {},
    State.PREVIEW: {},
    State.MAIL: {2: _mail_taken, 4: _mail_refused, 5: _mail_refused},
    State.RCPT: {2: _rcpt_taken, 4: _rcpt_refused, 5: _rcpt_refused},
    State.DATA: {3: _go_ahead, 4: _data_refused, 5: _data_refused},
    State.CONTENT: {4: _refused_early, 5: _refused_early},
    State.CHUNK: {2: _chunk_taken, 4: _chunk_refused, 5: _chunk_refused},
    State.END: {2: _end_taken, 4: _end_refused, 5: _end_refused},
    State.REFUSED: {2: _passed, 3: _passed_go_ahead, 4: _passed, 5: _passed},
    State.NOTHING: {2: _nothing_answered, 4: _nothing_answered, 5: _nothing_answered},
    State.RSET: {2: _reset_done, 4: unwelcome, 5: unwelcome},
    State.QUIT: {2: _gone, 3: _gone, 4: _gone, 5: _gone},
    State.CLOSED: {},
}
"""The handlers by state and by the first digit of the code."""
ONLY_IN: Mapping[int, tuple[State, ...]] = {
    220: (State.GREETING, State.STARTTLS),
    221: (State.QUIT,),
}
"""Codes with a single meaning (RFC 5321 section 4.2.3): a greeting and a farewell.  Of all others
the first digit decides (section 4.2)."""
