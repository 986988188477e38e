"""Lone line feeds in content: refused, or normalised where an exception says so; never an end."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, talk_in_every_cut
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp.content import ContentReader
from mailsrv.smtp.events import ProtocolNote

HEADER = b"X: y\r\n"


def tolerant(recipient: str = "", **settings: int) -> Talk:
    """A session that normalises line ends; for ``recipient`` alone, if it is named."""

    def tolerates(check: str, client: str, recipients: Sequence[str]) -> bool:
        return check == "bare_lf" and (not recipient or list(recipients) == [recipient])

    return Talk(tolerates=tolerates, **settings)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"a\nb\r\n", b"a\r\nb\r\n"),
        (b"a\rb\r\n", b"a\r\nb\r\n"),
        (b"a\r\r\n", b"a\r\n\r\n"),
        (b"a\n\r\n", b"a\r\n\r\n"),
        (b"a\n.\nQUIT\nb\r\n", b"a\r\n.\r\nQUIT\r\nb\r\n"),
        (b"a\n.\r\nMAIL FROM:<x@y>\r\n", b"a\r\n.\r\nMAIL FROM:<x@y>\r\n"),
        (b"a\r.\r\nb\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\r\n.\nb\r\n", b"a\r\n\r\nb\r\n"),  # a stuffed line, as its sender should have known
        (b"a\n..b\r\n", b"a\r\n..b\r\n"),  # stuffed after CRLF alone
        (b"a\r\n..b\r\n", b"a\r\n.b\r\n"),
        (b"a\r\n", b"a\r\n"),
    ],
)
def test_line_ends_are_normalised_and_end_nothing(sent: bytes, kept: bytes) -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + b"DATA\r\n" + HEADER + sent + b".\r\n", tolerant)
    assert talk.codes == [250, 250, 250, 354, 250]
    assert [message.content for message in talk.messages] == [HEADER + kept]
    notes = [one for one in talk.session.events or () if isinstance(one, ProtocolNote)]
    said = [one.event for one in notes if one.event != "unsolicited pipelining"]
    assert said == ([] if sent in (b"a\r\n", b"a\r\n..b\r\n") else ["line ends normalised"])


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"x", b"\n\r"])
def test_chunks_are_normalised_to_their_last_octet(end: bytes) -> None:
    content = HEADER + b"a\nb" + end
    wire = HELLO + ENVELOPE + b"BDAT 8\r\n" + content[:8]
    wire += b"BDAT %d LAST\r\n" % (len(content) - 8) + content[8:]
    talk = talk_in_every_cut(wire, tolerant)
    kept = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    assert [message.content for message in talk.messages] == [kept]


def test_all_recipients_must_be_excepted() -> None:
    lone = b"DATA\r\n" + HEADER + b"a\nb\r\n.\r\n"
    assert tolerant("b@example.test").feed(HELLO + ENVELOPE + lone).codes[-1] == 250
    both = ENVELOPE + b"RCPT TO:<c@example.test>\r\n"
    assert tolerant("b@example.test").feed(HELLO + both + lone).codes[-1] == 550


def test_without_an_exception_the_message_is_refused() -> None:
    talk = Talk(tolerates=lambda check, client, recipients: False)
    talk.feed(HELLO + ENVELOPE + b"DATA\r\na\nb\r\n.\r\n" + MESSAGE)
    assert talk.codes[4:] == [550, 250, 250, 354, 250]


def test_a_normalised_message_is_bounded_like_any_other() -> None:
    talk = tolerant(message_octets=10).feed(
        HELLO + ENVELOPE + b"DATA\r\n" + b"\n" * 12 + b"\r\n.\r\n"
    )
    assert talk.codes[-1] == 552


@pytest.mark.parametrize(("lone", "code"), [(4, 250), (5, 552)])
def test_the_octets_that_normalising_adds_count_for_the_bound(lone: int, code: int) -> None:
    sent = HELLO + ENVELOPE + b"DATA\r\n" + b"\n" * lone + b"\r\n.\r\n"
    talk = talk_in_every_cut(sent, lambda: tolerant(message_octets=10))
    assert talk.codes[-1] == code


def test_refused_pipelining_is_recorded_for_an_excepted_client() -> None:
    def tolerates(check: str, client: str, recipients: Sequence[str]) -> bool:
        return check == "pipelining"

    talk = Talk(tolerates=tolerates, unsolicited_pipelining="reject").feed(HELLO + HELLO)
    assert talk.codes == [250, 250]
    assert Talk(unsolicited_pipelining="reject").feed(HELLO + HELLO).codes == [554]


@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b".", b"a", b"\r\n."]), max_size=12))
def test_what_is_passed_on_has_proper_line_ends_and_ends_where_the_sender_ended(
    parts: list[bytes],
) -> None:
    content = HEADER + b"".join(parts) + b"\r\n"
    if b"\r\n.\r\n" in content:
        return
    talk = tolerant().feed(HELLO + ENVELOPE + b"DATA\r\n" + content + b".\r\n" + MESSAGE)
    first, second = talk.messages
    assert re.search(rb"(?<!\r)\n|\r(?!\n)", first.content) is None
    reader = ContentReader()
    stuffed = first.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    assert reader.feed(stuffed) == (first.content, len(stuffed))
    assert second.content.startswith(b"Subject: x")
