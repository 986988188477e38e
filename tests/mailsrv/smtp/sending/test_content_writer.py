"""Content on its way out: what our own receiver reads of it is what it was, in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailsrv.smtp.content import ContentReader
from mailsrv.smtp.sending.content_writer import ContentFault, ContentWriter

tokens = st.sampled_from(
    [b"\r\n", b".", b"..", b"\r\n.", b"\r\n.\r\n", b"x", b"\xff", b"\x00", b" "]
)
contents = st.lists(tokens, max_size=30).map(b"".join)
hostile = st.lists(tokens | st.sampled_from([b"\r", b"\n"]), max_size=30).map(b"".join)


def cut(octets: bytes, at: list[int]) -> list[bytes]:
    cuts = sorted(one % (len(octets) + 1) for one in at)
    return [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]


cuts = st.lists(st.integers(0, 1000), max_size=12)


def written(pieces: list[bytes], *, stuffed: bool = True, eight_bit: bool = True) -> bytes:
    writer = ContentWriter(stuffed=stuffed, eight_bit=eight_bit)
    return b"".join([writer.take(piece) for piece in pieces] + [writer.end()])


@given(contents, cuts, cuts)
@example(b".", [], [])
@example(b"a\r\n.\r\n", [2], [])
@example(b"a\r\n.b", [1, 2, 3], [1, 2, 3, 4, 5])
def test_stuffed_and_unstuffed_it_is_what_it_was(
    content: bytes, ours: list[int], theirs: list[int]
) -> None:
    wire = written(cut(content, ours))
    reader = ContentReader()
    read = b""
    for piece in filter(None, cut(wire, theirs)):
        octets, after = reader.feed(piece)
        read += octets
    assert after == len(piece)  # at the very end, and not before
    assert not reader.bare_line_end
    ended = not content or content.endswith(b"\r\n")
    assert read == (content if ended else content + b"\r\n")


@given(contents, cuts)
def test_in_chunks_it_goes_as_it_is(content: bytes, at: list[int]) -> None:
    assert written(cut(content, at), stuffed=False) == content


@given(hostile, cuts, st.booleans())
@example(b"\r\r", [], False)
@example(b"\r\r\n", [1], False)
def test_a_cr_or_lf_alone_is_found_in_any_pieces(
    content: bytes, at: list[int], stuffed: bool
) -> None:
    bare = b"\r" in content.replace(b"\r\n", b"") or b"\n" in content.replace(b"\r\n", b"")
    sent = b""
    writer = ContentWriter(stuffed=stuffed, eight_bit=True)
    try:
        for piece in cut(content, at):
            sent += writer.take(piece)
        sent += writer.end()
    except ContentFault as fault:
        assert bare
        assert fault.status == "5.6.0"
    else:
        assert not bare
    rest = sent.replace(b"\r\n", b"")
    assert b"\r" not in rest
    assert b"\n" not in rest


def test_octets_beyond_ascii_need_the_leave_for_them() -> None:
    assert written([b"a\r\n"], eight_bit=False) == b"a\r\n.\r\n"
    with pytest.raises(ContentFault) as raised:
        written([b"a\r\n", b"\x80\r\n"], eight_bit=False)
    assert raised.value.status == "5.6.3"


def test_a_last_line_without_its_end_gets_one() -> None:
    assert written([b"a"]) == b"a\r\n.\r\n"
    assert written([]) == b".\r\n"
    assert written([b"."]) == b"..\r\n.\r\n"
