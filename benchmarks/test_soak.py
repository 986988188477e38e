"""The soak still runs; its figures come from ``python -m benchmarks.soak``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contenders import UnavailableError, postfix_program
from benchmarks.soak import TENTHS, Soak, soak, table

MESSAGES = 200
MORE_MESSAGES = 100_000


def test_a_soak_ends_with_the_memory_of_each_tenth(benchmark: BenchmarkFixture) -> None:
    try:
        postfix_program("smtp-source")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    messages = MESSAGES if benchmark.disabled else MORE_MESSAGES

    def run() -> Soak:
        return list(soak(messages, batches=2 * TENTHS))[-1]

    done = benchmark.pedantic(run, rounds=1, iterations=1)
    assert len(done.after_batch) == 2 * TENTHS
    assert min(done.after_batch) > 0
    print(table(done))
