"""Message content: the one true end of data, dots, and line ends that stand alone."""

from __future__ import annotations

import pytest
from conversing import cuts
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp.content import ContentReader


def read(chunks: list[bytes]) -> tuple[bytes, bytes | None, bool, int]:
    """The content, what was left after the end (None: no end yet), the flag, the size."""
    reader = ContentReader()
    content = b""
    for number, chunk in enumerate(chunks):
        octets, after = reader.feed(chunk)
        content += octets
        if after >= 0:
            rest = chunk[after:] + b"".join(chunks[number + 1 :])
            return content, rest, reader.bare_line_end, reader.size_octets
    return content, None, reader.bare_line_end, reader.size_octets


def naive(wire: bytes) -> tuple[bytes, bytes | None, bool]:
    """RFC 5321 section 4.5.2 word for word: a line at a time."""
    lines: list[bytes] = []
    while True:
        line, ending, wire = wire.partition(b"\r\n")
        if not ending:
            return b"".join(lines), None, False
        if line == b".":
            content = b"".join(lines)
            bare = content.replace(b"\r\n", b"")
            return content, wire, b"\r" in bare or b"\n" in bare
        lines.append(line.removeprefix(b".") + ending)


def ends(wire: bytes) -> tuple[bytes, bytes | None, bool, int]:
    """``read`` in every segmentation, which must not matter."""
    results = [read(chunks) for chunks in cuts(wire)]
    whole = results[0]
    for result in results[1:]:
        if whole[1] is None:  # then only what was handed out so far may differ
            assert result[1] is None
        else:
            assert result == whole
    return whole


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a.\r\n.b\r\n..c\r\n.\r\n", b"a.\r\nb\r\n.c\r\n"),
        (b". \r\n.\r\n", b" \r\n"),
        (b"\x00\xff\r\n.\r\n", b"\x00\xff\r\n"),
    ],
)
def test_content_ends_at_a_dot_alone_and_loses_its_stuffing(wire: bytes, content: bytes) -> None:
    assert ends(wire) == (content, b"", False, len(content))
    assert ends(wire + b"QUIT\r\n") == (content, b"QUIT\r\n", False, len(content))


@pytest.mark.parametrize(
    "wire",
    [
        b"a\n.\n",
        b"a\r\n.\n",
        b"a\n.\r\n",
        b"a\r.\r",
        b"a\r.\r\n",
        b"a\r\n.\r\r\n",
        b"a\r\n.\r",
        b"a\r\n\x00.\r\n",
        b"a\r\n.\x00\r\n",
        b"\n.\r\n",
        b".\n",
        b".\r",
        b"\r.\r\n",
        b"a\r\n. \r\n",
    ],
)
def test_nothing_but_crlf_dot_crlf_ends_content(wire: bytes) -> None:
    assert ends(wire)[1] is None
    inside = b"MAIL FROM:<x@example.org>\r\n"
    _, rest, bare, _ = ends(wire + inside + b"\r\n.\r\nQUIT\r\n")
    assert rest == b"QUIT\r\n"
    assert bare == (b"\x00" not in wire and b" " not in wire)


@pytest.mark.parametrize(
    "wire",
    [b"a\r\r\n.\r\n", b"a\nb\r\n.\r\n", b"a\rb\r\n.\r\n", b"\n\r\n.\r\n", b"\r\r\n.\r\n"],
)
def test_a_line_end_that_stands_alone_is_remembered_until_the_true_end(wire: bytes) -> None:
    _, rest, bare, _ = ends(wire + b"x")
    assert (rest, bare) == (b"x", True)


def test_size_counts_the_message_without_its_stuffing() -> None:
    reader = ContentReader()
    reader.feed(b"..1\r\n" * 1000 + b".\r\n")
    assert reader.size_octets == 4000


def test_at_most_four_octets_are_kept_back() -> None:
    for ending in (b"", b"\r", b"\r\n", b"\r\n.", b"\r\n.\r"):
        reader = ContentReader()
        octets, _ = reader.feed(b"x" * 100 + ending)
        assert octets == b"x" * 100, ending


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\x85"]), max_size=14),
    st.data(),
)
def test_any_octets_in_any_segmentation_read_as_line_by_line(
    pieces: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(pieces) + b"\r\n.\r\nQUIT\r\n"
    marks = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    chunks = [wire[a:b] for a, b in zip([0, *marks], [*marks, len(wire)], strict=True)]
    assert read(chunks)[:3] == naive(wire)


@given(st.binary(max_size=200))
def test_what_a_client_stuffs_comes_out_as_it_was(body: bytes) -> None:
    text = body.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
    stuffed = (b"\r\n" + text).replace(b"\r\n.", b"\r\n..")[2:]
    assert read([stuffed + b".\r\n"]) == (text, b"", False, len(text))
