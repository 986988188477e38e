"""What a session asks when somebody else must decide."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply


class Stage(Enum):
    """What a question is about."""

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


class Refusal(NamedTuple):
    """A negative reply, for the log: what it was about, as far as it was known."""

    id: str | None
    sender: MailPath | None
    recipient: MailPath | None
    reply: Reply


class Ended(NamedTuple):
    """A mail transaction has ended.

    ``verdict`` is the reply that decided: to the final dot; or the refusal of MAIL, or of the
    last recipient where none was accepted.  None: the client gave it up.
    """

    envelope: Envelope
    verdict: Reply | None
    size_octets: int


class Remark(NamedTuple):
    """Something rude that was let pass, or not: "unsolicited pipelining", after "EHLO"."""

    event: str
    detail: str


Event = Refusal | Ended | Remark
"""What a session has to say to the log."""
