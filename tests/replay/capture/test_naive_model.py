"""Reassembly beside a naive, quadratic model of it: octet by octet, with dictionaries.

Any two streams, cut into packets, repeated, overlapped, reordered and delayed at random, written
as pcap or as pcapng: the octets must be the streams', and each piece's place, time and packet
those of the model.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from capture_builder import ACK, BEGIN_NS, FIN, NS_PER_MS, Wire, block, enhanced, interface, section
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay.capture.flow import Flow, Piece
from replay.capture.pcap import read_records
from replay.capture.reassembly import reassemble
from replay.capture.segments import decode


@dataclass
class Naive:
    """One direction: every octet with the packet that brought it first."""

    held: dict[int, tuple[int, int]] = field(default_factory=dict)
    next: int = 0
    pieces: list[tuple[int, bytes, int, int]] = field(default_factory=list)

    def take(self, number: int, ts_ns: int, start: int, payload: bytes) -> None:
        for offset, octet in enumerate(payload, start):
            if offset >= self.next and offset not in self.held:
                self.held[offset] = octet, number
        while self.next in self.held:
            first, number = self.next, self.held[self.next][1]
            octets = bytearray()
            while self.held.get(self.next, (0, 0))[1] == number:
                octets.append(self.held.pop(self.next)[0])
                self.next += 1
            self.pieces.append((first, bytes(octets), ts_ns, number))


@dataclass
class Traffic:
    """Packets of both directions, in the order and at the times they were captured."""

    streams: tuple[bytes, bytes]
    wire: Wire
    naive: tuple[Naive, Naive]


def traffic(streams: tuple[bytes, bytes], first: int, rng: random.Random) -> Traffic:
    wire = Wire(first_sequence=(first, 2**32 - 1 - first)).handshake()
    made = Traffic(streams, wire, (Naive(), Naive()))
    packets = [
        (rng.random() * 30, side, start, end)
        for side, stream in enumerate(streams)
        for start, end in [*plain_cut(len(stream), rng), *overlaps(len(stream), rng)]
    ]
    packets.sort()  # each was delayed by as much as it liked
    now_ms = 0.0
    for at_ms, side, start, end in packets:
        now_ms = max(now_ms, round(at_ms * 8) / 8)  # several may share an instant
        payload = streams[side][start:end]
        wire.packet(side, payload, seq=start, ack=0, ms=now_ms)
        ts_ns = BEGIN_NS + round(now_ms * NS_PER_MS)
        made.naive[side].take(len(wire.frames), ts_ns, start, payload)
    for side, stream in enumerate(streams):
        wire.packet(side, flags=FIN | ACK, seq=len(stream), ms=now_ms + 1)
    return made


def plain_cut(octets: int, rng: random.Random) -> list[tuple[int, int]]:
    places = sorted({0, octets, *(rng.randrange(octets + 1) for _ in range(rng.randrange(9)))})
    return [(start, end) for start, end in itertools.pairwise(places) if end > start]


def overlaps(octets: int, rng: random.Random) -> list[tuple[int, int]]:
    pairs = (sorted((rng.randrange(octets + 1), rng.randrange(octets + 1))) for _ in range(6))
    return [(start, end) for start, end in pairs if end > start]


def as_pcap(wire: Wire, path: Path) -> Path:
    return wire.write(path)


def as_pcapng(wire: Wire, path: Path) -> Path:
    blocks = [section(">"), interface(order=">", tsresol=9)]
    blocks += [enhanced(0, ts_ns, frame, ">", length) for ts_ns, frame, length in wire.frames]
    blocks.insert(3, block(0x40000BAD, b"nobody knows this block", ">"))
    path.write_bytes(b"".join(blocks))
    return path


def read(path: Path) -> Flow:
    oddities = []  # type: ignore[var-annotated]
    (flow,) = list(reassemble(decode(read_records(path, oddities), oddities), oddities))
    return flow


@pytest.mark.parametrize("write", [as_pcap, as_pcapng])
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sent=st.binary(min_size=1, max_size=300),
    answered=st.binary(min_size=1, max_size=120),
    first=st.integers(0, 2**32 - 1),
    rng=st.randoms(use_true_random=False),
)
def test_octets_boundaries_times_and_packets_are_those_of_the_naive_model(
    write: object, sent: bytes, answered: bytes, first: int, rng: random.Random, tmp_path: Path
) -> None:
    assert callable(write)
    made = traffic((sent, answered), first, rng)
    flow = read(write(made.wire, tmp_path / "capture"))
    for side in (0, 1):
        assert flow.octets(side) == made.streams[side]
        pieces = [
            (event.start, event.octets, event.ts_ns, event.packet)
            for event in flow.events
            if isinstance(event, Piece) and event.side == side
        ]
        assert pieces == made.naive[side].pieces
