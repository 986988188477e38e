"""Which scenarios are checked, and which verdicts are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from checking import named

from replay.verify.check.known import KnownError, gone, is_new, load_known
from replay.verify.check.selection import Selection, is_section, rests_on
from replay.verify.check.verdict import Verdict

BODY = "@0 open from ::1\n+0 close\nmust [RFC 5321 4.5.3.1.1, CVE-2023-51764] accept at most 1\n"


@pytest.mark.parametrize(
    ("wanted", "does"),
    [
        ("5321", True),
        ("5321/4.5.3", True),
        ("RFC 5321 4.5.3.1.1", True),
        ("5321/4.5.3.1.1", True),
        ("5321/4.5.3.1.2", False),
        ("5321/4.5.3.1.1.1", False),
        ("5321/4.5.30", False),
        ("5321/4.5.", True),
        ("532", False),
        ("cve-2023-51764", True),
        ("CVE-2023-51765", False),
    ],
)
def test_a_section_selects_what_rests_on_it_or_on_a_part_of_it(wanted: str, does: bool) -> None:
    assert is_section(wanted)
    assert rests_on(("RFC 5321 4.5.3.1.1", "CVE-2023-51764"), wanted) is does
    assert Selection(sections=(wanted,)).has(named(BODY)) is does


def test_families_and_names_select_too() -> None:
    one = named(BODY, "attack/bdat-cut-short")
    for selection, has in (
        (Selection(), True),
        (Selection(families=("attack", "rude")), True),
        (Selection(families=("rude",)), False),
        (Selection(names=("bdat-*",)), True),
        (Selection(names=("attack/bdat-cut-short",)), True),
        (Selection(names=("bdat",)), False),
        (Selection(families=("attack",), sections=("3207",)), False),
    ):
        assert selection.has(one) is has


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        (Selection(), []),
        (Selection(("attack",), ("smuggle-*",), ("5321",)), []),
        (Selection(("atack",)), ["--family 'atack' fits no scenario; there are attack and 1 more"]),
        (
            Selection(names=("smugle", "smuggle-a")),
            [
                "--only 'smugle' fits no scenario; there are smuggle-a, smuggle-b and 1 more",
            ],
        ),
        (
            Selection(names=("rude/qwertz*",)),
            [
                "--only 'rude/qwertz*' fits no scenario; there are attack/smuggle-a, "
                "attack/smuggle-b, rude/helo",
            ],
        ),
        (
            Selection(("x",), (), ("5321/4.5.3.1.10", "CVE-2023-51764")),
            [
                "--family 'x' fits no scenario; there are attack, rude",
                "--section '5321/4.5.3.1.10' fits no scenario; there are 5321/4.5.3.1.1 and 1 more",
            ],
        ),
        (Selection(("rude",), ("smuggle-*",)), ["no scenario is all of what is asked for"]),
    ],
)
def test_each_word_that_fits_nothing_is_named_with_what_is_like_it(
    selection: Selection, told: list[str]
) -> None:
    names = ("attack/smuggle-a", "attack/smuggle-b", "rude/helo")
    assert selection.complaints(named(BODY, name) for name in names) == told


def test_what_there_is_is_named_without_what_moves_a_terminals_cursor() -> None:
    there = [named(BODY, name) for name in ("odd/\x1b[2J", "odd/²", "odd/3")]
    (told,) = Selection(names=("x",)).complaints(there)
    assert told == "--only 'x' fits no scenario; there are 3, ?[2J, ²"


def test_a_word_that_fits_nothing_names_no_more_than_a_few() -> None:
    there = [named(BODY, f"attack/smuggle-{number}") for number in range(300)]
    for word in ("smuggle-999", "qwertz", "x" * 5000):
        (told,) = Selection(names=(word,)).complaints(there)
        assert "more" in told and len(told) < 600


def test_what_is_no_section_is_not_taken_for_one() -> None:
    assert not any(map(is_section, ("", "x", "53", "5321-4", "CVE-x")))


def test_known_verdicts_are_not_new_and_may_be_gone(tmp_path: Path) -> None:
    path = tmp_path / "known.txt"
    path.write_text("# ours\n\na/x   violates  # until 3.9\na/y departs\na/z could not tell\n")
    known = load_known(path)
    assert known == {
        "a/x": Verdict.VIOLATES,
        "a/y": Verdict.DEPARTS,
        "a/z": Verdict.COULD_NOT_TELL,
    }
    assert not is_new("a/x", Verdict.VIOLATES, known)
    assert not is_new("a/x", Verdict.DEPARTS, known)
    assert is_new("a/y", Verdict.VIOLATES, known)
    assert is_new("a/z", Verdict.DEPARTS, known)
    assert not is_new("a/w", Verdict.COULD_NOT_TELL, known)
    assert gone([("a/x", Verdict.HOLDS), ("a/y", Verdict.DEPARTS)], known) == ["a/x"]


@pytest.mark.parametrize(
    ("octets", "reason"),
    [(b"a/x broken\n", "known.txt:1: expected a scenario and one of"), (b"\xff", "not UTF-8 text")],
)
def test_a_file_of_known_verdicts_that_cannot_be_read_is_told(
    tmp_path: Path, octets: bytes, reason: str
) -> None:
    path = tmp_path / "known.txt"
    path.write_bytes(octets)
    with pytest.raises(KnownError, match=reason):
        load_known(path)
    with pytest.raises(KnownError, match="No such file"):
        load_known(tmp_path / "none")
