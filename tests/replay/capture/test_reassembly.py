"""Segments become flows: the same octets whatever happened to the packets, and nothing hidden."""

from __future__ import annotations

import itertools
import random

from capture_builder import ACK, BEGIN_NS, FIN, NS_PER_MS, PSH, RST, SYN, Wire, flow_of, flows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.capture.flow import MAX_FLOW_ODDITIES, Flow, Gap, Piece, StreamEnd
from replay.capture.stream import MAX_PENDING_CHUNKS, MAX_PENDING_OCTETS


def kinds(flow: Flow) -> list[str]:
    return [oddity.kind for oddity in flow.oddities]


def pieces(flow: Flow, side: int = 0) -> list[tuple[float, int, bytes, int]]:
    """(milliseconds, packet, octets, acknowledged) of each piece."""
    return [
        ((event.ts_ns - BEGIN_NS) / NS_PER_MS, event.packet, event.octets, event.acknowledged)
        for event in flow.events
        if isinstance(event, Piece) and event.side == side
    ]


def gaps(flow: Flow, side: int = 0) -> list[tuple[int, int, str]]:
    return [
        (event.start, event.missing_octets, event.why)
        for event in flow.events
        if isinstance(event, Gap) and event.side == side
    ]


# -- the ordinary case ----------------------------------------------------------------------------


def test_pieces_keep_their_boundaries_times_packets_and_acknowledgements() -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 hello\r\n", 1)
    wire.client_says(b"EHLO ", 2, ack=0)
    wire.client_says(b"me\r\n", 3)
    flow = flow_of(wire)
    assert flow.opener == 0
    assert flow.accepted
    assert pieces(flow, 1) == [(1, 4, b"220 hello\r\n", 0)]
    assert pieces(flow, 0) == [(2, 5, b"EHLO ", 0), (3, 6, b"me\r\n", 11)]
    assert flow.acknowledged == [11, 0]
    assert kinds(flow) == []


def test_sequence_numbers_wrap_around() -> None:
    wire = Wire(first_sequence=(0xFFFFFFFA, 0xFFFFFFFF)).handshake()
    for n in range(10):
        wire.client_says(b"%04d" % n, n)
        wire.server_says(b"%02d" % n, n)
    flow = flow_of(wire)
    assert flow.octets(0) == b"".join(b"%04d" % n for n in range(10))
    assert flow.octets(1) == b"".join(b"%02d" % n for n in range(10))
    assert flow.acknowledged == [18, 40]


def test_more_than_four_gigabytes_of_sequence_space_are_no_trouble() -> None:
    wire = Wire().handshake()
    wire.client_says(b"begin", 1)
    flow = flow_of(wire)
    assert flow.octets(0) == b"begin"
    # The numbers repeat after 4 GiB: distances are what counts, never the numbers themselves.
    far = Wire(first_sequence=(5, 5)).handshake()
    for n in range(200):
        far.packet(0, b"x" * 60_000, PSH | ACK, ms=n)
    assert len(flow_of(far).octets(0)) == 200 * 60_000


def test_a_pure_acknowledgement_counts_for_what_is_said_after_it() -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 hello\r\n", 1)
    wire.packet(0, ms=2)  # acknowledges all eleven
    wire.client_says(b"EHLO me\r\n", 9, ack=3)  # an older number, as a retransmission has
    flow = flow_of(wire)
    assert pieces(flow)[0][3] == 11
    assert kinds(flow) == []


# -- repeated, reordered, overlapping -------------------------------------------------------------


def test_octets_ahead_of_their_turn_count_from_when_the_hole_is_filled() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"cd", seq=2, ms=1)
    wire.packet(0, b"ef", seq=4, ms=2)
    wire.packet(0, b"ab", seq=0, ms=7)
    flow = flow_of(wire)
    assert pieces(flow) == [(7, 6, b"ab", 0), (7, 4, b"cd", 0), (7, 5, b"ef", 0)]
    assert kinds(flow) == ["out-of-order"]


def test_a_late_first_half_was_written_with_no_more_knowledge_than_the_second() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"cd", seq=2, ms=1, ack=0)
    wire.server_says(b"220 hello\r\n", 2, ack=0)
    wire.packet(0, b"ab", seq=0, ms=3)  # sent again, after the greeting was acknowledged
    assert [acked for *_, acked in pieces(flow_of(wire))] == [0, 0]


def test_a_retransmission_with_other_boundaries_adds_only_what_is_new() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"abcd", seq=0, ms=1)
    wire.packet(0, b"cdef", seq=2, ms=2)
    wire.packet(0, b"abcdef", seq=0, ms=3)
    flow = flow_of(wire)
    assert pieces(flow) == [(1, 4, b"abcd", 0), (2, 5, b"ef", 0)]
    assert kinds(flow) == ["retransmission"] * 2
    assert [oddity.packet for oddity in flow.oddities] == [5, 6]


def test_what_was_seen_first_wins_over_different_octets() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"abcd", seq=0, ms=1)
    wire.packet(0, b"XXXXef", seq=0, ms=2)
    flow = flow_of(wire)
    assert flow.octets(0) == b"abcdef"
    assert kinds(flow) == ["overlap-conflict"]
    assert flow.oddities[0].packet == 5


def test_what_was_seen_first_wins_while_it_waits_behind_a_hole_too() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"cd", seq=2, ms=1)
    wire.packet(0, b"bXXe", seq=1, ms=2)
    wire.packet(0, b"a", seq=0, ms=3)
    flow = flow_of(wire)
    assert flow.octets(0) == b"abcde"
    assert kinds(flow) == ["out-of-order", "overlap-conflict"]


def test_a_keepalive_is_neither_data_nor_conflict() -> None:
    wire = Wire().handshake()
    wire.client_says(b"NOOP\r\n", 1)
    wire.packet(0, b"\0", seq=5, ms=2)
    wire.packet(0, seq=5, ms=3)
    flow = flow_of(wire)
    assert flow.octets(0) == b"NOOP\r\n"
    assert kinds(flow) == ["keepalive"]


def test_a_repeated_last_octet_is_a_retransmission_and_no_keepalive() -> None:
    wire = Wire().handshake()
    wire.client_says(b"x", 1)
    wire.packet(0, b"x", seq=0, ms=2)
    assert kinds(flow_of(wire)) == ["retransmission"]


def test_packets_captured_twice_are_retransmissions() -> None:
    wire = Wire().handshake()
    wire.client_says(b"NOOP\r\n", 1)
    wire.packet(0, flags=FIN | ACK, ms=2)
    wire.frames = [frame for frame in wire.frames for _ in (1, 2)]
    flow = flow_of(wire)
    assert flow.octets(0) == b"NOOP\r\n"
    assert len([event for event in flow.events if isinstance(event, StreamEnd)]) == 1


# -- holes ----------------------------------------------------------------------------------------


def test_a_hole_that_the_other_side_acknowledges_is_a_proven_gap() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"ab", seq=0, ms=1)
    wire.packet(0, b"ef", seq=4, ms=2)
    wire.packet(1, ms=3, ack=6)
    wire.packet(0, b"gh", seq=6, ms=4)
    flow = flow_of(wire)
    assert gaps(flow) == [(2, 2, "lost")]
    assert flow.octets(0) == b"abefgh"
    assert pieces(flow)[1][0] == 3
    assert (
        "octets 2 to 3 are not in the capture, though packet 6 acknow" in flow.oddities[1].sentence
    )


def test_octets_captured_after_their_acknowledgement_fill_the_gap() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"ab", seq=0, ms=1)
    wire.packet(0, b"ij", seq=8, ms=2)
    wire.packet(1, ms=3, ack=10)
    wire.packet(0, b"ef", seq=4, ms=4)
    flow = flow_of(wire)
    assert flow.octets(0) == b"abefij"
    assert gaps(flow) == [(2, 2, "lost"), (6, 2, "lost")]
    wire.packet(0, b"gh", seq=6, ms=5)
    wire.packet(0, b"abcd", seq=0, ms=6)
    wire.packet(0, b"cd", seq=2, ms=7)
    flow = flow_of(wire)
    assert flow.octets(0) == b"abcdefghij"
    assert gaps(flow) == []
    assert kinds(flow) == ["out-of-order", "gap", "late", "late", "late", "retransmission"]


def test_a_peer_that_merely_speaks_proves_no_gap() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"cd", seq=2, ms=1)
    wire.server_says(b"220 hello\r\n", 2, ack=0)
    wire.packet(0, b"ab", seq=0, ms=3)
    flow = flow_of(wire)
    assert gaps(flow) == []
    assert flow.octets(0) == b"abcd"


def test_a_hole_that_nobody_fills_is_an_unproven_gap_in_the_end() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"cd", seq=2, ms=1)
    flow = flow_of(wire)
    assert gaps(flow) == [(0, 2, "unproven")]
    assert flow.octets(0) == b"cd"


def test_acknowledged_octets_at_the_end_that_were_not_captured_are_a_gap() -> None:
    wire = Wire().handshake()
    wire.client_says(b"ab", 1)
    wire.packet(1, ack=10, ms=2)
    assert gaps(flow_of(wire)) == [(2, 8, "lost")]


def test_octets_before_a_fin_that_were_not_captured_are_a_gap() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"", FIN | ACK, seq=5, ms=1)
    wire.packet(1, ack=6, ms=2)
    flow = flow_of(wire)
    assert gaps(flow) == [(0, 5, "lost")]
    assert isinstance(flow.events[-1], StreamEnd)


def test_a_snapshot_length_leaves_a_gap_in_every_long_segment() -> None:
    wire = Wire().handshake()
    wire.packet(0, b"abcdefgh", ms=1, cut=14 + 20 + 20 + 6)
    wire.packet(0, b"ij", ms=2)
    flow = flow_of(wire)
    assert gaps(flow) == [(6, 2, "cut")]
    assert flow.octets(0) == b"abcdefij"


def test_what_waits_behind_a_hole_is_bounded() -> None:
    wire = Wire().handshake()
    for n in range(MAX_PENDING_CHUNKS + 2):
        wire.packet(0, b"x", seq=1 + 2 * n, ms=n)
    flow = flow_of(wire)
    assert gaps(flow)[:2] == [(0, 1, "unproven"), (2, 1, "unproven")]
    assert flow.events[0].packet == 3 + MAX_PENDING_CHUNKS + 1


def test_octets_waiting_behind_a_hole_are_bounded() -> None:
    wire = Wire().handshake()
    for n in range(MAX_PENDING_OCTETS // 60_000 + 1):
        wire.packet(0, b"x" * 60_000, seq=1 + 60_000 * n, ms=n)
    flow = flow_of(wire)
    assert gaps(flow) == [(0, 1, "unproven")]
    assert flow.events[0].packet == len(wire.frames)


# -- where a connection begins and ends -----------------------------------------------------------


def test_a_capture_that_starts_in_mid_stream_starts_with_what_it_has() -> None:
    wire = Wire()
    wire.sent = [100, 200]
    wire.client_says(b"NOOP\r\n", 1)
    wire.server_says(b"250 ok\r\n", 2)
    flow = flow_of(wire)
    assert flow.opener is None
    assert (flow.octets(0), flow.octets(1)) == (b"NOOP\r\n", b"250 ok\r\n")
    assert pieces(flow, 1)[0][3] == 6


def test_one_side_alone_is_followed_and_its_acknowledgements_count() -> None:
    wire = Wire().handshake()
    wire.client_says(b"EHLO me\r\n", 1, ack=11)
    wire.frames = [wire.frames[0], *wire.frames[2:]]  # no SYN-ACK either
    flow = flow_of(wire)
    assert flow.packets == [3, 0]
    assert pieces(flow) == [(1, 3, b"EHLO me\r\n", 11)]
    assert gaps(flow, 1) == []


def test_a_new_initial_sequence_number_on_used_ports_is_a_new_connection() -> None:
    first = Wire().handshake()
    first.client_says(b"one", 1)
    first.packet(0, flags=FIN | ACK, ms=2)
    second = Wire(first_sequence=(77_777, 88_888)).handshake(ms=3)
    second.client_says(b"two", 4)
    second.frames = first.frames + second.frames
    flows, _ = flows_of(second)
    assert [flow.octets(0) for flow in flows] == [b"one", b"two"]
    assert [flow.first_packet for flow in flows] == [1, 6]


def test_a_repeated_syn_is_no_new_connection() -> None:
    wire = Wire()
    wire.packet(0, flags=SYN, seq=-1, ms=0)
    wire.packet(0, flags=SYN, seq=-1, ms=1000)
    wire.handshake(ms=1010)
    wire.client_says(b"x", 1011)
    flow = flow_of(wire)
    assert flow.octets(0) == b"x"
    assert flow.first_ns == BEGIN_NS


def test_a_syn_captured_late_is_no_new_connection() -> None:
    wire = Wire().handshake()
    wire.client_says(b"x", 1)
    wire.packet(0, flags=SYN, seq=-1, ms=2)
    wire.client_says(b"y", 3)
    assert flow_of(wire).octets(0) == b"xy"


def test_octets_out_of_reach_begin_a_new_connection_and_are_told() -> None:
    wire = Wire().handshake()
    wire.client_says(b"one", 1)
    wire.packet(0, b"two", seq=1 << 30, ms=2)
    flows, oddities = flows_of(wire)
    assert [flow.octets(0) for flow in flows] == [b"one", b"two"]
    assert [oddity.kind for oddity in oddities] == ["stream-jump"]


def test_a_fin_counts_as_one_octet_for_who_acknowledges_it() -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 x\r\n", 1)
    wire.packet(1, flags=FIN | ACK, ms=2)
    wire.client_says(b"QUIT\r\n", 3)
    assert pieces(flow_of(wire))[0][3] == 8


def test_an_end_ahead_of_its_turn_waits_for_the_octets_before_it() -> None:
    wire = Wire().handshake()
    wire.packet(0, flags=FIN | ACK, seq=4, ms=1)
    wire.packet(0, b"QUIT", seq=0, ms=2)
    first, second = flow_of(wire).events
    assert isinstance(first, Piece)
    assert second == StreamEnd(0, BEGIN_NS + 2 * NS_PER_MS, 4, 0, False)


def test_a_reset_takes_its_senders_last_acknowledgement() -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 x\r\n", 1)
    wire.packet(0, ms=2)
    wire.packet(0, flags=RST, ms=3)
    assert flow_of(wire).events[-1] == StreamEnd(0, BEGIN_NS + 3 * NS_PER_MS, 6, 7, True)


def test_oddities_of_a_flow_are_bounded() -> None:
    wire = Wire().handshake()
    for _ in range(MAX_FLOW_ODDITIES + 9):
        wire.packet(0, b"same", seq=0)
    flow = flow_of(wire)
    assert kinds(flow) == ["retransmission"] * MAX_FLOW_ODDITIES + ["untold"]
    assert flow.oddities[-1].sentence.startswith("8 more")


# -- whatever the network does --------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.binary(min_size=1, max_size=400),
    st.binary(min_size=1, max_size=100),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
def test_a_stream_cut_repeated_reordered_and_overlapped_comes_out_the_same(
    sent: bytes, answered: bytes, first: int, rng: random.Random
) -> None:
    wire = Wire(first_sequence=(first, 2**32 - 1 - first)).handshake()
    # Every octet is in one segment of a plain cut; the rest overlap at random.
    packets = [
        (side, start, end)
        for side, stream in enumerate((sent, answered))
        for start, end in [*_plain_cut(len(stream), rng), *_random_cuts(len(stream), rng)]
    ]
    rng.shuffle(packets)
    for ms, (side, start, end) in enumerate(packets):
        stream = (sent, answered)[side]
        wire.packet(side, stream[start:end], seq=start, ack=0, ms=ms)
    for side, stream in enumerate((sent, answered)):
        wire.packet(side, flags=FIN | ACK, seq=len(stream))
    flow = flow_of(wire)
    assert (flow.octets(0), flow.octets(1)) == (sent, answered)
    assert {"gap", "overlap-conflict"}.isdisjoint(kinds(flow))
    assert len([event for event in flow.events if isinstance(event, StreamEnd)]) == 2
    for side in (0, 1):
        ends = [event.start for event in flow.events if event.side == side and type(event) is Piece]
        assert ends == sorted(ends)


def _plain_cut(octets: int, rng: random.Random) -> list[tuple[int, int]]:
    places = sorted({0, octets, *(rng.randrange(octets + 1) for _ in range(8))})
    return list(itertools.pairwise(places))


def _random_cuts(octets: int, rng: random.Random) -> list[tuple[int, int]]:
    return [
        tuple(sorted((rng.randrange(octets + 1), rng.randrange(octets + 1))))  # type: ignore[misc]
        for _ in range(6)
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.binary(max_size=6),
            st.integers(0, 0x3F),
            st.integers(-5, 2**32),
            st.integers(-5, 2**32),
            st.integers(-10, 10),
        ),
        max_size=25,
    ),
    st.booleans(),
)
def test_nonsense_packets_raise_nothing_and_times_never_run_backwards(
    packets: list[tuple[int, bytes, int, int, int, int]], close: bool
) -> None:
    wire = Wire()
    for side, payload, flags, seq, ack, ms in packets:
        if close:
            seq, ack = seq % 40, ack % 40
        wire.packet(side, payload, flags, seq=seq, ack=ack, ms=ms)
    for flow in flows_of(wire)[0]:
        assert len(flow.octets(0) + flow.octets(1)) <= 6 * len(packets)
        for event in flow.events:
            assert flow.first_ns <= event.ts_ns <= flow.last_ns
