"""Writes a large capture, of many flows of which few are SMTP, and measures how it is walked.

    python -m benchmarks.large_capture write FILE.pcap --flows 100000
    python -m benchmarks.large_capture walk FILE.pcap

A fifth of the flows are open at any time.  The foreign ones are HTTP, TLS and something binary, a
few of them long; the SMTP ones, on several ports, deliver a message each.  ``walk`` tells time,
packets a second, peak resident memory and what was found.
"""

from __future__ import annotations

import random
import resource
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from benchmarks import command
from mailsrv.runtime.clock import SystemClock
from replay.capture.pcap_writer import PcapWriter
from replay.capture.reader import read_capture

SEED = 20261122
SMTP_SHARE = 0.01
OPEN_SHARE = 0.2
SEGMENT_OCTETS = 1400
LONG_SHARE, LONG_OCTETS = 0.002, 400_000
NS_PER_PACKET = 60_000
_FIN, _SYN, _PSH, _ACK = 1, 2, 8, 16

Turn = tuple[int, bytes]
"""A side, 0 being the client, and what it says."""


def _smtp(rng: random.Random) -> list[Turn]:
    body = b"Subject: x\r\n\r\n" + b"some text in a line of content\r\n" * rng.randrange(10, 200)
    return [
        (1, b"220 mx.example.test ESMTP\r\n"),
        (0, b"EHLO client.example\r\n"),
        (1, b"250-mx.example.test\r\n250 PIPELINING\r\n"),
        (0, b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"),
        (1, b"250 ok\r\n250 ok\r\n354 go ahead\r\n"),
        (0, body + b".\r\n"),
        (1, b"250 queued\r\n"),
        (0, b"QUIT\r\n"),
        (1, b"221 bye\r\n"),
    ]


def _foreign(rng: random.Random) -> list[Turn]:
    octets = LONG_OCTETS if rng.random() < LONG_SHARE else rng.randrange(200, 7000)
    answer = rng.randbytes(octets)
    kind = rng.randrange(3)
    if kind == 0:
        return [(0, b"GET / HTTP/1.1\r\n\r\n"), (1, b"HTTP/1.1 200 OK\r\n\r\n" + answer)]
    if kind == 1:
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        return [(0, hello + bytes(500)), (1, b"\x16\x03\x03\x00\x7a" + answer)]
    return [(0, b"\x00\x01" + bytes(60)), (1, b"\x00\x02" + answer)]


def _frames(number: int, rng: random.Random) -> Iterator[bytes]:
    """One connection's packets."""
    is_smtp = rng.random() < SMTP_SHARE
    turns = _smtp(rng) if is_smtp else _foreign(rng)
    server_port = rng.choice((25, 587, 2525, 40_025)) if is_smtp else rng.choice((80, 443, 5432))
    client = struct.pack("!I", 0x0A000000 + number // 20_000)
    server = struct.pack("!I", 0xC6336400 + number % 200)
    ports = (20_000 + number % 20_000, server_port)
    ends = (client, server)
    sent = [rng.randrange(1 << 32), rng.randrange(1 << 32)]

    def packet(side: int, flags: int, payload: bytes = b"") -> bytes:
        ip = struct.pack(
            "!BxHHHBBH4s4s",
            *(0x45, 40 + len(payload), 0, 0x4000, 64, 6, 0, ends[side], ends[1 - side]),
        )
        seq, ack = sent[side], sent[1 - side] if flags & _ACK else 0
        tcp = struct.pack(
            "!HHIIBBHHH", ports[side], ports[1 - side], seq, ack, 0x50, flags, 65_535, 0, 0
        )
        octets = len(payload) + bool(flags & (_SYN | _FIN))
        sent[side] = (sent[side] + octets) & 0xFFFFFFFF
        return bytes(12) + b"\x08\x00" + ip + tcp + payload

    yield packet(0, _SYN)
    yield packet(1, _SYN | _ACK)
    yield packet(0, _ACK)
    for side, octets in turns:
        for place in range(0, len(octets), SEGMENT_OCTETS):
            yield packet(side, _PSH | _ACK, octets[place : place + SEGMENT_OCTETS])
            if place // SEGMENT_OCTETS % 2:
                yield packet(1 - side, _ACK)
    yield packet(0, _FIN | _ACK)
    yield packet(1, _FIN | _ACK)
    yield packet(0, _ACK)


def write(path: Path, flows: int, seed: int = SEED) -> int:
    """Write the capture; gives the number of packets."""
    rng = random.Random(seed)
    open_max = max(int(flows * OPEN_SHARE), 1)
    going: deque[Iterator[bytes]] = deque()
    begun = packets = 0
    with path.open("wb") as file:
        writer = PcapWriter(file)
        while begun < flows or going:
            while begun < flows and len(going) < open_max:
                going.append(_frames(begun, rng))
                begun += 1
            going.rotate(-rng.randrange(1, 50))
            frame = next(going[0], None)
            if frame is None:
                going.popleft()
                continue
            writer.write(packets * NS_PER_PACKET, frame)
            packets += 1
    return packets


def walk(path: Path) -> str:
    """Read the capture, and say what it took."""
    clock = SystemClock()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_ns = clock.monotonic_ns()
    capture = read_capture(path)
    took_s = (clock.monotonic_ns() - began_ns) / 1e9
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = path.stat().st_size
    return (
        f"{size / 1e6:.0f} MB, {capture.packets:,} packets, {capture.flows:,} flows, "
        f"{len(capture.conversations):,} sessions: {took_s:.1f} s, "
        f"{capture.packets / took_s:,.0f} packets/s, {size / 1e6 / took_s:.0f} MB/s; "
        f"peak memory {peak_kib / 1024:.0f} MiB (of it {before_kib / 1024:.0f} before)"
    )


def main() -> int:
    arguments = command.parser(__doc__)
    arguments.add_argument("what", choices=("write", "walk"), help="one after the other")
    arguments.add_argument("path", type=Path, help="the capture")
    arguments.add_argument("--flows", type=command.positive, default=100_000, help="in it")
    options = arguments.parse_args()
    if options.what == "write":
        print(f"{write(options.path, options.flows):,} packets")
    else:
        print(walk(options.path))
    return 0


if __name__ == "__main__":
    command.run(main)
