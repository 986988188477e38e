"""Content in chunks (BDAT, RFC 3030): octets are counted, never read; a failed chunk ends all."""

from __future__ import annotations

import itertools
import sys

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, codes, greeted, path, talk_in_every_cut
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp import reply
from mailsrv.smtp.content import ChunkReader, ContentReader, RefusedChunk
from mailsrv.smtp.events import NegativeReply, Question, RefusedReply, TransactionEnded
from mailsrv.smtp.state_machine import State

BODY = b"Subject: x\r\n\r\nhello\r\n"


def bdat(content: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%s\r\n" % (len(content), b" LAST" if last else b"") + content


def in_chunks(*chunks: bytes) -> bytes:
    """A message as BDAT commands."""
    *before, last = chunks
    return b"".join(bdat(chunk) for chunk in before) + bdat(last, last=True)


# -- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        (BODY,),
        (BODY, b""),
        (b"", BODY),
        (b"Subject: x\r\n", b"\r\nhello\r\n"),
        (b"Subject: x\r", b"\n\r", b"\n", b"hello\r\n"),
        tuple(bytes((octet,)) for octet in BODY),
    ],
)
def test_a_message_arrives_whole_in_whatever_chunks(chunks: tuple[bytes, ...]) -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + in_chunks(*chunks) + b"QUIT\r\n")
    assert talk.codes == [250, 250, 250] + [250] * len(chunks) + [221]
    (message,) = talk.messages
    assert message.content == BODY
    assert message.envelope.forward_paths == [path("b@example.test")]
    assert [one.size_octets for one in talk.ended] == [len(BODY)]


def test_chunks_and_data_deliver_the_same() -> None:
    chunked = Talk().feed(HELLO + ENVELOPE + in_chunks(BODY))
    assert chunked.messages == Talk().feed(HELLO + MESSAGE).messages


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.lists(st.integers(1, 20), min_size=1, max_size=12),
)
def test_neither_chunks_nor_segments_matter_to_a_message(
    chunks: list[int], segments: list[int]
) -> None:
    content = b"a\r\n.\r\nBDAT 1\r\n.\r\nQUIT\r\n\r\n.."
    at = list(itertools.accumulate(chunks, initial=0))
    parts = [content[begin:end] for begin, end in itertools.pairwise(at)] + [content[at[-1] :]]
    wire = HELLO + ENVELOPE + in_chunks(*parts) + MESSAGE
    talk, begin = Talk(), 0
    for octets in itertools.cycle(segments):
        talk.feed(wire[begin : begin + octets])
        begin += octets
        if begin >= len(wire):
            break
    assert talk.codes == [250] * 3 + [250] * len(parts) + [250, 250, 354, 250]
    assert [message.content for message in talk.messages] == [b"\r\n" + content, BODY]


@pytest.mark.parametrize(
    "content",
    [
        b".\r\n",
        b"..\r\n",
        b"a\r\n.\r\nb\r\n",
        b"To: Susan@bdat 78 last\r\n",
        b"QUIT\r\nBDAT 5 LAST\r\nRSET\r\n",
        b"no line end at the end",
        b"\x00\xff\r\n",
        b"\x16\x03\x01",
        b"",
    ],
)
def test_no_octet_of_a_chunk_means_anything(content: bytes) -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + in_chunks(content) + b"NOOP\r\n")
    assert talk.codes == [250, 250, 250, 250, 250]
    apart = b"" if content in (b"", b"To: Susan@bdat 78 last\r\n") else b"\r\n"
    assert [message.content for message in talk.messages] == [apart + content]


def test_replies_to_chunks_are_joined_to_those_before_them() -> None:
    talk = greeted().feed(ENVELOPE + in_chunks(b"x\r\n", b"y\r\n"))
    assert [codes(flight) for flight in talk.flights] == [[250, 250, 250], [250]]


def test_letters_of_any_case_and_more_blanks_are_understood() -> None:
    talk = greeted().feed(ENVELOPE + b"bdat 1\r\nabDat  0002   last \r\nbc")
    assert [message.content for message in talk.messages] == [b"\r\nabc"]


# -- what is no chunk -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b" -1",
        b" +1",
        b" x",
        b" LAST",
        b" 1 FIRST",
        b" 1 LAST LAST",
        b" 1LAST",
        b" 1.5",
        " \u0661".encode(),
        b" 9223372036854775808",
        b" 18446744073709551616",
        b" " + b"9" * 21,
        b" " + b"0" * 21,
    ],
)
def test_a_chunk_of_unknown_length_ends_the_transaction_and_commands_follow(
    argument: bytes,
) -> None:
    talk = talk_in_every_cut(
        HELLO + ENVELOPE + bdat(b"x") + b"BDAT" + argument + b"\r\nNOOP\r\n" + bdat(b"y", last=True)
    )
    assert talk.codes == [250, 250, 250, 250, 501, 250, 503]
    assert talk.messages == []
    assert [one.verdict for one in talk.ended] == [reply.BAD_CHUNK]


def test_the_largest_length_is_waited_for() -> None:
    talk = greeted().feed(ENVELOPE + b"BDAT 9223372036854775807\r\nNOOP\r\n" + b"QUIT\r\n" * 9)
    assert talk.codes == [250, 250]
    assert talk.session.state is State.CONTENT


# -- out of order ---------------------------------------------------------------------------------


def refuse_recipients(question: Question) -> reply.Reply | None:
    return None if question.forward_path is None else reply.GREYLISTED


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        (b"", reply.NEED_HELO),
        (HELLO, reply.NEED_MAIL),
        (HELLO + b"MAIL FROM:<>\r\n", reply.NEED_RCPT),
        (HELLO + MESSAGE, reply.NEED_MAIL),
    ],
)
def test_a_chunk_out_of_order_is_passed_over_to_its_end(before: bytes, answer: reply.Reply) -> None:
    said = talk_in_every_cut(before).heard
    talk = talk_in_every_cut(before + bdat(b"QUIT\r\n") + bdat(b"", last=True) + b"RSET\r\n")
    again = reply.NEED_MAIL if before else reply.NEED_HELO
    assert talk.heard == said + answer.wire + again.wire + reply.OK.wire
    assert talk.session.errors == 2


def test_a_chunk_for_refused_recipients_says_so_and_ends_the_transaction() -> None:
    talk = talk_in_every_cut(
        HELLO + ENVELOPE + bdat(b"QUIT\r\n", last=True) + ENVELOPE,
        lambda: Talk(refuse_recipients),
    )
    assert talk.codes == [250, 250, 450, 554, 250, 450]
    assert talk.ended[0].verdict == reply.NO_VALID_RECIPIENTS
    assert talk.ended[0].envelope.refused == 1


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"DATA", reply.AFTER_BDAT),
        (b"RCPT TO:<c@example.test>", reply.AFTER_BDAT),
        (b"MAIL FROM:<>", reply.NESTED_MAIL),
        (b"NOOP", reply.OK),
        (b"XYZZY", reply.UNKNOWN_COMMAND),
    ],
)
def test_commands_between_two_chunks_change_nothing(line: bytes, answer: reply.Reply) -> None:
    talk = talk_in_every_cut(
        HELLO + ENVELOPE + bdat(b"x\r\n") + line + b"\r\n" + bdat(b"y\r\n", last=True)
    )
    assert answer.wire in talk.heard
    (message,) = talk.messages
    assert message.content == b"\r\nx\r\ny\r\n"
    assert message.envelope.forward_paths == [path("b@example.test")]


@pytest.mark.parametrize("line", [b"RSET", b"EHLO again.example", b"HELO again.example"])
def test_a_new_beginning_between_two_chunks_forgets_the_first(line: bytes) -> None:
    wire = HELLO + ENVELOPE + bdat(b"x\r\n") + line + b"\r\n"
    talk = talk_in_every_cut(wire + bdat(b"y\r\n", last=True) + MESSAGE)
    assert talk.codes == [250, 250, 250, 250, 250, 503, 250, 250, 354, 250]
    assert [message.content for message in talk.messages] == [BODY]
    assert (talk.courier.begun, talk.courier.aborted) == (2, 1)


def test_data_after_a_failed_chunk_has_no_transaction() -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + b"BDAT x\r\nDATA\r\n" + MESSAGE)
    assert talk.codes == [250, 250, 250, 501, 503, 250, 250, 354, 250]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((b"x" * 101,), [552]),
        ((b"x" * 60, b"x" * 41), [250, 552]),
        ((b"x" * 100, b"x", b""), [250, 552, 503]),
    ],
)
def test_a_message_too_large_is_refused_at_the_chunk_that_makes_it_so(
    chunks: tuple[bytes, ...], expected: list[int]
) -> None:
    talk = talk_in_every_cut(
        HELLO + ENVELOPE + in_chunks(*chunks) + b"RSET\r\n", lambda: Talk(message_octets=100)
    )
    assert talk.codes == [250, 250, 250, *expected, 250]
    assert talk.messages == []
    assert [one.verdict for one in talk.ended] == [reply.message_too_large(100)]


def test_a_message_of_the_largest_size_fits() -> None:
    talk = greeted(message_octets=100).feed(ENVELOPE + in_chunks(b"x" * 60, b"x" * 40))
    assert [message.content for message in talk.messages] == [b"\r\n" + b"x" * 100]


def test_a_chunk_too_large_is_not_kept() -> None:
    talk = greeted(message_octets=100).feed(ENVELOPE + b"BDAT 1000000\r\n", b"x" * 65536)
    assert talk.session.transaction is None
    assert talk.session.buffered_octets == 0
    assert talk.courier.begun == 0


def test_what_a_message_was_before_it_became_too_large_is_given_up_at_once() -> None:
    talk = greeted(message_octets=100).feed(ENVELOPE + bdat(b"x" * 60) + b"BDAT 41\r\n")
    assert talk.session.transaction is None
    assert (talk.courier.begun, talk.courier.aborted) == (1, 1)
    assert talk.codes == [250, 250, 250]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((b"a\nb\r\n",), [550]),
        ((b"a\rb\r\n",), [550]),
        ((b"a\r\n\r",), [550]),
        ((b"a\r", b""), [250, 550]),
        ((b"a\r", b"b\r\n"), [250, 550]),
        ((b"a\r\n", b"\nb", b"c"), [250, 550, 503]),
        ((b"\r\r\n",), [550]),
    ],
)
def test_a_bare_line_end_is_refused_as_in_data(
    chunks: tuple[bytes, ...], expected: list[int]
) -> None:
    talk = talk_in_every_cut(HELLO + ENVELOPE + in_chunks(*chunks) + b"RSET\r\n")
    assert talk.codes == [250, 250, 250, *expected, 250]
    assert talk.messages == []
    assert [one.verdict for one in talk.ended] == [reply.BARE_LINE_END]


def test_a_refusal_is_told_once_to_the_log() -> None:
    talk = greeted(message_octets=10).feed(ENVELOPE + bdat(b"x" * 11))
    talk.feed(bdat(b"y"))
    assert [type(one) for one in talk.session.events or ()] == [
        *(TransactionEnded, NegativeReply),
        *(RefusedReply, NegativeReply),
    ]


def test_the_couriers_refusal_comes_with_the_last_chunk() -> None:
    talk = talk_in_every_cut(
        HELLO + ENVELOPE + in_chunks(b"x\r\n", b"y\r\n"), lambda: Talk(outcomes=("452 4.3.1 Full",))
    )
    assert talk.codes == [250, 250, 250, 250, 452]


def test_a_short_chunk_at_the_end_of_the_connection_is_no_message() -> None:
    talk = greeted().feed(ENVELOPE + b"BDAT 10 LAST\r\nhello")
    talk.session.lose()
    assert (talk.courier.begun, talk.courier.aborted, talk.messages) == (1, 1, [])
    assert [one.verdict for one in talk.ended] == [None]


# -- bounds ---------------------------------------------------------------------------------------


def test_empty_chunks_bring_no_mail_nearer_and_are_counted() -> None:
    talk = Talk(junk_commands=5).feed(HELLO + ENVELOPE + b"BDAT 0\r\n" * 9)
    assert talk.codes == [250, 250, 250] + [250] * 4 + [421]  # EHLO is one of the five
    assert talk.ended[0].verdict is not None
    assert talk.ended[0].verdict.check == "junk commands"


def test_thousands_of_chunks_leave_nothing_behind() -> None:
    talk = greeted().feed(ENVELOPE)
    reader = None
    for _ in range(5000):
        talk.session.receive(b"BDAT 1\r\nx")
        talk.session.output.clear()
        assert talk.session.transaction is not None
        reader = reader or talk.session.transaction.reader
        assert talk.session.transaction.reader is reader
    assert isinstance(reader, ChunkReader)
    held = (getattr(reader, name) for name in ChunkReader.__slots__)
    assert sum(map(sys.getsizeof, held)) < 1000
    assert (reader.size_octets, talk.session.buffered_octets) == (5000, 0)
    assert talk.session.events is None


def test_content_octets_are_those_of_the_present_chunk() -> None:
    session = greeted().session
    seen = []
    passed_over = b"BDAT 99999999\r\nrefused"
    for said in (ENVELOPE, b"BDAT 5\r\n", b"abc", b"deBDAT 4\r\nx", b"yzw", passed_over):
        session.receive(said)
        seen.append((session.state, session.content_octets))
    assert seen == [
        (State.RECIPIENT, None),
        (State.CONTENT, 0),
        (State.CONTENT, 3),
        (State.CONTENT, 1),
        (State.CHUNKS, None),
        (State.CONTENT, 7),
    ]


def test_octets_that_are_passed_over_count_as_content() -> None:
    session = Talk().session
    session.receive(b"BDAT 100\r\nabc")
    assert (session.state, session.content_octets) == (State.CONTENT, 3)
    session.receive(b"x" * 97)
    assert (session.state, session.content_octets) == (State.CONNECTED, None)


# -- the readers alone ----------------------------------------------------------------------------


def test_a_reader_takes_up_to_the_end_of_the_chunk() -> None:
    reader = ChunkReader()
    reader.begin(5, last=False)
    assert reader.feed(b"..abc", 2) == (b"abc", -1)
    assert reader.feed(b"deNOOP\r\n") == (b"de", 2)
    reader.begin(1, last=True)
    assert reader.feed(b"12345", 3) == (b"4", 4)
    assert (reader.size_octets, reader.received_octets) == (6, 1)


def test_no_line_end_is_cut() -> None:
    reader = ChunkReader()
    reader.begin(4, last=True)
    assert reader.feed(b"a\r") == (b"a", -1)
    assert not reader.bare_line_end
    assert reader.feed(b"\nb") == (b"\r\nb", 2)
    assert not reader.bare_line_end


def test_a_refused_chunk_knows_its_end() -> None:
    chunk = RefusedChunk(5, reply.NEED_MAIL)
    assert [chunk.pass_over(octets) for octets in (2, 1, 7)] == [-1, -1, 2]


def test_both_readers_take_content_from_a_place_within_a_chunk() -> None:
    reader = ContentReader()
    assert reader.feed(b"DATA\r\na\r\n.\r\nNOOP", 6) == (b"a\r\n", 12)
