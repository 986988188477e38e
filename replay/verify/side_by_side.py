"""Transcripts in virtual time on several processors: each process plays whole ones, and results
come in the order of the transcripts, as from one process.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from pathlib import Path

from mailsrv.runtime.clock import SystemClock
from replay.verify.suite import UNREADABLE, ScenarioResult, run_all

PATHS_AT_ONCE_MAX = 16
"""What a process takes at once: enough that handing over costs little, and so few that none is
left alone with many at the end."""


def run_side_by_side(
    paths: Sequence[Path], jobs: int, *, updating: Collection[str] = (), keep: bool = False
) -> Iterator[ScenarioResult]:
    """As ``suite.run_all``, by ``jobs`` processes."""
    play = partial(_run_batch, tuple(updating), keep)
    at_once = min(PATHS_AT_ONCE_MAX, max(1, len(paths) // (4 * jobs)))
    batches = [paths[start : start + at_once] for start in range(0, len(paths), at_once)]
    context = multiprocessing.get_context("fork")  # which need not load the modules again
    executor = ProcessPoolExecutor(jobs, context, _leave_interrupts_to_the_parent)
    left = deque(paths)
    try:
        for result in chain.from_iterable(executor.map(play, batches)):
            left.popleft()
            yield result
    except BrokenProcessPool:
        for path in left:
            complaint = f"{path}: not played: one of the {jobs} processes was ended"
            yield ScenarioResult(path, "", 0, UNREADABLE, complaint=complaint)
    finally:
        executor.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_batch(
    updating: Collection[str], keep: bool, paths: Sequence[Path]
) -> list[ScenarioResult]:
    return list(run_all(paths, SystemClock(), updating=updating, keep=keep))
