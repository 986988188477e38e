"""Several processes play transcripts as one does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from running import replay

from mailsrv.runtime.clock import SystemClock
from replay.verify.side_by_side import run_side_by_side
from replay.verify.suite import UNREADABLE, ScenarioResult, find, run_all

CAPTURES = Path(__file__).resolve().parents[3] / "captures"


def told(result: ScenarioResult) -> tuple[object, ...]:
    return result.path, result.verdict, result.trace_hash, result.differences, result.complaint


@pytest.mark.parametrize("keep", [False, True])
def test_results_are_those_of_one_process_in_the_same_order(tmp_path: Path, keep: bool) -> None:
    broken = tmp_path / "broken.smtp"
    broken.write_text("+++\nnonsense\n")
    paths = [*find([CAPTURES / "rude"]), broken, *find([CAPTURES / "early"])]
    expected = [told(one) for one in run_all(paths, SystemClock(), keep=keep)]
    assert [told(one) for one in run_side_by_side(paths, 3, keep=keep)] == expected
    assert [one[1] for one in expected].count(UNREADABLE) == 1


def test_a_process_that_is_ended_leaves_what_is_not_played_with_a_word(tmp_path: Path) -> None:
    paths = find([CAPTURES / "tls"])
    playing = run_side_by_side(paths, 2)
    results = [next(playing)]
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    results += playing
    assert [one.path for one in results] == paths
    left = [one for one in results if one.verdict == UNREADABLE]
    assert all("was ended" in one.complaint for one in left)


def test_the_command_takes_a_number_of_processes() -> None:
    ran = replay("run", CAPTURES / "rude", "--jobs", "2")
    assert (ran.status, ran.err) == (0, "")
    refused = replay("run", CAPTURES / "rude", "--jobs", "0")
    assert refused.status == 2
    assert "'0': takes a whole number from 1 to 64" in refused.err
    refused = replay("run", CAPTURES / "rude", "--jobs", "2", "--cuts")
    assert (refused.status, "leave it out here" in refused.err) == (2, True)
