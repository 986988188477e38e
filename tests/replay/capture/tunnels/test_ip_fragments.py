"""IP fragments become whole packets, in any order and within bounds; what stays open is told."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable

import pytest
from capture_builder import ACK, ethernet, ipv4, ipv6, tcp
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.capture.oddity import Oddity
from replay.capture.records import PacketRecord
from replay.capture.segments import Segment, decode
from replay.capture.tunnels import ip_fragments

HERE, THERE = "192.0.2.10", "198.51.100.25"
HERE6, THERE6 = "2001:db8::10", "2001:db8::25"
CONTENT = b"".join(b"%07d\n" % number for number in range(60))
SEGMENT = tcp(40_000, 25, 7, 9, ACK, CONTENT)
NS_PER_S = 1_000_000_000


def four(start: int, end: int, segment: bytes = SEGMENT) -> bytes:
    more = 0x2000 if end < len(segment) else 0
    return ethernet(ipv4(HERE, THERE, segment[start:end], fragment=more | start // 8))


def six(start: int, end: int, segment: bytes = SEGMENT, name: int = 5) -> bytes:
    header = struct.pack("!BxHI", 6, start | (end < len(segment)), name)
    return ethernet(ipv6(HERE6, THERE6, header + segment[start:end], following=44), 0x86DD)


def decoded(
    frames: list[bytes], times_s: list[float] | None = None
) -> tuple[list[Segment], list[Oddity]]:
    oddities: list[Oddity] = []
    times = times_s or list(range(len(frames)))
    records = [
        PacketRecord(number, int(time * NS_PER_S), 1, len(frame), len(frame), frame)
        for number, (time, frame) in enumerate(zip(times, frames, strict=True), 1)
    ]
    return list(decode(records, oddities)), oddities


Fragment = Callable[[int, int], bytes]


@pytest.mark.parametrize("fragment", [four, six])
@settings(max_examples=40)
@given(cuts=st.sets(st.integers(1, len(SEGMENT) // 8), max_size=8), seed=st.integers(0, 99))
def test_fragments_in_any_order_overlapping_and_repeated_make_the_packet(
    fragment: Fragment, cuts: set[int], seed: int
) -> None:
    rng = random.Random(seed)
    places = [0, *(cut * 8 for cut in sorted(cuts)), len(SEGMENT)]
    if places[-2] == len(SEGMENT):
        del places[-2]
    frames = []
    for start, end in itertools.pairwise(places):
        frames.append(fragment(start, end))
        if start and rng.random() < 0.3:  # once more, from earlier on
            earlier = rng.randint(1, start // 8) * 8
            frames.append(fragment(earlier, end))
    rng.shuffle(frames)
    segments, oddities = decoded(frames, [number / 1000 for number in range(len(frames))])
    assert [segment.payload for segment in segments] == [CONTENT]
    assert {oddity.kind for oddity in oddities} <= {"fragments"}
    assert bool(oddities) == (len(frames) > 1)


def test_the_packet_has_number_and_time_of_the_fragment_that_made_it_whole() -> None:
    segments, oddities = decoded([four(96, 500), four(0, 96), four(0, 500)])
    assert [(one.number, one.ts_ns) for one in segments] == [(2, NS_PER_S), (3, 2 * NS_PER_S)]
    assert [oddity.sentence for oddity in oddities] == [
        "2 packets, packet 1 first, are fragments: 1 datagram made whole"
    ]


def test_what_was_seen_first_wins_over_different_octets_and_is_told() -> None:
    other = SEGMENT[:80] + b"X" * 16 + SEGMENT[96:]
    segments, oddities = decoded([four(0, 96), four(80, 200, other), four(200, 500)])
    assert [segment.payload for segment in segments] == [CONTENT]
    assert [(one.packet, one.kind) for one in oddities] == [
        (1, "fragments"),
        (2, "overlap-conflict"),
    ]


def test_fragments_of_different_datagrams_are_kept_apart() -> None:
    other = tcp(40_000, 25, 7, 9, ACK, bytes(reversed(CONTENT)))
    frames = [six(0, 96), six(0, 96, other, name=6), six(96, 500, other, name=6), six(96, 500)]
    segments, _ = decoded(frames)
    assert [one.payload for one in segments] == [bytes(reversed(CONTENT)), CONTENT]


def test_fragments_without_the_others_are_told_with_their_first_packet() -> None:
    segments, oddities = decoded([four(0, 96), four(200, 500), six(0, 96)])
    assert segments == []
    assert [oddity.sentence for oddity in oddities] == [
        "3 packets are left out, packet 1 first: IP fragments without all the others"
    ]


def test_a_datagram_does_not_wait_for_longer_than_a_minute() -> None:
    assert len(decoded([four(0, 96), four(96, 500)], [0, 60])[0]) == 1
    segments, oddities = decoded([four(0, 96), four(96, 500)], [0, 61])
    assert segments == []
    assert [oddity.kind for oddity in oddities] == ["fragment"]


def test_a_fragment_captured_twice_leaves_nothing_behind() -> None:
    frames = [four(0, 96), four(0, 96), four(96, 500), four(96, 500)]
    segments, oddities = decoded(frames, [0, 0, 0.1, 0.1])
    assert len(segments) == 1
    assert [oddity.kind for oddity in oddities] == ["fragments"]


def test_waiting_datagrams_are_bounded() -> None:
    many = [six(0, 96, name=number) for number in range(ip_fragments.DATAGRAMS_MAX + 1)]
    rest = [six(96, 500, name=number) for number in (1, 0)]
    segments, _ = decoded(many + rest, [0] * (len(many) + 2))
    assert len(segments) == 1, "the oldest had to go"


def test_a_datagram_over_64_kib_is_never_whole() -> None:
    segment = SEGMENT + bytes(65_536)
    frames = [six(start, start + 8192, segment) for start in range(0, 57_344, 8192)]
    assert decoded([*frames, six(57_344, len(segment), segment)])[0] == []


def test_a_fragment_whose_end_is_cut_off_is_left_out() -> None:
    _, oddities = decoded([four(0, 96)[:100], four(96, 500)])
    assert [oddity.sentence for oddity in oddities] == [
        "packet 1 is left out: an IP fragment whose end is cut off",
        "packet 2 is left out: an IP fragment without the others",
    ]
