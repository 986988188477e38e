"""What is sent of an envelope, and what becomes of what a next hop cannot take."""

from __future__ import annotations

from typing import Any

import pytest
from next_hop import BODY, CHUNKS, FULL, PLAIN, Exchange, Hop, message

from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.outcome import OutcomeKind

EIGHT_BIT = b"Subject: x\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n"
UTF8_HEADER = b"Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\nhello\r\n"
LONG = b"Subject: x\r\n\r\n" + b"x" * 65_536 + b"\r\n"


def without(*keywords: bytes) -> bytes:
    lines = FULL.splitlines(keepends=True)
    return b"".join(line for line in lines if not any(word in line for word in keywords))


def sent(outgoing: OutgoingMessage, ehlo: bytes = FULL, *pieces: bytes) -> list[str]:
    """The commands that are sent, less EHLO and DATA."""
    hop = Hop(EHLO=ehlo)
    Exchange(hop, outgoing, pieces=pieces or (BODY,))
    return [line for line in hop.lines if line[:4] in ("MAIL", "RCPT")]


@pytest.mark.parametrize(
    ("pieces", "declared", "words"),
    [
        ((BODY,), "7BIT", ""),
        ((BODY,), "8BITMIME", " BODY=8BITMIME"),
        ((EIGHT_BIT,), "7BIT", " BODY=8BITMIME"),
        ((LONG, BODY), "7BIT", " BODY=8BITMIME"),  # what is not yet seen may be so
        ((LONG,), "7BIT", " BODY=8BITMIME"),
    ],
)
def test_the_body_type_is_what_may_come(
    pieces: tuple[bytes, ...], declared: str, words: str
) -> None:
    outgoing = message(octets=5, body=declared)
    assert sent(outgoing, FULL, *pieces)[0] == f"MAIL FROM:<a@example.org> SIZE=5{words}"


def test_dsn_parameters_are_passed_on_where_they_are_offered() -> None:
    outgoing = message(
        "b@example.test",
        "c@example.test",
        ret="HDRS",
        envid="QQ+3D314159",
        notices={1: Notice(("SUCCESS", "FAILURE"), "rfc822;c+2B@example.org")},
    )
    assert sent(outgoing) == [
        "MAIL FROM:<a@example.org> SIZE=21 RET=HDRS ENVID=QQ+3D314159",
        "RCPT TO:<b@example.test>",
        "RCPT TO:<c@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c+2B@example.org",
    ]
    assert sent(outgoing, PLAIN) == [
        "MAIL FROM:<a@example.org>",
        "RCPT TO:<b@example.test>",
        "RCPT TO:<c@example.test>",
    ]


def test_the_outcome_says_whose_duty_the_notices_are() -> None:
    for ehlo, dsn in ((FULL, True), (CHUNKS, False)):
        (outcome,) = Exchange(Hop(EHLO=ehlo), message()).only
        assert outcome.kind is OutcomeKind.RELAYED
        assert outcome.dsn is dsn
    (outcome,) = Exchange(Hop(EHLO=FULL, end=b"550 no\r\n"), message()).only
    assert outcome.dsn is False


def test_an_original_recipient_beyond_ascii_is_written_in_ascii_without_smtputf8() -> None:
    outgoing = message(notices={0: Notice((), "utf-8;gr\u00fc\u00dfe@example.org")})
    assert sent(outgoing)[1] == (
        "RCPT TO:<b@example.test> ORCPT=utf-8;gr\\x{FC}\\x{DF}e@example.org"
    )
    outgoing.envelope.smtputf8 = True
    assert sent(outgoing)[1] == ("RCPT TO:<b@example.test> ORCPT=utf-8;gr\u00fc\u00dfe@example.org")


@pytest.mark.parametrize(
    ("ret", "envid", "notice"),
    [
        ("X", "a b", Notice(("NEVER RET=FULL",), "rfc822;a b")),
        ("FULL\r\nRSET", "a\r\nRSET", Notice(("NEVER\r\nRSET",), "rfc822;a\r\nRSET")),
        ("", "", Notice((), "rfc822")),
        ("", "\x00", Notice((), "utf-8;\x85")),
    ],
)
def test_a_parameter_that_is_no_word_is_not_sent(ret: str, envid: str, notice: Notice) -> None:
    outgoing = message(ret=ret, envid=envid, notices={0: notice})
    assert sent(outgoing) == ["MAIL FROM:<a@example.org> SIZE=21", "RCPT TO:<b@example.test>"]


def test_paths_are_sent_as_they_were_written() -> None:
    outgoing = message('"a b"@example.test', "Postmaster", "b@[192.0.2.1]", sender="")
    assert sent(outgoing, PLAIN) == [
        "MAIL FROM:<>",
        'RCPT TO:<"a b"@example.test>',
        "RCPT TO:<Postmaster>",
        "RCPT TO:<b@[192.0.2.1]>",
    ]


def outcomes(
    outgoing: OutgoingMessage, ehlo: bytes, *pieces: bytes
) -> tuple[list[tuple[str, str]], list[str]]:
    """The outcomes, and the commands that were sent behind EHLO."""
    hop = Hop(EHLO=ehlo)
    exchange = Exchange(hop, outgoing, pieces=pieces or (BODY,))
    return exchange.summary, hop.lines[1:]


def test_an_address_that_would_write_a_command_of_its_own_fails_alone() -> None:
    outgoing = message("b@example.test", "x> NOTIFY=NEVER\r\nRSET\r\n@example.test")
    found, lines = outcomes(outgoing, PLAIN)
    assert found == [("relayed", "2.0.0"), ("failed", "5.1.3")]
    assert "RSET" not in lines
    found, lines = outcomes(message(sender="x\r\nRSET@example.org"), PLAIN)
    assert found == [("failed", "5.1.7")]
    assert lines == []


def test_a_message_that_is_too_large_for_the_next_hop_fails_unsent() -> None:
    ehlo = FULL.replace(b"SIZE 1000000", b"SIZE 20")
    assert outcomes(message("b@example.test", "c@example.test"), ehlo) == (
        [("failed", "5.3.4")] * 2,
        [],
    )
    for limit in (b"SIZE 21", b"SIZE 0", b"SIZE", b"SIZE lots"):
        found, _ = outcomes(message(), FULL.replace(b"SIZE 1000000", limit))
        assert found == [("relayed", "2.0.0")], limit


def test_addresses_beyond_ascii_need_smtputf8() -> None:
    outgoing = message("b@example.test", "gr\u00fc\u00dfe@example.test")
    found, lines = outcomes(outgoing, FULL)
    assert found == [("relayed", "2.0.0")] * 2
    assert lines[0].endswith(" SMTPUTF8")
    found, lines = outcomes(outgoing, without(b"SMTPUTF8"))
    assert found == [("relayed", "2.0.0"), ("failed", "5.6.7")]
    assert "RCPT TO:<b@example.test>" in lines
    assert len(lines) == 3
    outgoing = message(sender="\u00fc@example.org")
    assert outcomes(outgoing, without(b"SMTPUTF8")) == ([("failed", "5.6.7")], [])


def test_a_header_in_utf8_needs_smtputf8_if_it_was_declared() -> None:
    bare = without(b"SMTPUTF8")
    declared: dict[str, Any] = {"smtputf8": True, "body": "8BITMIME"}
    assert outcomes(message(**declared), bare, UTF8_HEADER) == ([("failed", "5.6.9")], [])
    assert outcomes(message(**declared), bare, EIGHT_BIT)[0] == [("relayed", "2.0.0")]
    assert outcomes(message(body="8BITMIME"), bare, UTF8_HEADER)[0] == [("relayed", "2.0.0")]
    endless = b"Subject: " + b"x" * 70_000 + b"\r\n"
    assert outcomes(message(**declared), bare, endless, BODY)[0] == [("failed", "5.6.9")]
    (line, *_) = outcomes(message(**declared), FULL, BODY)[1]
    assert line == "MAIL FROM:<a@example.org> SIZE=21 BODY=8BITMIME SMTPUTF8"


def test_8_bit_content_needs_8bitmime() -> None:
    bare = without(b"8BITMIME")
    assert outcomes(message(), bare, EIGHT_BIT) == ([("failed", "5.6.3")], [])
    # declared so by many clients of which the content is not
    assert outcomes(message(body="8BITMIME"), bare, BODY)[0] == [("relayed", "2.0.0")]


def test_8_bit_content_that_is_found_late_is_never_ended() -> None:
    hop = Hop(EHLO=without(b"8BITMIME"))
    exchange = Exchange(hop, message(), pieces=(LONG, EIGHT_BIT))
    assert exchange.summary == [("failed", "5.6.3")]
    assert hop.contents == []
    assert exchange.session.trouble is None
