"""The index of the attacks names what is on file, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

CAPTURES = Path(__file__).resolve().parents[2] / "captures"
ATTACKS = CAPTURES / "attack"
_NAME = re.compile(r"`([a-z0-9]+(?:[-/_.][a-z0-9]+)*)`")


def named() -> list[str]:
    """The names in the column of transcripts."""
    rows = (ATTACKS / "README.md").read_text(encoding="utf-8").splitlines()
    # A cell ends at a bar with blanks around it; octets in the first cell have none.
    cells = [row.split(" | ")[1] for row in rows if row.startswith("| ")]
    return [name for cell in cells for name in _NAME.findall(cell)]


def test_every_attack_on_file_is_in_the_index_once() -> None:
    listed = [name for name in named() if "/" not in name]
    assert sorted(listed) == sorted(path.stem for path in ATTACKS.glob("*.smtp"))


def test_everything_else_that_the_index_names_is_there() -> None:
    for name in named():
        if name.startswith("tests/"):
            assert (CAPTURES.parent / name).is_file(), name
        elif "/" in name:
            assert (CAPTURES / f"{name}.smtp").is_file(), name
