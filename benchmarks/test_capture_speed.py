"""How fast a capture is decoded and reassembled: packets a second, 281-octet frames.

The capture is many connections at once, each a flow of data and acknowledgements in order.  Where
tshark is installed, it goes over the same file in the same run: whole processes, by their CPU time.
It neither puts streams together nor looks into SMTP, which is the least it can do.
"""

from __future__ import annotations

import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from replay.capture.oddity import Oddity
from replay.capture.pcap import read_records
from replay.capture.pcap_writer import PcapWriter
from replay.capture.reassembly import reassemble
from replay.capture.segments import decode

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


TSHARK = [
    *("tshark", "-n", "-q", "-z", "conv,tcp", "-o", "tcp.desegment_tcp_streams:FALSE"),
    *("--disable-protocol", "smtp", "-r"),
]
OURS = [
    *(sys.executable, "-c"),
    "import sys\n"
    "from replay.capture.segments import decode\n"
    "from replay.capture.pcap import read_records\n"
    "from replay.capture.reassembly import reassemble\n"
    "flows = reassemble(decode(read_records(sys.argv[1], []), []), [])\n"
    "print(sum(sum(flow.packets) for flow in flows))",
]
ROUNDS = 3


def _cpu_s(command: list[str]) -> tuple[float, str]:
    """The CPU time that a process takes, and what it says."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return used() - before, out


@pytest.mark.benchmark(group="capture")
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_ahead_of_tshark(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = tmp_path / "many.pcap"
    _write_capture(path)
    ours, theirs = [], []

    def turn() -> None:
        took_s, told = _cpu_s([*OURS, str(path)])
        assert int(told) == PACKETS
        ours.append(PACKETS / took_s)
        took_s, told = _cpu_s([*TSHARK, str(path)])
        assert told.count("<->") == CONNECTIONS
        theirs.append(PACKETS / took_s)

    benchmark.pedantic(turn, rounds=ROUNDS if benchmark.enabled else 1)
    print(
        f"\nwhole processes, best of {len(ours)}: {max(ours):,.0f} packets/s, "
        f"tshark {max(theirs):,.0f} packets/s"
    )
    benchmark.extra_info["packets_per_s"] = round(max(ours))
    benchmark.extra_info["tshark_packets_per_s"] = round(max(theirs))
