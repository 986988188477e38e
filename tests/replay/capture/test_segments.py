"""Frames become segments: the fast path agrees with dpkt, the rest is decoded or told."""

from __future__ import annotations

import socket
import struct

import dpkt
import pytest
from capture_builder import ACK, ethernet, ipv4, ipv6, tcp
from hypothesis import given
from hypothesis import strategies as st

from replay.capture.oddity import CaptureError, Oddity
from replay.capture.records import PacketRecord
from replay.capture.segments import Segment, decode

HERE, THERE = "192.0.2.10", "198.51.100.25"
HERE6, THERE6 = "2001:db8::10", "2001:db8::25"
SEGMENT = tcp(40_000, 25, 7, 9, ACK, b"QUIT\r\n")


def decoded(*frames: bytes, linktype: int = 1) -> tuple[list[Segment], list[Oddity]]:
    oddities: list[Oddity] = []
    records = [
        PacketRecord(number, number * 10, linktype, len(frame), len(frame), frame)
        for number, frame in enumerate(frames, 1)
    ]
    return list(decode(records, oddities)), oddities


def only(frame: bytes, linktype: int = 1) -> Segment:
    segments, oddities = decoded(frame, linktype=linktype)
    assert oddities == []
    (segment,) = segments
    return segment


def expected(family: int = socket.AF_INET, payload: bytes = b"QUIT\r\n") -> Segment:
    ends = (HERE, THERE) if family == socket.AF_INET else (HERE6, THERE6)
    src, dst = (socket.inet_pton(family, end) for end in ends)
    return Segment(1, 10, src, 40_000, dst, 25, 7, 9, ACK, 65535, payload, 0)


# -- the fast path --------------------------------------------------------------------------------


@given(
    st.tuples(*[st.integers(0, 0xFFFF)] * 2),
    st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 2),
    st.integers(0, 0xFF),
    st.integers(0, 10),
    st.binary(max_size=80),
)
def test_the_fast_path_says_what_dpkt_says(
    ports: tuple[int, int], numbers: tuple[int, int], flags: int, words: int, payload: bytes
) -> None:
    segment = tcp(*ports, *numbers, flags, payload, options=b"\x01" * 4 * words)
    frame = ethernet(ipv4(HERE, THERE, segment))
    oracle = dpkt.ethernet.Ethernet(frame).data
    assert only(frame) == Segment(
        1, 10, oracle.src, oracle.data.sport, oracle.dst, oracle.data.dport, oracle.data.seq,
        oracle.data.ack, oracle.data.flags, oracle.data.win, oracle.data.data, 0,
    )  # fmt: skip
    assert only(frame).payload == payload


def test_padding_of_short_frames_is_no_payload() -> None:
    assert only(ethernet(ipv4(HERE, THERE, tcp(1, 2, 3, 4, ACK)))).payload == b""


def test_a_length_of_zero_means_segmentation_offload() -> None:
    big = b"x" * 70_000
    frame = ethernet(ipv4(HERE, THERE, tcp(1, 2, 3, 4, ACK, big), length=0))
    segment = only(frame)
    assert segment.payload == big
    assert segment.missing_octets == 0


@pytest.mark.parametrize("options", [b"", b"\x01" * 4])
@pytest.mark.parametrize("length", [None, 0])
def test_a_payload_cut_by_the_snapshot_length_says_how_much_is_missing(
    options: bytes, length: int | None
) -> None:
    segment = tcp(1, 2, 3, 4, ACK, b"x" * 100)
    frame = ethernet(ipv4(HERE, THERE, segment, options=options, length=length))
    cut = frame[:-40]
    (got,) = decode([PacketRecord(1, 0, 1, len(cut), len(frame), cut)], [])
    assert (got.payload, got.missing_octets) == (b"x" * 60, 40)


def test_a_frame_cut_within_tcp_options_still_counts_its_payload_as_missing() -> None:
    segment = tcp(1, 2, 3, 4, ACK, b"x" * 100, options=b"\x01" * 12)
    frame = ethernet(ipv4(HERE, THERE, segment))
    cut = frame[: 14 + 20 + 24]
    (got,) = decode([PacketRecord(1, 0, 1, len(cut), len(frame), cut)], [])
    assert (got.payload, got.missing_octets) == (b"", 100)


def test_truncation_shows_where_a_writer_forgot_the_original_length() -> None:
    frame = ethernet(ipv4(HERE, THERE, tcp(1, 2, 3, 4, ACK, b"x" * 100)))[:-1]
    (got,) = decode([PacketRecord(1, 0, 1, len(frame), len(frame), frame)], [])
    assert got.missing_octets == 1


# -- what is unusual ------------------------------------------------------------------------------

IP4, IP6 = ipv4(HERE, THERE, SEGMENT), ipv6(HERE6, THERE6, SEGMENT)
TAG = struct.pack("!H", 5)


def nested(deep: int) -> bytes:
    """IPv4 in as many IPv4 packets."""
    return ipv4(HERE, THERE, nested(deep - 1) if deep else SEGMENT, protocol=4 if deep else 6)


PPPOE = struct.pack("!BBHH", 0x11, 0, 7, 2 + len(IP4))


@pytest.mark.parametrize(
    ("linktype", "frame"),
    [
        (1, ethernet(TAG + b"\x08\x00" + IP4, 0x8100)),
        (1, ethernet(TAG + b"\x81\x00" + TAG + b"\x08\x00" + IP4, 0x88A8)),
        (1, ethernet(ipv4(HERE, THERE, SEGMENT, options=b"\x01" * 8))),
        (1, ethernet(ipv4("10.0.0.1", "10.0.0.2", IP4, protocol=4))),
        (1, ethernet(ipv6(HERE6, THERE6, IP4, following=4), 0x86DD)),
        (1, ethernet(ipv4("10.0.0.1", "10.0.0.2", b"\0\0\x08\0" + IP4, protocol=47))),
        (1, ethernet(ipv4("10.0.0.1", "10.0.0.2", b"\x30\0\x08\0" + bytes(8) + IP4, protocol=47))),
        (1, ethernet(b"\0\0\x50\xff" + b"\0\0\x61\xff" + IP4, 0x8847)),
        (1, ethernet(TAG + b"\x88\x48" + b"\0\0\x61\xff" + IP4, 0x8100)),
        (1, ethernet(PPPOE + b"\0\x21" + IP4, 0x8864)),
        (1, ethernet(b"\xaa\xaa\x03\0\0\0\x08\0" + IP4, 200)),
        (9, b"\0\x21" + IP4),
        (9, b"\x21" + IP4),
        (50, b"\xff\x03\0\x21" + IP4),
        (51, PPPOE + b"\0\x21" + IP4),
        (104, b"\x0f\0\x08\0" + IP4),
        (219, b"\0\0\x61\xff" + IP4),
        (113, struct.pack("!HHH8sH", 0, 1, 6, b"\x02" * 8, 0x0800) + IP4),
        (276, struct.pack("!HHIHBB8s", 0x0800, 0, 1, 1, 0, 6, b"\x02" * 8) + IP4),
        (0, struct.pack("<I", 2) + IP4),
        (0, struct.pack(">I", 2) + IP4),
        (108, struct.pack(">I", 2) + IP4),
        (101, IP4),
        (12, IP4),
        (14, IP4),
        (228, IP4),
    ],
)
def test_ipv4_is_found_below_every_link_layer(linktype: int, frame: bytes) -> None:
    assert only(frame, linktype) == expected()


@pytest.mark.parametrize(
    ("linktype", "frame"),
    [
        (1, ethernet(IP6, 0x86DD)),
        (1, ethernet(TAG + b"\x86\xdd" + IP6, 0x8100)),
        (113, struct.pack("!HHH8sH", 0, 1, 6, b"\x02" * 8, 0x86DD) + IP6),
        *[(0, struct.pack("<I", family) + IP6) for family in (10, 24, 28, 30)],
        (1, ethernet(PPPOE + b"\0\x57" + IP6, 0x8864)),
        (1, ethernet(ipv4("10.0.0.1", "10.0.0.2", IP6, protocol=41))),
        (9, b"\xff\x03\0\x57" + IP6),
        (219, b"\0\0\x61\xff" + IP6),
        (101, IP6),
        (229, IP6),
        (1, ethernet(ipv6(HERE6, THERE6, b"\x06\0" + bytes(6) + SEGMENT, following=0), 0x86DD)),
        (1, ethernet(ipv6(HERE6, THERE6, b"\x06\0" + bytes(6) + SEGMENT, following=60), 0x86DD)),
        (1, ethernet(ipv6(HERE6, THERE6, b"\x06\0" + bytes(6) + SEGMENT, following=44), 0x86DD)),
        (1, ethernet(ipv6(HERE6, THERE6, b"\x06\x01" + bytes(10) + SEGMENT, following=51), 0x86DD)),
        (
            1,
            ethernet(
                ipv6(
                    HERE6,
                    THERE6,
                    b"\x3c\0" + bytes(6) + b"\x06\0" + bytes(6) + SEGMENT,
                    following=0,
                ),
                0x86DD,
            ),
        ),
    ],
)
def test_ipv6_is_found_behind_extension_headers_and_every_link_layer(
    linktype: int, frame: bytes
) -> None:
    assert only(frame, linktype) == expected(socket.AF_INET6)


def test_a_cut_ipv6_payload_says_how_much_is_missing() -> None:
    frame = ethernet(ipv6(HERE6, THERE6, b"\x06\0" + bytes(6) + SEGMENT, following=0), 0x86DD)
    cut = frame[:-4]
    (got,) = decode([PacketRecord(1, 0, 1, len(cut), len(frame), cut)], [])
    assert (got.payload, got.missing_octets) == (b"QU", 4)


def test_dpkt_says_the_same_of_extension_headers_options_and_tags() -> None:
    header = b"\x06\0" + bytes(6)
    for frame in (
        ethernet(ipv4(HERE, THERE, SEGMENT, options=b"\x01" * 8)),
        ethernet(TAG + b"\x81\x00" + TAG + b"\x08\x00" + IP4, 0x88A8),
        ethernet(ipv6(HERE6, THERE6, header + SEGMENT, following=60), 0x86DD),
    ):
        layer = dpkt.ethernet.Ethernet(frame)
        while not isinstance(layer, dpkt.tcp.TCP):
            layer = layer.data
        got = only(frame)
        assert (got.sport, got.dport, got.seq, got.ack) == (
            *(layer.sport, layer.dport, layer.seq, layer.ack),
        )
        assert (got.flags, got.window, got.payload) == (layer.flags, layer.win, layer.data)


# -- what is left out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (ethernet(ipv4(HERE, THERE, SEGMENT, fragment=0x2000)), "fragment"),
        (ethernet(ipv4(HERE, THERE, SEGMENT, fragment=0x0010)), "fragment"),
        (
            ethernet(
                ipv6(HERE6, THERE6, b"\x06\0\0\x01" + bytes(4) + SEGMENT, following=44), 0x86DD
            ),
            "fragment",
        ),
        (ethernet(ipv4(HERE, THERE, bytes(40), protocol=17)), "not-tcp"),
        (ethernet(bytes(28), 0x0806), "not-tcp"),
        (ethernet(ipv6(HERE6, THERE6, SEGMENT, following=59), 0x86DD), "not-tcp"),
        (ethernet(ipv6(HERE6, THERE6, b"\0\0" + bytes(6), following=0) * 40, 0x86DD), "malformed"),
        (ethernet(TAG + (b"\x81\0" + TAG) * 20 + b"\x08\0" + IP4, 0x8100), "not-tcp"),
        (ethernet(PPPOE + b"\xc0\x21" + IP4, 0x8864), "not-tcp"),
        (ethernet(nested(9)), "malformed"),
        (b"", "malformed"),
        (ethernet(ipv4(HERE, THERE, SEGMENT))[:40], "malformed"),
        (ethernet(ipv4(HERE, THERE, b"\0" * 40)), "malformed"),
    ],
)
def test_what_is_no_whole_segment_is_left_out_and_told(frame: bytes, kind: str) -> None:
    segments, oddities = decoded(frame)
    assert segments == []
    assert [(oddity.packet, oddity.kind) for oddity in oddities] == [(1, kind)]


def test_what_is_left_out_is_counted_with_its_first_packet() -> None:
    arp = ethernet(bytes(28), 0x0806)
    segments, oddities = decoded(ethernet(IP4), arp, arp, arp)
    assert len(segments) == 1
    assert [oddity.sentence for oddity in oddities] == [
        "3 packets are left out, packet 2 first: not TCP over IP"
    ]


def test_a_link_type_that_is_not_decoded_is_declined_by_name() -> None:
    with pytest.raises(CaptureError, match=r"type IEEE802_15_4_WITHFCS \(195\) is not dec"):
        decoded(b"x" * 80, linktype=195)
    with pytest.raises(CaptureError, match="number 9999 is not decoded"):
        decoded(b"x" * 80, linktype=9999)


@given(st.lists(st.binary(max_size=120), max_size=4), st.sampled_from([0, 1, 101, 108, 113, 276]))
def test_garbage_frames_raise_nothing(frames: list[bytes], linktype: int) -> None:
    for frame in frames:
        decoded(frame, ethernet(frame), ethernet(b"\x45" + frame), linktype=linktype)


@given(st.integers(0, 80), st.integers(0, 255))
def test_a_damaged_octet_anywhere_raises_nothing(place: int, value: int) -> None:
    header = b"\x06\0" + bytes(6)
    for frame in (ethernet(IP4), ethernet(ipv6(HERE6, THERE6, header + SEGMENT), 0x86DD)):
        damaged = bytearray(frame)
        damaged[place % len(frame)] = value
        decoded(bytes(damaged))
