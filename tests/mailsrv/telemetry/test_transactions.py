"""Every mail transaction has one end, and the log is told what decided it."""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, greeted

from mailsrv.smtp import reply
from mailsrv.smtp.events import NegativeReply, Question, RefusedReply, Stage, TransactionEnded

FULL = "452 4.3.1 Full"


def greylist_b(question: Question) -> reply.Reply | None:
    return reply.GREYLISTED if "b@" in str(question.forward_path) else None


def told(talk: Talk) -> list[type]:
    """What the log is told, without what is only counted."""
    return [type(one) for one in talk.session.events or () if not isinstance(one, NegativeReply)]


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
        (Talk(), b"MAIL FROM:<>\r\nRCPT TO:<b@>\r\nRSET\r\n", 501, 0, 0),
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
    assert told(talk) == [RefusedReply, RefusedReply]


def test_refusals_of_a_message_or_a_sender_are_told_as_its_end_alone() -> None:
    assert Talk(refuse_sender).feed(HELLO + ENVELOPE[:27]).session.events is not None
    for talk in (
        Talk(refuse_sender).feed(HELLO, b"MAIL FROM:<>\r\n"),
        Talk(outcomes=(FULL,)).feed(HELLO, ENVELOPE + b"DATA\r\n", b".\r\n"),
    ):
        assert told(talk) == [TransactionEnded]


def test_a_refusal_carries_the_command_and_the_helo_name() -> None:
    talk = greeted().feed(
        b"RCPT TO:<b@example.test>\r\n", b"MAIL FROM:<\xc3\xa4@x>\r\n", b"\xff\r\n"
    )
    talk.feed(b"x" * 3000 + b"\r\n", b"\x16\x03\x01")
    refused = [one for one in talk.session.events or () if isinstance(one, RefusedReply)]
    assert [(one.helo, one.command) for one in refused] == [
        ("client.example", "RCPT TO:<b@example.test>"),
        ("client.example", "MAIL FROM:<\u00e4@x>"),
        ("client.example", "\\xff"),
        ("client.example", ""),
        ("client.example", ""),
    ]


@pytest.mark.parametrize(
    "talk",
    [
        Talk(refuse_sender).feed(HELLO + ENVELOPE + b"X\r\n"),
        Talk(greylist_b).feed(HELLO + ENVELOPE + b"DATA\r\nQUIT\r\n"),
        Talk(outcomes=(FULL,)).feed(HELLO + MESSAGE),
        Talk(message_octets=9).feed(HELLO + MESSAGE + ENVELOPE + b"BDAT 10\r\n0123456789"),
        Talk(errors_hard=3).feed(HELLO + b"X\r\nY\r\nZ\r\n"),
        Talk(errors_soft=1).feed(HELLO + b"X\r\nY\r\nZ\r\n"),
        Talk(greylist_b, refused_recipients=3).feed(HELLO + ENVELOPE + ENVELOPE[27:] * 3),
    ],
)
def test_every_negative_reply_is_counted_once(talk: Talk) -> None:
    counted = [
        one.reply.code for one in talk.session.events or () if isinstance(one, NegativeReply)
    ]
    assert counted == [code for code in talk.codes if code >= 400]
    assert counted


def test_a_refusal_that_is_never_sent_is_not_counted() -> None:
    talk = greeted(errors_soft=1).feed(b"X\r\n")
    talk.session.receive(b"Y\r\n")  # its answer waits
    talk.session.lose()
    counted = [one for one in talk.session.events or () if isinstance(one, NegativeReply)]
    assert len(counted) == 1


# -- refused recipients ---------------------------------------------------------------------------


def test_refused_recipients_are_bounded_in_a_session_whatever_refuses_them() -> None:
    talk = Talk(greylist_b, refused_recipients=4, errors_hard=9).feed(HELLO)
    talk.feed(ENVELOPE + b"RSET\r\n" + ENVELOPE + b"RCPT TO:<b@>\r\n")
    talk.feed(b"RCPT TO:<c@example.test>\r\nRCPT TO:<b@example.test>\r\nNOOP\r\n")
    assert talk.codes == [250, 250, 450, 250, 250, 450, 501, 250, 450, 421]
    assert talk.session.closing
    assert b"421 4.7.0 mx.example.test Error: too many refused recipients: 4 in" in talk.heard
    assert [one.verdict and one.verdict.check for one in talk.ended][-1] == "refused recipients"


def test_a_list_that_is_greylisted_passes_below_the_bound() -> None:
    talk = Talk(greylist_b).feed(HELLO + b"MAIL FROM:<>\r\n")
    talk.feed(b"RCPT TO:<b@example.test>\r\n" * 999, b"RCPT TO:<c@example.test>\r\nDATA\r\n.\r\n")
    assert talk.codes[-3:] == [250, 354, 250]
    talk.feed(b"MAIL FROM:<>\r\nRCPT TO:<b@example.test>\r\n")
    assert talk.codes[-2:] == [450, 421]


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
        reply.too_many_refused_recipients("mx", 1): "refused recipients",
        reply.too_many_refusals_a_minute("mx", "x"): "refused recipients",
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
