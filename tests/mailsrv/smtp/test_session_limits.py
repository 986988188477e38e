"""What a session allows: errors, junk, recipients, transactions and turns; flights of replies."""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, codes, greeted, talk_in_every_cut

from mailsrv.smtp import reply
from mailsrv.smtp.events import Stage
from mailsrv.smtp.session import TURN_COMMANDS

# -- limits ---------------------------------------------------------------------------------------


def test_recipients_over_the_limit_wait_for_the_next_transaction() -> None:
    rcpt = b"RCPT TO:<b@example.test>\r\n"
    wire = HELLO + b"MAIL FROM:<>\r\n" + rcpt * 3 + b"DATA\r\n.\r\n"
    talk = talk_in_every_cut(wire, lambda: Talk(recipients=2))
    assert talk.codes == [250, 250, 250, 250, 452, 354, 250]
    assert b"452 4.5.3 " in talk.heard
    assert len(talk.messages[0].envelope.forward_paths) == 2


def test_errors_over_the_soft_limit_are_answered_after_a_pause_and_the_hard_limit_ends() -> None:
    talk = talk_in_every_cut(b"X\r\n" * 30, lambda: Talk(errors_soft=3, errors_hard=6))
    assert talk.codes == [500] * 6 + [421]
    assert b"too many errors: 6" in talk.heard
    assert [question.stage for question in talk.asked] == [Stage.PAUSE] * 2
    assert talk.session.closing


def test_the_pause_can_be_switched_off() -> None:
    talk = Talk(errors_soft=3, errors_hard=6, error_pause_s=0).feed(b"X\r\n" * 5)
    assert talk.asked == []


def test_temporary_refusals_are_no_errors_of_the_client() -> None:
    talk = greeted(decide=lambda question: reply.GREYLISTED, errors_hard=2)
    talk.feed(b"MAIL FROM:<a@example.org>\r\n" * 50)
    assert talk.codes == [450] * 50


def test_an_accepted_message_forgives_errors_and_junk() -> None:
    talk = greeted(errors_hard=3, junk_commands=4)
    for _ in range(5):
        talk.feed(b"X\r\n" * 2 + b"NOOP\r\n" * 2 + MESSAGE)
    assert not talk.session.closing
    assert talk.session.errors == 0


def test_a_refused_message_forgives_nothing() -> None:
    talk = greeted(errors_hard=4, outcomes=("554 5.7.1 No",)).feed(b"X\r\n" * 2 + MESSAGE)
    assert talk.session.errors == 3


@pytest.mark.parametrize("line", [b"NOOP", b"RSET", b"VRFY x", b"HELP", b"EHLO x", b"HELO x"])
def test_commands_that_bring_no_mail_are_limited(line: bytes) -> None:
    talk = Talk(junk_commands=5).feed((line + b"\r\n") * 9)
    assert talk.codes == [int(talk.heard[:3])] * 5 + [421]
    assert talk.session.closing


def test_transactions_are_limited() -> None:
    talk = greeted(transactions=2).feed(MESSAGE * 3)
    assert talk.codes == [250, 250, 354, 250] * 2 + [421]
    assert b"2 transactions allowed" in talk.heard
    assert len(talk.messages) == 2


def test_a_rejected_mail_is_no_transaction() -> None:
    talk = greeted(transactions=1, message_octets=10)
    talk.feed(b"MAIL FROM:<> SIZE=11\r\nMAIL FROM:<>\r\n")
    assert talk.codes == [552, 250]


def test_a_turn_is_eight_commands_and_the_rest_waits_for_the_next() -> None:
    session = Talk().session
    session.begin_turn()
    session.receive(b"NOOP\r\n" * (TURN_COMMANDS + 1))
    assert (session.lines, session.unfinished) == (TURN_COMMANDS, True)
    session.begin_turn()
    session.proceed()
    assert (session.lines, session.unfinished) == (TURN_COMMANDS + 1, False)


def test_without_a_turn_a_read_is_good_for_one_command() -> None:
    session = Talk().session
    session.turn_end = 0
    session.receive(b"NOOP\r\n")
    assert (session.lines, session.unfinished) == (1, False)
    session.receive(b"NOOP\r\nNOOP\r\n")
    assert (session.lines, session.unfinished) == (2, True)


def test_a_turn_goes_on_across_answers_that_come_at_once() -> None:
    """Or a policy that answers within the call would run a whole flood in one pass."""
    talk = greeted(stages=frozenset((Stage.RECIPIENT,)))
    session = talk.session
    session.begin_turn()
    before = session.lines
    session.receive(b"MAIL FROM:<a@example.org>\r\n" + b"RCPT TO:<b@example.org>\r\n" * 20)
    while session.question is not None:
        session.answer(None)
    assert session.unfinished
    assert session.lines == before + TURN_COMMANDS


def test_content_needs_no_turn_but_its_next_command_does() -> None:
    session = greeted().session
    session.receive(ENVELOPE + b"DATA\r\n")
    session.turn_end = session.lines
    session.receive(b"text\r\n.\r\nNOOP\r\n")
    assert session.question is not None
    session.answer(reply.OK)
    assert (session.unfinished, session.buffered_octets) == (True, len(b"NOOP\r\n"))


# -- flights (RFC 2920 section 3.2) ---------------------------------------------------------------


def flights(octets: bytes, **settings: object) -> list[list[int]]:
    talk = greeted(**settings).feed(octets)
    return [codes(flight) for flight in talk.flights]


def test_replies_to_mail_rcpt_and_rset_are_joined() -> None:
    more = b"RCPT TO:<c@example.test>\r\n"
    assert flights(b"RSET\r\n" + ENVELOPE + more) == [[250, 250, 250, 250]]


def test_refusals_of_mail_and_rcpt_are_joined_too() -> None:
    wire = b"MAIL FROM:<a>\r\nMAIL FROM:<>\r\nRCPT TO:<>\r\nRCPT TO:<b@example.test>\r\n"
    assert flights(wire) == [[501, 250, 501, 250]]


@pytest.mark.parametrize(
    "line", [b"NOOP", b"VRFY x", b"EXPN x", b"HELP", b"EHLO x", b"XYZZY", b"A\x00", b"DATA"]
)
def test_these_replies_are_not_held_back(line: bytes) -> None:
    after = b"RSET\r\nRSET\r\n"
    first, second = flights(b"RSET\r\n" + line + b"\r\n" + after)
    assert (len(first), second) == (2, [250, 250])


def test_the_go_ahead_for_content_is_not_held_back() -> None:
    assert flights(MESSAGE + ENVELOPE) == [[250, 250, 354], [250, 250, 250]]


def test_the_envelope_after_a_message_is_joined_to_its_answer() -> None:
    talk = greeted().feed(ENVELOPE + b"DATA\r\n")
    talk.flights.clear()
    talk.feed(b".\r\n" + ENVELOPE + b"DATA\r\n")
    assert [codes(flight) for flight in talk.flights] == [[250, 250, 250, 354]]
