"""A client's octets become whole commands, contents and chunks, in pieces of any size."""

from __future__ import annotations

import pytest

from replay.smtp.commands import RECEIVED_LINE_MAX, CommandReader

SESSION = (
    (b"", b"220 hi\r\n"),
    (b"EHLO me\r\n", b"250 ok\r\n"),
    (b"MAIL FROM:<>\r\n", b"250 ok\r\n"),
    (b"DATA\r\n", b"354-go\r\n354 on\r\n"),
    (b"Subject: x\r\n\r\n..\r\n\r.\r\nDATA\r\n.\r\n", b"250 ok\r\n"),
    (b"BDAT 7\r\nab\r\nDAT", b"250 ok\r\n"),
    (b"BDAT 0 LAST\r\n", b"250 ok\r\n"),
    (b"DATA\r\n", b"554 no\r\n"),
    (b"QUIT\r\n", b"221 bye\r\n"),
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_commands_are_the_same_however_they_are_cut(size: int) -> None:
    reader = CommandReader()
    commands = []
    for said, reply in SESSION:
        for at in range(0, len(said), size):
            commands += reader.feed(said[at : at + size], at)
        for at in range(0, len(reply), size):
            reader.replied(reply[at : at + size])
    assert [one.octets for one in commands] == [said for said, _ in SESSION if said]
    verbs = "EHLO MAIL DATA content BDAT BDAT DATA QUIT"
    assert [one.verb for one in commands] == verbs.split()
    assert reader.rest == b""


def test_content_may_be_a_dot_alone() -> None:
    reader = CommandReader()
    reader.feed(b"DATA\r\n", 0)
    reader.replied(b"354 go\r\n")
    assert [one.octets for one in reader.feed(b".\r\nQUIT\r\n", 0)] == [b".\r\n", b"QUIT\r\n"]


def test_a_354_before_its_data_invites_all_the_same() -> None:
    reader = CommandReader()
    reader.replied(b"250 ok\r\n354 go\r\n")
    commands = reader.feed(b"RCPT TO:<b@c>\r\nDATA\r\nx\r\n.\r\n", 0)
    assert [one.verb for one in commands] == ["RCPT", "DATA", "content"]


def test_a_line_that_does_not_end_is_cut_at_its_bound() -> None:
    reader = CommandReader()
    (cut,) = reader.feed(b"A" * (RECEIVED_LINE_MAX + 5), 0)
    assert len(cut.octets) == RECEIVED_LINE_MAX
    assert len(reader.rest) == 5
