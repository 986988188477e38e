"""What a session reports to its connection: questions to decide, and events for the log."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply


class Stage(Enum):
    """The point in the session at which a question is asked."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    SENDER = "MAIL"
    RECIPIENT = "RCPT"
    MESSAGE = "end of data"
    PAUSE = "pause"


class Question(NamedTuple):
    """Asked of the policy (SENDER, RECIPIENT), of the courier (MESSAGE) or of the timer (PAUSE).

    The answer is a ``Reply``, or None for "no objection".
    """

    stage: Stage
    client: str
    helo: str
    reverse_path: MailPath
    forward_path: MailPath | None = None


class NegativeReply(NamedTuple):
    """A negative reply was sent.  It is counted; what the log says of it comes beside it."""

    reply: Reply


class RefusedReply(NamedTuple):
    """A negative reply that ends no transaction, for the log: what it was about, as far as that is
    known.  ``command`` is the line that it answers, "" where it answers none or one too long."""

    id: str | None
    helo: str
    sender: MailPath | None
    recipient: MailPath | None
    command: str
    reply: Reply


class TransactionEnded(NamedTuple):
    """A mail transaction has ended.

    ``verdict`` is the reply that decided: to the final dot; or the refusal of MAIL, or of the
    last recipient where none was accepted.  None: the client gave it up.
    """

    envelope: Envelope
    verdict: Reply | None
    size_octets: int


class ProtocolNote(NamedTuple):
    """A breach of the protocol that is worth a line: "unsolicited pipelining", after "EHLO"."""

    event: str
    detail: str


Event = NegativeReply | RefusedReply | TransactionEnded | ProtocolNote
"""What a session reports for the log."""
