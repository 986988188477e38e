"""When a sender is to be told: NOTIFY, and never in answer to a notice (RFC 3461 section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable

from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import NULL_PATH
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

_NOT_ASKED = Notice()
UNASKED = ("FAILURE", "DELAY")
"""What is asked for by a recipient without NOTIFY (RFC 3461 section 4.1)."""
_OCCASIONS = {
    OutcomeKind.DELIVERED: "SUCCESS",
    OutcomeKind.RELAYED: "SUCCESS",
    OutcomeKind.EXPANDED: "SUCCESS",
    OutcomeKind.DEFERRED: "DELAY",
    OutcomeKind.FAILED: "FAILURE",
}


def due(envelope: Envelope, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those of ``outcomes`` that the sender is to be told of; DEFERRED stands for a delay that
    has become long enough."""
    if envelope.reverse_path == NULL_PATH:
        return []
    return [one for one in outcomes if _is_due(envelope, one)]


def _is_due(envelope: Envelope, outcome: Outcome) -> bool:
    if outcome.kind is OutcomeKind.RELAYED and outcome.dsn:
        return False  # the next hop has promised to do it (section 5.2.1)
    asked = envelope.notices.get(outcome.place, _NOT_ASKED).notify or UNASKED
    return _OCCASIONS[outcome.kind] in asked
