"""The octets of each direction are those that tshark finds, stream by stream.

Where the two may differ is listed: octets of which the capture holds two versions, and holes.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tshark
from capture_builder import ACK, FIN, PSH, Wire
from running import CAPTURES

from replay.capture.flow import Endpoint, Flow
from replay.capture.oddity import Oddity
from replay.capture.pcap import read_records
from replay.capture.reassembly import reassemble
from replay.capture.segments import decode

pytestmark = pytest.mark.skipif(tshark.PROGRAM is None, reason="tshark is not installed")

LISTED = {"overlap-conflict", "gap", "before-start", "stream-jump"}
"""What may make the octets differ: the capture says two things, or not all."""

OWN_CAPTURES = 12
TSHARKS = 4
"""At a time."""


def corpus() -> list[Path]:
    folder = os.environ.get("SMTP_CORPUS")
    return sorted(Path(folder).glob("*.pcap*")) if folder else []


def flows_of_file(path: Path) -> list[Flow]:
    oddities: list[Oddity] = []
    flows = reassemble(decode(read_records(path, oddities), oddities), oddities)
    for oddity in oddities:
        for flow in flows:
            if flow.first_packet == oddity.packet:
                flow.oddities.append(oddity)
    return flows


def name(end: Endpoint) -> str:
    return str(end)


def compared(path: Path) -> tuple[Counter[str], list[str]]:
    """How many streams are equal or not, and which are not."""
    flows = flows_of_file(path)
    theirs = {stream.first_packet: stream for stream in tshark.streams(path, len(flows) + 1)}
    counted: Counter[str] = Counter()
    listed = []
    for flow in flows:
        stream = theirs.pop(flow.first_packet, None)
        ours = {name(end): flow.octets(side) for side, end in enumerate(flow.ends)}
        counted["streams"] += 1
        kinds = sorted({oddity.kind for oddity in flow.oddities} & LISTED)
        where = f"{path.name}, packet {flow.first_packet}: {', '.join(kinds) or 'differs'}"
        if stream is not None and stream.octets == ours:
            counted["equal"] += 1
            if kinds:
                listed.append(f"{where}, and equal")
            continue
        if not any(ours.values()) and (stream is None or not any(stream.octets.values())):
            counted["without octets"] += 1
            continue
        counted["listed" if kinds else "differ"] += 1
        listed.append(where)
    for stream in theirs.values():
        if any(stream.octets.values()):
            counted["differ"] += 1
            listed.append(f"{path.name}, packet {stream.first_packet}: only tshark has this stream")
    return counted, listed


@pytest.mark.skipif(not corpus(), reason="SMTP_CORPUS names no folder with captures")
def test_the_octets_of_public_captures_are_those_that_tshark_finds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_equal(corpus(), capsys)


def test_the_octets_of_our_own_captures_are_those_that_tshark_finds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = sorted(CAPTURES.glob("*/*.pcap"))
    assert_equal(paths[:: len(paths) // OWN_CAPTURES + 1], capsys)


def assert_equal(paths: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    total: Counter[str] = Counter()
    listed = []
    with ThreadPoolExecutor(TSHARKS) as pool:
        for counted, exceptions in pool.map(compared, paths):
            total += counted
            listed += exceptions
    figures = ", ".join(f"{count} {what}" for what, count in total.items())
    with capsys.disabled():
        print("\n" + "\n".join([f"tshark, {len(paths)} captures: {figures}", *listed]))
    assert total["differ"] == 0, listed
    assert total["equal"] > 0


def test_tshark_agrees_about_what_a_network_does_to_packets(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"EHLO me\r\n", 2)
    wire.packet(0, b"LO me\r\nMAIL", PSH | ACK, seq=2)  # other boundaries
    wire.packet(0, b"TO\r\n", PSH | ACK, seq=18)  # ahead of its turn
    wire.packet(0, b" FROM", PSH | ACK, seq=13)
    wire.packet(0, b"\0", ACK, seq=21)  # as a keepalive does it
    wire.packet(0, flags=FIN | ACK)
    path = wire.write(tmp_path / "a.pcap")
    counted, listed = compared(path)
    assert (counted, listed) == (Counter(streams=1, equal=1), [])
    assert flows_of_file(path)[0].octets(0) == b"EHLO me\r\nMAIL FROMTO\r\n"
