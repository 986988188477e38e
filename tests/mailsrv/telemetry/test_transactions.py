"""Every mail transaction has one end, and the log is told what decided it."""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, greeted

from mailsrv.smtp import reply
from mailsrv.smtp.events import Question, RefusedReply, Stage

FULL = "452 4.3.1 Full"


def greylist_b(question: Question) -> reply.Reply | None:
    return reply.GREYLISTED if "b@" in str(question.forward_path) else None


def refuse_sender(question: Question) -> reply.Reply | None:
    return reply.SENDER_NULL_MX if question.stage is Stage.SENDER else None


@pytest.mark.parametrize(
    ("talk", "said", "code", "refused", "octets"),
    [
        (Talk(), MESSAGE, 250, 0, 21),
        (Talk(outcomes=(FULL,)), MESSAGE, 452, 0, 21),
        (Talk(message_octets=9), MESSAGE, 552, 0, 21),
        (Talk(), ENVELOPE + b"DATA\r\na\nb\r\n.\r\n", 550, 0, 5),
        (Talk(refuse_sender), ENVELOPE, 550, 0, 0),
        (Talk(greylist_b), ENVELOPE + b"RSET\r\n", 450, 1, 0),
        (Talk(greylist_b), ENVELOPE + b"QUIT\r\n", 450, 1, 0),
        (Talk(greylist_b), ENVELOPE * 2 + b"DATA\r\nRSET\r\n", 450, 2, 0),
        (Talk(greylist_b), ENVELOPE + b"RCPT TO:<c@x.example>\r\nRSET\r\n", None, 1, 0),
        (Talk(greylist_b), ENVELOPE + b"RCPT TO:<c@x.example>\r\nDATA\r\n.\r\n", 250, 1, 0),
        (Talk(), ENVELOPE + b"RSET\r\n", None, 0, 0),
        (Talk(), ENVELOPE + b"QUIT\r\n", None, 0, 0),
        (Talk(), ENVELOPE + HELLO, None, 0, 0),
        (Talk(), b"MAIL FROM:<>\r\nRCPT TO:<b@>\r\nRSET\r\n", None, 0, 0),
        (Talk(recipients=1), ENVELOPE + b"RCPT TO:<c@x.example>\r\nRSET\r\n", None, 1, 0),
        (Talk(errors_hard=2), ENVELOPE + b"X\r\nX\r\n", 421, 0, 0),
        (Talk(), ENVELOPE + b"BDAT 3\r\nabcRSET\r\n", None, 0, 3),
        (Talk(), ENVELOPE + b"BDAT 3\r\nabcBDAT 3 LAST\r\ndef", 250, 0, 6),
    ],
)
def test_a_transaction_ends_once_with_what_decided_it(
    talk: Talk, said: bytes, code: int | None, refused: int, octets: int
) -> None:
    talk.feed(HELLO + said)
    (ended,) = talk.ended
    assert (ended.verdict and ended.verdict.code) == code
    assert (ended.envelope.refused, ended.size_octets) == (refused, octets)


def test_who_is_gone_has_given_its_transaction_up() -> None:
    talk = greeted().feed(ENVELOPE + b"DATA\r\nhalf")
    talk.session.lose()
    assert [one.verdict for one in talk.ended] == [None]


def test_a_timeout_ends_the_transaction_with_its_421() -> None:
    talk = greeted().feed(ENVELOPE)
    last = reply.timed_out("mx.example.test", "no command for 300 s", "idle")
    talk.session.end(last)
    assert [one.verdict for one in talk.ended] == [last]


def test_nothing_ends_where_nothing_began() -> None:
    talk = Talk(message_octets=10).feed(b"RSET\r\n", HELLO, b"MAIL FROM:<x\r\n")
    talk.feed(b"MAIL FROM:<> SIZE=11\r\nQUIT\r\n")
    assert talk.ended == []
    assert [type(one) for one in talk.session.events or ()] == [RefusedReply, RefusedReply]


def test_refusals_of_a_message_or_a_sender_are_told_as_its_end_alone() -> None:
    assert Talk(refuse_sender).feed(HELLO + ENVELOPE[:27]).session.events is not None
    for talk in (
        Talk(refuse_sender).feed(HELLO, b"MAIL FROM:<>\r\n"),
        Talk(outcomes=(FULL,)).feed(HELLO, ENVELOPE + b"DATA\r\n", b".\r\n"),
    ):
        assert [type(one).__name__ for one in talk.session.events or ()] == ["TransactionEnded"]


def test_the_instant_of_mail_is_kept() -> None:
    talk = greeted()
    talk.session.now_ns = 7
    talk.feed(b"MAIL FROM:<>\r\n")
    talk.session.now_ns = 8
    talk.feed(b"RCPT TO:<b@example.test>\r\n")
    assert talk.session.envelope is not None
    assert talk.session.envelope.began_ns == 7


def test_every_limit_names_itself() -> None:
    named = {
        reply.too_many_recipients(1): "recipients",
        reply.message_too_large(1): "size",
        reply.endless_line("mx", 1): "line length",
        reply.too_many_errors("mx", 1): "errors",
        reply.too_many_junk_commands("mx", 1): "junk commands",
        reply.too_many_transactions("mx", 1): "transactions",
        reply.talked_too_early("mx"): "early talker",
        reply.unsolicited_pipelining("mx", "EHLO"): "pipelining",
        reply.not_smtp("HTTP"): "protocol",
        reply.timed_out("mx", "x", "idle"): "idle",
        reply.too_many_connections("mx", "x"): "connections",
        reply.LINE_TOO_LONG: "line length",
        reply.BARE_LINE_END: "line ends",
        reply.STORAGE_FULL: "storage",
        reply.DELIVERY_SLOW: "delivery",
    }
    assert {one: one.check for one in named} == named
