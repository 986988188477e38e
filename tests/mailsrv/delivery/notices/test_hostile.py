"""Notices about what others chose: nothing of it ends a line, begins a field, closes a part or
makes a notice large."""

from __future__ import annotations

import email
import email.policy
import re

from hypothesis import example, given
from hypothesis import strategies as st
from noticing import CONTENT, FAILED, ORIGIN, envelope_to, read, told

from mailsrv.delivery.notices.returned import HEADER_OCTETS_MAX
from mailsrv.smtp import command
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath, parse_forward_path
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.xtext import ASCII_TYPE, UTF8_TYPE, embed, encode_orcpt, unembed

HOSTILE = st.text(max_size=200) | st.lists(
    st.sampled_from(
        [
            *("\r\n", "\n", "\r", "\0", " ", "\t", ".", "--", "=_NOTICE1.0", "\x1b[31m", "\u202e"),
            *(
                "Bcc: x@y.example",
                "Action: delivered",
                "Content-Type: text/html",
                "é",
                "\U0001f4e7",
            ),
            *("x" * 2000, "\ud800", "\u2028", "\x85", "\x0b", "\\", '"', ";", "<script>"),
        ]
    )
).map("".join)
LINES = st.lists(
    st.sampled_from(
        [
            *(b"A: b", b" folded", b"", b"--=_NOTICE1.0", b"--=_NOTICE1.0--", b"--=_NOTICE1.1--"),
            *(b"Message-ID: <x@y>", b"Message-ID: <a>\rBcc: b", b"Message-ID: <\xc3\xa9@x>"),
            *(b"x" * 1500, b"\0", b"\r", b"\n", b".", b"From x", "é".encode(), b"\xff"),
        ]
    )
    | st.binary(max_size=20)
).map(b"\r\n".join)
PATHS = st.builds(MailPath, HOSTILE.filter(bool), st.sampled_from(["x.example", ""]))


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, st.sampled_from(OutcomeKind))
@example("550 no\r\n.\r\nMAIL FROM:<x@y.example>", "next\r\nAction: delivered", "", "", FAILED.kind)
@example("x" * 5000, "y" * 5000, "utf-8;" + "z" * 5000, "e" * 5000, OutcomeKind.FAILED)
def test_text_of_next_hops_and_parameters_stays_where_it_belongs(
    diagnostic: str, remote: str, orcpt: str, envid: str, kind: OutcomeKind
) -> None:
    notices = [Notice(("SUCCESS", "FAILURE", "DELAY"), orcpt)]
    envelope = envelope_to("ann@example.org", notices=notices, envid=envid)
    notice = told(envelope, Outcome(0, kind, "5.1.1\r\nX: y", diagnostic, remote))
    assert notice is not None
    found = read(notice)
    assert notice.content.isascii()
    assert len(found.groups) == 2
    assert found.groups[1].keys() <= {
        *("Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA"),
        *("Diagnostic-Code", "Last-Attempt-Date"),
    }
    assert found.groups[1]["Final-Recipient"] == "rfc822; ann@example.org"


@given(PATHS, PATHS, st.booleans())
def test_addresses_stay_where_they_belong_whatever_is_in_them(
    sender: MailPath, recipient: MailPath, smtputf8: bool
) -> None:
    envelope = envelope_to("ann@example.org", reverse_path=sender, smtputf8=smtputf8)
    envelope.forward_paths[0] = recipient
    notice = told(envelope, FAILED)
    assert notice is not None
    found = read(notice)
    assert len(found.groups) == 2
    assert found.header.keys() >= {"To", "Auto-Submitted"}
    assert "Bcc" not in found.header


@given(LINES, st.sampled_from(["FULL", "HDRS"]), st.booleans())
def test_content_stays_within_its_part_and_comes_back_as_it_was(
    content: bytes, ret: str, smtputf8: bool
) -> None:
    envelope = envelope_to("ann@example.org", ret=ret, smtputf8=smtputf8)
    notice = told(envelope, FAILED, content=content)
    assert notice is not None
    returned = read(notice).parts[2]
    if returned.content_type in ("message/rfc822", "message/global"):
        assert returned.octets == content
    else:
        lines = re.split(rb"\r\n|\r|\n", content)
        end = lines.index(b"") if b"" in lines else len(lines)
        header = b"".join(line + b"\r\n" for line in lines[:end]).replace(b"\0", b"?")
        assert returned.octets in (header, header or b"\r\n")
    library = email.message_from_bytes(notice.content, policy=email.policy.SMTPUTF8)
    kinds = [part.get_content_type() for part in library.get_payload()]  # type: ignore[union-attr]
    assert kinds[0] == "text/plain"
    assert kinds[1] == "message/delivery-status"
    assert len(kinds) == 3


def test_a_boundary_in_the_message_is_not_ours() -> None:
    forged = CONTENT + b"--=_NOTICE1.0--\r\n\r\n--=_NOTICE1.1\r\nContent-Type: text/html\r\n\r\n"
    notice = told(envelope_to("ann@example.org", ret="FULL"), FAILED, content=forged)
    assert notice is not None
    assert read(notice).parts[2].octets == forged
    assert b'boundary="=_NOTICE1.2"' in notice.content


def test_a_message_id_that_would_inject_a_field_is_not_quoted() -> None:
    for quoted in (
        b"<a@b> <c@d>",
        b"<a\0@b>",
        b"<" + b"a" * 300 + b">",
        b"a@b",
        "<é@b>".encode(),
    ):
        notice = told(
            envelope_to("ann@example.org"),
            FAILED,
            content=b"Message-ID: " + quoted + b"\r\n\r\n",
        )
        assert notice is not None
        assert "In-Reply-To" not in read(notice).header


def test_what_goes_to_a_forged_sender_is_bounded_by_what_it_sent_and_by_us() -> None:
    """A thousand recipients, at a next hop that says as much as it can, and a long header."""
    worst = Envelope(
        client="192.0.2.1",
        helo="x",
        protocol="ESMTP",
        id="M1",
        reverse_path=MailPath("victim", "forged.example"),
        forward_paths=[MailPath(f"u{n:03}", "x.example") for n in range(1000)],
        ret="FULL",
    )
    outcomes = [
        Outcome(place, OutcomeKind.FAILED, "5.0.0", "550 " + "x" * 496, "n" * 250)
        for place in range(1000)
    ]
    content = b"X: " + b"x" * 900 + b"\r\n"
    notice = told(worst, *outcomes, content=content * 100, octets=50 * 1024 * 1024)
    assert notice is not None
    assert len(read(notice).groups) == 1001
    for_each = 1000 * 600
    assert len(notice.content) < for_each + HEADER_OCTETS_MAX + 8192


@given(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=100),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40),
)
def test_what_a_sender_said_of_a_recipient_reads_back(ascii_address: str, address: str) -> None:
    utf8 = f"{UTF8_TYPE};{embed(address, utf8=False)}"
    for orcpt, said in ((encode_orcpt(ascii_address), ascii_address), (utf8, address)):
        asked = command.rcpt(f"ORCPT={orcpt}", False)
        assert not isinstance(asked, Reply)
        assert asked.notice == Notice((), orcpt)
        notice = told(envelope_to("ann@example.org", notices=[asked.notice]), FAILED)
        assert notice is not None
        kind, _, text = read(notice).groups[1]["Original-Recipient"].partition("; ")
        assert (text if kind == ASCII_TYPE else unembed(text)) == said


@given(st.from_regex(r'\A(?:[a-z.+]{1,5}|"[ -~é]{0,5}")@x\.example\Z'))
def test_what_rcpt_takes_is_named_so_that_it_reads_back(address: str) -> None:
    taken = parse_forward_path(f"<{address}>")
    if taken is None:
        return
    envelope = envelope_to("ann@example.org", smtputf8=True)
    envelope.forward_paths[0] = taken[0]
    notice = told(envelope, FAILED)
    assert notice is not None
    kind, _, text = read(notice).groups[1]["Final-Recipient"].partition("; ")
    if kind == "rfc822":
        assert text == str(taken[0])
    else:
        assert "\\x{E9}" in text
    assert ORIGIN.hostname not in text
