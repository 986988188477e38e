"""Commands sent behind one that must be waited for (RFC 2920 section 3.1)."""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, codes, greeted

from mailsrv.smtp.events import ProtocolNote, TransactionEnded

EVERYTHING = HELLO + MESSAGE + b"QUIT\r\n"


def remarks(talk: Talk) -> list[ProtocolNote]:
    return [one for one in talk.session.events or () if isinstance(one, ProtocolNote)]


def detail(*chunks: bytes) -> str | None:
    """After which command something came too soon, if anything did."""
    found = remarks(Talk().feed(*chunks))
    assert len(found) <= 1
    return found[0].detail if found else None


@pytest.mark.parametrize(
    ("chunks", "verb"),
    [
        ((HELLO + b"NOOP\r\n",), "EHLO"),
        ((HELLO + b"N",), "EHLO"),
        ((HELLO, ENVELOPE + b"DATA\r\nSubject: x\r\n"), "DATA"),
        ((HELLO, b"NOOP\r\nNOOP\r\n"), "NOOP"),
        ((HELLO, b"VRFY x\r\nRSET\r\n"), "VRFY"),
        ((HELLO, b"EXPN x\r\nRSET\r\n"), "EXPN"),
        ((HELLO, b"QUIT\r\nRSET\r\n"), "QUIT"),
        ((b"HELO x\r\nRSET\r\n",), "HELO"),
        ((b"RSET\r\nRSET\r\n",), "RSET"),
        ((b"HELO x\r\n", ENVELOPE), "MAIL"),
        ((b"HELO x\r\n", ENVELOPE[:27], ENVELOPE[27:] + b"DATA\r\n"), "RCPT"),
    ],
)
def test_who_does_not_wait_is_noticed(chunks: tuple[bytes, ...], verb: str) -> None:
    assert detail(*chunks) == verb


@pytest.mark.parametrize(
    "chunks",
    [
        (HELLO, ENVELOPE + b"DATA\r\n", b"x\r\n.\r\n" + ENVELOPE + b"DATA\r\n", b".\r\nQUIT\r\n"),
        (HELLO, b"RSET\r\n" + ENVELOPE + b"NOOP\r\n"),
        (HELLO, ENVELOPE + b"BDAT 3\r\nx\r\nBDAT 3 LAST\r\ny\r\nQUIT\r\n"),
        (b"BDAT 3\r\nx\r\n",),
        (HELLO, b"XYZZY\r\nRSET\r\n"),
        (b"HELO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<b@example.test>\r\n", b"DATA\r\n"),
        (HELLO + b"", b"NOOP\r\n", b"NOOP\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",),
    ],
)
def test_who_waits_where_it_must_is_left_alone(chunks: tuple[bytes, ...]) -> None:
    assert detail(*chunks) is None


def test_once_a_session_is_said_and_the_replies_are_the_same() -> None:
    off = Talk(unsolicited_pipelining="off").feed(EVERYTHING)
    record = Talk(unsolicited_pipelining="record").feed(EVERYTHING)
    assert (remarks(off), remarks(record)) == ([], [ProtocolNote("unsolicited pipelining", "EHLO")])
    assert off.heard == record.heard
    assert off.messages == record.messages != []


@pytest.mark.parametrize(
    ("chunks", "before"),
    [
        ((EVERYTHING,), []),
        ((HELLO, MESSAGE), [250, 250, 250]),
        ((HELLO, b"NOOP\r\nNOOP\r\n"), [250]),
        ((b"HELO x\r\n", ENVELOPE), [250]),
    ],
)
def test_a_server_may_refuse_to_go_on(chunks: tuple[bytes, ...], before: list[int]) -> None:
    talk = Talk(unsolicited_pipelining="reject").feed(*chunks)
    assert talk.codes == [*before, 554]
    assert b"554 5.5.0 " in talk.heard
    assert talk.session.closing
    assert talk.messages == []
    last = (talk.session.events or [])[-1]
    said = last.verdict if isinstance(last, TransactionEnded) else getattr(last, "reply", None)
    assert said is not None
    assert said.check == "pipelining"


def test_who_waits_is_served_where_others_are_refused() -> None:
    talk = greeted(unsolicited_pipelining="reject").feed(
        ENVELOPE + b"DATA\r\n", b"x\r\n.\r\n" + ENVELOPE + b"DATA\r\n", b".\r\nQUIT\r\n"
    )
    assert talk.codes == [250, 250, 354, 250, 250, 250, 354, 250, 221]


def test_a_command_that_came_during_a_pause_was_not_waited_for_either() -> None:
    session = Talk(errors_soft=0).session
    session.receive(HELLO)
    session.receive(b"X\r\n")
    session.receive(b"NOOP\r\n")
    session.receive(b"NOOP\r\n")
    session.answer(None)
    session.answer(None)
    assert codes(b"".join(session.output)) == [250, 500, 250]
    assert ProtocolNote("unsolicited pipelining", "NOOP") in (session.events or ())
