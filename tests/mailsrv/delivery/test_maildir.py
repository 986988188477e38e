"""Delivery into a Maildir: what is stored, and that a failing disk loses nothing it promised."""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsrv.delivery.discard import DiscardCourier
from mailsrv.delivery.maildir import HELD_OCTETS_MAX, MaildirCourier, MaildirSink, SystemFiles
from mailsrv.runtime.clock import FakeClock
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath as MailPath
from mailsrv.smtp.reply import Reply

HEAD_LINES = 5
"""Return-Path and the four lines of Received."""


def envelope(number: int = 1) -> Envelope:
    return Envelope(
        "192.0.2.1",
        "client.example",
        "ESMTP",
        f"ID{number}",
        MailPath("a", "example.org"),
        [MailPath("b", "example.test")],
    )


def courier_in(directory: Path, files: SystemFiles | None = None) -> MaildirCourier:
    clock = FakeClock(start=1_700_000_000.123457)
    return MaildirCourier(directory, "mx.example.test", clock, random.Random(1), files=files)


def finished(sink: MaildirSink) -> Reply:
    replies: list[Reply] = []
    sink.finish(replies.append)
    assert len(replies) == 1
    return replies[0]


def stored(directory: Path) -> list[bytes]:
    """The contents of the messages in ``new/``, less the trace fields."""
    texts = [path.read_bytes() for path in sorted((directory / "new").iterdir())]
    return [text.split(b"\n", HEAD_LINES)[HEAD_LINES] for text in texts]


def left_over(directory: Path) -> list[Path]:
    return list((directory / "tmp").iterdir())


def test_a_message_is_stored_with_its_trace_fields_and_lf_line_ends(tmp_path: Path) -> None:
    sink = courier_in(tmp_path / "mail").begin(envelope())
    sink.write(b"Subject: x\r\n\r\n")
    sink.write(b"text\r\n")
    assert str(finished(sink)) == "250 2.0.0 Ok: queued as ID1"
    [path] = (tmp_path / "mail" / "new").iterdir()
    assert path.read_bytes() == (
        b"Return-Path: <a@example.org>\n"
        b"Received: from client.example ([192.0.2.1])\n"
        b"\tby mx.example.test with ESMTP id ID1\n"
        b"\tfor <b@example.test>;\n"
        b"\tTue, 14 Nov 2023 22:13:20 +0000\n"
        b"Subject: x\n\ntext\n"
    )
    assert path.name.startswith("1700000000.M123457Q1R")
    assert path.name.endswith("IID1.mx.example.test")
    assert not left_over(tmp_path / "mail")


def test_nobody_else_may_read_the_mail(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "mail"
    finished(courier_in(directory).begin(envelope()))
    for part in ("", "tmp", "new", "cur"):
        assert stat.S_IMODE((directory / part).stat().st_mode) == 0o700
    [path] = (directory / "new").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_maildir_is_used_as_it_is(tmp_path: Path) -> None:
    finished(courier_in(tmp_path).begin(envelope()))
    courier_in(tmp_path)
    assert len(stored(tmp_path)) == 1


def test_a_place_that_is_no_directory_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        courier_in(tmp_path / "file" / "mail")


def test_a_message_is_never_replaced_by_another_of_its_name(tmp_path: Path) -> None:
    """Two servers with the same dice and the same clock: the second message is refused."""
    for text, code in ((b"first\r\n", 250), (b"second\r\n", 451)):
        sink = courier_in(tmp_path).begin(envelope())
        sink.write(text)
        assert finished(sink).code == code
    assert stored(tmp_path) == [b"first\n"]
    assert not left_over(tmp_path)


def test_names_hold_no_character_that_means_something_to_a_file_system(tmp_path: Path) -> None:
    courier = MaildirCourier(tmp_path, "../x/y:z", FakeClock(start=3), random.Random(1))
    hostile = envelope()
    hostile.id = "../../a\0b"
    sink = courier.begin(hostile)
    assert finished(sink).code == 250
    [path] = (tmp_path / "new").iterdir()
    assert not set(path.name) & set("/:\0")


def test_what_a_dead_delivery_left_is_taken_away_after_36_hours(tmp_path: Path) -> None:
    courier_in(tmp_path)
    now_s = 1_700_000_000
    for name, age_s in (("old", 36 * 3600 + 2), ("young", 36 * 3600 - 2)):
        left = tmp_path / "tmp" / name
        left.touch()
        os.utime(left, (now_s - age_s, now_s - age_s))
    courier_in(tmp_path)
    assert [path.name for path in left_over(tmp_path)] == ["young"]


def test_an_aborted_message_leaves_nothing(tmp_path: Path) -> None:
    courier = courier_in(tmp_path)
    for octets in (10, 3 * HELD_OCTETS_MAX):
        sink = courier.begin(envelope())
        sink.write(b"x" * octets)
        sink.abort()
        sink.abort()
    assert not left_over(tmp_path)
    assert not stored(tmp_path)


def test_abort_after_finish_is_harmless(tmp_path: Path) -> None:
    sink = courier_in(tmp_path).begin(envelope())
    finished(sink)
    sink.abort()
    assert len(stored(tmp_path)) == 1


# -- one write for small messages, and bounded memory for large ones ------------------------------


class CountingFiles(SystemFiles):
    """Notes what is called, and takes short writes."""

    def __init__(self, octets_a_write: int = 10**9) -> None:
        self.calls: list[str] = []
        self.octets_a_write = octets_a_write

    def write(self, descriptor: int, octets: bytes | memoryview) -> int:  # type: ignore[override]
        self.calls.append(f"write {len(octets)}")
        return os.write(descriptor, octets[: self.octets_a_write])

    def create(self, path: Path) -> int:
        self.calls.append("create")
        return super().create(path)


def test_a_small_message_costs_one_write(tmp_path: Path) -> None:
    files = CountingFiles()
    sink = courier_in(tmp_path, files).begin(envelope())
    for _ in range(100):
        sink.write(b"a line\r\n")
    assert files.calls == []
    finished(sink)
    assert [call.split()[0] for call in files.calls] == ["create", "write"]


def test_a_large_message_is_not_held_in_memory(tmp_path: Path) -> None:
    files = CountingFiles()
    sink = courier_in(tmp_path, files).begin(envelope())
    for _ in range(64):
        sink.write(b"x" * 16_384)
    assert sum(int(call.split()[1]) for call in files.calls[1:]) >= 64 * 16_384 - HELD_OCTETS_MAX
    finished(sink)
    assert stored(tmp_path) == [b"x" * 64 * 16_384]


def test_a_disk_that_takes_little_at_a_time_gets_everything(tmp_path: Path) -> None:
    sink = courier_in(tmp_path, CountingFiles(octets_a_write=7)).begin(envelope())
    sink.write(b"0123456789\r\n" * 50)
    assert finished(sink).code == 250
    assert stored(tmp_path) == [b"0123456789\n" * 50]


def test_a_line_end_split_where_the_memory_is_full_is_still_one(tmp_path: Path) -> None:
    sink = courier_in(tmp_path).begin(envelope())
    sink.write(b"x" * HELD_OCTETS_MAX + b"\r")
    sink.write(b"\n")
    finished(sink)
    assert stored(tmp_path) == [b"x" * HELD_OCTETS_MAX + b"\n"]


numbers = itertools.count()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a\r", b"\nb", b"x" * HELD_OCTETS_MAX])),
)
def test_chunk_boundaries_never_show_in_the_line_ends(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    directory = tmp_path_factory.getbasetemp() / f"chunks-{next(numbers)}"
    sink = courier_in(directory).begin(envelope())
    for chunk in chunks:
        sink.write(chunk)
    finished(sink)
    assert stored(directory) == [b"".join(chunks).replace(b"\r\n", b"\n")]


# -- every call fails in turn ---------------------------------------------------------------------


class FailingFiles(SystemFiles):
    """Fails its ``nth`` call (from 0) with ``code``, and all later ones too if ``lasting``."""

    def __init__(self, nth: int, code: int, lasting: bool) -> None:
        self.armed = False
        self.left = nth
        self.code = code
        self.lasting = lasting
        self.failed: list[str] = []

    def step(self, name: str) -> None:
        if self.armed:
            self.left -= 1
            if self.left == -1 or (self.lasting and self.left < -1):
                self.failed.append(name)
                raise OSError(self.code, os.strerror(self.code))

    def create(self, path: Path) -> int:
        self.step("create")
        return super().create(path)

    def write(self, descriptor: int, octets: bytes | memoryview) -> int:  # type: ignore[override]
        self.step("write")
        return os.write(descriptor, octets)

    def sync(self, descriptor: int) -> None:  # type: ignore[override]
        self.step("sync")

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.step("close")

    def link(self, existing: Path, new: Path) -> None:  # type: ignore[override]
        self.step("link")
        os.link(existing, new)

    def remove(self, path: Path) -> None:  # type: ignore[override]
        self.step("remove")
        os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory")


LARGE = [b"x" * HELD_OCTETS_MAX] * 3
CALLS_OF_A_LARGE_MESSAGE = 10
"""create, 4 writes, sync, close, link, sync_directory, remove."""


def descriptors() -> Iterator[str]:
    return (name for name in os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("nth", range(CALLS_OF_A_LARGE_MESSAGE))
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "452 4.3.1"),
        (errno.EDQUOT, "452 4.3.1"),
        (errno.EIO, "451 4.3.0"),
        (errno.EROFS, "451 4.3.0"),
    ],
)
def test_whatever_fails_nothing_acknowledged_is_missing_and_nothing_else_is_promised(
    tmp_path: Path, code: int, said: str, nth: int, lasting: bool
) -> None:
    files = FailingFiles(nth, code, lasting)
    courier = courier_in(tmp_path, files)
    first = courier.begin(envelope(1))
    first.write(b"first\r\n")
    assert finished(first).code == 250
    open_before = len(list(descriptors()))
    failures: list[OSError] = []
    courier.on_failure = failures.append
    files.armed = True
    second = courier.begin(envelope(2))
    for chunk in [*LARGE, b"end\r\n"]:
        second.write(chunk)
    answer = finished(second)
    second.abort()
    files.armed = False
    assert files.failed, "the failure was not reached: the test is out of date"
    if files.failed[0] == "remove":  # the message is safe already; only tmp/ is untidy
        assert answer.code == 250
        assert sorted(stored(tmp_path)) == [b"first\n", b"".join(LARGE) + b"end\n"]
        assert not failures
    else:
        assert str(answer).startswith(said)
        assert [failure.errno for failure in failures] == [code]
        if "remove" not in files.failed:
            assert stored(tmp_path) == [b"first\n"]
            assert not left_over(tmp_path)
    assert len(list(descriptors())) == open_before
    third = courier.begin(envelope(3))
    assert finished(third).code == 250, "the next message must not suffer"


def test_a_failing_disk_is_not_written_to_again_for_the_same_message(tmp_path: Path) -> None:
    files = FailingFiles(0, errno.ENOSPC, lasting=False)
    sink = courier_in(tmp_path, files).begin(envelope())
    files.armed = True
    for chunk in LARGE:
        sink.write(chunk)
    assert finished(sink).code == 452
    assert files.failed == ["create"]
    assert not stored(tmp_path)


def test_a_maildir_that_was_taken_away_is_a_temporary_failure(tmp_path: Path) -> None:
    courier = courier_in(tmp_path / "mail")
    (tmp_path / "mail" / "tmp").rmdir()
    assert finished(courier.begin(envelope())).code == 451


def test_discarded_mail_is_counted_and_answered_at_once() -> None:
    courier = DiscardCourier()
    replies: list[Reply] = []
    for _ in range(2):
        sink = courier.begin(envelope())
        sink.write(b"12345")
        sink.finish(replies.append)
    courier.begin(envelope()).abort()
    assert [said.code for said in replies] == [250, 250]
    assert (courier.messages, courier.octets) == (2, 10)
