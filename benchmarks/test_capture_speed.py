"""How fast a capture is decoded and reassembled: packets a second, 281-octet frames.

The capture is many connections at once, each a flow of data and acknowledgements in order.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from replay.oddity import Oddity
from replay.packet import decode
from replay.pcapfile import read_records
from replay.pcapwrite import PcapWriter
from replay.reassembly import reassemble

PACKETS = 100_000
CONNECTIONS = 100
PAYLOAD_OCTETS = 281 - 54


def _write_capture(path: Path) -> None:
    ethernet = bytes(12) + b"\x08\x00"
    payload = b"x" * PAYLOAD_OCTETS
    client, server = b"\xc0\x00\x02\x0a", b"\xc0\x00\x02\x19"
    with path.open("wb") as file:
        writer = PcapWriter(file)
        sent = [[0, 0] for _ in range(CONNECTIONS)]
        for number in range(PACKETS):
            connection = number % CONNECTIONS
            side = number // CONNECTIONS % 2
            octets = sent[connection]
            ports = (20_000 + connection, 25)
            ends = (client, server)
            ip = struct.pack(
                "!BxHHHBBH4s4s",
                *(0x45, 40 + PAYLOAD_OCTETS, 0, 0x4000, 64, 6, 0, ends[side], ends[1 - side]),
            )
            tcp = struct.pack(
                "!HHIIBBHHH",
                *(ports[side], ports[1 - side], octets[side], octets[1 - side]),
                *(0x50, 0x18, 65_535, 0, 0),
            )
            octets[side] += PAYLOAD_OCTETS
            writer.write(number * 10_000, ethernet + ip + tcp + payload)


@pytest.mark.benchmark(group="capture")
def test_decoding_and_reassembling(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = tmp_path / "many.pcap"
    _write_capture(path)

    def run() -> int:
        oddities: list[Oddity] = []
        flows = reassemble(decode(read_records(path, oddities), oddities), oddities)
        return sum(flow.packets[0] + flow.packets[1] for flow in flows)

    assert benchmark.pedantic(run, rounds=5, warmup_rounds=1) == PACKETS
    if benchmark.stats:
        rate = PACKETS / benchmark.stats.stats.min
        benchmark.extra_info["packets_per_s"] = round(rate)
        print(f"\n{rate:,.0f} packets/s decoded and reassembled (best round)")
