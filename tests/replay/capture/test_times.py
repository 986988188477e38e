"""Times that cannot be are set aside, and the others kept; a file without any order is told."""

from __future__ import annotations

from capture_builder import ACK, BEGIN_NS, FIN, NS_PER_MS, Wire, flow_of
from hypothesis import given
from hypothesis import strategies as st

from replay.capture.flow import Flow
from replay.capture.oddity import Oddity, span
from replay.capture.reassembly import reassemble
from replay.capture.records import PacketRecord
from replay.capture.segments import decode


def kinds(flow: Flow) -> list[str]:
    return [oddity.kind for oddity in flow.oddities]


def records_of(wire: Wire) -> list[PacketRecord]:
    return [
        PacketRecord(number, ts_ns, 1, len(frame), len(frame), frame)
        for number, (ts_ns, frame, _) in enumerate(wire.frames, 1)
    ]


def test_a_time_that_runs_backwards_is_set_aside_and_told() -> None:
    wire = Wire().handshake()
    wire.client_says(b"a", 5)
    wire.server_says(b"b", 7)
    wire.client_says(b"c", 3)
    wire.server_says(b"d", 8)
    flow = flow_of(wire)
    times = [event.ts_ns - BEGIN_NS for event in flow.events]
    assert times == [5 * NS_PER_MS, 7 * NS_PER_MS, 7 * NS_PER_MS, 8 * NS_PER_MS]
    assert kinds(flow) == ["time-backwards"]
    assert "packet 6 claims a time 4 ms before" in flow.oddities[0].sentence


YEARS_MS = 16 * 365 * 86_400_000


@given(st.integers(0, 8), st.sampled_from([-YEARS_MS, -500, 500, 3_600_000, YEARS_MS]))
def test_one_wrong_time_moves_no_other(place: int, off_ms: int) -> None:
    """Even of a packet that carries nothing; only at an end a small error cannot be seen."""
    wire = Wire().handshake()
    for number in range(6):
        (wire.server_says if number % 2 else wire.client_says)(b"%d" % number, 10 * (number + 1))
    records = records_of(wire)
    right = [event.ts_ns for event in flow_of(wire).events]
    wrong = records[place]._replace(ts_ns=records[place].ts_ns + off_ms * NS_PER_MS)
    oddities: list[Oddity] = []
    segments = decode([*records[:place], wrong, *records[place + 1 :]], oddities)
    (flow,) = reassemble(segments, oddities)
    assert oddities == []
    packets = [event.packet for event in flow.events]
    found = [event.ts_ns for event in flow.events]
    assert [one for one, packet in zip(found, packets, strict=True) if packet != wrong.number] == [
        one for one, packet in zip(right, packets, strict=True) if packet != wrong.number
    ]
    at_an_end = place in (0, len(records) - 1) and abs(off_ms) < YEARS_MS
    kept_order = (place == 0 and off_ms < 0) or (place == len(records) - 1 and off_ms > 0)
    told = [oddity.packet for oddity in flow.oddities]
    assert told == ([] if at_an_end and kept_order else [wrong.number])


def test_a_file_that_was_appended_to_another_is_told_with_what_mends_it() -> None:
    wire = Wire().handshake()
    for number in range(10):
        (wire.server_says if number % 2 else wire.client_says)(b"%d" % number, 10 * (number + 1))
    records = records_of(wire)
    sides = [
        [one for one in records if one.frame[26:30] == end]
        for end in (records[0].frame[26:30], records[1].frame[26:30])
    ]
    appended = [one._replace(number=number) for number, one in enumerate(sides[0] + sides[1], 1)]
    oddities: list[Oddity] = []
    (flow,) = reassemble(decode(appended, oddities), oddities)
    (oddity,) = [one for one in oddities if one.kind == "time-order"]
    assert "reordercap" in oddity.sentence
    times = [event.ts_ns for event in flow.events]
    assert times == sorted(times)
    assert not [one for one in flow.oddities if one.kind.startswith("time-")]


def test_the_same_numbers_90_s_later_are_another_connection() -> None:
    wire = Wire().handshake()
    wire.client_says(b"QUIT\r\n", 5)
    wire.packet(0, flags=FIN | ACK, ms=6)
    wire.packet(1, flags=FIN | ACK, ms=7)
    records = records_of(wire)
    again = [
        one._replace(number=one.number + len(records), ts_ns=one.ts_ns + 90_000 * NS_PER_MS)
        for one in records
    ]
    oddities: list[Oddity] = []
    flows = reassemble(decode(records + again, oddities), oddities)
    assert [flow.octets(0) for flow in flows] == [b"QUIT\r\n"] * 2
    assert not any(flow.oddities for flow in flows)


def test_durations_are_told_in_units_that_people_use() -> None:
    assert [span(ns) for ns in (7, 1_500, 12_000_000, 90 * 10**9, 5 * 10**17)] == [
        "7 ns", "1.5 µs", "12 ms", "1.5 min", "15.9 years",
    ]  # fmt: skip
