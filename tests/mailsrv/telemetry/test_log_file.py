"""The log as a file: rotated by the usual tools, and never in the way of mail."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailsrv.runtime.clock import FakeClock
from mailsrv.telemetry.log_file import LogFile


class Log:
    """A log file, its clock, and what its watcher heard."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock(start=3.3)
        self.heard: list[tuple[str | None, int]] = []
        self.file = LogFile(path, self.clock, self._hear)

    def _hear(self, error: OSError | None, lost: int) -> None:
        self.heard.append((error.strerror if error else None, lost))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mail.log"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    made = Log(path)
    yield made
    made.file.close()


def test_lines_are_appended_to_what_is_there(path: Path) -> None:
    path.write_text("old\n")
    log = Log(path)
    log.file.write("a\nb\n")
    log.file.close()
    assert path.read_text() == "old\na\nb\n"


def test_others_may_not_read_a_new_log(path: Path, log: Log) -> None:
    assert path.stat().st_mode & 0o007 == 0


def test_a_renamed_file_is_left_within_a_second_of_the_clock(path: Path, log: Log) -> None:
    rotated = path.with_suffix(".1")
    log.file.write("a\n")
    path.rename(rotated)
    path.write_text("")
    log.clock.advance(0.999)
    log.file.write("b\n")
    log.clock.advance(0.001)
    log.file.write("c\n")
    assert (rotated.read_text(), path.read_text()) == ("a\nb\n", "c\n")
    assert log.heard == []


def test_a_removed_file_is_made_anew(path: Path, log: Log) -> None:
    path.unlink()
    log.clock.advance(1)
    log.file.write("b\n")
    assert path.read_text() == "b\n"


def test_a_copied_and_truncated_file_goes_on_from_its_beginning(path: Path, log: Log) -> None:
    log.file.write("a\n" * 1000)
    shutil.copy(path, path.with_suffix(".1"))
    os.truncate(path, 0)
    log.file.write("b\n")
    assert path.read_bytes() == b"b\n"


def test_reopening_follows_the_path_at_once(path: Path, log: Log) -> None:
    path.rename(path.with_suffix(".1"))
    log.file.reopen()
    log.file.write("b\n")
    assert path.read_text() == "b\n"


def test_no_descriptor_is_left_by_reopening(path: Path, log: Log) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        log.file.reopen()
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_no_new_file_can_be_made_the_old_one_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    log = Log(folder / "mail.log")
    moved = folder.rename(tmp_path / "away")
    log.clock.advance(1)
    log.file.write("a\n")
    assert (moved / "mail.log").read_text() == "a\n"
    log.clock.advance(1)
    log.file.write("b\n")
    assert log.heard == [("No such file or directory", 0)]
    folder.mkdir()
    log.clock.advance(1)
    log.file.write("c\n")
    assert (folder / "mail.log").read_text() == "c\n"
    assert log.heard == [("No such file or directory", 0), (None, 0)]
    assert log.file.lost == 0
    log.file.close()


def test_a_file_that_cannot_be_opened_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):
        Log(tmp_path)


@contextmanager
def disk_with_room_for(octets: int) -> Iterator[None]:
    """Files of this process end at ``octets``; a write beyond is cut short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_once_and_what_is_lost_is_counted(path: Path, log: Log) -> None:
    with disk_with_room_for(10):
        log.file.write("12345\n")
        log.file.write("abcdefgh\nsecond\n")  # four octets of it fit
        log.file.write("third\n")
        assert log.heard == [("File too large", 0)]
        assert log.file.lost == 3
    log.file.write("again\n")
    log.file.write("and again\n")
    assert log.heard == [("File too large", 0), (None, 3)]
    assert path.read_text() == "12345\nabcd\nagain\nand again\n"


def test_a_fifo_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="No such device"):
        Log(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = Log(fifo)
    while not log.file.lost:
        log.file.write("x" * 4095 + "\n")
    assert log.heard == [("Resource temporarily unavailable", 0)]
    os.close(reader)
    log.file.close()
