"""Captures come from files, pipes and gzip files, in pieces, and with bounds."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from capture_builder import Wire

from replay.capture.oddity import Oddity
from replay.capture.pcap import read_records
from replay.capture.pcap_writer import PcapWriter
from replay.capture.records import PacketRecord
from replay.capture.source import RATIO_FROM_OCTETS, ReadProgress


def session() -> Wire:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"QUIT\r\n", 2)
    return wire


def read(path: Path | str) -> tuple[list[PacketRecord], list[Oddity]]:
    oddities: list[Oddity] = []
    return list(read_records(path, oddities)), oddities


def many(path: Path, records: int = 3000) -> bytes:
    with path.open("wb") as file:
        writer = PcapWriter(file)
        for number in range(records):
            writer.write(number, os.urandom(100))
    return path.read_bytes()


def test_a_packed_capture_reads_like_the_plain_one(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.pcap", tmp_path / "a.pcap.gz"
    octets = many(plain)
    packed.write_bytes(gzip.compress(octets[:70_000]) + gzip.compress(octets[70_000:]))
    assert read(packed) == read(plain)


def test_a_packed_capture_that_breaks_off_is_used_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap.gz"
    octets = gzip.compress(many(tmp_path / "a.pcap"))
    path.write_bytes(octets[: len(octets) // 2])
    records, oddities = read(path)
    assert 1000 < len(records) < 2000
    assert [oddity.kind for oddity in oddities] == ["truncated-file", "truncated-file"]
    assert "gzip file breaks off" in oddities[0].sentence


def test_a_packed_capture_with_a_damaged_octet_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap.gz"
    octets = bytearray(gzip.compress(many(tmp_path / "a.pcap")))
    octets[-6] ^= 1  # the checksum
    path.write_bytes(octets)
    records, oddities = read(path)
    assert len(records) > 2000
    assert "gzip file is damaged" in oddities[0].sentence


def test_a_bomb_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pcap.gz"
    file = io.BytesIO()
    PcapWriter(file)
    record = struct.pack("<IIII", 0, 0, 1 << 23, 1 << 23) + bytes(1 << 23)
    path.write_bytes(gzip.compress(file.getvalue() + 16 * record))
    records, oddities = read(path)
    assert len(records) + 1 == RATIO_FROM_OCTETS >> 23
    assert "more than 200 times its size" in oddities[0].sentence


def test_whoever_watches_is_told_how_far_the_file_as_it_lies_there_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap.gz"
    path.write_bytes(gzip.compress(many(tmp_path / "a.pcap", 10_000)))
    told: list[ReadProgress] = []
    assert len(list(read_records(path, [], told.append))) == 10_000
    size = path.stat().st_size
    assert {one.total_octets for one in told} == {size}
    assert told[-1].read_octets == size
    assert [one.read_octets for one in told] == sorted(one.read_octets for one in told)


def show(*pieces: bytes) -> tuple[int, str, str]:
    """``replay show -``, with its input written piece by piece."""
    command = [sys.executable, "-m", "replay", "show", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        for piece in pieces:
            process.stdin.write(piece)
            process.stdin.flush()
        out, err = process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_shown(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    octets = pack(session().write(tmp_path / "a.pcap").read_bytes())
    status, out, err = show(*[octets[place : place + 7] for place in range(0, len(octets), 7)])
    assert (status, err) == (0, "")
    assert "standard input: 5 packets, 1 SMTP session with 198.51.100.25:25" in out


def test_an_empty_standard_input_is_refused_by_name() -> None:
    assert show() == (2, "", "replay: standard input: an empty file\n")


def imported(*arguments: str | Path, piped: bytes = b"") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "replay", "import", *map(str, arguments)]
    ran = subprocess.run(command, input=piped, capture_output=True, check=False)
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


def test_a_packed_capture_is_put_on_file_unpacked(tmp_path: Path) -> None:
    octets = session().write(tmp_path / "a.pcap").read_bytes()
    packed = tmp_path / "stall.pcap.gz"
    packed.write_bytes(gzip.compress(octets))
    status, out, err = imported(packed, "-o", tmp_path / "filed" / "stall")
    assert (status, err) == (0, ""), out
    assert (tmp_path / "filed" / "stall.pcap").read_bytes() == octets
    transcript = (tmp_path / "filed" / "stall.smtp").read_text(encoding="utf-8")
    assert 'source = "stall.pcap: ' in transcript


def test_standard_input_is_put_on_file(tmp_path: Path) -> None:
    octets = session().write(tmp_path / "a.pcap").read_bytes()
    status, out, err = imported("-", "-o", tmp_path / "stall", piped=octets)
    assert (status, err) == (0, ""), out
    assert (tmp_path / "stall.pcap").read_bytes() == octets
    assert (tmp_path / "stall.smtp").exists()


def test_a_packed_capture_that_is_no_good_is_refused_by_its_own_name(tmp_path: Path) -> None:
    packed = tmp_path / "stall.pcap.gz"
    packed.write_bytes(gzip.compress(b"no capture at all"))
    status, out, err = imported(packed, "-o", tmp_path / "stall")
    assert (status, out) == (2, "")
    assert err.startswith(f"replay: {packed}: not a capture")


def test_what_is_packed_and_breaks_off_is_told_when_it_is_put_on_file(tmp_path: Path) -> None:
    packed = tmp_path / "stall.pcap.gz"
    octets = session().write(tmp_path / "a.pcap").read_bytes()
    packed.write_bytes(gzip.compress(octets)[:-8])
    status, out, _ = imported(packed, "-o", tmp_path / "stall")
    assert status == 0
    assert "odd: the gzip file breaks off" in out
