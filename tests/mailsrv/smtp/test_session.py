"""The receiving session: order of commands, transactions, content, replies that never overtake.

Whatever is said here is said in every segmentation unless the segmentation is the point.
"""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, codes, greeted, path, talk_in_every_cut

from mailsrv.smtp import reply
from mailsrv.smtp.events import Question, Stage
from mailsrv.smtp.session import DISCARD_MAX_OCTETS
from mailsrv.smtp.state import State

# -- the order of commands ------------------------------------------------------------------------


def test_a_whole_session_in_any_segmentation_delivers_its_message() -> None:
    talk = talk_in_every_cut(HELLO + MESSAGE + b"QUIT\r\n")
    assert talk.codes == [250, 250, 250, 354, 250, 221]
    assert talk.session.closing
    (message,) = talk.messages
    assert message.content == b"Subject: x\r\n\r\nhello\r\n"
    assert message.envelope.reverse_path == path("a@example.org")
    assert message.envelope.forward_paths == [path("b@example.test")]
    assert (message.envelope.helo, message.envelope.protocol) == ("client.example", "ESMTP")


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"MAIL FROM:<a@example.org>\r\n", [503]),
        (b"RCPT TO:<b@example.test>\r\n", [503]),
        (b"DATA\r\n", [503]),
        (HELLO + b"RCPT TO:<b@example.test>\r\n", [250, 503]),
        (HELLO + b"DATA\r\n", [250, 503]),
        (HELLO + b"MAIL FROM:<>\r\nMAIL FROM:<>\r\n", [250, 250, 503]),
        (HELLO + b"MAIL FROM:<>\r\nDATA\r\n", [250, 250, 503]),
        (HELLO + ENVELOPE + b"MAIL FROM:<>\r\n", [250, 250, 250, 503]),
        (HELLO + ENVELOPE + b"RSET\r\nRCPT TO:<b@example.test>\r\n", [250, 250, 250, 250, 503]),
        (HELLO + ENVELOPE + HELLO + b"DATA\r\n", [250, 250, 250, 250, 503]),
        (HELLO + ENVELOPE + b"EHLO\r\nDATA\r\n.\r\n", [250, 250, 250, 501, 354, 250]),
        (HELLO + MESSAGE + b"DATA\r\n", [250, 250, 250, 354, 250, 503]),
        (HELLO + MESSAGE + MESSAGE, [250] + [250, 250, 354, 250] * 2),
        (b"NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\nQUIT\r\n", [250, 250, 252, 214, 221]),
    ],
)
def test_each_command_has_its_place(said: bytes, heard: list[int]) -> None:
    assert talk_in_every_cut(said).codes == heard


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"VRFY b", reply.CANNOT_VERIFY),
        (b"VRFY", reply.NEED_ARGUMENT),
        (b"EXPN list", reply.NO_EXPANSION),
        (b"HELP", reply.HELP),
        (b"HELP DATA", reply.HELP),
        (b"NOOP", reply.OK),
        (b"NOOP whatever it is", reply.OK),
        (b"RSET now", reply.NO_ARGUMENT),
        (b"QUIT now", reply.NO_ARGUMENT),
        (b"HELO", reply.NEED_ARGUMENT),
        (b"EHLO  ", reply.NEED_ARGUMENT),
        (b"STARTTLS", reply.NOT_IMPLEMENTED),
        (b"AUTH PLAIN", reply.NOT_IMPLEMENTED),
        (b"BDAT", reply.BAD_CHUNK),
        (b"", reply.UNKNOWN_COMMAND),
        (b"XYZZY", reply.UNKNOWN_COMMAND),
        (b"NO\x00OP", reply.CONTROL_CHARACTER),
        (b"NOOP\rRSET", reply.CONTROL_CHARACTER),
        (b"NOOP \x1b[2J", reply.CONTROL_CHARACTER),
        (b"NOOP\r", reply.CONTROL_CHARACTER),
        (b"NOOP \xff", reply.NOT_ASCII),
        ("EHLO bücher.example".encode(), reply.HELO_NOT_ASCII),
    ],
)
def test_a_line_gets_its_answer_and_the_session_goes_on(line: bytes, answer: reply.Reply) -> None:
    talk = talk_in_every_cut(line + b"\r\nNOOP\r\n")
    assert talk.heard == answer.wire + reply.OK.wire


@pytest.mark.parametrize(
    "line", [b"MAIL FROM:<a\x00b@example.org>", b"RCPT TO:<b\r@example.test>", b"DATA\x1b"]
)
def test_a_control_character_inside_a_transaction_changes_nothing(line: bytes) -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + line + b"\r\nDATA\r\nx\r\n.\r\n")
    assert talk.codes == [250, 250, 250, 501, 354, 250]
    assert talk.messages[0].envelope.forward_paths == [path("b@example.test")]


def test_data_with_an_argument_is_refused_and_the_transaction_stays() -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + b"DATA now\r\nDATA\r\n.\r\n")
    assert talk.codes == [250, 250, 250, 501, 354, 250]


def test_helo_offers_nothing_and_ehlo_offers_the_extensions() -> None:
    assert Talk().feed(b"HELO x\r\n").heard == b"250 mx.example.test\r\n"
    offered = Talk(message_octets=1000).feed(HELLO).heard.decode().splitlines()
    assert offered[0] == "250-mx.example.test"
    assert {line[4:] for line in offered[1:]} >= {
        *("PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"),
        *("CHUNKING", "DSN", "LIMITS MAILMAX=100 RCPTMAX=1000"),
    }
    assert not any("STARTTLS" in line or "BINARYMIME" in line for line in offered)


def test_a_message_after_helo_is_received_with_smtp() -> None:
    talk = Talk().feed(b"HELO x\r\n" + MESSAGE)
    assert talk.messages[0].envelope.protocol == "SMTP"


# -- line ends, long lines, other protocols -------------------------------------------------------


def test_a_bare_lf_at_the_end_of_a_command_is_answered_and_counted() -> None:
    talk = talk_in_every_cut(b"NOOP\nNOOP\r\n\nEHLO x\n")
    assert talk.heard == (
        reply.BARE_LF_COMMAND.wire
        + reply.OK.wire
        + reply.BARE_LF_COMMAND.wire
        + reply.BARE_LF_COMMAND.wire
    )
    assert talk.session.errors == 3
    assert talk.session.state is State.CONNECTED


@pytest.mark.parametrize(
    ("length", "answer"), [(10, reply.UNKNOWN_COMMAND), (11, reply.LINE_TOO_LONG)]
)
@pytest.mark.parametrize("more", [0, 1, 2, 30])
def test_a_line_of_the_longest_length_is_a_command_and_one_octet_more_is_not(
    length: int, answer: reply.Reply, more: int
) -> None:
    line = b"x" * (length + (more if length > 10 else 0))
    talk = talk_in_every_cut(line + b"\r\nNOOP\r\n", lambda: Talk(command_line_octets=10))
    assert talk.heard == answer.wire + reply.OK.wire
    assert talk.session.errors == 1


@pytest.mark.parametrize("ending", [b"\n", b"\r\r\n", b"\r\n"])
def test_a_long_line_gets_one_answer_however_it_ends(ending: bytes) -> None:
    talk = talk_in_every_cut(b"x" * 30 + ending + b"NOOP\r\n", lambda: Talk(command_line_octets=10))
    assert talk.heard == reply.LINE_TOO_LONG.wire + reply.OK.wire


def test_what_is_thrown_away_of_a_long_line_is_no_tls_hello() -> None:
    wire = b"x" * 30 + b"\x16" * 5 + b"\r\nNOOP\r\n"
    talk = talk_in_every_cut(wire, lambda: Talk(command_line_octets=10))
    assert talk.heard == reply.LINE_TOO_LONG.wire + reply.OK.wire


def test_an_endless_line_ends_the_session_and_is_never_kept() -> None:
    talk = Talk()
    chunk = b"x" * 65536
    for _ in range(DISCARD_MAX_OCTETS // len(chunk)):
        talk.feed(chunk)
        assert talk.session.buffered_octets == 0
        assert not talk.session.closing
    talk.feed(b"x")
    assert talk.codes == [421]
    assert talk.session.closing


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"CONNECT a:25 HTTP/1.1"])
def test_http_gets_one_refusal_and_the_end(line: bytes) -> None:
    talk = talk_in_every_cut(line + b"\r\nHost: x\r\n\r\nMAIL FROM:<a@example.org>\r\n")
    assert talk.codes == [554]
    assert talk.session.closing


def test_a_tls_hello_gets_one_refusal_without_waiting_for_a_line_end() -> None:
    talk = talk_in_every_cut(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert talk.codes == [554]
    assert talk.session.closing


def test_a_tls_hello_that_follows_a_refused_starttls_is_recognised_too() -> None:
    talk = talk_in_every_cut(HELLO + b"STARTTLS\r\n\x16\x03\x01\x02\n\n\x01\r\nNOOP\r\n")
    assert talk.codes == [250, 502, 554]
    assert talk.session.closing


def test_a_tls_octet_within_a_line_is_just_a_control_character() -> None:
    assert talk_in_every_cut(HELLO + b"NOOP \x16\r\nNOOP\r\n").codes == [250, 501, 250]


# -- content --------------------------------------------------------------------------------------


INTO_DATA = HELLO + ENVELOPE + b"DATA\r\n"


@pytest.mark.parametrize("ending", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n"])
def test_smuggled_commands_are_content_and_the_message_is_refused(ending: bytes) -> None:
    smuggled = b"MAIL FROM:<x@example.org>\r\nRCPT TO:<y@example.test>\r\nDATA\r\nevil"
    wire = INTO_DATA + b"a" + ending + smuggled + b"\r\n.\r\nNOOP\r\n"
    talk = talk_in_every_cut(wire)
    assert talk.heard.endswith(reply.BARE_LINE_END.wire + reply.OK.wire)
    assert talk.codes == [250, 250, 250, 354, 550, 250]
    assert talk.messages == []
    assert (talk.courier.begun, talk.courier.aborted) == (1, 1)


def test_a_dot_behind_a_nul_ends_nothing_and_spoils_nothing() -> None:
    talk = talk_in_every_cut(INTO_DATA + b"a\r\n\x00.\r\n.\x00\r\n.\r\n")
    assert talk.codes[-1] == 250
    assert talk.messages[0].content == b"\r\na\r\n\x00.\r\n\x00\r\n"


def test_an_empty_message_is_a_message() -> None:
    talk = talk_in_every_cut(INTO_DATA + b".\r\n")
    assert talk.messages[0].content == b""


def test_after_a_refusal_at_the_end_of_data_there_is_no_transaction() -> None:
    talk = talk_in_every_cut(
        INTO_DATA + b"x\r\n.\r\nRCPT TO:<b@example.test>\r\nDATA\r\n" + MESSAGE,
        lambda: Talk(outcomes=("554 5.7.1 No",)),
    )
    assert talk.codes == [250, 250, 250, 354, 554, 503, 503, 250, 250, 354, 250]


def test_vrfy_with_utf8_in_a_transaction_changes_nothing() -> None:
    wire = HELLO + ENVELOPE + "VRFY grüße\r\n".encode() + b"DATA\r\n.\r\n"
    assert talk_in_every_cut(wire).codes == [250, 250, 250, 553, 354, 250]


# -- sizes ----------------------------------------------------------------------------------------


def test_a_message_declared_too_large_is_refused_at_mail() -> None:
    talk = greeted(message_octets=100)
    talk.feed(b"MAIL FROM:<a@example.org> SIZE=101\r\nMAIL FROM:<a@example.org> SIZE=100\r\n")
    assert talk.codes == [552, 250]


@pytest.mark.parametrize(("octets", "code"), [(100, 250), (101, 552)])
def test_a_message_is_measured_again_at_the_end_of_data(octets: int, code: int) -> None:
    body = b"..." + b"x" * (octets - 4) + b"\r\n"
    assert len(body) == octets + 1  # one is the stuffed dot
    wire = INTO_DATA + body + b".\r\nNOOP\r\n"
    talk = talk_in_every_cut(wire, lambda: Talk(message_octets=100))
    assert talk.codes == [250, 250, 250, 354, code, 250]
    assert len(talk.messages) == (code == 250)


def test_what_is_too_large_is_not_stored_on() -> None:
    talk = greeted(message_octets=100).feed(ENVELOPE + b"DATA\r\n", b"x" * 200)
    assert talk.session.transaction is not None
    assert talk.session.transaction.sink is None
    assert talk.courier.aborted == 1


def test_a_bare_line_end_is_named_before_the_size() -> None:
    talk = greeted(message_octets=100).feed(ENVELOPE + b"DATA\r\n" + b"x\n" * 100 + b"\r\n.\r\n")
    assert talk.heard.endswith(reply.BARE_LINE_END.wire)


# -- SMTPUTF8 -------------------------------------------------------------------------------------


def test_smtputf8_holds_for_one_transaction() -> None:
    talk = talk_in_every_cut(
        HELLO
        + "MAIL FROM:<ä@example.org> SMTPUTF8\r\nRCPT TO:<ö@example.test>\r\n".encode()
        + b"DATA\r\n.\r\nMAIL FROM:<a@example.org>\r\n"
        + "RCPT TO:<ö@example.test>\r\n".encode()
    )
    assert talk.codes == [250, 250, 250, 354, 250, 250, 553]
    assert talk.messages[0].envelope.smtputf8
    assert talk.messages[0].envelope.protocol == "UTF8SMTP"


@pytest.mark.parametrize("verb", [b"VRFY", b"EXPN"])
def test_names_beyond_ascii_need_smtputf8_and_what_is_said_of_them_is_ascii(verb: bytes) -> None:
    name = " grüße@bücher.example".encode()
    talk = talk_in_every_cut(verb + name + b"\r\n" + verb + name + b" SMTPUTF8\r\n")
    assert talk.codes == [553, 252 if verb == b"VRFY" else 502]
    assert b"553 5.6.7 " in talk.heard
    assert talk.heard.isascii()


def test_a_domain_in_u_labels_is_kept_as_it_was_written() -> None:
    talk = talk_in_every_cut(
        HELLO
        + "MAIL FROM:<a@bücher.example> SMTPUTF8 BODY=8BITMIME\r\n".encode()
        + "RCPT TO:<b@例え.example>\r\nDATA\r\nSubject: grüße\r\n.\r\n".encode()
    )
    (message,) = talk.messages
    assert str(message.envelope.reverse_path) == "a@bücher.example"
    assert [str(one) for one in message.envelope.forward_paths] == ["b@例え.example"]
    assert talk.heard.isascii()


# -- questions ------------------------------------------------------------------------------------


def test_nothing_is_parsed_while_a_question_is_open() -> None:
    talk = greeted(decide=lambda question: None)
    session = talk.session
    session.receive(ENVELOPE + b"NOOP\r\nQUIT\r\n")
    assert session.question is not None
    assert (session.question.stage, session.output) == (Stage.SENDER, [])
    session.answer(None)
    assert session.question.stage is Stage.RECIPIENT
    assert session.question.forward_path == path("b@example.test")
    session.receive(b"this comes after QUIT\r\n")
    session.answer(reply.GREYLISTED)
    assert codes(b"".join(session.output)) == [250, 450, 250, 221]


def test_an_answer_without_a_question_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match="without a question"):
        Talk().session.answer(None)


def test_a_refused_sender_leaves_no_transaction() -> None:
    def decide(question: Question) -> reply.Reply | None:
        return reply.SENDER_NULL_MX if question.stage is Stage.SENDER else None

    talk = talk_in_every_cut(HELLO + ENVELOPE + b"DATA\r\n", lambda: Talk(decide))
    assert talk.codes == [250, 550, 503, 503]


def test_data_after_only_refused_recipients_says_so() -> None:
    def decide(question: Question) -> reply.Reply | None:
        return reply.GREYLISTED if question.forward_path == path("b@example.test") else None

    talk = talk_in_every_cut(HELLO + ENVELOPE + b"DATA\r\nRSET\r\n", lambda: Talk(decide))
    assert talk.codes == [250, 250, 450, 554, 250]
    talk.feed(b"MAIL FROM:<>\r\nDATA\r\n")
    assert talk.codes[-1] == 503  # the refusals were the last transaction's


@pytest.mark.parametrize("line", [b"EHLO x", b"HELO x", b"RSET"])
def test_a_new_beginning_forgets_envelope_and_refusals(line: bytes) -> None:
    def decide(question: Question) -> reply.Reply | None:
        return reply.GREYLISTED if question.stage is Stage.RECIPIENT else None

    talk = Talk(decide).feed(HELLO + ENVELOPE + line + b"\r\n")
    assert (talk.session.envelope, talk.session.state) == (None, State.GREETED)
    assert talk.feed(b"MAIL FROM:<>\r\nDATA\r\n").heard.endswith(reply.NEED_RCPT.wire)


def test_some_refused_recipients_do_not_stop_the_others() -> None:
    def decide(question: Question) -> reply.Reply | None:
        return reply.GREYLISTED if question.forward_path == path("b@example.test") else None

    more = b"RCPT TO:<c@example.test>\r\nDATA\r\n.\r\n"
    talk = talk_in_every_cut(HELLO + ENVELOPE + more, lambda: Talk(decide))
    assert talk.codes == [250, 250, 450, 250, 354, 250]
    assert talk.messages[0].envelope.forward_paths == [path("c@example.test")]


# -- the end --------------------------------------------------------------------------------------


def test_nothing_after_quit_is_carried_out() -> None:
    talk = talk_in_every_cut(HELLO + b"QUIT\r\n" + MESSAGE)
    assert talk.codes == [250, 221]
    assert talk.courier.begun == 0


@pytest.mark.parametrize(
    "end", [lambda talk: talk.session.end(reply.BYE), lambda talk: talk.session.lose()]
)
def test_a_session_that_ends_in_content_forgets_the_message(end: object) -> None:
    talk = greeted().feed(ENVELOPE + b"DATA\r\nhalf a mess")
    assert callable(end)
    end(talk)
    assert talk.session.closing
    assert (talk.courier.aborted, talk.messages) == (1, [])
    talk.feed(b"age\r\n.\r\n" + MESSAGE)
    assert (talk.courier.begun, talk.messages) == (1, [])
