"""Packets made up: right by dpkt, by our own reassembly, and in Wireshark's opinion."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.capture.flow import Piece, StreamEnd
from replay.capture.oddity import Oddity
from replay.capture.pcap_writer import PcapFile
from replay.capture.reader import read_capture
from replay.capture.reassembly import reassemble
from replay.capture.records import PacketRecord
from replay.capture.segments import decode
from replay.capture.tcp_packets import (
    CLIENT,
    LINKTYPE_RAW,
    SEGMENT_MAX_OCTETS,
    SERVER,
    Outgoing,
    PacketFlow,
    packed,
    packed_by_dpkt,
)

V4 = ("192.0.2.10", 40_000), ("198.51.100.25", 25)
V6 = ("2001:db8::10", 40_000), ("2001:db8::25", 25)
BEGIN_NS = 1_700_000_000_123_456_789


def reassembled(packets: Iterable[bytes]) -> tuple[list[Piece | StreamEnd], list[Oddity]]:
    oddities: list[Oddity] = []
    records = [
        PacketRecord(number, BEGIN_NS + number, LINKTYPE_RAW, len(packet), len(packet), packet)
        for number, packet in enumerate(packets, 1)
    ]
    (flow,) = reassemble(decode(records, oddities), oddities)
    events = [event for event in flow.events if isinstance(event, Piece | StreamEnd)]
    return events, oddities + flow.oddities


@given(st.binary(max_size=50), st.sampled_from([V4, V6]), st.integers(0, 2**32 - 1))
def test_both_checksums_are_right(
    octets: bytes, ends: tuple[tuple[str, int], tuple[str, int]], first: int
) -> None:
    flow = PacketFlow(*ends, first_sequence=(first, first))
    for packet in flow.open() + flow.data(CLIENT, octets) + flow.finish(SERVER, len(octets)):
        if packet[0] >> 4 == 4:
            ip = dpkt.ip.IP(packet)
            assert dpkt.in_cksum(packet[:20]) == 0
            segment = packet[20:]
            pseudo = packet[12:20] + b"\0\x06" + len(segment).to_bytes(2, "big")
            assert ip.len == len(packet)
        else:
            segment = packet[40:]
            pseudo = packet[8:40] + len(segment).to_bytes(4, "big") + b"\0\0\0\x06"
            assert dpkt.ip6.IP6(packet).plen == len(segment)
        assert dpkt.in_cksum(pseudo + segment) == 0


_NUMBERS = st.integers(0, 2**32 - 1)
_PORTS = st.integers(0, 0xFFFF)


@given(
    st.sampled_from([4, 16]).flatmap(
        lambda octets: st.tuples(*[st.binary(min_size=octets, max_size=octets)] * 2)
    ),
    st.tuples(_PORTS, _PORTS, _NUMBERS, _NUMBERS, st.integers(0, 0x3F)),
    st.sampled_from([b"", b"\2\4\5\xb4", b"\2\4\5\xb4\1\3\3\x0e"]),
    st.binary(max_size=70),
)
def test_dpkt_makes_the_same_octets(
    ends: tuple[bytes, bytes], numbers: tuple[int, ...], options: bytes, payload: bytes
) -> None:
    segment = Outgoing(*ends, *numbers, options, payload)
    assert packed_by_dpkt(segment) == packed(segment)


@pytest.mark.parametrize("octet", [b"\0", b"x", b"\xff"])
@pytest.mark.parametrize("address", [bytes(4), bytes(16)])
def test_dpkt_makes_the_same_octets_of_the_longest_segment(octet: bytes, address: bytes) -> None:
    payload = octet * SEGMENT_MAX_OCTETS
    segment = Outgoing(address, address, 25, 25, 0, 0, 0x18, b"", payload)
    assert packed_by_dpkt(segment) == packed(segment)


def test_each_side_says_what_it_had_seen() -> None:
    flow = PacketFlow(*V4, first_sequence=(0xFFFFFFFE, 7))
    packets = flow.open()
    packets += flow.data(SERVER, b"220 hi\r\n")
    packets += flow.data(CLIENT, b"EHLO early\r\n")
    packets += flow.data(CLIENT, b"EHLO late\r\n", seen=8)
    packets += flow.finish(CLIENT)
    packets += flow.finish(SERVER, seen=24)
    packets += flow.acknowledge(CLIENT)
    events, oddities = reassembled(packets)
    assert oddities == []
    assert [(event.side, event.acknowledged) for event in events] == [
        (SERVER, 0), (CLIENT, 0), (CLIENT, 8), (CLIENT, 8), (SERVER, 24)
    ]  # fmt: skip


def test_what_is_acknowledged_already_makes_no_packet() -> None:
    flow = PacketFlow(*V4)
    flow.open()
    flow.data(SERVER, b"220 hi\r\n")
    assert len(flow.acknowledge(CLIENT, 3)) == 1
    assert flow.acknowledge(CLIENT, 2) == []
    assert len(flow.acknowledge(CLIENT, 1_000_000)) == 1
    assert flow.seen(CLIENT) == 8
    assert flow.acknowledge(CLIENT) == []


def test_more_than_a_packet_holds_is_split_and_whole_again() -> None:
    octets = bytes(range(256)) * 1024
    flow = PacketFlow(*V6)
    packets = flow.open() + flow.data(CLIENT, octets)
    assert len(packets) == 3 + -(-len(octets) // SEGMENT_MAX_OCTETS)
    events, _ = reassembled(packets)
    assert b"".join(event.octets for event in events if isinstance(event, Piece)) == octets


def test_ends_of_two_families_meet_in_ipv6() -> None:
    flow = PacketFlow(("192.0.2.1", 1), ("fe80::1%lo", 25))
    (reset,) = flow.reset(CLIENT)
    ip = dpkt.ip6.IP6(reset)
    assert (ip.src[-6:], ip.dst[:2]) == (b"\xff\xff\xc0\x00\x02\x01", b"\xfe\x80")


@pytest.mark.parametrize("bad", [("nowhere", 25), ("192.0.2.1", 65_536), ("192.0.2.1", -1)])
def test_what_is_no_end_is_refused(bad: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"nowhere|no ports"):
        PacketFlow(bad, V4[1])


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("ends", [V4, V6])
def test_wireshark_has_nothing_to_say_against_it(
    tmp_path: Path, ends: tuple[tuple[str, int], tuple[str, int]]
) -> None:
    path = tmp_path / "made-up.pcap"
    file = PcapFile(path, LINKTYPE_RAW, 1_000_000)
    flow = PacketFlow(*ends, first_sequence=(0xFFFFFF00, 5))
    steps = [
        flow.open(),
        flow.data(SERVER, b"220 mx.example ESMTP\r\n"),
        flow.data(CLIENT, b"EHLO a.example\r\n", 22),
        flow.data(CLIENT, b"MAIL FROM:<a@b.example>\r\n"),
        flow.data(SERVER, b"250 mx.example\r\n", 16),
        flow.acknowledge(SERVER),
        flow.data(CLIENT, (b"x" * 78 + b"\r\n") * 1000, 38),
        flow.finish(CLIENT),
        flow.acknowledge(SERVER),
        flow.finish(SERVER),
        flow.acknowledge(CLIENT),
    ]
    for number, packets in enumerate(steps):
        assert file.write(BEGIN_NS + number, *packets)
    file.close()
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    bad = "_ws.malformed or _ws.expert.severity >= 0x600000"  # warnings and errors
    for wanted, count in ((bad, 0), ("tcp.analysis.flags", 0), ("tcp", 14)):
        command = ["tshark", "-r", str(path), *checks, "-Y", wanted]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert len(shown.splitlines()) == count, shown[:2000]
    assert len(read_capture(path).conversations) == 1
