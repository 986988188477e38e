"""A power cut at any point leaves every message that was acknowledged, in the spool or delivered.

The record is of a program that stores small and large messages, one by one and together, and
delivers some of them; ``python tests/mailsrv/delivery/test_power_cut.py`` tries all its points.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from powercut import Disk, Operation, Recording, cut, record, recording, without
from queueing import Deliverer
from spooling import spool_in

from mailsrv.runtime.clock import FakeClock

MESSAGES = 60
START_S = 1_700_000_000

_PROGRAM = """
import os, sys
from pathlib import Path
from queueing import Deliverer
from spooling import begun, spool_in
from test_power_cut import MESSAGES, START_S, content
from mailsrv.runtime.clock import FakeClock

root, clock = Path(sys.argv[1]), FakeClock(START_S)
spool = spool_in(root / "spool", clock)
deliverer = Deliverer(spool, root / "mail", clock, lambda event, **values: None)
for number in range(MESSAGES):
    sink = begun(spool, number, content(f"ID{number}"))
    sink.finish(lambda said, number=number: os.write(1, f"{said.code} ID{number}".encode()))
    if number % 3 != 1:
        spool.commit()
    if number % 6 == 5:
        deliverer.deliver(at_most=3)
spool.commit()
deliverer.deliver()
spool.close()
"""


def content(id_: str) -> bytes:
    """Small, of a row's size, or in a file."""
    dice = random.Random(id_)
    return dice.randbytes(dice.choice((300, 5_000, 40_000, 90_000, 150_000))) + b"end"


def start(folder: Path, promised: list[str]) -> str:
    """Start on ``folder``, deliver everything, and look for what was promised."""
    clock = FakeClock(START_S)
    notes: list[str] = []
    try:
        spool = spool_in(folder / "spool", clock)
        Deliverer(
            spool, folder / "mail", clock, lambda event, **values: notes.append(event)
        ).deliver()
    except Exception as error:  # whatever it is, it is wrong
        return f"no start: {error}"
    spool.close()
    found: dict[str, list[bytes]] = {}
    for path in (folder / "mail" / "new").iterdir():
        id_ = path.name.partition("I")[2].partition(".")[0]
        found.setdefault(id_, []).append(path.read_bytes())
    for id_ in promised:
        if len(found.get(id_, [])) != 1:
            return f"{id_} is there {len(found.get(id_, []))} times; {set(notes)}"
    for id_, (octets,) in found.items():
        if not octets.endswith(content(id_).replace(b"\r\n", b"\n")):
            return f"{id_} is not whole"
    return ""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(_PROGRAM, tmp_path_factory.mktemp("power"), __file__)


def test_nothing_acknowledged_is_lost(recorded: Recording) -> None:
    root, operations = recorded
    starts, wrong = cut(operations, root, start, every=61)
    assert starts > 100
    assert wrong == []


@pytest.mark.parametrize("seed", range(12))
def test_a_database_of_whose_first_page_some_sectors_are_missing_is_made_anew(
    recorded: Recording, tmp_path: Path, seed: int
) -> None:
    root, operations = recorded
    disk = Disk(root)
    for one in operations:
        disk.carry_out(one)
        if one.call == "pwrite64" and one.offset == 0 and len(one.data) == 4096:
            break
    disk.leave(tmp_path / "disk", "sectors", random.Random(seed))
    assert start(tmp_path / "disk", []) == ""


_START = """
import sys
from pathlib import Path
from test_power_cut import start
assert start(Path(sys.argv[1]), []) == ""
"""


@pytest.mark.parametrize("messages", [10, 45])
def test_a_second_cut_during_the_start_after_the_first_loses_nothing_either(
    recorded: Recording, tmp_path: Path, messages: int
) -> None:
    root, operations = recorded
    disk, promised = Disk(root), list[str]()
    for one in operations:
        if one.call == "write" and one.data.startswith(b"250 "):
            promised.append(one.data.decode().split()[1])
        disk.carry_out(one)
        if len(promised) == messages:
            break
    again, initial = tmp_path / "again", tmp_path / "initial"
    for place in (again, initial):
        disk.leave(place, "blocks", random.Random(messages))
    second = record(_START, tmp_path, again, __file__)
    starts, wrong = cut(second, again, start, initial=initial, promised=promised, every=11)
    assert starts > 30
    assert wrong == []


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("fdatasync", "spool.db-wal"),  # as under synchronous = NORMAL
        ("fsync", "/spool/content"),
        ("fsync", "/mail/new"),
        ("fsync", "mx.example.test"),
    ],
)
def test_a_sync_that_is_forgotten_is_found(recorded: Recording, call: str, path: str) -> None:
    root, operations = recorded
    breached = without(operations, call, path)
    assert len(breached) < len(operations)
    _, wrong = cut(breached, root, start, every=5, until_wrong=True)
    assert wrong


def test_a_file_that_is_not_synced_is_found(recorded: Recording) -> None:
    root, operations = recorded
    contents = {
        one.descriptor for one in operations if one.call == "openat" and "/content/ID" in one.path
    }
    assert contents
    breached = list(operations)
    for id_ in {one.path for one in operations if "/content/ID" in one.path}:
        breached = without(breached, "fsync", id_[id_.index("/content/") :])
    _, wrong = cut(breached, root, start, every=5, until_wrong=True)
    assert wrong


def test_a_reply_before_the_commit_is_found(recorded: Recording) -> None:
    root, operations = recorded
    early: list[Operation] = []
    for one in operations:
        early.append(one)
        if one.call == "write" and one.data.startswith(b"250 "):
            early.insert(max(len(early) - 12, 0), early.pop())
    _, wrong = cut(early, root, start, until_wrong=True)
    assert wrong


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        made_root, made_operations = recording(_PROGRAM, Path(made), __file__)
        made_starts, found_wrong = cut(made_operations, made_root, start)
    print(*found_wrong[:20], sep="\n")
    print(f"{len(made_operations)} operations, {made_starts} starts, {len(found_wrong)} wrong")
