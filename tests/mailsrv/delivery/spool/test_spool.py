"""The spool: group commit, contents small and large, bounds, and one owner."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from spooling import ROOMY, Syncs, begun, codes, descriptors, kept, left_over, received, spool_in

from mailsrv.delivery.files import SystemFiles
from mailsrv.delivery.spool.disk_room import Limits
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.delivery.spool.sink import ROW_OCTETS_MAX
from mailsrv.delivery.spool.spool import (
    COMMIT_FILES_MAX,
    COMMIT_MESSAGES_MAX,
    COMMIT_WITHIN_NS,
    FORGET_WITHIN_NS,
)
from mailsrv.delivery.spool.stored_envelope import from_json
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.loop import Loop
from mailsrv.smtp.reply import Reply
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play.mailsrv_harness import VirtualPoll

LARGE = [b"x" * ROW_OCTETS_MAX, b"y" * ROW_OCTETS_MAX, b"end\r\n"]


class Run:
    """A spool on a loop in virtual time."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.clock = FakeClock(1_000_003)
        self.loop = Loop(self.clock, VirtualPoll(), self._on_fault)
        self.spool = spool_in(folder, self.clock, **more)
        self.spool.attach(self.loop)

    def _on_fault(self, _: object, fault: Exception) -> None:
        raise fault

    def end_pass(self, after_ns: int = 0) -> None:
        """A pass that ends ``after_ns`` later."""
        self.clock.advance(after_ns / NS_PER_S)
        self.loop.dispatch(self.loop.now_ns)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "spool")


# -- group commit ---------------------------------------------------------------------------------


def test_a_message_is_answered_at_the_end_of_the_pass_and_is_stored_then(run: Run) -> None:
    replies = received(run.spool, 1, b"Subject: x\r\n\r\n", b"text\r\n")
    assert replies == []
    run.end_pass()
    assert [str(one) for one in replies] == ["250 2.0.0 Ok: queued as ID1"]
    assert kept(run.spool) == {"ID1": b"Subject: x\r\n\r\ntext\r\n"}


def test_messages_wait_for_contents_that_are_being_received_but_2_ms_at_most(run: Run) -> None:
    slow = begun(run.spool, 1, b"Subject: slow\r\n")
    replies = received(run.spool, 2, b"x\r\n")
    run.end_pass(COMMIT_WITHIN_NS - NS_PER_MS)
    assert replies == []
    assert run.loop.timers.next_wake_ns is not None, "nothing would end the wait"
    run.end_pass(NS_PER_MS)
    assert [one.code for one in replies] == [250]
    slow.abort()
    assert list(kept(run.spool)) == ["ID2"]


def test_the_end_of_the_last_open_content_ends_the_wait(run: Run) -> None:
    slow = begun(run.spool, 1, b"x")
    replies = [received(run.spool, 2), received(run.spool, 3)]
    run.end_pass()
    assert codes(replies) == [[], []]
    slow.abort()
    run.end_pass()
    assert codes(replies) == [[250], [250]]


def test_messages_that_end_within_an_answer_are_stored_in_the_next_pass(run: Run) -> None:
    more: list[list[Reply]] = []
    sink = begun(run.spool, 1)
    sink.finish(lambda _: more.append(received(run.spool, 2, b"pipelined")))
    run.end_pass()
    assert codes(more) == [[]]
    wake_ns = run.loop.timers.next_wake_ns
    assert wake_ns is not None and wake_ns <= run.loop.now_ns + NS_PER_MS
    run.end_pass()
    assert codes(more) == [[250]]


def test_a_transaction_takes_so_many_messages_and_files_and_the_rest_follows(run: Run) -> None:
    many = [received(run.spool, n, b"x") for n in range(COMMIT_MESSAGES_MAX + 1)]
    run.end_pass()
    assert [len(one) for one in many].count(1) == COMMIT_MESSAGES_MAX
    run.end_pass()
    assert codes(many) == [[250]] * len(many)
    large = [received(run.spool, 1000 + n, *LARGE) for n in range(COMMIT_FILES_MAX + 1)]
    run.end_pass()
    assert codes(large) == [[250]] * COMMIT_FILES_MAX + [[]]
    run.end_pass()
    assert codes(large) == [[250]] * len(large)


def test_an_answer_that_fails_keeps_no_other_from_its_own(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)

    def broken(_: Reply) -> None:
        raise RuntimeError("a defect")

    begun(spool, 1).finish(broken)
    replies = received(spool, 2)
    with pytest.raises(ExceptionGroup):
        spool.commit()
    assert codes([replies]) == [[250]]
    assert list(kept(spool)) == ["ID1", "ID2"]


# -- contents -------------------------------------------------------------------------------------


def test_a_large_content_is_streamed_into_a_file_and_nobody_else_may_read_it(
    tmp_path: Path,
) -> None:
    spool = spool_in(tmp_path / "spool")
    sink = begun(spool, 1, *LARGE)
    [path] = (tmp_path / "spool" / "content").iterdir()
    assert path.stat().st_size >= 2 * ROW_OCTETS_MAX - ROW_OCTETS_MAX
    replies: list[Reply] = []
    sink.finish(replies.append)
    spool.commit()
    assert codes([replies]) == [[250]]
    assert kept(spool) == {"ID1": b"".join(LARGE)}
    for name in ("", "content"):
        assert stat.S_IMODE((tmp_path / "spool" / name).stat().st_mode) == 0o700
    for name in ("content/ID1", "spool.db", "spool.db-wal", "lock"):
        assert stat.S_IMODE((tmp_path / "spool" / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("octets", [0, 1, ROW_OCTETS_MAX, ROW_OCTETS_MAX + 1, 10**6])
def test_contents_of_all_sizes_come_back_whatever_their_pieces(tmp_path: Path, octets: int) -> None:
    dice = random.Random(octets)
    content = dice.randbytes(octets)
    spool = spool_in(tmp_path)
    sink = spool.begin(from_pieces := begun(spool, 1).envelope)
    place = 0
    while place < octets:
        size = dice.randint(1, 3 * ROW_OCTETS_MAX)
        sink.write(content[place : place + size])
        place += size
    sink.finish(lambda _: None)
    spool.commit()
    assert kept(spool) == {from_pieces.id: content}
    assert ((tmp_path / "content" / "ID1").exists()) == (octets > ROW_OCTETS_MAX)


def test_content_on_its_way_takes_no_descriptor_and_while_memory_is_scarce_none_of_it(
    tmp_path: Path,
) -> None:
    memory = CountedMemory()
    spool = spool_in(tmp_path, memory=memory)
    before = descriptors(tmp_path)
    sinks = [begun(spool, n, *(LARGE if n % 2 else [b"small"])) for n in range(4)]
    assert descriptors(tmp_path) == before
    assert memory.held_octets == 2 * (len(LARGE[2]) + len(b"small"))
    memory.scarce = True
    for sink in sinks:
        sink.write(b"more")
    assert memory.held_octets == 0
    for sink in sinks[:3]:
        sink.finish(lambda _: None)
    sinks[3].abort()
    spool.commit()
    assert kept(spool) == {
        "ID0": b"smallmore",
        "ID1": b"".join(LARGE) + b"more",
        "ID2": b"smallmore",
    }
    assert memory.held_octets == 0


class CountedMemory:
    """Memory that is scarce when told so."""

    def __init__(self) -> None:
        self.scarce = False
        self.held_octets = 0

    def hold(self, octets: int) -> None:
        self.held_octets += octets


def test_the_envelope_the_time_and_our_name_are_kept(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, FakeClock(1_700_000_000.5))
    sink = begun(spool, 1, b"12345")
    sink.finish(lambda _: None)
    spool.commit()
    [message] = spool.after(0, 10)
    assert from_json(message.envelope) == sink.envelope
    assert message[:5] == (1, "ID1", 1_700_000_000_500_000_000, "mx.example.test", 5)


def test_an_aborted_message_leaves_nothing(tmp_path: Path) -> None:
    before = descriptors(tmp_path)
    spool = spool_in(tmp_path)
    for chunks in ([b"small"], LARGE):
        sink = begun(spool, 1, *chunks)
        sink.abort()
        sink.abort()
    assert (spool.open_contents, spool.open_octets) == (0, 0)
    assert left_over(spool) == []
    spool.close()
    assert descriptors(tmp_path) == before


def test_what_was_delivered_is_forgotten_with_the_next_message_or_soon(run: Run) -> None:
    for chunks in ([b"small"], LARGE):
        received(run.spool, len(chunks), *chunks)
        run.end_pass()
    small, large = run.spool.after(0, 10)
    assert (run.spool.messages, run.spool.octets) == (2, 5 + 2 * ROW_OCTETS_MAX + 5)
    run.spool.forget(small)
    assert run.spool.messages == 1
    received(run.spool, 9)
    run.end_pass()
    assert list(kept(run.spool)) == ["ID3", "ID9"]
    run.spool.forget(large)
    wake_ns = run.loop.timers.next_wake_ns
    assert wake_ns is not None and wake_ns - run.loop.now_ns <= FORGET_WITHIN_NS + NS_PER_MS
    run.end_pass(FORGET_WITHIN_NS)
    assert list(kept(run.spool)) == ["ID9"]
    assert left_over(run.spool) == []


# -- bounds ---------------------------------------------------------------------------------------


class NearlyFull(SystemFiles):
    """A disk with ``free`` octets."""

    def __init__(self) -> None:
        self.free = 1000

    def free_octets(self, path: Path) -> int:
        return self.free


@pytest.mark.parametrize("chunks", [[b"x" * 600], LARGE])
def test_a_spool_that_is_full_defers_mail_until_there_is_room(
    tmp_path: Path, chunks: list[bytes]
) -> None:
    octets = sum(map(len, chunks))
    spool = spool_in(tmp_path, limits=Limits(used_max_octets=octets + 10, free_min_octets=0))
    replies = [received(spool, 1, *chunks), received(spool, 2, *chunks)]
    spool.commit()
    assert codes(replies) == [[250], [452]]
    assert left_over(spool) == []
    spool.forget(spool.after(0, 1)[0])
    spool.commit()
    replies = [received(spool, 3, *chunks)]
    spool.commit()
    assert codes(replies) == [[250]]


def test_the_last_of_the_disk_is_left_free(tmp_path: Path) -> None:
    clock, files = FakeClock(1), NearlyFull()
    spool = spool_in(tmp_path, clock, files=files, limits=ROOMY._replace(free_min_octets=900))
    replies = [received(spool, 1, b"x" * 100), received(spool, 2, b"x")]
    files.free = 2000
    clock.advance(1)
    replies.append(received(spool, 3, b"x"))
    spool.commit()
    assert codes(replies) == [[250], [452], [250]]
    assert str(replies[1][0]).startswith("452 4.3.1 ")


# -- one owner ------------------------------------------------------------------------------------


def test_a_spool_has_one_owner_until_it_is_closed(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    with pytest.raises(SpoolError, match=f"{tmp_path}: is in use by another server"):
        spool_in(tmp_path)
    received(spool, 1, b"x")
    spool.close()
    again = spool_in(tmp_path)
    assert kept(again) == {"ID1": b"x"}
    assert (again.messages, again.octets) == (1, 1)


def test_large_contents_of_no_message_are_swept_at_the_start(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    received(spool, 1, *LARGE)
    received(spool, 2, b"small")
    spool.close()
    for name in ("ID2", "ID3", os.fsdecode(b"\xff")):
        (tmp_path / "content" / name).write_bytes(b"of a message that was never acknowledged")
    again = spool_in(tmp_path)
    assert left_over(again) == []
    assert kept(again) == {"ID1": b"".join(LARGE), "ID2": b"small"}


def test_the_names_of_all_folders_that_were_made_are_synced(tmp_path: Path) -> None:
    synced = Syncs()
    spool_in(tmp_path / "a" / "b", files=synced).close()
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(synced.folders)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: folder.write_text(""),
        lambda folder: (folder.mkdir(), (folder / "content").write_text("")),
        lambda folder: (folder.mkdir(), (folder / "spool.db").mkdir()),
    ],
)
def test_a_place_that_cannot_be_a_spool_is_told_in_a_sentence(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    before = descriptors(tmp_path)
    spoil(tmp_path / "spool")
    with pytest.raises(SpoolError, match=f"^{tmp_path}/spool.*: .*(directory|exists)"):
        spool_in(tmp_path / "spool")
    assert descriptors(tmp_path) == before


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("fields", "more", "code"),
    [
        (100, b"", 250),
        (101, b"", 554),
        (100, b"X-Received: x\r\nX: received: y\r\n", 250),
        (100, b"Received: from a\r\n\tby b\r\n", 554),
        (100, b"\r\nReceived: in the body\r\n", 250),
    ],
)
def test_a_message_that_went_round_in_a_circle_is_refused(
    tmp_path: Path, large: bool, fields: int, more: bytes, code: int
) -> None:
    spool = spool_in(tmp_path)
    header = b"Received: from x by y; now\r\n" * fields + more
    rest = b"\r\n" + b"x" * 2 * ROW_OCTETS_MAX * large
    replies = received(spool, 1, header, rest)
    spool.commit()
    assert codes([replies]) == [[code]]
    if code == 554:
        assert str(replies[0]).startswith("554 5.4.6 ")
        assert kept(spool) == {} and left_over(spool) == []
    spool.close()


def test_the_folder_of_another_program_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "spool.db") as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("PRAGMA application_id = 7")
    other.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SpoolError, match="is another program's database"):
        spool_in(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
