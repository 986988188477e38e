"""The commands: what each does, and in which state it may come (RFC 5321 section 4.1.4).

Theory of operation.  ``TABLE`` names the handler of each command in each state.  A handler receives
the session and the command's argument; it finds out the outcome, takes the step to the next state
(``state_machine``), changes the transaction and sends the reply.  Where policy or courier decide,
it asks a question instead, and ``DECIDED`` names the function that goes on with the answer.
"""

from __future__ import annotations

from collections.abc import Callable

from mailsrv.smtp import command, reply
from mailsrv.smtp.content import ChunkReader, ContentReader
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.events import Stage
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.state import SessionState
from mailsrv.smtp.state_machine import TRANSITIONS, State, Step
from mailsrv.smtp.transaction import Transaction

Handler = Callable[[SessionState, str], None]

# Attributes of an Enum class are slow to look up; these are used for every command.
_ASK_SENDER, _ASK_RECIPIENT, _ASK_MESSAGE = Stage.SENDER, Stage.RECIPIENT, Stage.MESSAGE
_MAIL, _RCPT, _DATA, _MESSAGE = Step.MAIL, Step.RCPT, Step.DATA, Step.MESSAGE
_CHUNK, _CHUNK_TAKEN, _INFORMED = Step.CHUNK, Step.CHUNK_TAKEN, Step.INFORMED
_HELLO, _RESET = Step.HELLO, Step.RESET


# -- EHLO, HELO, STARTTLS -------------------------------------------------------------------------


def _ehlo(session: SessionState, argument: str) -> None:
    context = session.context
    answer = context.secured_hello if session.tls else context.extended_hello
    _hello(session, argument, answer, "ESMTPS" if session.tls else "ESMTP")


def _helo(session: SessionState, argument: str) -> None:
    _hello(session, argument, session.context.hello, "SMTP")


def _hello(session: SessionState, argument: str, answer: Reply, protocol: str) -> None:
    if session.count_junk():
        return
    if not argument:
        session.refuse(reply.NEED_ARGUMENT)  # and the transaction stays as it is
    elif not argument.isascii():  # RFC 6531 section 3.7.1: A-labels only
        session.refuse(reply.HELO_NOT_ASCII)
    else:
        session.helo, session.protocol = argument, protocol
        session.state = TRANSITIONS[session.state][_HELLO]
        if session.transaction is not None:
            session.drop()
        session.send(answer)


def _starttls(session: SessionState, argument: str) -> None:
    if session.tls:
        session.refuse(reply.TLS_ALREADY)
    elif not session.context.tls:
        session.refuse(reply.NOT_IMPLEMENTED)
    elif argument:
        session.refuse(reply.NO_ARGUMENT)
    else:
        session.upgrade()


# -- MAIL -----------------------------------------------------------------------------------------


def _mail(session: SessionState, argument: str) -> None:
    context = session.context
    settings = context.settings
    parsed = command.parse_mail(argument)
    if isinstance(parsed, Reply):
        session.refuse(parsed, joinable=True)
        return
    reverse_path, (size_octets, body, smtputf8, ret, envid, dropped) = parsed
    if size_octets is not None and size_octets > settings.message_octets:
        session.refuse(reply.message_too_large(settings.message_octets), joinable=True)
    elif session.transactions >= settings.transactions:
        session.turn_away(reply.too_many_transactions(settings.hostname, settings.transactions))
    else:
        protocol = session.protocol
        if smtputf8:  # RFC 6531 section 4.3
            protocol = "UTF8SMTPS" if session.tls else "UTF8SMTP"
        envelope = Envelope(
            session.client,
            session.helo,
            protocol,
            context.new_id(),
            reverse_path,
            [],
            size_octets,
            body,
            smtputf8,
            session.tls,
            session.now_ns,
            0,
            ret,
            envid,
            {},
        )
        session.transaction = Transaction(envelope, settings.message_octets)
        if dropped:
            session.note_dropped(dropped)
        if _ASK_SENDER in context.stages:
            session.ask(_ASK_SENDER)
        else:
            session.transactions += 1
            session.state = TRANSITIONS[session.state][_MAIL]
            session.send(reply.SENDER_OK, joinable=True)


def _sender_decided(session: SessionState, verdict: Reply | None) -> None:
    if verdict is None:
        session.transactions += 1
        session.state = TRANSITIONS[session.state][_MAIL]
        session.send(reply.SENDER_OK, joinable=True)
    else:
        session.step(Step.REFUSED)
        session.drop(verdict)
        session.deny(verdict, joinable=True)


# -- RCPT -----------------------------------------------------------------------------------------


def _rcpt(session: SessionState, argument: str) -> None:
    transaction = session.transaction
    assert transaction is not None, "the table lets RCPT through only inside a transaction"
    envelope, context = transaction.envelope, session.context
    allowed = context.settings.recipients
    parsed = command.parse_rcpt(argument, envelope.smtputf8)
    if isinstance(parsed, Reply):
        transaction.refusal = parsed
        session.refuse_recipient(parsed)
        return
    path, (notice, dropped) = parsed
    if dropped:
        session.note_dropped(dropped)
    if len(envelope.forward_paths) >= allowed:
        _refuse_recipient(session, reply.too_many_recipients(allowed), path)
    elif _ASK_RECIPIENT in context.stages:
        session.asked = path, notice
        session.ask(_ASK_RECIPIENT, path)
    else:
        _accept_recipient(session, envelope, path, notice)


def _recipient_decided(session: SessionState, verdict: Reply | None) -> None:
    asked, session.asked = session.asked, None
    transaction = session.transaction
    assert transaction is not None
    assert asked is not None
    if verdict is None:
        _accept_recipient(session, transaction.envelope, *asked)
    else:
        _refuse_recipient(session, verdict, asked[0])


def _accept_recipient(
    session: SessionState, envelope: Envelope, path: MailPath, notice: Notice | None
) -> None:
    if notice is not None:
        envelope.notices[len(envelope.forward_paths)] = notice
    envelope.forward_paths.append(path)
    session.state = TRANSITIONS[session.state][_RCPT]
    session.send(reply.RECIPIENT_OK, joinable=True)


def _refuse_recipient(session: SessionState, verdict: Reply, path: MailPath) -> None:
    transaction = session.transaction
    assert transaction is not None
    transaction.envelope.refused += 1
    transaction.refusal = verdict
    session.refuse_recipient(verdict, path)


# -- DATA and BDAT --------------------------------------------------------------------------------


def _data(session: SessionState, argument: str) -> None:
    if argument:
        session.refuse(reply.NO_ARGUMENT)
        return
    _open(session, ContentReader())
    session.state = TRANSITIONS[session.state][_DATA]
    session.send(reply.START_CONTENT)


def _open(session: SessionState, reader: ContentReader | ChunkReader) -> None:
    """Content may come now, and ``reader`` takes it."""
    transaction, context = session.transaction, session.context
    assert transaction is not None
    if context.tolerates is not None:  # there are exceptions
        recipients = [str(path) for path in transaction.envelope.forward_paths]
        transaction.normalise = session.tolerates("bare_lf", recipients)
    transaction.open(context.courier, reader)


def _data_too_soon(session: SessionState, argument: str) -> None:
    session.refuse(_no_recipient(session))


def _no_recipient(session: SessionState) -> Reply:
    transaction = session.transaction
    refused = transaction is not None and transaction.envelope.refused
    return reply.NO_VALID_RECIPIENTS if refused else reply.NEED_RCPT


def _bdat(session: SessionState, argument: str) -> None:
    """RFC 3030 section 2.  Whatever is refused here ends the transaction: without this chunk the
    message cannot become whole, even if all others came."""
    chunk = command.parse_bdat(argument)
    if chunk is None:
        # Where the chunk ends, if one follows, cannot be known.  So what follows is read as
        # commands, as after any line that was not understood: to pass over as many octets as
        # the number may have meant would let a client hide commands from a server that counts
        # otherwise, and there is no message any more that they could get into.
        session.refuse_chunk(reply.BAD_CHUNK, 0, joinable=False)
        return
    octets, last = chunk
    if not (octets or last) and session.count_junk():
        return
    refusal = _chunk_out_of_order(session)
    if refusal is None:
        refusal = _chunk_begins(session, octets, last)
    if refusal is not None:
        session.refuse_chunk(refusal, octets)
    elif not octets:
        assert session.transaction is not None
        session.transaction.take(b"", 0)
        content_ended(session)


def _chunk_out_of_order(session: SessionState) -> Reply | None:
    if _CHUNK in TRANSITIONS[session.state]:
        return None
    if session.transaction is not None:
        return _no_recipient(session)
    return reply.NEED_MAIL if session.helo else reply.NEED_HELO


def _chunk_begins(session: SessionState, octets: int, last: bool) -> Reply | None:
    transaction = session.transaction
    assert transaction is not None
    reader = transaction.reader or ChunkReader()
    assert isinstance(reader, ChunkReader), "after DATA there are no commands"
    allowed_octets = session.context.settings.message_octets
    if reader.size_octets + octets > allowed_octets:
        return reply.message_too_large(allowed_octets)
    if transaction.reader is None:
        _open(session, reader)
    reader.begin(octets, last)
    session.state = TRANSITIONS[session.state][_CHUNK]
    return None


def content_ended(session: SessionState) -> None:
    """The end of data was found, or that of a chunk."""
    transaction = session.transaction
    assert transaction is not None
    reader = transaction.reader
    if transaction.sink is None:
        _message_decided(session, transaction.fault)
    elif type(reader) is ChunkReader and not reader.last:
        session.state = TRANSITIONS[session.state][_CHUNK_TAKEN]
        session.send(reply.CHUNK_OK, joinable=True)
    else:
        if transaction.beginning is not None or transaction.normalise:
            transaction.complete()
            if transaction.normalised:
                session.note("line ends normalised", "bare <LF> or <CR> in content")
        session.ask(_ASK_MESSAGE)


def _message_decided(session: SessionState, verdict: Reply | None) -> None:
    answer = verdict or reply.LOCAL_ERROR
    session.state = TRANSITIONS[session.state][_MESSAGE]
    if answer.code < 400:
        assert session.transaction is not None
        session.transaction.sink = None  # the message is the courier's now
        session.errors = session.junk = 0
        session.drop(answer)
        session.send(answer, joinable=True)
    else:
        session.drop(answer)
        session.deny(answer, joinable=True)


# -- the others -----------------------------------------------------------------------------------


def _rset(session: SessionState, argument: str) -> None:
    if argument:
        session.refuse(reply.NO_ARGUMENT)
    elif not session.count_junk():
        session.step(_RESET)
        session.drop()
        session.send(reply.OK, joinable=True)


def _noop(session: SessionState, argument: str) -> None:
    if not session.count_junk():
        session.step(_INFORMED)
        session.send(reply.OK)


def _vrfy(session: SessionState, argument: str) -> None:
    # RFC 5321 section 7.3: a server may decline to verify addresses.
    fault = command.parse_vrfy(argument)
    if fault is not None:
        session.refuse(fault)
    elif not session.count_junk():
        session.step(_INFORMED)
        session.send(reply.CANNOT_VERIFY)


def _expn(session: SessionState, argument: str) -> None:
    fault = command.parse_vrfy(argument)
    if fault is not None:
        session.refuse(fault)
    elif not session.count_junk():
        session.refuse(reply.NO_EXPANSION)


def _help(session: SessionState, argument: str) -> None:
    if not session.count_junk():
        session.step(_INFORMED)
        session.send(reply.HELP)


def _quit(session: SessionState, argument: str) -> None:
    if argument:
        session.refuse(reply.NO_ARGUMENT)
    else:
        session.end(reply.BYE)


# -- the tables -----------------------------------------------------------------------------------


def _refused(answer: Reply) -> Handler:
    """The handler of a command that is out of order."""
    return lambda session, argument: session.refuse(answer)


_ANYWHERE: dict[str, Handler] = {
    "EHLO": _ehlo,
    "HELO": _helo,
    "STARTTLS": _starttls,
    "BDAT": _bdat,  # and its octets are passed over where it is out of order
    "RSET": _rset,
    "NOOP": _noop,
    "VRFY": _vrfy,
    "EXPN": _expn,
    "HELP": _help,
    "QUIT": _quit,
    "MAIL": _refused(reply.NESTED_MAIL),
}
_NEED_HELO, _NEED_MAIL = _refused(reply.NEED_HELO), _refused(reply.NEED_MAIL)

TABLE: dict[State, dict[str, Handler]] = {
    State.CONNECTED: _ANYWHERE | {"MAIL": _NEED_HELO, "RCPT": _NEED_HELO, "DATA": _NEED_HELO},
    State.GREETED: _ANYWHERE | {"MAIL": _mail, "RCPT": _NEED_MAIL, "DATA": _NEED_MAIL},
    State.SENDER: _ANYWHERE | {"RCPT": _rcpt, "DATA": _data_too_soon},
    State.RECIPIENT: _ANYWHERE | {"RCPT": _rcpt, "DATA": _data},
    State.CHUNKS: _ANYWHERE
    | {"RCPT": _refused(reply.AFTER_BDAT), "DATA": _refused(reply.AFTER_BDAT)},
    State.CONTENT: {},
    State.HANDSHAKE: {},
    State.CLOSED: {},
}
"""Which command does what in which state; in a state without an entry no command is read."""

DECIDED: dict[Stage, Callable[[SessionState, Reply | None], None]] = {
    Stage.SENDER: _sender_decided,
    Stage.RECIPIENT: _recipient_decided,
    Stage.MESSAGE: _message_decided,
}
"""How the command that asked goes on with the answer."""

WAITED_FOR = frozenset(("EHLO", "HELO", "DATA", "VRFY", "EXPN", "NOOP", "QUIT"))
"""The commands that end a group: nothing may be sent before they are answered (RFC 2920 section
3.1; HELO because only EHLO can tell that groups are allowed)."""
FOLLOWED = frozenset(("BDAT", "STARTTLS"))
"""What follows these in one piece is no further command: a chunk; a TLS handshake too soon."""
