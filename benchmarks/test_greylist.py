"""What a greylist on disk costs, and that its price hardly depends on how much it knows.

Each benchmark runs with a thousand rows and with a million: compare the two.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.greylist_file import Filled
from mailsrv.policy.greylist import RETRY_WITHIN_S
from mailsrv.stores.greylist_sqlite import ROWS_A_FLUSH_MAX

ROWS = [1_000, 1_000_000]


@pytest.fixture(params=ROWS, scope="module")
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    rows: int = request.param
    if request.config.getoption("benchmark_disable"):
        rows = min(rows, 2_000)
    filled = Filled(tmp_path_factory.mktemp("greylist") / "greylist.db", rows)
    yield filled
    filled.close()


def test_check(benchmark: BenchmarkFixture, filled: Filled) -> None:
    """A hundred first tries in one pass, without the flush: divide by a hundred for one."""
    benchmark.pedantic(
        lambda: filled.check(100), teardown=filled.store.flush, rounds=50, warmup_rounds=5
    )
    assert not filled.store.trouble


@pytest.mark.parametrize("tries", [1, 16])
def test_flush(benchmark: BenchmarkFixture, filled: Filled, tries: int) -> None:
    """The end of a pass in which so many senders tried for the first time."""
    benchmark.pedantic(
        filled.store.flush, setup=lambda: filled.check(tries), rounds=1000, warmup_rounds=10
    )
    assert filled.store.backlog == 0


def test_expiry_step(benchmark: BenchmarkFixture, filled: Filled) -> None:
    """The largest: as many stale rows go as one transaction may remove, and one is written."""
    filled.clock.advance(RETRY_WITHIN_S)

    def everything_is_stale() -> None:
        filled.check(1 + ROWS_A_FLUSH_MAX // 8)
        filled.store.flush()
        filled.check(1)
        filled.store._forgettable = ROWS_A_FLUSH_MAX

    rounds = 2 if benchmark.disabled else 50
    benchmark.pedantic(filled.store.flush, setup=everything_is_stale, rounds=rounds)
    assert not filled.store.trouble
