"""What a reply means for a recipient: an outcome's kind, status and diagnostic.

An enhanced status code of the reply is used where it agrees with the reply's code; otherwise one is
derived from the code (RFC 5321 section 4.2.3, RFC 3463).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mailsrv.smtp.sending.outcome import OutcomeKind
from mailsrv.smtp.sending.reply_reader import ReceivedReply
from mailsrv.smtp.sending.state_machine import State

SERVICE_NOT_AVAILABLE = 421
NEVER_TAKES_MAIL = 521
"""RFC 7504: the host takes no mail at all, today or ever."""
TOO_MANY_RECIPIENTS = "4.5.3"

_DERIVED: Mapping[int, str] = {
    421: "4.3.2",
    450: "4.2.0",
    451: "4.3.0",
    452: "4.3.1",
    454: "4.7.0",
    455: "4.5.4",
    500: "5.5.2",
    501: "5.5.4",
    502: "5.5.1",
    503: "5.5.1",
    504: "5.5.4",
    521: "5.3.2",
    523: "5.3.4",
    530: "5.7.0",
    551: "5.1.6",
    552: "5.3.4",
    555: "5.5.4",
    556: "5.1.10",
}
_DERIVED_AT_RCPT: Mapping[int, str] = {
    452: TOO_MANY_RECIPIENTS,  # RFC 5321 section 4.5.3.1.10
    550: "5.1.1",
    552: "5.2.2",
    553: "5.1.3",
}
_DERIVED_AT_MAIL: Mapping[int, str] = {553: "5.1.7"}


class Verdict(NamedTuple):
    """An outcome without its recipient; see ``Outcome``."""

    kind: OutcomeKind
    status: str
    diagnostic: str


def refused(reply: ReceivedReply, state: State, *, others_taken: bool = False) -> Verdict:
    """A 4yz or 5yz that came in ``state``.

    ``others_taken``: a recipient of the same message was taken before.  Then a 552 to RCPT is an
    old server's way to say that there are too many (RFC 5321 section 4.5.3.1.10).
    """
    if state is State.RCPT and reply.code == 552 and others_taken and not reply.status:
        return Verdict(OutcomeKind.DEFERRED, TOO_MANY_RECIPIENTS, reply.diagnostic)
    kind = OutcomeKind.FAILED if reply.code >= 500 else OutcomeKind.DEFERRED
    return Verdict(kind, status_of(reply, state), reply.diagnostic)


def put_off(reply: ReceivedReply, state: State) -> Verdict:
    """A refusal that is no judgement of the message: it is deferred, whatever the code."""
    return Verdict(OutcomeKind.DEFERRED, "4" + status_of(reply, state)[1:], reply.diagnostic)


def status_of(reply: ReceivedReply, state: State) -> str:
    """The enhanced status code that a reply in ``state`` has, or should have had."""
    if reply.status:
        return reply.status
    derived = {State.RCPT: _DERIVED_AT_RCPT, State.MAIL: _DERIVED_AT_MAIL}.get(state, {})
    default = f"{reply.code // 100}.0.0"
    return derived.get(reply.code) or _DERIVED.get(reply.code, default)


def deferred(status: str, diagnostic: str) -> Verdict:
    return Verdict(OutcomeKind.DEFERRED, status, diagnostic)


def failed(status: str, diagnostic: str) -> Verdict:
    return Verdict(OutcomeKind.FAILED, status, diagnostic)
