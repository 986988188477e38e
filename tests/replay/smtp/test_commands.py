"""The outline of a session: its commands, not what only looks like one."""

from __future__ import annotations

import pytest

from replay.smtp.commands import outline, split, verbs


@pytest.mark.parametrize(
    ("sent", "codes", "said"),
    [
        (b"EHLO a\r\nMAIL FROM:<>\r\nrcpt to:<b@c>\r\nQUIT\r\n", [], "EHLO MAIL RCPT QUIT"),
        (b"DATA\r\nMAIL is what this is about\r\n.\r\nQUIT\r\n", [354], "DATA QUIT"),
        (b"DATA\r\n.\r\nRSET\r\n", [354], "DATA RSET"),
        (
            b"DATA\r\nhello\r\nQUIT\r\n",
            [554],
            "DATA HELLO QUIT",
        ),
        (b"BDAT 6\r\nQUIT\r\nBDAT 3 LAST\r\nabcRSET\r\n", [], "BDAT BDAT RSET"),
        (b"DATA\r\nnever ended QUIT\r\n", [354], "DATA"),
        (b"\x16\x03\x01\r\nNOOP\r\n", [], "? NOOP"),
        (b"NOOP\nQUI", [], "NOOP ?"),
        (b"DATA\r\nFrom: a\r\n\r\nhello\r\n.\r\nQUIT\r\n", [], "DATA QUIT"),
        (
            b"DATA\r\nRSET\r\nDATA\r\nEHLO x\r\n.\r\nQUIT\r\n",
            [554, 250, 354, 250],
            "DATA RSET DATA QUIT",
        ),
        (b"BDAT 99999999999999999999\r\nRSET\r\n", [501], "BDAT RSET"),
    ],
)
def test_commands_are_told_from_content(sent: bytes, codes: list[int], said: str) -> None:
    assert " ".join(verbs(split(sent, codes))) == said


def test_what_begins_within_a_message_is_content_up_to_its_dot() -> None:
    parts = list(split(b"MAIL FROM: is a line\r\n.\r\nQUIT\r\n", begins_within_content=True))
    assert outline(verbs(parts)) == "QUIT"
    assert [part.kind for part in parts] == ["content", "command"]
