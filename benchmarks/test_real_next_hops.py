"""Real next hops still get mail; the table comes from ``python -m benchmarks.real_next_hops``."""

from __future__ import annotations

import pytest

from benchmarks.contenders import UnavailableError
from benchmarks.real_next_hops import KINDS, SERVERS, results

KIND = next(iter(KINDS))


@pytest.mark.parametrize("name", SERVERS)
def test_a_message_arrives(name: str) -> None:
    try:
        (found,) = results(SERVERS[name], [KIND])
    except UnavailableError as reason:
        pytest.skip(str(reason))
    assert found == "delivered"
