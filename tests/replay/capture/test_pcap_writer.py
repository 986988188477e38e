"""Capture files that can be read whatever became of their writer."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.capture.oddity import Oddity
from replay.capture.pcap import read_records
from replay.capture.pcap_writer import PcapFile

BEGIN_NS = 1_700_000_000_123_456_789


def frames_in(path: Path) -> list[bytes]:
    oddities: list[Oddity] = []
    frames = [record.frame for record in read_records(path, oddities)]
    assert oddities == []
    return frames


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PcapFile]:
    made = PcapFile(tmp_path / "x.pcap", 101, 1000)
    yield made
    made.close()


def test_times_are_kept_to_the_nanosecond(file: PcapFile) -> None:
    file.write(BEGIN_NS, b"one", b"two")
    file.close()
    assert [
        (one.ts_ns, one.frame, one.linktype, one.original_octets)
        for one in read_records(file.path, [])
    ] == [(BEGIN_NS, b"one", 101, 3), (BEGIN_NS, b"two", 101, 3)]


def test_what_was_flushed_can_be_read_without_a_close(file: PcapFile) -> None:
    file.write(BEGIN_NS, b"one")
    file.flush()
    file.write(BEGIN_NS, b"two")
    assert frames_in(file.path) == [b"one"]


def test_frames_that_belong_together_go_in_together_or_not_at_all(file: PcapFile) -> None:
    assert file.write(BEGIN_NS, bytes(900))
    assert not file.write(BEGIN_NS, b"a", bytes(900))
    assert not file.write(BEGIN_NS, b"a"), "there is no gap that a later frame would hide"
    file.close()
    assert frames_in(file.path) == [bytes(900)]
    assert (file.failure, file.path.stat().st_size) == ("its bound is reached", 940)


def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    full = PcapFile(tmp_path / "full.pcap", 101, 1_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        full.write(BEGIN_NS, bytes(500))
        full.flush()
        full.write(BEGIN_NS, bytes(500))
        full.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.failure
    assert not full.write(BEGIN_NS, b"later")
    full.close()
    assert frames_in(full.path) == [bytes(500)]


def test_no_other_file_is_touched(file: PcapFile, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        PcapFile(file.path, 101, 1000)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        PcapFile(tmp_path / "link", 101, 1000)
    assert not (tmp_path / "elsewhere").exists()


def test_others_may_not_read_what_was_recorded(file: PcapFile) -> None:
    assert stat.S_IMODE(file.path.stat().st_mode) & 0o077 == 0


def test_a_closed_file_writes_nothing_and_closes_nothing_else(file: PcapFile) -> None:
    file.close()
    descriptor = os.open(os.devnull, os.O_RDONLY)
    file.close()
    os.close(descriptor)
