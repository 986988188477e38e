"""Replies of a next hop: the odd are taken, the hostile are named, and pieces never matter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp.sending.reply_reader import (
    DIAGNOSTIC_CHARACTERS_MAX,
    REPLY_LINE_OCTETS_MAX,
    REPLY_LINES_MAX,
    REPLY_OCTETS_MAX,
    ReceivedReply,
    ReplyError,
    ReplyReader,
)


def read(*pieces: bytes) -> list[ReceivedReply | str]:
    """The replies in octets that come in pieces, and the error that ends them."""
    reader = ReplyReader()
    found: list[ReceivedReply | str] = []
    try:
        for piece in pieces:
            reader.receive(piece)
            while (reply := reader.next()) is not None:
                found.append(reply)
    except ReplyError as error:
        found.append(str(error))
    return found


def one(octets: bytes) -> ReceivedReply:
    (reply,) = read(octets)
    assert isinstance(reply, ReceivedReply)
    return reply


@pytest.mark.parametrize(
    ("octets", "code", "lines"),
    [
        (b"250 Ok\r\n", 250, [b"Ok"]),
        (b"250-a\r\n250-b\r\n250 c\r\n", 250, [b"a", b"b", b"c"]),
        (b"250\r\n", 250, [b""]),
        (b"250-\r\n250\r\n", 250, [b"", b""]),
        (b"250 Ok\n", 250, [b"Ok"]),
        (b"250 Ok\r\r\r\n", 250, [b"Ok"]),
        (b"250\tOk\r\n", 250, [b"Ok"]),
        (b"550 a\rb\x00c\r\n", 550, [b"a\rb\x00c"]),
        (b"550 gr\xfc\xdfe\r\n", 550, [b"gr\xfc\xdfe"]),
        (b"599 beyond the grammar\r\n", 599, [b"beyond the grammar"]),
        (b"250 -\r\n", 250, [b"-"]),
    ],
)
def test_a_reply_is_read_even_if_it_is_odd(octets: bytes, code: int, lines: list[bytes]) -> None:
    assert one(octets) == (code, tuple(lines))


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"\r\n", 'not a reply: ""'),
        (b"hello\r\n", 'not a reply: "hello"'),
        (b"25 Ok\r\n", 'not a reply: "25 Ok"'),
        (b"2500 Ok\r\n", 'not a reply: "2500 Ok"'),
        (b"150 Ok\r\n", 'not a reply: "150 Ok"'),
        (b"650 Ok\r\n", 'not a reply: "650 Ok"'),
        (b" 250 Ok\r\n", 'not a reply: " 250 Ok"'),
        (b"250:Ok\r\n", 'not a reply: "250:Ok"'),
        (b"\x16\x03\x01\x02\x00\n", 'not a reply: "\\x16\\x03\\x01\\x02\\x00"'),
        (
            b"250-Ok\r\n550 no\r\n",
            'a reply that begins with 250 goes on with "550 no"',
        ),
        (b"250-Ok\r\nmore\r\n", 'not a reply: "more"'),
        (b"250 " + b"x" * 70 + b"\xff" * REPLY_LINE_OCTETS_MAX, None),
        (b"x" * (REPLY_LINE_OCTETS_MAX + 2), None),
        (b"250-\r\n" * (REPLY_LINES_MAX + 1), f"a reply of more than {REPLY_LINES_MAX} lines"),
        (
            b"250-%s\r\n" % (b"x" * 4000) * (REPLY_OCTETS_MAX // 4000 + 1),
            f"a reply of more than {REPLY_OCTETS_MAX} octets",
        ),
    ],
)
def test_what_is_no_reply_is_named(octets: bytes, error: str | None) -> None:
    (found,) = read(octets)
    assert isinstance(found, str)
    assert found.isascii()
    assert found.isprintable()
    if error is None:
        assert found.startswith(f"a reply line of more than {REPLY_LINE_OCTETS_MAX} octets: ")
        assert len(found) < 150
    else:
        assert found == error


def test_the_longest_line_and_the_most_lines_are_taken() -> None:
    longest = b"250 " + b"x" * (REPLY_LINE_OCTETS_MAX - 4)
    assert one(longest + b"\r\n").lines == (longest[4:],)
    assert isinstance(read(longest + b"x\r\n")[0], str)
    assert read(longest, b"\r", b"\n") == read(longest + b"\r\n")
    most = b"250-\r\n" * (REPLY_LINES_MAX - 1) + b"250 \r\n"
    assert len(one(most).lines) == REPLY_LINES_MAX


def test_the_bounds_are_those_of_one_reply() -> None:
    assert len(read(b"250-x\r\n250 y\r\n" * REPLY_LINES_MAX)) == REPLY_LINES_MAX


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"550 5.1.1 no such user\r\n", "5.1.1"),
        (b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", "5.1.1"),
        (b"450 5.1.1 what now\r\n", ""),
        (b"354 2.0.0 go\r\n", ""),
        (b"250 2.0.0\r\n", "2.0.0"),
        (b"550 5.1 short\r\n", ""),
        (b"550 5.1.1.1 long\r\n", ""),
        (b"550 5.1.1234 long\r\n", ""),
        (b"550 x 5.1.1\r\n", ""),
    ],
)
def test_an_enhanced_status_code_counts_where_it_agrees(octets: bytes, status: str) -> None:
    assert one(octets).status == status


@pytest.mark.parametrize(
    ("octets", "diagnostic"),
    [
        (b"550 5.1.1 no such user\r\n", "550 5.1.1 no such user"),
        (b"550-5.1.1 no such user\r\n550 5.1.1 here\r\n", "550 5.1.1 no such user here"),
        (b"550\r\n", "550"),
        (b"550 a\x1b[31m\xff\r\n", "550 a\\x1b[31m\\xff"),
    ],
)
def test_a_diagnostic_is_one_line_of_printable_ascii(octets: bytes, diagnostic: str) -> None:
    assert one(octets).diagnostic == diagnostic


def test_a_diagnostic_is_cut() -> None:
    diagnostic = one(b"550-" + b"\xff" * 2000 + b"\r\n550 " + b"y" * 2000 + b"\r\n").diagnostic
    assert len(diagnostic) == DIAGNOSTIC_CHARACTERS_MAX
    assert diagnostic.endswith("...")


lines = st.builds(
    lambda code, separator, text, end: code + separator + text + end,
    st.sampled_from([b"250", b"550", b"354", b"421", b"2", b""]),
    st.sampled_from([b" ", b"-", b"\t", b""]),
    st.binary(max_size=12),
    st.sampled_from([b"\r\n", b"\n", b"\r\r\n", b""]),
)
streams = st.lists(lines | st.just(b"x" * (REPLY_LINE_OCTETS_MAX - 3))).map(b"".join)


@given(streams, st.data())
def test_pieces_make_no_difference(octets: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=20)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    assert read(*pieces) == read(octets)


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("unit", [b"x", b"250-x\r\n", b"250-\x00", b"250 " + b"\r" * 40])
def test_an_endless_stream_is_held_in_bounded_memory(size: int, unit: bytes) -> None:
    reader = ReplyReader()
    endless = unit * (REPLY_OCTETS_MAX // len(unit) + size)
    with pytest.raises(ReplyError):
        for at in range(0, len(endless), size):
            reader.receive(endless[at : at + size])
            assert reader.next() is None
            held = len(reader._input) + sum(map(len, reader._lines))
            assert held <= REPLY_OCTETS_MAX + REPLY_LINE_OCTETS_MAX + 2
