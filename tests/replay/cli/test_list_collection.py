"""``replay list`` as its users meet it, and the names of the collection where a path is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import CAPTURES, replay

from replay.transcript import transcript


def test_each_transcript_of_a_family_is_told_with_its_story() -> None:
    ran = replay("list", "attack", COLUMNS="40")
    assert (ran.status, ran.err) == (0, "")
    paths = sorted((CAPTURES / "attack").glob("*.smtp"))
    stories = [transcript.load(path).story for path in paths]
    names = [f"attack/{path.stem}" for path in paths]
    lines = [line.split("\t") for line in ran.out.splitlines()]
    assert lines == [list(pair) for pair in zip(names, stories, strict=True)]


def test_without_a_family_all_are_told() -> None:
    listed = json.loads(replay("list", "--json", "-").out)
    assert listed["schema"] == 1
    assert len(listed["transcripts"]) == len(list(CAPTURES.glob("*/*.smtp")))
    first = listed["transcripts"][0]
    assert set(first) == {"family", "name", "story", "sessions", "path"}


def test_a_family_may_be_typed_as_where_it_is_played() -> None:
    assert replay("list", "builtin:probe").out == replay("list", "probe").out != ""


@pytest.mark.parametrize("name", ["nonsense", "attack/trace-continued"])
def test_what_is_no_family_is_declined(name: str) -> None:
    ran = replay("list", name)
    assert ran.status == 2
    assert "Traceback" not in ran.err


def test_the_collection_is_played_by_name() -> None:
    ran = replay("run", "builtin:probe", "builtin:attack/trace-continued", "--json", "-")
    played = [one["path"] for one in json.loads(ran.out)["scenarios"]]
    assert ran.status == 0
    assert str(CAPTURES / "attack/trace-continued.smtp") in played
    assert len(played) == 1 + len(list((CAPTURES / "probe").glob("*.smtp")))


@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("diff", "--policy", "x.toml"),
        ("shrink",),
        ("export",),
        ("load", "--target", "127.0.0.1:1"),
    ],
)
def test_each_command_that_takes_transcripts_knows_their_names(command: tuple[str, ...]) -> None:
    ran = replay(*command, "builtin:atack")
    assert ran.status == 2
    assert "there is builtin:attack" in ran.err


def test_what_is_exported_by_name_lies_in_the_working_folder(tmp_path: Path) -> None:
    output = tmp_path / "x.pcapng"
    ran = replay("export", "builtin:attack/trace-continued", "-o", output)
    assert ran.status == 0
    assert output.exists()
