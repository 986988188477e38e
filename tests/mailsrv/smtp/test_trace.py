"""The trace fields: their shape, their date, and what hostile names cannot do to them."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime

import pytest
from conversing import ENVELOPE, HELLO, talk_in_every_cut
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.trace import date, trace_fields
from mailsrv.units import NS_PER_S

AT_NS = 1_700_000_000_987_654_321


def envelope(
    helo: str = "client.example",
    client: str = "192.0.2.1",
    paths: tuple[MailPath, ...] = (MailPath("b", "example.test"),),
    smtputf8: bool = False,
) -> Envelope:
    return Envelope(
        client,
        helo,
        "ESMTP",
        "ABC123",
        MailPath("a", "example.org"),
        list(paths),
        smtputf8=smtputf8,
    )


def test_the_fields_say_from_whom_by_whom_how_for_whom_and_when() -> None:
    assert trace_fields(envelope(), "mx.example.test", AT_NS) == (
        b"Return-Path: <a@example.org>\r\n"
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\tby mx.example.test with ESMTP id ABC123\r\n"
        b"\tfor <b@example.test>;\r\n"
        b"\tTue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_a_comment_names_the_tls_version_and_the_cipher_suite() -> None:
    one = envelope()
    one.protocol, one.tls = "ESMTPS", "TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert trace_fields(one, "mx.example.test", AT_NS).splitlines()[2:5] == [
        b"\tby mx.example.test with ESMTPS",
        b"\t(TLSv1.3 TLS_AES_256_GCM_SHA384)",
        b"\tid ABC123",
    ]


def test_several_recipients_do_not_learn_of_each_other() -> None:
    two = (MailPath("b", "example.test"), MailPath("c", "example.test"))
    assert b"for" not in trace_fields(envelope(paths=two), "mx", AT_NS)


def test_the_null_reverse_path_is_written_as_such() -> None:
    bounce = envelope()
    bounce.reverse_path = MailPath("", "")
    assert trace_fields(bounce, "mx", AT_NS).startswith(b"Return-Path: <>\r\n")


def test_an_ipv6_client_is_tagged() -> None:
    assert b"([IPv6:2001:db8::1])" in trace_fields(envelope(client="2001:db8::1"), "mx", AT_NS)


@pytest.mark.parametrize(
    ("helo", "shown"),
    [
        ("a) by evil (", b"from a??by?evil?? ("),
        ("a\r\nSubject: x", b"from a??Subject:?x ("),
        ("é.example", b"from ?.example ("),
        ("\x1b[2J", b"from ?[2J ("),
        ("", b"from [192.0.2.1] ("),
    ],
)
def test_a_hostile_helo_stays_inside_its_clause(helo: str, shown: bytes) -> None:
    assert shown in trace_fields(envelope(helo), "mx", AT_NS)


def test_an_international_helo_is_shown_only_where_smtputf8_allows_it() -> None:
    allowed = envelope("é.example", smtputf8=True)
    assert "from é.example (".encode() in trace_fields(allowed, "mx", 0)
    assert b"from ??? (" in trace_fields(envelope("é)\n", smtputf8=True), "mx", 0)


@given(st.text(max_size=400), st.booleans())
def test_whatever_the_helo_there_are_two_fields(helo: str, smtputf8: bool) -> None:
    fields = trace_fields(envelope(helo, smtputf8=smtputf8), "mx.example.test", AT_NS)
    assert message_from_bytes(fields + b"\r\n", policy=policy.compat32).keys() == [
        "Return-Path",
        "Received",
    ]
    assert fields.count(b"(") == fields.count(b")") == 1
    assert all(len(line) <= 998 for line in fields.split(b"\r\n"))
    assert b"\n" not in fields.replace(b"\r\n", b"")


@given(st.integers(0, 250_000_000_000))
def test_the_date_is_the_one_that_others_read_back(seconds: int) -> None:
    text = date(seconds * NS_PER_S + 999_999_999)
    assert parsedate_to_datetime(text) == datetime.fromtimestamp(seconds, UTC)
    assert text.startswith(datetime.fromtimestamp(seconds, UTC).strftime("%a, "))


# -- what stands between trace and content --------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "before"),
    [
        (b"Subject: x\r\n\r\nhello\r\n", b""),
        (b"X:y\r\n", b""),
        (b"Subject : x\r\n", b""),
        (b"\r\nhello\r\n", b""),
        (b"", b""),
        (b"hello\r\n", b"\r\n"),
        (b"hello world: no\r\n", b"\r\n"),
        (b" with <x@example.org>; forged\r\nSubject: x\r\n", b"\r\n"),
        (b"\tid FORGED; Mon, 1 Jan 2024 00:00:00 +0000\r\n", b"\r\n"),
        (b": x\r\n", b"\r\n"),
        (b"S\xfcbject: x\r\n", b"\r\n"),
        (b"." * 999 + b":\r\n", b"\r\n"),
        (b"From a@example.org Mon Jan  1 00:00:00 2024\r\nSubject: x\r\n", b"X-Mailbox-Line: "),
        (b">From a@example.org\r\nSubject: x\r\n", b"X-Mailbox-Line: "),
        (b"From : a@example.org\r\n", b""),
        (b"From: a@example.org\r\n", b""),
    ],
)
def test_content_never_continues_our_trace_fields(content: bytes, before: bytes) -> None:
    stuffed = b"".join(
        b"." + line if line.startswith(b".") else line for line in content.splitlines(True)
    )
    wire = HELLO + ENVELOPE + b"DATA\r\n" + stuffed + b".\r\n"
    talk = talk_in_every_cut(wire)
    assert [message.content for message in talk.messages] == [before + content]


@pytest.mark.parametrize(
    ("content", "before"), [(b"Subject", b"\r\n"), (b"Subject:", b""), (b"From ", b"\r\n")]
)
def test_a_chunk_without_a_line_end_is_no_header_unless_it_begins_a_field(
    content: bytes, before: bytes
) -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + b"BDAT %d LAST\r\n" % len(content) + content)
    assert [message.content for message in talk.messages] == [before + content]
