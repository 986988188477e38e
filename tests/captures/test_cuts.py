"""What a sender says, cut otherwise, gets the same replies: every attack on file, every place.

The other families on file are swept at fewer places, so that this takes seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from replay.verify import segmentation

CAPTURES = Path(__file__).resolve().parents[2] / "captures"
ATTACKS = sorted((CAPTURES / "attack").glob("*.smtp"))
OTHERS = sorted(
    path
    for path in CAPTURES.glob("*/*.smtp")
    if path.parent.name != "attack" and not path.with_suffix(".pcap").exists()
)
PLACES_OF_OTHERS = 20
LONG_TEXT_OCTETS = 50_000
"""A transcript that is longer, an attack by mere quantity, is cut at fewer places too."""


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", ATTACKS, ids=name)
def test_an_attack_gets_the_same_replies_wherever_it_is_cut(path: Path) -> None:
    long = path.stat().st_size > LONG_TEXT_OCTETS
    found = segmentation.sweep_file(
        path, cuts_max=PLACES_OF_OTHERS if long else segmentation.CUTS_MAX
    )
    assert found.good, "\n".join(segmentation.describe(found))


@pytest.mark.parametrize("path", OTHERS, ids=name)
def test_a_sender_gets_the_same_replies_wherever_it_is_cut(path: Path) -> None:
    found = segmentation.sweep_file(path, cuts_max=PLACES_OF_OTHERS)
    assert found.good, "\n".join(segmentation.describe(found))
