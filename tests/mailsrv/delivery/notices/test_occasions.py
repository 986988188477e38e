"""When a sender is told what became of its message, and when it is not."""

from __future__ import annotations

import pytest
from noticing import envelope_to, told

from mailsrv.delivery.notices.occasions import due
from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.path import NULL_PATH
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

SUCCESS, FAILURE, DELAY, NEVER = "SUCCESS", "FAILURE", "DELAY", "NEVER"


def outcome(kind: OutcomeKind, dsn: bool = False) -> Outcome:
    return Outcome(0, kind, "2.0.0", "", dsn=dsn)


@pytest.mark.parametrize(
    ("notify", "kinds"),
    [
        ((), "failed deferred"),
        ((NEVER,), ""),
        ((FAILURE,), "failed"),
        ((DELAY,), "deferred"),
        ((SUCCESS,), "delivered relayed expanded"),
        ((SUCCESS, FAILURE), "delivered relayed expanded failed"),
        ((SUCCESS, FAILURE, DELAY), "delivered relayed expanded deferred failed"),
    ],
)
def test_a_sender_is_told_what_it_asked_for(notify: tuple[str, ...], kinds: str) -> None:
    envelope = envelope_to("ann@example.org", notices=[Notice(notify)] if notify else [])
    for kind in OutcomeKind:
        assert bool(due(envelope, [outcome(kind)])) == (kind.value in kinds.split())


@pytest.mark.parametrize("kind", OutcomeKind)
def test_a_notice_is_never_answered(kind: OutcomeKind) -> None:
    asking = Notice((SUCCESS, FAILURE, DELAY))
    envelope = envelope_to("ann@example.org", notices=[asking], reverse_path=NULL_PATH)
    assert due(envelope, [outcome(kind)]) == []
    assert told(envelope, outcome(kind)) is None


def test_what_is_told_of_a_notice_that_failed_is_nothing() -> None:
    envelope = envelope_to("ann@example.org")
    first = told(envelope, outcome(OutcomeKind.FAILED))
    assert first is not None
    assert told(first.envelope, outcome(OutcomeKind.FAILED), content=first.content) is None


def test_a_next_hop_that_promised_notices_sends_them_itself() -> None:
    envelope = envelope_to("ann@example.org", notices=[Notice((SUCCESS, FAILURE))])
    assert due(envelope, [outcome(OutcomeKind.RELAYED, dsn=True)]) == []
    assert len(due(envelope, [outcome(OutcomeKind.RELAYED, dsn=False)])) == 1
    # what it refused it has promised nothing about
    assert len(due(envelope, [outcome(OutcomeKind.FAILED, dsn=True)])) == 1


def test_each_recipient_is_looked_at_by_itself() -> None:
    envelope = envelope_to(
        "ann@example.org", "bob@example.org", "carl@example.org", notices=[Notice((NEVER,))]
    )
    failed = [Outcome(place, OutcomeKind.FAILED, "5.0.0", "") for place in range(3)]
    assert due(envelope, failed) == failed[1:]
