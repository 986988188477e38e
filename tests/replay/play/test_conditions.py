"""How long a sender waits at any server, and after which replies it goes on."""

from __future__ import annotations

import pytest
from calls import calls_of

from mailsrv.units import NS_PER_S
from replay.play.conditions import Conditions, Patience
from replay.smtp.replies import ReceivedReply
from replay.transcript import transcript
from replay.transcript.claims.claim import Then
from replay.transcript.script import ScriptedConnection

BODY = r"""+++
notation = 3
story = "s"
+++
@0       open from 192.0.2.10
*        S? 220
reply+5s C: NOOP\r\n
*        S? 250
must     [RFC 5321 4.2] reply 250 25z, or 5yz then end
may      reply 4yz, or 421 then stop
reply+0  C: QUIT\r\n
should   [RFC 5321 4.5.3.2.7] no end within timeout
*        S? 221
+0       until-closed
must     [RFC 5321 3.8] end
"""
PATIENCE = Patience(
    reply_ns=20 * NS_PER_S,
    timeout_ns=300 * NS_PER_S,
    settle_ns=2 * NS_PER_S,
    timeout_grace_ns=10 * NS_PER_S,
    grace_ns=NS_PER_S,
)


def connection(body: str = BODY) -> ScriptedConnection:
    return transcript.parse(body, "x").connections[0]


@pytest.mark.parametrize(
    ("codes", "then"),
    [
        ([220], Then.GO_ON),
        ([554], None),
        ([220, 250], Then.GO_ON),
        ([220, 257], Then.GO_ON),
        ([220, 450], Then.GO_ON),
        ([220, 421], Then.STOP),
        ([220, 500], Then.END),
        ([220, 354], None),
        ([220, 0], None),
        ([554, 250], None),
    ],
)
def test_a_sender_goes_on_after_what_claims_list_and_else_after_the_expected_first_digit(
    codes: list[int], then: Then | None
) -> None:
    replies = [ReceivedReply(0, b"%03d x\r\n" % code if code else b"?\r\n") for code in codes]
    assert Conditions(connection(), PATIENCE).stop(replies, len(replies)) is then


@pytest.mark.parametrize(
    ("departed", "received", "waits", "seconds"),
    [
        (1, 0, True, 20),  # for the greeting
        (2, 2, False, 2),  # for nothing in particular
        (2, 1, True, 20),
        (3, 2, True, 311),  # the claim is about the server's timeout
        (4, 3, False, 20),  # for the end
    ],
)
def test_a_sender_waits_for_a_reply_for_an_end_for_as_long_as_a_claim_says_or_for_what_may_come(
    departed: int, received: int, *, waits: bool, seconds: int
) -> None:
    wait_ns = Conditions(connection(), PATIENCE).wait_ns(departed, received, waits=waits)
    assert wait_ns // NS_PER_S == seconds


def test_the_longest_wait_is_a_claims_or_the_senders_own() -> None:
    assert Conditions(connection(), PATIENCE).longest_wait_ns // NS_PER_S == 311
    quick = BODY.replace("should   [RFC 5321 4.5.3.2.7] no end within timeout\n", "")
    assert Conditions(connection(quick), PATIENCE).longest_wait_ns == 5 * NS_PER_S


def test_a_reply_is_judged_once_however_long_the_session() -> None:
    assert calls_of(lambda: _go_on(400)) < 2.5 * calls_of(lambda: _go_on(200))


def _go_on(exchanges: int) -> None:
    """Behind so many replies, one by one."""
    lines = "* S? 250\nmust [RFC 5321 4.2] reply 250 within 5s\nreply+0 C: NOOP\\r\\n\n" * exchanges
    head, opened = BODY.split("reply+5s")[0], "reply+0 C: NOOP\\r\\n\n"
    conditions = Conditions(connection(f"{head}{opened}{lines}+0 close\n"), PATIENCE)
    replies: list[ReceivedReply] = []
    for code in [220, *[250] * exchanges]:
        replies.append(ReceivedReply(0, b"%03d x\r\n" % code))
        assert conditions.stop(replies, len(replies)) is Then.GO_ON
