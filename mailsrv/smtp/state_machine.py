"""The state machine of a session: every state, and every way from one to the next.

Theory of operation.  A session is always in one ``State``.  A ``Step`` is a command, or the end of
content, together with its outcome: MAIL answered with 250 is one, RCPT answered with 250 another.
``TRANSITIONS`` says for each state which steps may be taken in it and which state comes next.
Nothing else decides that: a session's state is only ever set to what is looked up there, and a
step that the table does not know in a state is a defect and raises ``KeyError``.  Which handler a
command runs in which state stands in ``handlers``; the handler finds out the outcome and takes
the step.

Only a negative reply to BDAT ends a transaction: without the chunk the message cannot become whole
(RFC 3030 section 2).  After every other refused command the state stays as it was.  The octets of
a refused chunk are content all the same: they are received and thrown away before the reply.

``docs/understand/states.md`` is drawn from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """Where a session stands (RFC 5321 section 4.1.4)."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    CONNECTED = "no HELO or EHLO yet"
    GREETED = "no mail transaction"
    SENDER = "a reverse-path, no forward-path"
    RECIPIENT = "a reverse-path and a forward-path"
    CONTENT = "message content"
    CHUNKS = "a part of the content, between two chunks"
    HANDSHAKE = "a TLS handshake"
    CLOSED = "the last reply is sent, or the client is gone"


class Step(Enum):
    """A command, or the end of content, and its outcome."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    INFORMED = "NOOP, VRFY or HELP: 2yz"
    REFUSED = "any command but BDAT: 4yz or 5yz"
    HELLO = "EHLO or HELO: 250"
    RESET = "RSET: 250"
    STARTTLS = "STARTTLS: 220"
    SECURED = "TLS handshake: done"
    MAIL = "MAIL: 250"
    RCPT = "RCPT: 250"
    DATA = "DATA: 354"
    CHUNK = "BDAT: its octets follow"
    CHUNK_REFUSED = "BDAT: refused, its octets follow"
    NO_CHUNK = "BDAT: refused, no octets follow"
    CHUNK_TAKEN = "end of chunk: 250"
    CHUNK_PASSED = "end of refused chunk: 4yz or 5yz"
    CHUNK_PASSED_EARLY = "end of refused chunk before HELO: 5yz"
    MESSAGE = "end of data or of a chunk, and with it of the message: 250, 4yz or 5yz"
    CLOSE = "QUIT: 221, a limit: 421, or the client is gone"


_CONNECTED, _GREETED, _SENDER, _RECIPIENT, _CONTENT, _CHUNKS, _HANDSHAKE, _CLOSED = State


def _waiting_for_command(state: State, base: State, more: dict[Step, State]) -> dict[Step, State]:
    """The steps that every state has in which commands are read, and ``more``.

    ``base`` is where the session stands without its transaction.
    """
    return {
        Step.INFORMED: state,
        Step.REFUSED: state,
        Step.HELLO: _GREETED,
        Step.RESET: base,
        Step.STARTTLS: _HANDSHAKE,
        Step.CHUNK_REFUSED: _CONTENT,
        Step.NO_CHUNK: base,
        Step.CLOSE: _CLOSED,
        **more,
    }


TRANSITIONS: Mapping[State, Mapping[Step, State]] = {
    _CONNECTED: _waiting_for_command(
        _CONNECTED, _CONNECTED, {Step.SECURED: _CONNECTED}
    ),  # a listener with TLS from the first octet
    _GREETED: _waiting_for_command(_GREETED, _GREETED, {Step.MAIL: _SENDER}),
    _SENDER: _waiting_for_command(_SENDER, _GREETED, {Step.RCPT: _RECIPIENT}),
    _RECIPIENT: _waiting_for_command(
        _RECIPIENT,
        _GREETED,
        {Step.RCPT: _RECIPIENT, Step.DATA: _CONTENT, Step.CHUNK: _CONTENT},
    ),
    _CHUNKS: _waiting_for_command(_CHUNKS, _GREETED, {Step.CHUNK: _CONTENT}),
    _CONTENT: {
        Step.CHUNK_TAKEN: _CHUNKS,
        Step.CHUNK_PASSED: _GREETED,
        Step.CHUNK_PASSED_EARLY: _CONNECTED,
        Step.MESSAGE: _GREETED,
        Step.CLOSE: _CLOSED,
    },
    _HANDSHAKE: {Step.SECURED: _CONNECTED, Step.CLOSE: _CLOSED},
    _CLOSED: {Step.SECURED: _CLOSED, Step.CLOSE: _CLOSED},
}
"""The next state by state and step."""
