"""What an operator asks for, and that it makes no message and no next hop wait for longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from queueing import DEFERRED, RELAYED, NextHop, QueueRun
from spooling import kept

from mailsrv.delivery.queue.progress import Progress
from mailsrv.units import NS_PER_S


def in_s(run: QueueRun, number: int = 1) -> float:
    """In how many seconds a message is due."""
    row = run.rows()[number]
    assert row is not None and row.due_ns is not None
    return (row.due_ns - run.clock.realtime_ns()) / NS_PER_S


@pytest.mark.parametrize("verbs", [("retry",), ("hold", "release")])
def test_an_attempt_that_an_operator_asks_for_leaves_the_plan_as_it_was(
    tmp_path: Path, verbs: tuple[str, ...]
) -> None:
    hop = NextHop(DEFERRED)
    run = QueueRun(tmp_path, hop)
    run.receive(1)
    run.go_on(NS_PER_S)
    planned_s = in_s(run)
    for asked in range(1, 6):
        for verb in verbs:
            run.command(verb, [1])
            run.go_on(NS_PER_S)
            planned_s -= 1
        assert len(hop.tried) == 1 + asked
        assert in_s(run) == pytest.approx(planned_s)
    run.go_on(round(planned_s * NS_PER_S) + NS_PER_S)
    assert len(hop.tried) == 7, "the one that was planned"
    assert 598 < in_s(run) <= 600 * 1.25, "the second pause of the plan"
    hop.answer = RELAYED
    run.command("retry", [1])
    run.go_on(NS_PER_S)
    assert kept(run.spool) == {}


def test_what_was_planned_is_known_after_a_kill(tmp_path: Path) -> None:
    killed = QueueRun(tmp_path, NextHop(DEFERRED))
    killed.receive(1)
    killed.go_on(NS_PER_S)
    planned_s = in_s(killed)
    killed.command("hold", [1])
    killed.go_on(NS_PER_S)
    killed.kill()
    run = QueueRun(tmp_path, NextHop(DEFERRED))
    run.clock.advance(2)
    run.command("release", [1])
    run.go_on(NS_PER_S)
    assert in_s(run) == pytest.approx(planned_s - 2, abs=1)
    row = run.rows()[1]
    assert row is not None and row.attempts == 2, "each attempt is counted for those who look"


def test_an_attempt_under_way_when_it_was_planned_is_the_one_of_the_plan(tmp_path: Path) -> None:
    hop = NextHop(DEFERRED)
    run = QueueRun(tmp_path, hop)
    run.receive(1)
    run.go_on(NS_PER_S)
    hop.answer = None
    run.command("retry", [1])
    run.go_on(400 * NS_PER_S)
    hop.end(DEFERRED)
    run.go_on(NS_PER_S)
    assert 598 < in_s(run) <= 600 * 1.25


@pytest.mark.parametrize("value", ['"soon"', "[]", '{"x": 1}'])
def test_a_plan_that_cannot_be_understood_is_an_error(value: str) -> None:
    for key in ("asked", "planned_ns"):
        with pytest.raises(ValueError, match=r"progress|invalid literal"):
            Progress.from_json(f'{{"outcomes": [], "delay_told": true, "{key}": {value}}}')
