"""Flows leave when they are over, and what too many of them hold is given up, with a word."""

from __future__ import annotations

import itertools

from capture_builder import ACK, NS_PER_MS, RST, SYN

from replay.capture.flow import Flow
from replay.capture.oddity import Oddity
from replay.capture.reassembly import (
    BATCH_SEGMENTS,
    MAX_OPEN_FLOWS,
    MAX_OPEN_OCTETS,
    Reassembler,
    reassemble,
)
from replay.capture.segments import Segment


def hello(number: int, ts_ns: int, client: int, flags: int = ACK, payload: bytes = b"") -> Segment:
    """A segment of client number ``client``."""
    port, host = client & 0xFFFF, 25 + (client >> 16)
    return Segment(number, ts_ns, b"abcd", port, b"efgh", host, 9, 0, flags, 0, payload, 0)


def test_of_too_many_open_flows_those_idle_for_longest_are_given_up() -> None:
    oddities: list[Oddity] = []
    count = MAX_OPEN_FLOWS + BATCH_SEGMENTS
    segments = [hello(n + 1, n, n) for n in range(count)]
    reassembler = Reassembler(oddities)
    flows = reassembler.walk(segments)
    given_up = [next(flows).number for _ in range(MAX_OPEN_FLOWS // 4)]
    assert given_up == list(range(1, MAX_OPEN_FLOWS // 4 + 1))
    assert len(list(flows)) == count - len(given_up)
    assert [(odd.packet, odd.kind) for odd in oddities] == [(1, "too-many-flows")]
    assert oddities[0].sentence.startswith("16384 connections, idle for longest")


def test_a_flow_leaves_some_time_after_its_end_and_no_sooner() -> None:
    reset = [hello(1, 0, 1, payload=b"x"), hello(2, 1, 1, RST | ACK)]
    rest = [hello(3 + n, n * 10_000 * NS_PER_MS, 2) for n in range(3 * BATCH_SEGMENTS)]
    waiting = iter(rest)
    flows = Reassembler([]).walk(itertools.chain(reset, waiting))
    assert next(flows).number == 1
    seen = len(rest) - len(list(waiting))
    assert BATCH_SEGMENTS <= seen + len(reset) <= 2 * BATCH_SEGMENTS
    early = [hello(3 + n, n, 2) for n in range(3 * BATCH_SEGMENTS)]
    assert [flow.number for flow in reassemble([*reset, *early], [])] == [1, 2]


def test_octets_that_nobody_wants_are_forgotten_and_their_flow_goes_on_being_counted() -> None:
    payload = bytes(60_000)
    wanted = [hello(1, 0, 1, payload=b"wanted")]
    unwanted = [
        hello(n + 2, n, 2, payload=payload)._replace(seq=9 + n * len(payload))
        for n in range(2 * BATCH_SEGMENTS)
    ]
    last = [hello(9000, 9000, 2, RST), hello(9001, 9001, 1, payload=b"more")._replace(seq=15)]
    segments = [*wanted, *unwanted, *last]

    def judge(flow: Flow) -> str:
        return "noise" if flow.number == 2 else ""

    one, two = Reassembler([], judge).walk(segments)
    assert (one.octets(0), one.forgotten) == (b"wantedmore", "")
    assert (two.octets(0), two.forgotten) == (b"", "noise")
    assert (two.packets, two.last_packet) == ([2 * BATCH_SEGMENTS + 1, 0], 9000)
    assert [odd.kind for odd in two.oddities] == ["not-kept"]


def test_used_ports_of_a_forgotten_flow_begin_a_new_one() -> None:
    payload = bytes(60_000)
    segments = [
        hello(n + 1, n, 2, payload=payload)._replace(seq=9 + n * len(payload))
        for n in range(BATCH_SEGMENTS)
    ]
    again = [hello(5000, 5000, 2, SYN)._replace(seq=77), hello(5001, 5001, 2)._replace(seq=78)]
    one, two = Reassembler([], lambda _: "noise").walk([*segments, *again])
    assert (one.last_packet, two.first_packet, two.opener) == (BATCH_SEGMENTS, 5000, 0)


def test_the_largest_flows_are_followed_no_further_when_open_ones_hold_too_much() -> None:
    payload = bytes(60_000)
    large = [
        hello(n + 1, n, 1, payload=payload)._replace(seq=9 + n * len(payload))
        for n in range(MAX_OPEN_OCTETS // len(payload) + BATCH_SEGMENTS)
    ]
    small = [hello(9998, 9998, 2, payload=b"a"), hello(9999, 9999, 1, RST)]
    two, one = sorted(Reassembler([]).walk([*large, *small]), key=lambda flow: -flow.number)
    assert two.octets(0) == b"a"
    assert MAX_OPEN_OCTETS < len(one.octets(0)) < MAX_OPEN_OCTETS + BATCH_SEGMENTS * len(payload)
    assert [odd.kind for odd in one.oddities] == ["not-kept"]
    assert "is followed no further: open ones hold more than 256 MiB" in one.oddities[0].sentence
