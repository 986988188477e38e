"""The state machine of a sending session: every state, and every way from one to the next.

Theory of operation.  A state is what is waited for.  Replies come in the order of the commands, so
the states are the same whether commands are sent one by one or in one flight (RFC 2920).  A
``Step`` is a reply, or something that the session does, and its outcome.  ``TRANSITIONS`` says for
each state which steps may be taken in it and which state comes next; nothing else sets a state.
Which handler a reply has in which state, by the first digit of its code, stands in ``handlers``; a
digit that is not there is a reply to the wrong command, and so are a greeting and a farewell
elsewhere.

``docs/understand/sending.md`` is drawn from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """What a sending session waits for."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    GREETING = "the greeting"
    EHLO = "the reply to EHLO or LHLO"
    HELO = "the reply to HELO"
    STARTTLS = "the reply to STARTTLS"
    HANDSHAKE = "the end of the TLS handshake"
    READY = "a message to be sent"
    PREVIEW = "the beginning of the content, before MAIL is sent"
    MAIL = "the reply to MAIL"
    RCPT = "the reply to a RCPT"
    DATA = "the reply to DATA"
    CONTENT = "more content, to be sent after DATA"
    CHUNK = "more content, to be sent with BDAT, or the reply to a BDAT"
    END = "the reply to the end of the content; of LMTP one for each recipient"
    REFUSED = "the replies to what was sent together with a refused command"
    NOTHING = "the reply to the end of no content"
    RSET = "the reply to RSET"
    QUIT = "the reply to QUIT"
    CLOSED = "nothing: the connection is done with"


class Step(Enum):
    """A reply, or what the session does, and its outcome."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    GREETED = "greeting: 2yz"
    HELLO = "EHLO, LHLO or HELO: 2yz"
    NO_EHLO = "EHLO: 5yz, so HELO is sent"
    ASK_TLS = "STARTTLS is sent"
    TLS_GRANTED = "STARTTLS: 2yz"
    TLS_DENIED = "STARTTLS: 4yz or 5yz, and TLS is not required"
    SECURED = "TLS handshake: done"
    MESSAGE = "a message is to be sent"
    UNSENDABLE = "no recipient of it can be sent to this next hop, or it cannot be read"
    ENVELOPE = "MAIL is sent"
    MAIL_TAKEN = "MAIL: 2yz"
    MAIL_REFUSED = "MAIL: 4yz or 5yz"
    RCPT_ANSWERED = "RCPT: any reply, and more recipients follow"
    NO_RCPT = "RCPT: the last reply, and none was 2yz"
    PROBED = "RCPT: the last reply, and no content is to be sent"
    DATA_SENT = "RCPT: the last reply, and DATA is sent"
    CHUNK_SENT = "RCPT: the last reply, and the first BDAT is sent"
    WHOLE_SENT = "RCPT: the last reply, and BDAT is sent with all content"
    REFUSED_TOGETHER = "MAIL, each RCPT or a BDAT: refused, and replies to more are due"
    REPLY_PASSED = "a reply to what was sent together: more are due"
    REPLIES_PASSED = "a reply to what was sent together: the last, RSET is sent"
    NOTHING_SENT = "DATA: 3yz though nobody is to have the message, its end is sent"
    GO_AHEAD = "DATA: 3yz"
    DATA_REFUSED = "DATA: 4yz or 5yz"
    CHUNK_TAKEN = "BDAT, not the last: 2yz"
    CHUNK_REFUSED = "BDAT: 4yz or 5yz"
    CONTENT_SENT = "the end of the content is sent"
    RCPT_DONE = "end of content: a reply for one recipient, and more are due (LMTP)"
    DONE = "end of content: the last reply"
    RESET = "RSET: 2yz"
    QUIT = "QUIT is sent"
    CLOSE = "QUIT: any reply, a 421, trouble, or the connection is lost"


_GREETING, _EHLO, _HELO, _STARTTLS, _HANDSHAKE, _READY, _PREVIEW, *_REST = State
_MAIL, _RCPT, _DATA, _CONTENT, _CHUNK, _END, _REFUSED, _NOTHING, _RSET, _QUIT, _CLOSED = _REST

TRANSITIONS: Mapping[State, Mapping[Step, State]] = {
    _GREETING: {Step.GREETED: _EHLO, Step.CLOSE: _CLOSED},
    _EHLO: {Step.HELLO: _READY, Step.NO_EHLO: _HELO, Step.CLOSE: _CLOSED},
    _HELO: {Step.HELLO: _READY, Step.CLOSE: _CLOSED},
    _STARTTLS: {
        Step.TLS_GRANTED: _HANDSHAKE,
        Step.TLS_DENIED: _READY,
        Step.CLOSE: _CLOSED,
    },
    _HANDSHAKE: {Step.SECURED: _EHLO, Step.CLOSE: _CLOSED},
    _READY: {
        Step.ASK_TLS: _STARTTLS,
        Step.MESSAGE: _PREVIEW,
        Step.QUIT: _QUIT,
        Step.CLOSE: _CLOSED,
    },
    _PREVIEW: {Step.UNSENDABLE: _READY, Step.ENVELOPE: _MAIL, Step.CLOSE: _CLOSED},
    _MAIL: {
        Step.MAIL_TAKEN: _RCPT,
        Step.MAIL_REFUSED: _READY,
        Step.REFUSED_TOGETHER: _REFUSED,
        Step.CLOSE: _CLOSED,
    },
    _RCPT: {
        Step.RCPT_ANSWERED: _RCPT,
        Step.NO_RCPT: _RSET,
        Step.PROBED: _RSET,
        Step.REFUSED_TOGETHER: _REFUSED,
        Step.DATA_SENT: _DATA,
        Step.CHUNK_SENT: _CHUNK,
        Step.WHOLE_SENT: _END,
        Step.CLOSE: _CLOSED,
    },
    _DATA: {Step.GO_AHEAD: _CONTENT, Step.DATA_REFUSED: _RSET, Step.CLOSE: _CLOSED},
    _CONTENT: {Step.CONTENT_SENT: _END, Step.CLOSE: _CLOSED},
    _CHUNK: {
        Step.CHUNK_TAKEN: _CHUNK,
        Step.CHUNK_REFUSED: _RSET,
        Step.REFUSED_TOGETHER: _REFUSED,
        Step.CONTENT_SENT: _END,
        Step.CLOSE: _CLOSED,
    },
    _END: {
        Step.CHUNK_TAKEN: _END,  # of a chunk before the last
        Step.CHUNK_REFUSED: _RSET,
        Step.REFUSED_TOGETHER: _REFUSED,
        Step.RCPT_DONE: _END,
        Step.DONE: _READY,
        Step.CLOSE: _CLOSED,
    },
    _REFUSED: {
        Step.REPLY_PASSED: _REFUSED,
        Step.REPLIES_PASSED: _RSET,
        Step.NOTHING_SENT: _NOTHING,
        Step.CLOSE: _CLOSED,
    },
    _NOTHING: {Step.DONE: _READY, Step.CLOSE: _CLOSED},
    _RSET: {Step.RESET: _READY, Step.CLOSE: _CLOSED},
    _QUIT: {Step.CLOSE: _CLOSED},
    _CLOSED: {Step.CLOSE: _CLOSED},
}
"""The next state by state and step."""
