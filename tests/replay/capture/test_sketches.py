"""Sketches change what is kept of connections without SMTP, and nothing of conversations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from capture_builder import ACK, FIN, NS_PER_MS, RST, SYN

from replay.capture.flow import Flow
from replay.capture.oddity import CaptureError, Oddity
from replay.capture.reader import Capture, read_capture
from replay.capture.reassembly import Reassembler, reassemble
from replay.capture.segments import Segment
from replay.capture.sketches import SKETCH_SEGMENTS_MAX, SKETCHES_MAX
from replay.capture.smtp_flows import TLS_FIRST, why_forget, why_not_by_first_octets

ROOT = Path(__file__).resolve().parents[3]
OUTSIDE = [os.environ[name] for name in ("SMTP_CORPUS", "SMTP_CASES") if name in os.environ]
FOLDERS = [ROOT / "captures", *map(Path, OUTSIDE)]
CAPTURES = [path for folder in FOLDERS for path in sorted(folder.rglob("*.pcap*"))]

CLIENT, SERVER = b"\x0a\x00\x00\x01", b"\xc6\x33\x64\x01"


class Connection:
    """Writes the segments of one connection, whose client has ``port``."""

    def __init__(self, port: int, server_port: int = 4000, client: bytes = CLIENT) -> None:
        self.ends = (client, port), (SERVER, server_port)
        self.seq = [1000, 5000]
        self.segments: list[Segment] = []

    def send(self, side: int, payload: bytes = b"", flags: int = ACK, missing: int = 0) -> None:
        number = len(self.segments) + 1
        ack = self.seq[1 - side] if flags & ACK else 0
        near, far = self.ends[side], self.ends[1 - side]
        self.segments.append(
            Segment(
                *(number, number * NS_PER_MS, *near, *far, self.seq[side], ack, flags, 65535),
                *(payload, missing),
            )
        )
        self.seq[side] += len(payload) + missing + bool(flags & (SYN | FIN))

    def open(self) -> None:
        self.send(0, flags=SYN)
        self.send(1, flags=SYN | ACK)
        self.send(0)

    def close(self) -> None:
        self.send(0, flags=FIN | ACK)
        self.send(1, flags=FIN | ACK)


def sketched(segments: list[Segment], oddities: list[Oddity] | None = None) -> list[Flow]:
    reassembler = Reassembler(
        [] if oddities is None else oddities, why_forget, why_not_by_first_octets, 0
    )
    return sorted(reassembler.walk(segments), key=lambda flow: flow.number)


def told(flow: Flow) -> tuple[object, ...]:
    return (
        *(flow.number, flow.ends, flow.opener, flow.accepted, flow.first_ns, flow.last_ns),
        *(flow.packets, flow.acknowledged, flow.events, flow.oddities, flow.forgotten),
    )


@pytest.mark.skipif(not CAPTURES, reason="there are no captures beside the project")
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_conversations_are_the_same_with_sketches_and_without(path: Path) -> None:
    try:
        plain = read_capture(path)
    except CaptureError:
        return
    sketches = read_capture(path, sketches_from_flows=0)

    def conversations(capture: Capture) -> list[tuple[object, ...]]:
        return [told(one.flow) for one in capture.conversations if one.flow.tls is None]

    assert conversations(sketches) == conversations(plain)
    assert (sketches.flows, sketches.packets) == (plain.flows, plain.packets)


@pytest.mark.parametrize(
    ("client", "server", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", "the server speaks HTTP"),
        (b"\x16\x03\x01\x00\x05\x01rest", b"\x16\x03\x03\x00\x7a", TLS_FIRST),
        (b"\x00\x01\x02", b"\x00\x02\x03\x04", "nothing said in it is SMTP"),
    ],
)
def test_of_what_is_no_smtp_only_packets_are_counted(
    client: bytes, server: bytes, reason: str
) -> None:
    connection = Connection(40_000)
    connection.open()
    connection.send(0, client)
    connection.send(1, server)
    for _ in range(50):
        connection.send(1, b"x" * 1400)
    connection.close()
    (flow,) = sketched(connection.segments)
    assert flow.forgotten == reason
    assert flow.packets == [4, 53]
    assert not flow.events
    (oddity,) = flow.oddities
    assert f"{len(client)} and {len(server)} of them up to packet 5" in oddity.sentence


@pytest.mark.parametrize(
    "talk",
    [
        [(1, b"220 mx.example.test ESMTP\r\n"), (0, b"EHLO x\r\n")],
        [(0, b"EHLO x\r\n"), (1, b"250 ok\r\n")],
        [(1, b"2"), (1, b"20 mx ESMTP\r\n"), (0, b"QUIT\r\n")],
        [(0, b"CONNECT mx:25 HTTP/1.1\r\n\r\n"), (1, b"HTTP/1.1 200 OK\r\n\r\n")],
        [(0, b"\x05\x01\x00"), (1, b"\x05\x00")],
        [(0, b"hello"), (0, b"x" * 100)],
        [],
    ],
)
def test_what_may_be_smtp_is_followed_as_if_there_were_no_sketches(
    talk: list[tuple[int, bytes]],
) -> None:
    connection = Connection(40_001)
    connection.open()
    for side, octets in talk:
        connection.send(side, octets)
        connection.send(1 - side)
    connection.close()
    connection.send(0)
    expected = reassemble(connection.segments, [])
    assert [told(one) for one in sketched(connection.segments)] == [told(one) for one in expected]


def test_a_connection_that_says_nothing_for_long_is_followed() -> None:
    connection = Connection(40_002)
    connection.open()
    for _ in range(SKETCH_SEGMENTS_MAX):
        connection.send(0)
    connection.send(1, b"220 mx ESMTP\r\n")
    (flow,) = sketched(connection.segments)
    assert flow.octets(1) == b"220 mx ESMTP\r\n"


@pytest.mark.parametrize("side", [0, 1])
def test_octets_before_which_some_are_missing_tell_nothing(side: int) -> None:
    connection = Connection(40_003)
    connection.open()
    connection.seq[side] += 7
    connection.send(side, b"HTTP/1.1 200 OK\r\n")
    connection.send(1 - side, b"\x00\x01\x02\x03\x04")
    (flow,) = sketched(connection.segments)
    assert not flow.forgotten


def test_ports_that_are_used_anew_begin_another_connection() -> None:
    first, second = Connection(40_004), Connection(40_004)
    second.seq = [90_000, 95_000]
    for one in (first, second):
        one.open()
        one.send(0, b"GET / HTTP/1.1\r\n\r\n")
        one.send(1, b"HTTP/1.1 200 OK\r\n\r\n")
    assert [flow.packets for flow in sketched(first.segments + second.segments)] == [[3, 2], [3, 2]]


def test_an_address_that_connects_to_itself_is_no_sketch() -> None:
    connection = Connection(4000, 4000, SERVER)
    connection.send(0, flags=SYN)
    connection.send(0, b"x")
    connection.send(0, flags=RST)
    assert len(sketched(connection.segments)) == 1


def test_sketches_that_are_too_many_are_finished_the_idlest_first() -> None:
    segments = [
        Segment(
            *(number + 1, number, CLIENT, number % 65_536, SERVER, 4000 + number // 65_536),
            *(7, 0, SYN, 0, b"", 0),
        )
        for number in range(SKETCHES_MAX + 20_000)
    ]
    reassembler = Reassembler([], why_forget, why_not_by_first_octets, 0)
    flows = sum(1 for _ in reassembler.walk(segments))
    assert flows == len(segments)
