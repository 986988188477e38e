"""The transcripts that come with the package: found by name, and installed without packets."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

from replay.transcript import collection
from replay.transcript.collection import CollectionError, path_of

ROOT = Path(__file__).resolve().parents[3]


def test_a_family_a_transcript_and_all_of_them_have_names() -> None:
    assert path_of("builtin:attack") == ROOT / "captures/attack"
    assert (
        path_of("builtin:attack/trace-continued") == ROOT / "captures/attack/trace-continued.smtp"
    )
    assert path_of("builtin:") == ROOT / "captures"


def test_a_name_may_be_typed_as_a_file_s_is() -> None:
    there = ROOT / "captures/attack/trace-continued.smtp"
    assert path_of("builtin:attack/trace-continued.smtp") == there
    assert path_of("builtin:attack/") == ROOT / "captures/attack"


def test_any_other_text_is_a_path() -> None:
    assert path_of("captures/attack") == Path("captures/attack")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("builtin:atack", "no such family; there is builtin:attack"),
        ("builtin:zzzzzz", "no such family; there are attack, client, early"),
        ("builtin:attack/trace-continue", "there is builtin:attack/trace-continued"),
        ("builtin:attack/qqqqqqq", "no such transcript; see 'replay list'"),
        ("builtin:..", "no such family"),
        ("builtin:attack/../../README", "no such transcript"),
        ("builtin:attack/*", "no such transcript"),
    ],
)
def test_a_name_that_is_none_is_declined_with_those_that_are_near(typed: str, said: str) -> None:
    with pytest.raises(CollectionError, match=re.escape(said)):
        path_of(typed)


def test_each_transcript_is_found_by_its_family_and_name() -> None:
    there = sorted((ROOT / "captures").glob("*/*.smtp"))
    found = [path for family in collection.families() for path in collection.transcripts(family)]
    assert found == there


def test_each_transcript_is_installed_and_nothing_else_of_the_captures() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    patterns = tools["package-data"]["replay.collection"]
    captures = ROOT / "captures"
    files = [str(one.relative_to(captures)) for one in captures.rglob("*") if one.is_file()]
    installed = {one for one in files if any(fnmatch.fnmatch(one, each) for each in patterns)}
    assert installed == {one for one in files if one.endswith(".smtp")}
    assert tools["include-package-data"] is False
