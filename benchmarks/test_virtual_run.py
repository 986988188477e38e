"""How many virtual sessions a second ``replay run`` makes of all captures on file.

Everything is in it but the interpreter's start: files read, transcripts parsed, a server made and
taken down for each, sessions played on real sockets, leaks checked, differences sought.
"""

from __future__ import annotations

from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from mailsrv.runtime.clock import SystemClock
from replay.verify import suite

CAPTURES = Path(__file__).resolve().parents[1] / "captures"


def test_virtual_sessions_a_second(benchmark: BenchmarkFixture) -> None:
    paths = suite.find([CAPTURES])

    def run_all() -> list[suite.ScenarioResult]:
        return list(suite.run_all(paths, SystemClock()))

    results = benchmark.pedantic(run_all, rounds=10, warmup_rounds=1)
    assert all(result.good for result in results)
    if benchmark.stats is None:  # --benchmark-disable
        return
    sessions = sum(result.sessions for result in results)
    rate = sessions / benchmark.stats.stats.median
    benchmark.extra_info["sessions_a_second"] = round(rate)
    benchmark.extra_info["virtual_s"] = sum(result.virtual_ns for result in results) // 10**9
    print(f"\n{sessions} sessions of {len(paths)} captures: {rate:,.0f} virtual sessions/s")
