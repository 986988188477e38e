"""The container reader: every variant to the nanosecond, and damage told rather than guessed."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import pytest
from capture_builder import block, enhanced, interface, section
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.capture.oddity import CaptureError, Oddity
from replay.capture.pcap import read_records
from replay.capture.pcap_writer import PcapWriter
from replay.capture.records import MAX_RECORD_OCTETS, READ_OCTETS, PacketRecord


def read(path: Path, octets: bytes) -> tuple[list[PacketRecord], list[Oddity]]:
    path.write_bytes(octets)
    oddities: list[Oddity] = []
    return list(read_records(path, oddities)), oddities


def pcap(order: str, magic: int, *records: tuple[int, int, bytes, int], linktype: int = 1) -> bytes:
    octets = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, linktype)
    for seconds, fraction, frame, original in records:
        octets += struct.pack(order + "IIII", seconds, fraction, len(frame), original)
        if magic == 0xA1B2CD34:
            octets += struct.pack(order + "IHBB", 7, 8, 0, 0)
        octets += frame
    return octets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "ns"), [(0xA1B2C3D4, 123456000), (0xA1B23C4D, 123456), (0xA1B2CD34, 123456000)]
)
def test_every_pcap_magic_is_read_in_both_byte_orders(
    path: Path, order: str, magic: int, ns: int
) -> None:
    octets = pcap(order, magic, (1, 123456, b"abc", 9), (4_000_000_000, 0, b"", 0))
    records, oddities = read(path, octets)
    assert records == [
        PacketRecord(1, 1_000_000_000 + ns, 1, 3, 9, b"abc"),
        PacketRecord(2, 4_000_000_000_000_000_000, 1, 0, 0, b""),
    ]
    assert oddities == []


def test_bits_about_the_frame_check_sequence_are_no_link_type(path: Path) -> None:
    records, _ = read(path, pcap("<", 0xA1B2C3D4, (0, 0, b"x", 1), linktype=603979777))
    assert records[0].linktype == 1


def test_what_is_written_is_read_back_to_the_nanosecond(path: Path) -> None:
    with path.open("wb") as file:
        writer = PcapWriter(file, linktype=101)
        writer.write(1_999_999_999, b"one", 100)
        writer.write(1_700_000_000_123_456_789, b"two")
    oddities: list[Oddity] = []
    assert list(read_records(path, oddities)) == [
        PacketRecord(1, 1_999_999_999, 101, 3, 100, b"one"),
        PacketRecord(2, 1_700_000_000_123_456_789, 101, 3, 3, b"two"),
    ]


def test_the_writer_refuses_what_the_format_cannot_hold(path: Path) -> None:
    with path.open("wb") as file:
        writer = PcapWriter(file)
        with pytest.raises(ValueError, match="outside the years"):
            writer.write(-1, b"")
        with pytest.raises(ValueError, match="is over"):
            writer.write(0, bytes(300_000))


def test_records_across_read_boundaries_are_whole(path: Path) -> None:
    frame = bytes(range(256)) * 40
    count = 3 * READ_OCTETS // len(frame)
    octets = pcap("<", 0xA1B2C3D4, *[(n, 0, frame, len(frame)) for n in range(count)])
    records, _ = read(path, octets)
    assert len(records) == count
    assert all(record.frame == frame for record in records)


# -- what is no capture ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        (b"", "an empty file"),
        (b"From a@example.org", r"not a capture: starts with 46 72 6f 6d"),
        (b"\xd4", "not a capture: starts with d4"),
        (gzip.compress(b"From x", mtime=0), "not a capture: starts with 46 72 6f 6d"),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "packed twice: unpack it first"),
        pytest.param(
            b"\x28\xb5\x2f\xfd",
            "zstd, which Python reads from 3.14 on: unpack it first",
            marks=pytest.mark.skipif(sys.version_info >= (3, 14), reason="it is read"),
        ),
        (b"\x04\x22\x4d\x18", "lz4: unpack it first"),
        (bytes(257) + b"ustar\x0000", "a tar archive: unpack it first"),
        (b"+++\nstory", "a transcript: 'replay run' plays it"),
        (b"\xfd7zXZ\0", "xz: unpack it first"),
        (b"BZh9", "bzip2: unpack it first"),
        (b"snoop\0\0\0", "a snoop capture"),
        (b"\x1f\x8b\x08", "the gzip file breaks off"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "breaks off in its header, after 6 of 24 octets"),
        (pcap("<", 0xA1B2C3D4) + bytes(3), "packet 1 at offset 24 breaks off in its header"),
        (b"\x0a\x0d\x0d\x0a" + bytes(20), "section header without a byte-order magic"),
    ],
)
def test_what_is_no_capture_is_refused_in_one_sentence_with_its_name(
    path: Path, octets: bytes, sentence: str
) -> None:
    with pytest.raises(CaptureError, match=sentence) as caught:
        read(path, octets)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_directory_are_capture_errors(tmp_path: Path) -> None:
    for where in (tmp_path / "nowhere.pcap", tmp_path):
        with pytest.raises(CaptureError, match="cannot be read"):
            list(read_records(where, []))


def test_a_capture_without_packets_is_read_as_empty(path: Path) -> None:
    assert read(path, pcap("<", 0xA1B2C3D4)) == ([], [])
    assert read(path, section() + interface()) == ([], [])


# -- damage ---------------------------------------------------------------------------------------


def test_a_truncated_last_record_is_told_and_the_rest_used(path: Path) -> None:
    octets = pcap("<", 0xA1B2C3D4, (1, 0, b"abcd", 4), (2, 0, b"efgh", 4))
    records, oddities = read(path, octets[:-1])
    assert [record.frame for record in records] == [b"abcd"]
    assert [oddity.kind for oddity in oddities] == ["truncated-file"]
    assert "packet 2 at offset 44 breaks off after 3 of 4 octets" in oddities[0].sentence


def test_an_absurd_length_is_damage_and_needs_no_memory(path: Path) -> None:
    octets = pcap("<", 0xA1B2C3D4, (1, 0, b"abcd", 4))
    octets += struct.pack("<IIII", 0, 0, MAX_RECORD_OCTETS + 1, 0)
    records, oddities = read(path, octets)
    assert len(records) == 1
    assert [oddity.kind for oddity in oddities] == ["damaged-file"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3))
def test_garbage_raises_nothing_but_capture_errors(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, start: int
) -> None:
    begin = [
        b"",
        pcap("<", 0xA1B2C3D4, (1, 0, b"abcd", 4)),
        section() + interface() + enhanced(0, 1, b"x"),
        section(">") + interface(order=">"),
    ][start]
    path = tmp_path_factory.getbasetemp() / "garbage.pcap"
    try:
        read(path, begin + garbage)
    except CaptureError as error:
        assert str(path) in str(error)


# -- pcapng ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("tsresol", "units", "ns"),
    [
        (None, 1_700_000_000_123_456, 1_700_000_000_123_456_000),
        (9, 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        (3, 5, 5_000_000),
        (12, 1_999, 1),
        (0, 7, 7_000_000_000),
        (0x80 | 10, 1024 + 512, 1_500_000_000),
        (0x80 | 32, (3 << 32) + 1, 3_000_000_000),
    ],
)
def test_pcapng_times_have_their_interfaces_resolution(
    path: Path, order: str, tsresol: int | None, units: int, ns: int
) -> None:
    octets = section(order) + interface(order=order, tsresol=tsresol)
    records, oddities = read(path, octets + enhanced(0, units, b"abcde", order, original=99))
    assert records == [PacketRecord(1, ns, 1, 5, 99, b"abcde")]
    assert oddities == []


def test_pcapng_times_are_shifted_by_the_interfaces_offset(path: Path) -> None:
    octets = section() + interface(tsresol=9, tsoffset_s=-2) + enhanced(0, 5_000_000_001, b"")
    assert read(path, octets)[0][0].ts_ns == 3_000_000_001


def test_each_packet_has_its_own_interfaces_link_type_and_resolution(path: Path) -> None:
    octets = section() + interface(1, tsresol=9) + interface(113, tsresol=6)
    octets += enhanced(1, 2, b"b") + enhanced(0, 1, b"a")
    records, _ = read(path, octets)
    assert [(r.linktype, r.ts_ns) for r in records] == [(113, 2000), (1, 1)]


def test_sections_of_either_byte_order_follow_one_another(path: Path) -> None:
    octets = b""
    for order, linktype in (("<", 1), (">", 101), ("<", 0)):
        octets += section(order) + interface(linktype, order) + enhanced(0, 1, b"x", order)
    records, oddities = read(path, octets)
    assert [(r.number, r.linktype) for r in records] == [(1, 1), (2, 101), (3, 0)]
    assert oddities == []


def test_simple_and_obsolete_packets_are_read(path: Path) -> None:
    octets = section() + interface(tsresol=9, snaplen=4)
    octets += block(2, struct.pack("<HHIIII", 0, 0, 0, 77, 2, 50) + b"ab")
    octets += block(3, struct.pack("<I", 100) + b"wxyz")
    octets += block(3, struct.pack("<I", 3) + b"abc")
    records, oddities = read(path, octets)
    assert records == [
        PacketRecord(1, 77, 1, 2, 50, b"ab"),
        PacketRecord(2, 77, 1, 4, 100, b"wxyz"),
        PacketRecord(3, 77, 1, 3, 3, b"abc"),
    ]
    assert [oddity.kind for oddity in oddities] == ["no-timestamp"]


def test_secrets_statistics_and_unknown_blocks_are_passed_over(path: Path) -> None:
    octets = section() + block(0x0A, b"\x4b\x53\x4c\x54\x04\0\0\0keys") + interface()
    octets += block(4, b"names") + block(5, bytes(12)) + block(0x40000BAD, b"custom")
    octets += block(0xBAD, b"") + enhanced(0, 1, b"x")
    records, oddities = read(path, octets)
    assert [r.frame for r in records] == [b"x"]
    assert oddities == []


def test_a_packet_of_an_unknown_interface_is_skipped_and_told(path: Path) -> None:
    octets = section() + enhanced(0, 1, b"x") + interface() + enhanced(0, 1, b"y")
    records, oddities = read(path, octets)
    assert [(r.number, r.frame) for r in records] == [(2, b"y")]
    assert oddities[0].packet == 1
    assert "names interface 0, which nobody described" in oddities[0].sentence


def test_a_pcapng_that_breaks_off_is_used_up_to_there(path: Path) -> None:
    octets = section() + interface() + enhanced(0, 1, b"abcd") + enhanced(0, 2, b"efgh")
    for cut in (1, 15, 30):
        records, oddities = read(path, octets[:-cut])
        assert [r.frame for r in records] == [b"abcd"]
        assert [oddity.kind for oddity in oddities] == ["truncated-file"]


def test_a_block_whose_two_lengths_differ_is_damage(path: Path) -> None:
    octets = section() + interface() + enhanced(0, 1, b"abcd") + enhanced(0, 2, b"efgh")
    records, oddities = read(path, octets[:-4] + struct.pack("<I", 40))
    assert len(records) == 1
    assert [oddity.kind for oddity in oddities] == ["damaged-file"]
