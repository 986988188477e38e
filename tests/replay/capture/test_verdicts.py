"""What is said of every public capture and of every staged fault, line by line.

Each line of the table was confirmed: by tshark in the tests below, or by hand where the last column
says how.
"""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest
import tshark

from replay.capture.reader import Capture, read_capture
from replay.report.capture import sender_summary

TABLE = Path(__file__).parents[1] / "data" / "verdicts.tsv"
FOLDERS = [Path(os.environ[one]) for one in ("SMTP_CASES", "SMTP_CORPUS") if os.environ.get(one)]

LOST = ("previous segment", "ACKed segment")
REPEATED = ("retransmission", "out-of-order", "Duplicate", "keep-alive")
"""Of tshark's words on packets."""


def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def path_of(row: dict[str, str]) -> Path:
    for folder in FOLDERS:
        if (path := folder / row["file"]).exists():
            return path
    pytest.skip("neither SMTP_CASES nor SMTP_CORPUS names its folder")


def kinds(capture: Capture) -> set[str]:
    odd = [*capture.oddities, *(o for one in capture.conversations for o in one.oddities)]
    return {oddity.kind for oddity in odd}


def experts(path: Path) -> set[str]:
    """Which of its words tshark has for the packets of a capture."""
    assert tshark.PROGRAM
    command = [tshark.PROGRAM, "-n", "-r", str(path), "-Y", "tcp", "-T", "fields"]
    command += ["-e", "_ws.expert.message"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.lower()
    return {word for word in LOST + REPEATED if word.lower() in said}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_what_is_said_of_a_capture_is_what_the_table_says(row: dict[str, str]) -> None:
    capture = read_capture(path_of(row))
    found = capture.conversations
    first = sender_summary(found[0]).commands if found else ""
    assert {
        "sessions": str(len(found)),
        "commands of the first": first,
        "followed up to": ", ".join(sorted({one.cut_short for one in found} - {""})) or "the end",
        "odd": " ".join(sorted(kinds(capture))),
        "left out": "; ".join(sorted({left.reason for left in capture.left_out})),
    } == {key: value for key, value in row.items() if key not in ("file", "by hand")}


@pytest.mark.skipif(not tshark.PROGRAM, reason="tshark is not installed")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_tshark_agrees_on_what_is_lost_and_what_comes_twice(row: dict[str, str]) -> None:
    said, odd = experts(path_of(row)), set(row["odd"].split())
    if row["by hand"]:
        return  # tshark has no word for it
    assert bool(said & set(LOST)) == bool(odd & {"gap"}) or "overlap-conflict" in odd
    if odd & {"retransmission", "out-of-order"}:
        assert said & set(REPEATED + LOST)
    if said & {"retransmission"}:
        assert (
            odd & {"retransmission", "out-of-order", "overlap-conflict", "late"} or row["left out"]
        )


@pytest.mark.skipif(not FOLDERS, reason="neither SMTP_CASES nor SMTP_CORPUS is set")
def test_no_capture_is_missing_from_the_table() -> None:
    known = {row["file"] for row in rows()}
    there = {one.name for folder in FOLDERS for one in folder.glob("*.pcap*")}
    assert there <= known
