"""The recipient table's file: what it may hold, and that complaints name file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy.recipients import table_key
from mailsrv.stores import recipient_file
from mailsrv.stores.recipient_file import RecipientFileError, load_table, reading


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipients"


def complaints(file: Path) -> list[str]:
    with pytest.raises(RecipientFileError) as caught:
        load_table(file)
    return [complaint.removeprefix(f"{file}") for complaint in caught.value.complaints]


def test_addresses_domains_users_comments_and_blank_lines_are_read(file: Path) -> None:
    file.write_text(
        "\ufeff# who exists\n"
        "\n"
        "Ann@Example.Test\n"
        "  bob@example.test\t# on leave\r\n"
        "ann@example.test\n"
        "a#b@example.test\n"
        "@b\u00fccher.example # everybody\n"
        "   # nothing\n"
        '"john doe"\n'
        "carol",
        "utf-8",
    )
    assert load_table(file) == {
        "ann@example.test",
        "bob@example.test",
        "a#b@example.test",
        "@xn--bcher-kva.example",
        "john doe",
        "carol",
    }


def test_an_empty_table_is_one(file: Path) -> None:
    file.write_bytes(b"")
    assert load_table(file) == frozenset()


def test_each_wrong_line_is_named(file: Path) -> None:
    file.write_bytes(b"a@b\na b\n\xff\n@\nann@example.test OK\n")
    takes = "takes user@domain, @domain or user"
    assert complaints(file) == [
        f":2: 'a b': {takes}",
        ":3: is not UTF-8",
        f":4: '@': {takes}",
        f":5: 'ann@example.test OK': {takes}",
    ]


def test_a_complaint_holds_no_control_character_and_is_short(file: Path) -> None:
    file.write_bytes(b"\x1b[2J\x00\n" + b"x" * 900 + b"@@\n")
    first, second = complaints(file)
    assert first.isprintable()
    assert len(second) < 200


def test_a_file_that_is_no_table_gets_a_few_complaints_only(file: Path) -> None:
    file.write_bytes(b"! !\n" * 1000)
    assert len(complaints(file)) == recipient_file.COMPLAINTS_MAX


def test_a_file_that_cannot_be_read_is_named(file: Path, tmp_path: Path) -> None:
    assert complaints(file) == [": cannot be read: No such file or directory"]
    assert complaints(tmp_path) == [": cannot be read: Is a directory"]


def test_a_fifo_is_refused_and_not_waited_for(file: Path) -> None:
    os.mkfifo(file)
    assert complaints(file) == [": is a FIFO; takes a file"]


def test_a_line_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(RecipientFileError, match="/dev/zero:1: a line of more than 1024 octets"):
        load_table(Path("/dev/zero"))


def test_the_length_of_a_line_is_bounded_wherever_it_lies(file: Path) -> None:
    file.write_bytes(b"a@b\n" + b"a@b #" + b"x" * 2000 + b"\nc@d\n")
    assert complaints(file) == [":2: a line of more than 1024 octets"]


def test_blocks_do_not_cut_addresses(file: Path) -> None:
    wanted = {f"user{number}@example.test" for number in range(30_000)}
    lines = sorted(wanted)
    lines[17_000] += " # a block with a comment is read line by line"
    file.write_text("\n".join(lines))
    assert file.stat().st_size > 4 * recipient_file.BLOCK_OCTETS
    assert load_table(file) == wanted


def test_reading_gives_the_reins_back_between_blocks(file: Path) -> None:
    file.write_text("".join(f"user{number}@example.test\n" for number in range(30_000)))
    steps = list(reading(file))
    assert len(steps) >= file.stat().st_size // recipient_file.BLOCK_OCTETS


def test_a_wrong_line_far_down_has_the_right_number(file: Path) -> None:
    lines = [f"user{number}@example.test" for number in range(30_000)]
    lines[20_000] = "b c"
    file.write_text("\n".join(lines))
    (complaint,) = complaints(file)
    assert complaint.startswith(":20001: 'b c'")


@given(st.text(st.sampled_from("ab.-@#! \"'\u00e4_%+,")))
def test_the_quick_way_and_the_long_way_agree(line: str) -> None:
    octets = line.encode() + b"\n"
    if recipient_file._ORDINARY.fullmatch(octets):
        assert table_key(line) == line
