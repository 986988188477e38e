"""Notices: what is in them, read by a strict reader, and by the standard library's."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import pytest
from noticing import CONTENT, FAILED, ORIGIN, SENDER, envelope_to, read, told

from mailsrv.delivery.notices.notice import NoticeMessage
from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.path import NULL_PATH, MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

DATE = "Sun, 9 Sep 2001 01:46:40 +0000"
ASKING = ("SUCCESS", "FAILURE", "DELAY")


def made(notice: NoticeMessage | None) -> NoticeMessage:
    assert notice is not None
    return notice


def parsed(notice: NoticeMessage) -> EmailMessage:
    message = email.message_from_bytes(notice.content, policy=email.policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    assert not [defect for part in message.walk() for defect in part.defects]
    return message


def test_a_failure_is_told_in_three_parts() -> None:
    notice = made(told(envelope_to("ann@example.org", envid="QQ+3D1"), FAILED))
    found = read(notice)
    assert found.header == {
        "From": "Mail delivery <MAILER-DAEMON@mx.example.org>",
        "To": "<sven@sender.example>",
        "Subject": "Your message could not be delivered",
        "Date": DATE,
        "Message-ID": "<NOTICE1@mx.example.org>",
        "In-Reply-To": "<1@sender.example>",
        "References": "<1@sender.example>",
        "Auto-Submitted": "auto-replied",
        "MIME-Version": "1.0",
        "Content-Type": found.header["Content-Type"],
    }
    assert found.groups == [
        {
            "Original-Envelope-Id": "QQ=1",
            "Reporting-MTA": "dns; mx.example.org",
            "Arrival-Date": "Sun, 9 Sep 2001 01:30:00 +0000",
        },
        {
            "Final-Recipient": "rfc822; ann@example.org",
            "Action": "failed",
            "Status": "5.1.1",
            "Remote-MTA": "dns; next.example",
            "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
            "Last-Attempt-Date": DATE,
        },
    ]
    text = found.parts[0].octets.decode()
    assert "<ann@example.org>\r\n    next.example said: 550 5.1.1 no such user\r\n" in text
    assert found.parts[2].content_type == "text/rfc822-headers"
    assert found.parts[2].octets == CONTENT.partition(b"\r\n\r\n")[0] + b"\r\n"


def test_what_a_next_hop_never_said_is_not_said_to_be_its_words() -> None:
    for words in ("timed out, waiting for the reply to MAIL", "8-bit content"):
        outcome = FAILED._replace(status="5.6.3", diagnostic=words)
        found = read(made(told(envelope_to("ann@example.org"), outcome)))
        assert found.groups[1]["Remote-MTA"] == "dns; next.example"
        assert found.groups[1]["Diagnostic-Code"] == f"x-mailsrv; {words}"
        assert f"<ann@example.org>\r\n    next.example: {words}\r\n" in (
            found.parts[0].octets.decode()
        )


def test_it_goes_to_the_sender_from_nobody_and_asks_for_nothing() -> None:
    envelope = made(told(envelope_to("ann@example.org"), FAILED)).envelope
    assert envelope.reverse_path == NULL_PATH
    assert envelope.forward_paths == [SENDER]
    assert envelope.notices == {0: Notice(("NEVER",))}
    assert (envelope.id, envelope.body, envelope.smtputf8) == ("NOTICE1", "7BIT", False)


def test_the_standard_library_reads_the_same() -> None:
    notice = made(told(envelope_to("ann@example.org", ret="FULL"), FAILED))
    message = parsed(notice)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    kinds = [part.get_content_type() for part in message.iter_parts()]
    assert kinds == ["text/plain", "message/delivery-status", "message/rfc822"]
    _, status, returned = message.iter_parts()
    of_message, of_ann = status.get_payload()  # type: ignore[misc]
    assert of_message["Reporting-MTA"] == "dns; mx.example.org"  # type: ignore[index, call-overload]
    assert of_ann["Final-Recipient"] == "rfc822; ann@example.org"  # type: ignore[index, call-overload]
    assert returned.get_content().get_content() == "Hello.\r\n"


def test_several_recipients_share_a_notice_and_each_has_its_fields() -> None:
    notices = [Notice(ASKING, "rfc822;Ann+2Blists@Example.org"), Notice(ASKING), Notice(ASKING)]
    envelope = envelope_to("ann@example.org", "bob@b.example", "carl@c.example", notices=notices)
    notice = made(
        told(
            envelope,
            Outcome(0, OutcomeKind.DELIVERED, "2.0.0", "delivered"),
            Outcome(1, OutcomeKind.RELAYED, "2.0.0", "250 ok", "b.example"),
            Outcome(2, OutcomeKind.FAILED, "5.4.7", "tried for 5 days"),
        )
    )
    found = read(notice)
    assert found.header["Subject"] == "Your message could not be delivered"
    assert [group.get("Action") for group in found.groups[1:]] == ["delivered", "relayed", "failed"]
    assert found.groups[1]["Original-Recipient"] == "rfc822; Ann+lists@Example.org"
    assert "Original-Recipient" not in found.groups[2]
    assert found.groups[1]["Diagnostic-Code"] == "x-mailsrv; delivered"
    assert found.groups[2]["Diagnostic-Code"] == "smtp; 250 ok"


@pytest.mark.parametrize(
    ("kind", "action", "subject"),
    [
        (OutcomeKind.FAILED, "failed", "Your message could not be delivered"),
        (OutcomeKind.DEFERRED, "delayed", "Your message is delayed"),
        (OutcomeKind.DELIVERED, "delivered", "Your message was delivered"),
        (OutcomeKind.RELAYED, "relayed", "Your message was sent on"),
        (OutcomeKind.EXPANDED, "expanded", "Your message was sent on"),
    ],
)
def test_each_outcome_has_its_action_and_its_words(
    kind: OutcomeKind, action: str, subject: str
) -> None:
    envelope = envelope_to("ann@example.org", notices=[Notice(ASKING)])
    found = read(made(told(envelope, Outcome(0, kind, "2.0.0", ""))))
    assert found.groups[1]["Action"] == action
    assert found.header["Subject"] == subject
    assert "Diagnostic-Code" not in found.groups[1]


def test_a_delay_says_until_when_it_is_tried() -> None:
    late = Outcome(0, OutcomeKind.DEFERRED, "4.4.1", "connection refused")
    notice = made(told(envelope_to("ann@example.org"), late, retry_until_ns=ORIGIN.now_ns + 10**9))
    found = read(notice)
    assert found.groups[1]["Will-Retry-Until"] == "Sun, 9 Sep 2001 01:46:41 +0000"
    text = found.parts[0].octets.decode()
    assert "It is tried until Sun, 9 Sep 2001 01:46:41 +0000." in text
    assert "could not be delivered yet" in text


@pytest.mark.parametrize(
    ("envid", "told_as"), [("a+20+20b", "a  b"), ("+20", None), ("", None), ("+41+2B", "A+")]
)
def test_the_sender_s_own_identifier_comes_back_as_it_was(envid: str, told_as: str | None) -> None:
    found = read(made(told(envelope_to("ann@example.org", envid=envid), FAILED)))
    assert found.groups[0].get("Original-Envelope-Id") == told_as


def test_what_is_final_is_tried_no_more() -> None:
    for outcome in (FAILED, Outcome(0, OutcomeKind.DELIVERED, "2.0.0", "")):
        envelope = envelope_to("ann@example.org", notices=[Notice(ASKING)])
        found = read(made(told(envelope, outcome, retry_until_ns=ORIGIN.now_ns + 10**9)))
        assert "tried" not in found.parts[0].octets.decode()
        assert "Will-Retry-Until" not in found.groups[1]


def test_the_postmaster_without_a_domain_is_ours() -> None:
    found = read(made(told(envelope_to("postmaster"), FAILED)))
    assert found.groups[1]["Final-Recipient"] == "rfc822; postmaster@mx.example.org"


# -- what comes back ------------------------------------------------------------------------------


def test_the_whole_message_comes_back_where_that_was_asked_for_and_it_failed() -> None:
    asking = [Notice(ASKING)]
    full = envelope_to("ann@example.org", ret="FULL", notices=asking)
    delivered = Outcome(0, OutcomeKind.DELIVERED, "2.0.0", "")
    delayed = Outcome(0, OutcomeKind.DEFERRED, "4.0.0", "")
    headers = envelope_to("ann@example.org", ret="HDRS", notices=asking)
    unsaid = envelope_to("ann@example.org", notices=asking)
    for envelope, outcome, kind in (
        (full, FAILED, "message/rfc822"),
        (full, delivered, "text/rfc822-headers"),
        (full, delayed, "text/rfc822-headers"),
        (headers, FAILED, "text/rfc822-headers"),
        (unsaid, FAILED, "text/rfc822-headers"),
    ):
        part = read(made(told(envelope, outcome))).parts[2]
        assert part.content_type == kind
        if kind == "message/rfc822":
            assert part.octets == CONTENT


def test_a_message_over_the_bound_comes_back_as_its_header() -> None:
    envelope = envelope_to("ann@example.org", ret="FULL")
    for octets, kind in ((50_000, "message/rfc822"), (50_001, "text/rfc822-headers")):
        body = b"x\r\n" * ((octets - len(CONTENT)) // 3)
        content = CONTENT + body + b"y" * (octets - len(CONTENT) - len(body))
        assert read(made(told(envelope, FAILED, content=content))).parts[2].content_type == kind
    part = read(made(told(envelope, FAILED, octets=10**9))).parts[2]  # the rest is not at hand
    assert part.content_type == "text/rfc822-headers"


@pytest.mark.parametrize(
    "body",
    [b"a\nb", b"a\rb", b"a\0b", b"x" * 999],
    ids=["bare LF", "bare CR", "NUL", "long line"],
)
def test_a_message_that_no_part_can_hold_comes_back_as_its_header(body: bytes) -> None:
    envelope = envelope_to("ann@example.org", ret="FULL")
    notice = made(told(envelope, FAILED, content=CONTENT + body + b"\r\n"))
    assert read(notice).parts[2].content_type == "text/rfc822-headers"


def test_a_message_in_8_bits_comes_back_in_8_bits() -> None:
    content = CONTENT + "Grüße\r\n".encode()
    notice = made(told(envelope_to("ann@example.org", ret="FULL"), FAILED, content=content))
    assert read(notice).parts[2].octets == content
    assert notice.envelope.body == "8BITMIME"
    assert not notice.envelope.smtputf8


def test_a_header_in_8_bits_or_with_long_lines_comes_back_encoded() -> None:
    header = "Subject: Grüße\r\nX: " + "x" * 2000 + " \r\n\tmore = there\r\n"
    notice = made(told(envelope_to("ann@example.org"), FAILED, content=f"{header}\r\n".encode()))
    assert notice.envelope.body == "7BIT"
    assert read(notice).parts[2].octets == header.encode()


def test_a_long_header_is_cut_between_two_fields() -> None:
    fields = [f"X-{n}: {'x' * 50}\r\n\tfolded\r\n".encode() for n in range(1000)]
    notice = made(told(envelope_to("ann@example.org"), FAILED, content=b"".join(fields)))
    returned = read(notice).parts[2].octets
    kept = returned.count(b"folded")
    assert returned == b"".join(fields[:kept])
    assert 16_000 < len(returned) <= 16_384


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (b"", b""),
        (b"\r\nno header\r\n", b""),
        (b"A: b", b"A: b\r\n"),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"A: b\nC: d\n\nbody", b"A: b\r\nC: d\r\n"),
        (b"A: b\r\n\r\nC: d\r\n", b"A: b\r\n"),
        (b"A: " + b"x" * 20_000, b"A: " + b"x" * 20_000 + b"\r\n"),
    ],
)
def test_the_header_ends_at_the_first_empty_line(content: bytes, header: bytes) -> None:
    part = read(made(told(envelope_to("ann@example.org"), FAILED, content=content))).parts[2]
    assert part.octets.removesuffix(b"\r\n") == (
        header.removesuffix(b"\r\n") if len(header) < 16_384 else b""
    )


# -- addresses beyond ASCII -----------------------------------------------------------------------


def test_a_recipient_beyond_ascii_is_told_in_ascii_to_a_sender_in_ascii() -> None:
    notices = [Notice((), r"utf-8;\x{5D0}\x{2B}1@x.example")]
    envelope = envelope_to("\u05d0@b\u00fccher.example", notices=notices, smtputf8=True)
    content = "Subject: \u05d0\r\n\r\n".encode()
    notice = made(told(envelope, FAILED, content=content))
    assert notice.content.isascii()
    assert not notice.envelope.smtputf8
    found = read(notice)
    assert found.groups[1]["Final-Recipient"] == r"utf-8; \x{5D0}@b\x{FC}cher.example"
    assert found.groups[1]["Original-Recipient"] == r"utf-8; \x{5D0}\x{2B}1@x.example"
    assert "<\u05d0@b\u00fccher.example>" in found.parts[0].octets.decode()
    assert found.parts[1].content_type == "message/delivery-status"
    assert found.parts[2] == ("message/global-headers", "Subject: \u05d0\r\n".encode())
    parsed(notice)


def test_a_sender_beyond_ascii_is_told_in_utf_8() -> None:
    sender = MailPath("\u05d0", "x.example")
    notices = [Notice((), "utf-8;\u05d1@x.example")]
    envelope = envelope_to(
        "\u05d1@x.example", notices=notices, reverse_path=sender, ret="FULL", smtputf8=True
    )
    content = "Subject: \u05d0\r\n\r\nHello.\r\n".encode()
    notice = made(told(envelope, FAILED, content=content))
    assert notice.envelope.smtputf8
    assert notice.envelope.body == "8BITMIME"
    found = read(notice)
    assert found.header["To"] == "<\u05d0@x.example>"
    assert found.groups[1]["Final-Recipient"] == "utf-8; \u05d1@x.example"
    assert found.groups[1]["Original-Recipient"] == "utf-8; \u05d1@x.example"
    assert found.parts[1].content_type == "message/global-delivery-status"
    assert found.parts[2] == ("message/global", content)
