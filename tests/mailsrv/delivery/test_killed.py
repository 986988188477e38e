"""A server that is killed in the middle of its work has lost nothing that it acknowledged, and
each such message has its line in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from killing import killed


@pytest.mark.parametrize("seed", range(5))
def test_every_acknowledged_message_is_delivered_once_after_a_kill(
    tmp_path: Path, seed: int
) -> None:
    found = killed(tmp_path, seed)
    assert found.acknowledged
    assert (found.missing, found.differing, found.twice) == ([], [], [])
    assert found.unlogged == []
