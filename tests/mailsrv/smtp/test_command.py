"""Command lines: what is understood, what is refused, and with which words."""

from __future__ import annotations

import pytest
from conversing import path
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp import command, reply
from mailsrv.smtp.command import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, MailParameters
from mailsrv.smtp.reply import Reply


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (b"NOOP", ("NOOP", "")),
        (b"noop", ("NOOP", "")),
        (b"NOOP  ", ("NOOP", "")),
        (b"NOOP \t", ("NOOP", "")),
        (b"Mail From:<a@b>", ("MAIL", "From:<a@b>")),
        (b"EHLO   x", ("EHLO", "x")),
        ("VRFY grüße".encode(), ("VRFY", "grüße")),
        (b"", ("", "")),
        (b" NOOP", ("", "NOOP")),
    ],
)
def test_a_line_is_split_into_verb_and_argument(line: bytes, parts: tuple[str, str]) -> None:
    assert command.split(line) == parts


@pytest.mark.parametrize("octet", [*range(9), *range(10, 0x20), 0x7F])
def test_a_control_character_anywhere_is_refused(octet: int) -> None:
    character = bytes((octet,))
    assert command.split(b"NO" + character + b"OP") == reply.CONTROL_CHARACTER
    assert command.split(b"RCPT TO:<a" + character + b"@b>") == reply.CONTROL_CHARACTER
    assert command.split(b"NOOP" + character) == reply.CONTROL_CHARACTER


def test_a_tab_is_a_blank_but_in_a_quoted_string() -> None:
    assert command.split(b"MAIL\tFROM:\t<a@b>\t SIZE=1\t") == ("MAIL", "FROM: <a@b>  SIZE=1")
    assert command.split(b'MAIL FROM:<"a\tb"@c>') == reply.CONTROL_CHARACTER


@pytest.mark.parametrize("line", [b"NOOP \xff", b"\x80", b"EHLO \xc3", b"EHLO \xed\xa0\x80"])
def test_octets_that_are_not_utf8_are_refused(line: bytes) -> None:
    assert command.split(line) == reply.NOT_ASCII


@pytest.mark.parametrize("verb", ["R\u017fET", "QU\u0131T"])
def test_no_letter_beyond_ascii_passes_for_one_of_a_verb(verb: str) -> None:
    parts = command.split(verb.encode())
    assert not isinstance(parts, Reply)
    assert parts[0] not in ("RSET", "QUIT")


@pytest.mark.parametrize(
    ("octets", "parts"),
    [
        (b"MAIL FROM:<a@b.example>\r\n", ("MAIL", "FROM:<a@b.example>")),
        (b"quit\r\n", ("QUIT", "")),
        (b"\r\n", ("", "")),
        (b"", None),
        (b"\n", None),
        (b"Q", None),
        (b"\r", None),
        (b"QUIT", None),
        (b"QUIT\n", None),
        (b"QUIT\r", None),
        (b"QUIT\r\nX", None),
        (b"NOOP\r\nQUIT\r\n", None),
        (b"NOOP\nQUIT\r\n", None),  # which ``split`` refuses for its LF
        (b"NO\xffOP\r\n", None),
    ],
)
def test_octets_that_are_one_whole_line_are_split_and_no_others(
    octets: bytes, parts: tuple[str, str] | None
) -> None:
    assert command.split_whole(octets) == parts


@given(st.binary(max_size=80))
def test_any_line_is_split_or_refused(line: bytes) -> None:
    parts = command.split(line)
    assert isinstance(parts, Reply) or all(isinstance(part, str) for part in parts)


@pytest.mark.parametrize(
    ("argument", "mail"),
    [
        ("FROM:<>", (path(""), NO_MAIL_PARAMETERS)),
        ("from:<a@b.example>", (path("a@b.example"), NO_MAIL_PARAMETERS)),
        ("FROM: <a@b.example>", (path("a@b.example"), NO_MAIL_PARAMETERS)),
        ("FROM:<a@b.example> SIZE=12345", (path("a@b.example"), MailParameters(12345))),
        (
            "FROM:<a@b.example> size=0 body=8bitmime",
            (path("a@b.example"), MailParameters(0, "8BITMIME")),
        ),
        ("FROM:<a@b.example> BODY=7BIT", (path("a@b.example"), NO_MAIL_PARAMETERS)),
        ("FROM:<ü@b.example> SMTPUTF8", (path("ü@b.example"), MailParameters(smtputf8=True))),
        ("FROM:<a@b.example> SMTPUTF8", (path("a@b.example"), MailParameters(smtputf8=True))),
        ("FROM:<> SIZE=" + "9" * 20, (path(""), MailParameters(int("9" * 20)))),
    ],
)
def test_mail_is_understood(argument: str, mail: object) -> None:
    assert command.parse_mail(argument) == mail


@pytest.mark.parametrize(
    ("argument", "refusal"),
    [
        ("", reply.MAIL_SYNTAX),
        ("<a@b.example>", reply.MAIL_SYNTAX),
        ("TO:<a@b.example>", reply.MAIL_SYNTAX),
        ("FROM <a@b.example>", reply.MAIL_SYNTAX),
        ("FROM:", reply.BAD_SENDER_ADDRESS),
        ("FROM:<;cmd;>", reply.BAD_SENDER_ADDRESS),
        ("FROM:<a b@c.example>", reply.BAD_SENDER_ADDRESS),
        ("FROM:<a@b.example>SIZE=1", reply.BAD_SENDER_ADDRESS),
        ("FROM:<a@b.example> SIZE=", reply.BAD_SIZE),
        ("FROM:<a@b.example> SIZE", reply.BAD_SIZE),
        ("FROM:<a@b.example> SIZE=-1", reply.BAD_SIZE),
        ("FROM:<a@b.example> SIZE=1e3", reply.BAD_SIZE),
        ("FROM:<a@b.example> SIZE=\u0663", reply.BAD_SIZE),
        ("FROM:<a@b.example> SIZE=" + "9" * 21, reply.BAD_SIZE),
        ("FROM:<a@b.example> BODY=BINARYMIME", reply.BAD_BODY),
        ("FROM:<a@b.example> BODY", reply.BAD_BODY),
        ("FROM:<a@b.example> SMTPUTF8=1", reply.UNKNOWN_PARAMETER),
        ("FROM:<a@b.example> SIZE=1 BODY=7BIT size=2", reply.REPEATED_PARAMETER),
        ("FROM:<a@b.example> \u017fIZE=1", reply.UNKNOWN_PARAMETER),
        ("FROM:<a@b.example> " + "SIZE=1 " * 17, reply.UNKNOWN_PARAMETER),
        ("FROM:<ü@b.example>", reply.NEED_SMTPUTF8),
        ("FROM:<ü@b.example> SIZE=1", reply.NEED_SMTPUTF8),
        ("FROM:<a@bücher.example>", reply.NEED_SMTPUTF8),
    ],
)
def test_mail_is_refused(argument: str, refusal: Reply) -> None:
    assert command.parse_mail(argument) == refusal


@pytest.mark.parametrize(
    ("argument", "smtputf8", "answer"),
    [
        ("TO:<b@example.test>", False, (path("b@example.test"), NO_RCPT_PARAMETERS)),
        ("to:<Postmaster>", False, (path("Postmaster"), NO_RCPT_PARAMETERS)),
        ("TO:<ü@example.test>", True, (path("ü@example.test"), NO_RCPT_PARAMETERS)),
        ("TO:<ü@example.test>", False, reply.NEED_SMTPUTF8),
        ("TO:<>", False, reply.BAD_RECIPIENT_ADDRESS),
        ("TO:", False, reply.BAD_RECIPIENT_ADDRESS),
        ("FROM:<b@example.test>", False, reply.RCPT_SYNTAX),
        ("<b@example.test>", False, reply.RCPT_SYNTAX),
        ("TO:<b@example.test> SIZE=1", False, reply.UNKNOWN_PARAMETER),
    ],
)
def test_rcpt_is_understood_or_refused(argument: str, smtputf8: bool, answer: object) -> None:
    assert command.parse_rcpt(argument, smtputf8) == answer


def test_a_sql_looking_sender_is_an_address_like_any_other() -> None:
    mail = command.parse_mail('FROM:<"x\'/**/UNION/**/SELECT--"@a.example>')
    assert mail == (
        path('"x\'/**/UNION/**/SELECT--"@a.example'),
        NO_MAIL_PARAMETERS,
    )


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ("", reply.NEED_ARGUMENT),
        ("ann", None),
        ("ann SMTPUTF8", None),
        ("SMTPUTF8", None),
        ("grüße", reply.VRFY_NEEDS_SMTPUTF8),
        ("grüße smtputf8", None),
        ("grüße \u017fmtputf8", reply.VRFY_NEEDS_SMTPUTF8),
        ("Ann Grün SMTPUTF8", None),
    ],
)
def test_vrfy_of_a_name_beyond_ascii_needs_its_parameter(
    argument: str, fault: Reply | None
) -> None:
    assert command.parse_vrfy(argument) == fault
