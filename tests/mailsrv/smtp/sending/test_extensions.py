"""What the reply to EHLO offers."""

from __future__ import annotations

import pytest

from mailsrv.smtp.sending.extensions import NO_EXTENSIONS, Extensions, parse_extensions
from mailsrv.smtp.sending.reply_reader import ReceivedReply


def offered(*lines: bytes) -> Extensions:
    return parse_extensions(ReceivedReply(250, (b"hop.example.test", *lines)))


def test_every_extension_that_is_of_use_is_read_in_any_case() -> None:
    assert offered(
        *(b"pipelining", b"Size 35882577", b"8bitmime", b"SMTPUTF8", b"STARTTLS"),
        *(b"CHUNKING", b"DSN", b"LIMITS mailmax=20 RCPTMAX=50", b"AUTH PLAIN", b"XYZZY"),
    ) == Extensions(
        *(True, True, 35882577, True, True, True, True, True),
        recipients_max=50,
        transactions_max=20,
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"PIPELININGX",
        b"LIMITS",
        b"LIMITS RCPTMAX=0 MAILMAX=x",
        b"\xff\x00",
        b"=",
        b"250",
    ],
)
def test_what_is_malformed_or_unknown_is_passed_over(line: bytes) -> None:
    assert offered(line) == NO_EXTENSIONS


@pytest.mark.parametrize(
    ("line", "limit"),
    [(b"SIZE", 0), (b"SIZE x", 0), (b"SIZE 1 2", 1), (b"SIZE " + b"9" * 20, 10**20 - 1)],
)
def test_size_without_a_number_has_no_limit(line: bytes, limit: int) -> None:
    assert offered(line) == Extensions(size=True, size_octets_max=limit)


def test_the_first_line_names_the_next_hop_and_offers_nothing() -> None:
    assert parse_extensions(ReceivedReply(250, (b"PIPELINING",))) == NO_EXTENSIONS
