"""What idle connections cost: sessions a second with none, a thousand and eight thousand held.

The server runs in a process of its own and is loaded with ``replay load``'s own machinery, so
the figures are those a user sees.  Nothing here fails for slowness.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load import runner
from replay.load.job import LoadJob, LoadOptions
from replay.load.plan import plans_of
from replay.load.result import LoadResult
from replay.play.target import Target, resolve
from replay.transcript import transcript

CONCURRENCY = 20
DURATION_NS = 5 * NS_PER_S
ROUNDS = 3
"""The best of them is told: what else the machine does only ever takes away."""
BITROT_DURATION_NS = 50 * NS_PER_MS
BITROT_SHARE = 100
"""With --benchmark-disable, only every hundredth idle connection."""

SESSION = r"""+++
story = "A plain session: one message of 1 KiB, then QUIT."
+++
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\r\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\r\n
*        S? 250
reply+0  C: RCPT TO:<b@example.test>\r\n
*        S? 250
reply+0  C: DATA\r\n
*        S? 354
reply+0  C: Subject: load\r\n
         C: \r\n
         C*16: Sixty-four octets a line with its end, and sixteen such lines.\r\n
         C: .\r\n
*        S? 250
reply+0  C: QUIT\r\n
*        S? 221
*        S eof
+0       close
"""


@contextmanager
def server(folder: Path) -> Iterator[Target]:
    """A mailsrv that throws mail away, on any free port; stopped in the end."""
    command = [sys.executable, "-m", "mailsrv", "serve", "--listen", "127.0.0.1:0"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--delivery", "discard"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert "listening on" in said, (folder / "log").read_text()
            yield resolve(said.split()[-1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def table(idle: int, best: LoadResult, ratio: float | None) -> str:
    tally = best.tally
    times = "  ".join(
        f"{name} p50 {one.percentile_us(50):,} p99 {one.percentile_us(99):,} us"
        for name, one in (("greeting", tally.of("greeting")), ("final dot", tally.of("dot")))
    )
    beside = "" if ratio is None else f"  {ratio:.2f} of that without"
    return (
        f"\n{idle:>6,} idle: {best.sessions_per_s:>6,.0f} sessions/s{beside}  {times}  "
        f"session p99 {tally.session.percentile_us(99):,} us  generator {best.cpu_share:.0%}"
    )


@pytest.fixture(scope="module")
def without_idle() -> dict[str, float]:
    """The rate with nothing held, once it was measured."""
    return {}


@pytest.mark.parametrize("idle", [0, 1_000, 8_000])
def test_load_beside_idle_connections(
    benchmark: BenchmarkFixture, idle: int, tmp_path: Path, without_idle: dict[str, float]
) -> None:
    small = benchmark.disabled
    plans, _ = plans_of(transcript.parse(SESSION, "plain.smtp"), "plain.smtp")
    options = LoadOptions(
        concurrency=CONCURRENCY,
        idle=idle // BITROT_SHARE if small else idle,
        duration_ns=BITROT_DURATION_NS if small else DURATION_NS,
    )
    outcomes: list[LoadResult] = []
    with server(tmp_path) as target:
        benchmark.pedantic(
            lambda: outcomes.append(runner.play(LoadJob(plans, target, options), SystemClock())),
            rounds=1 if small else ROUNDS,
        )
    best = max(outcomes, key=lambda one: one.sessions_per_s)
    for outcome in outcomes:
        assert outcome.all_well, (outcome.tally.complaints, outcome.idle)
    without_idle.setdefault("per_s", best.sessions_per_s if not idle else 0.0)
    base = without_idle["per_s"]
    ratio = best.sessions_per_s / base if idle and base else None
    benchmark.extra_info.update(
        idle=options.idle,
        sessions_per_s=round(best.sessions_per_s),
        session_p99_us=best.tally.session.percentile_us(99),
        greeting_p99_us=best.tally.of("greeting").percentile_us(99),
        final_dot_p99_us=best.tally.of("dot").percentile_us(99),
        ratio_to_no_idle=ratio,
        generator_cpu_share=round(best.cpu_share, 2),
    )
    print(table(options.idle, best, ratio))
