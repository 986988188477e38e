"""A server's octets become whole replies, however they come in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replay.smtp.replies import REPLY_MAX_OCTETS, ReceivedReply, ReplyReader

SAID = b"220 mx\r\n250-mx\r\n250-SIZE\r\n250 HELP\r\n354\r\nnonsense\r\n250 bare\n421 bye\r\n"
UTTERANCES = [
    b"220 mx\r\n",
    b"250-mx\r\n250-SIZE\r\n250 HELP\r\n",
    b"354\r\n",
    b"nonsense\r\n",
    b"250 bare\n",
    b"421 bye\r\n",
]


def read(*pieces: bytes) -> list[bytes]:
    reader = ReplyReader()
    return [reply.octets for piece in pieces for reply in reader.feed(piece, 0)]


def test_replies_are_told_apart_whole_and_octet_by_octet() -> None:
    assert read(SAID) == UTTERANCES
    assert read(*(SAID[at : at + 1] for at in range(len(SAID)))) == UTTERANCES


def test_codes_are_read_and_what_is_no_reply_has_code_0() -> None:
    reader = ReplyReader()
    assert [one.code for one in reader.feed(SAID, 0)] == [220, 250, 354, 0, 250, 421]


def test_what_only_ends_like_a_reply_has_code_0() -> None:
    """A transcript may expect anything; a server's octets are divided before that."""
    assert ReceivedReply(0, b":250-mx\r\n250 HELP\r\n").code == 0


def test_a_reply_has_the_instant_of_its_last_octet() -> None:
    reader = ReplyReader()
    assert reader.feed(b"250-a\r\n250 b\r", 5) == []
    assert reader.feed(b"\n", 9) == [ReceivedReply(9, b"250-a\r\n250 b\r\n")]


def test_what_is_not_whole_is_kept_to_be_shown() -> None:
    reader = ReplyReader()
    reader.feed(b"250-a\r\n250", 0)
    assert reader.rest == b"250-a\r\n250"


def test_a_reply_that_does_not_end_is_cut_and_nothing_of_it_is_lost() -> None:
    line = b"250-" + b"x" * 1000 + b"\r\n"
    replies = read(*[line] * 200)
    assert all(len(one) < REPLY_MAX_OCTETS + len(line) for one in replies)
    assert 2 <= len(replies) <= 4


@given(st.lists(st.binary(max_size=12) | st.sampled_from(UTTERANCES), max_size=12), st.data())
def test_no_octet_is_lost_or_doubled_in_any_division(
    parts: list[bytes], data: st.DataObject
) -> None:
    said = b"".join(parts)
    cut = data.draw(st.integers(0, len(said)))
    reader = ReplyReader()
    replies = reader.feed(said[:cut], 0) + reader.feed(said[cut:], 1)
    assert b"".join(one.octets for one in replies) + reader.rest == said
    assert [one.octets for one in replies] == read(said)
    assert all(one.code in range(1000) for one in replies)
