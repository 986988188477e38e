"""Captures kept within bounds: so many, so many that went badly, so much room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailsrv.runtime.clock import FakeClock
from replay.record.capture_ring import CaptureRing, RingLimits, mark_plaintext
from replay.record.recorder import CaptureRecorder

EMPTY_OCTETS = 24
BEGIN_S = 1_700_000_000

Record = Callable[..., CaptureRecorder]


class Shop:
    """Puts captures of given sizes on a ring, a second apart."""

    def __init__(self, folder: Path, keep: int = 3, keep_bad: int = 2, room: int = 10_000) -> None:
        self.folder = folder
        self.clock = FakeClock(BEGIN_S)
        self.ring = CaptureRing(RingLimits(folder, keep, keep_bad, room))
        self.number = 0

    def begin(self, client: str = "192.0.2.10") -> CaptureRecorder:
        self.number += 1
        self.clock.advance(1)
        path = self.ring.new_path(self.clock.realtime_ns(), client, self.number)
        recorder = CaptureRecorder(path, self.clock, self.ring.session_octets_max, stays_open=False)
        self.ring.add(recorder)
        return recorder

    def record(self, octets: int = 100, *, bad: bool = False) -> CaptureRecorder:
        recorder = self.begin()
        recorder.put([bytes(octets - EMPTY_OCTETS - 16)])
        self.ring.close(recorder, is_bad=bad)
        return recorder

    @property
    def numbers(self) -> list[str]:
        """What is there, oldest first: number and marks."""
        names = sorted(path.name for path in self.folder.iterdir())
        return [name.partition("Z-")[2].partition("-0")[2].removesuffix(".pcap") for name in names]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "d")


def test_names_tell_time_client_and_number(shop: Shop) -> None:
    shop.record()
    assert [path.name for path in shop.folder.iterdir()] == [
        "20231114T221321.000000Z-192.0.2.10-000001.pcap"
    ]


@pytest.mark.parametrize("client", ["2001:db8::1%eth0", "../../etc/passwd", "a/b\n\x1b[1m", ""])
def test_names_are_safe_whoever_comes(shop: Shop, client: str) -> None:
    path = shop.begin(client).file.path
    assert path.parent == shop.folder
    assert path.name.isprintable()
    assert not set(path.name) & set("/: %")
    assert path.exists()


def test_the_last_ones_are_kept_and_the_last_bad_ones_beside_them(shop: Shop) -> None:
    for number in range(10):
        shop.record(bad=number in (0, 2, 4))
    assert shop.numbers == ["00003.bad", "00005.bad", "00008", "00009", "00010"]


def test_the_oldest_makes_room_whatever_it_is(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "d", keep=100, keep_bad=100, room=1000)
    for number in range(12):
        shop.record(200, bad=number == 8)
    assert shop.numbers == ["00008", "00009.bad", "00010", "00011", "00012"]
    assert shop.ring.octets == 1000


def test_what_is_being_recorded_counts_and_is_not_removed(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "d", room=1000)
    recorder = shop.begin()
    for _ in range(3):
        shop.record(250)
    recorder.put([bytes(210)])
    assert shop.ring.grown(recorder)
    assert shop.ring.octets == 1000
    shop.record(100)
    assert shop.numbers == ["00001", "00003", "00004", "00005"]
    assert not recorder.file.write(0, bytes(1)), "nobody may have more than a quarter of the room"


def test_what_an_earlier_run_left_counts_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "d")
    for _ in range(3):
        shop.record()
    shop.record(bad=True)
    (shop.folder / "notes.txt").write_text("mine")
    (shop.folder / "20231114T221321.pcap").write_text("mine")
    again = Shop(tmp_path / "d", keep=1)
    assert again.ring.octets == 200
    names = sorted(path.name for path in again.folder.iterdir())
    assert names[0] == "20231114T221321.pcap"
    assert names[-1] == "notes.txt"
    assert len(names) == 4


def test_a_smaller_bound_than_before_makes_room_at_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "d")
    for _ in range(3):
        shop.record()
    assert Shop(tmp_path / "d", room=250).ring.octets == 200
    assert shop.numbers == ["00002", "00003"]


def test_a_plaintext_capture_is_marked_once_and_goes_on(shop: Shop) -> None:
    recorder = shop.begin()
    mark_plaintext(recorder)
    mark_plaintext(recorder)
    recorder.put([b"after"])
    shop.ring.close(recorder, is_bad=True)
    assert shop.numbers == ["00001.bad.plaintext"]
    assert recorder.file.path.read_bytes().endswith(b"after")


def test_a_capture_that_somebody_removed_is_no_trouble(shop: Shop) -> None:
    for _ in range(3):
        shop.record().file.path.unlink()
    shop.record()
    assert shop.numbers == ["00004"]
