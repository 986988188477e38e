"""The outline of a session: its commands, not what only looks like one."""

from __future__ import annotations

import pytest

from replay.smtp.commands import verbs


@pytest.mark.parametrize(
    ("sent", "contents", "said"),
    [
        (b"EHLO a\r\nMAIL FROM:<>\r\nrcpt to:<b@c>\r\nQUIT\r\n", 0, "EHLO MAIL RCPT QUIT"),
        (b"DATA\r\nMAIL is what this is about\r\n.\r\nQUIT\r\n", 1, "DATA QUIT"),
        (b"DATA\r\n.\r\nRSET\r\n", 1, "DATA RSET"),
        (b"DATA\r\nQUIT\r\n", 0, "DATA QUIT"),  # it was refused, so nothing is content
        (b"BDAT 6\r\nQUIT\r\nBDAT 3 LAST\r\nabcRSET\r\n", 0, "BDAT BDAT RSET"),
        (b"DATA\r\nnever ended QUIT\r\n", 1, "DATA"),
        (b"\x16\x03\x01\r\nNOOP\r\n", 0, "? NOOP"),
        (b"NOOP\nQUI", 0, "NOOP ?"),
    ],
)
def test_commands_are_told_from_content(sent: bytes, contents: int, said: str) -> None:
    assert " ".join(verbs(sent, contents)) == said
