"""A server that relays and is killed, at each point of its work, has lost nothing that it
acknowledged: each recipient has the message, octet by octet, or its sender a notice, and the log
tells of it.  A message comes twice only where the next hop's reply was lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from doomed import Nursery
from relay_killing import KilledRun, killed

RUNS = 50
SEED = 5
"""Of a kill after the fifth 250."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@pytest.mark.parametrize("seed", range(RUNS))
def test_every_acknowledged_recipient_is_served_after_a_kill(
    nursery: Nursery, tmp_path: Path, seed: int
) -> None:
    found = killed(nursery, tmp_path, seed)
    assert found.is_reached, f"nothing was killed {found.point}"
    assert found.wrong == {}


def test_what_is_lost_changed_or_repeated_for_no_reason_is_found(
    nursery: Nursery, tmp_path: Path
) -> None:
    run = KilledRun(nursery, tmp_path, SEED, "after a 250")
    assert run.run().wrong == {}
    lost, changed, *_ = run.acknowledged.values()
    by_sender = {one.sender: one for one in run.hop.taken}
    run.hop.taken[:] = [one for one in run.hop.taken if one.sender != lost.sender]
    by_sender[changed.sender].content += b"x"
    run.hop.taken.append(by_sender[changed.sender])
    found = run.looked_at_again()
    assert found.missing and found.differing and found.twice
