"""Server CPU beside the peers, as pytest-benchmark reports it.  Nothing here fails for slowness."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contenders import (
    CONTENDERS,
    UnavailableError,
    Workload,
    aiosmtpd_is_installed,
    postfix_program,
)
from benchmarks.server_cpu import WORKLOADS, Comparison, compare, table

BITROT_SCALE = 0.002
"""With --benchmark-disable only that everything still runs is of interest."""


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name.replace(" ", "-"))
def test_server_cpu_beside_the_peers(benchmark: BenchmarkFixture, workload: Workload) -> None:
    try:
        postfix_program("smtp-source")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    names = list(CONTENDERS)
    rounds = 5
    if benchmark.disabled:
        workload = workload.scaled(BITROT_SCALE)
        names = [name for name in names if "aiosmtpd" not in name or aiosmtpd_is_installed()]
        rounds = 1

    def run() -> Comparison:
        return compare(names, [workload], rounds=rounds)

    comparison = benchmark.pedantic(run, rounds=1, iterations=1)
    benchmark.extra_info.update(comparison.summary()[workload.name])
    benchmark.extra_info["missing"] = comparison.missing
    print(table(comparison))
    assert all(ns > 0 for rounds in comparison.rounds_ns[workload.name].values() for ns in rounds)
