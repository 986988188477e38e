"""What a greylist on disk costs, and that its price hardly depends on how much it knows.

Each benchmark runs with a thousand rows and with a million: compare the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mailsrv.policy.greylist import RETRY_WITHIN_S, Greylist, GreylistKey, GreylistRecord
from mailsrv.runtime.clock import FakeClock
from mailsrv.stores.greylist_sqlite import ROWS_A_FLUSH_MAX, SqliteStore
from mailsrv.units import NS_PER_S

ROWS = [1_000, 1_000_000]
WALL_S = 1_767_225_600
FILLED_AT_ONCE = 50_000
STEP_S = 0.01
"""Between two tries."""
_SPREAD = 2_654_435_761
"""Multiples of it, in 32 bits, go all over the place: no two tries lie side by side."""


def triplet(number: int) -> tuple[str, str, str]:
    at = number * _SPREAD & 0xFFFFFFFF
    client = f"{at >> 24}.{at >> 16 & 255}.{at >> 8 & 255}.9"
    return client, f"n.{at:08x}@company{at % 9973}.example", f"user{at % 50_021}@example.test"


class Filled:
    """A greylist whose file knows ``rows`` transactions of the last day, every other passed."""

    def __init__(self, path: Path, rows: int) -> None:
        self.clock = FakeClock(start=WALL_S)
        self.store = SqliteStore(str(path))
        self.fill(rows)
        self.greylist = Greylist(self.clock, store=self.store)
        self._numbers = count(rows)

    def fill(self, rows: int) -> None:
        file = self.store._file
        assert file is not None
        file._connection.execute("PRAGMA synchronous = OFF")
        records = self._records(rows)
        while batch := list(islice(records, FILLED_AT_ONCE)):
            file.write(batch, None, 0, 0, 0)
        file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file._connection.execute("PRAGMA synchronous = NORMAL")

    def _records(self, rows: int) -> Iterator[tuple[GreylistKey, GreylistRecord]]:
        first_ns = self.clock.realtime_ns() - 86_400 * NS_PER_S
        for number in range(rows):
            client, sender, recipient = triplet(number)
            since_ns = first_ns + 86_400 * NS_PER_S // rows * number
            yield (
                GreylistKey(f"{client}/16", sender, recipient),
                GreylistRecord(since_ns, number % 2),
            )

    def check(self, tries: int) -> None:
        for number in islice(self._numbers, tries):
            self.clock.advance(STEP_S)
            self.greylist.check(triplet(number))

    def close(self) -> None:
        self.store.close()


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
