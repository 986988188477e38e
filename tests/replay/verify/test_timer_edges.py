"""The approach to deadlines itself: which it finds, and that it can tell a clock that is off."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from replay.cli import main
from replay.cli.sweeps import run_timer_edges
from replay.play import virtual_run
from replay.play.virtual_run import VirtualRun
from replay.smtp.replies import ReceivedReply
from replay.transcript import transcript
from replay.transcript.script import At, Departure, Scenario, SendOctets
from replay.verify import timer_edges

NS_PER_S = 1_000_000_000
HEADER = '+++\nstory = "x"\n[server]\nidle_timeout_s = 60\n+++\n'
MESSAGE = """\
@0       open from 192.0.2.1
*        S? 220
reply+2s C: HELO a\\r\\n
*        S? 250
reply+0  C: MAIL FROM:<>\\r\\nRCPT TO:<b@c>\\r\\nDATA\\r\\n
*        S? 250
*        S? 250
*        S? 354
reply+5s C: a\\r\\n.\\r\\n
*        S? 250
reply+0  C: QUIT\\r\\n
*        S? 221
reply+0  close
"""


def approach(
    steps: str, header: str = HEADER, play: virtual_run.Play = virtual_run.play
) -> timer_edges.EdgesFound:
    return timer_edges.approach(transcript.parse(header + steps, "x.smtp"), play=play)


def test_each_deadline_that_a_sender_could_meet_is_found_at_its_tick() -> None:
    found = approach(MESSAGE)
    assert found.good
    assert [(edge.line, edge.limit, edge.deadline_ns) for edge in found.edges] == [
        (8, "idle", 60 * NS_PER_S),
        (10, "idle", 62 * NS_PER_S),
        (14, "content start", 302 * NS_PER_S),
        (16, "idle", 67 * NS_PER_S),
    ]
    assert (found.places, found.tried, found.endless) == (4, 4, 0)
    assert list(timer_edges.describe(found)) == [
        "4 departures, 4 deadlines (content start, idle): each at its tick"
    ]


def test_one_of_each_is_told_as_one() -> None:
    only = timer_edges.EdgesFound((timer_edges.TimerEdge(8, 60 * NS_PER_S, "idle"),), 1, 1)
    assert list(timer_edges.describe(only)) == ["1 departure, 1 deadline (idle): each at its tick"]


def test_what_the_server_waits_for_without_giving_up_is_no_edge() -> None:
    header = HEADER.replace("idle_timeout_s = 60", "idle_timeout_s = 60\nsession_timeout_s = 61")
    steps = (
        "@0 open from 192.0.2.1\n* S? 220\nreply+1s C: QUIT\\r\\nQUIT\\r\\n\n* S? 221\n+0 close\n"
    )
    found = approach(steps, header)
    assert [edge.limit for edge in found.edges] == ["idle"]


@pytest.mark.parametrize("wrong_ns", [-timer_edges.TICK_NS, timer_edges.TICK_NS])
def test_a_server_that_gives_up_a_tick_off_while_a_sender_is_near_is_told(wrong_ns: int) -> None:
    def off(scenario: Scenario) -> VirtualRun:
        """Whoever comes at a time of its own finds the patience changed."""
        departures = list(scenario.connections[0].departures())
        is_moved = any(
            isinstance(one.anchor, At) and isinstance(one.action, SendOctets) for one in departures
        )
        if is_moved:
            idle_s = scenario.server["idle_timeout_s"] + wrong_ns / NS_PER_S
            scenario = replace(scenario, server=scenario.server | {"idle_timeout_s": idle_s})
        return virtual_run.play(scenario)

    found = approach(MESSAGE, play=off)
    assert not found.good
    edge = next(one for one in found.edges if one.trouble)
    name = "at" if wrong_ns < 0 else "one tick after"
    assert edge.trouble.startswith(f"{name} it, the server had")


def test_a_server_that_does_not_answer_at_the_last_moment_is_told() -> None:
    def deaf(scenario: Scenario) -> VirtualRun:
        run = virtual_run.play(scenario)
        (seen,) = run.connections
        seen.replies = [one for one in seen.replies if not _is_late_answer(one)]
        return run

    def _is_late_answer(reply: ReceivedReply) -> bool:
        return reply.at_ns == 60 * NS_PER_S - timer_edges.TICK_NS

    trouble = [edge.trouble for edge in approach(MESSAGE, play=deaf).edges]
    assert trouble[0] == "one tick before it, the server did not answer"


def test_a_dripped_command_may_be_given_up_though_another_octet_came() -> None:
    steps = (
        "@0 open from 192.0.2.1\n* S? 220\nreply+1s C: H\n+1s C: E\n+1s C: LO a\\r\\n\n"
        "* S? 250\nreply+0 close\n"
    )
    found = approach(steps)
    assert found.good
    assert [edge.limit for edge in found.edges] == ["idle", "command", "command"]


def test_of_many_departures_some_are_taken_and_the_result_says_so() -> None:
    scenario = transcript.parse(HEADER + MESSAGE, "x.smtp")
    found = timer_edges.approach(scenario, departures_max=2)
    assert (found.places, found.tried) == (4, 2)
    assert "2 of 4 departures" in next(timer_edges.describe(found))


def test_the_command_tells_and_exits_by_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text(HEADER + MESSAGE)
    assert main.main(["run", "--timer-edges", str(path)]) == 0
    assert "each at its tick" in capsys.readouterr().out
    assert main.main(["run", "--timer-edges", str(path), "--json", "-"]) == 0
    (scenario,) = json.loads(capsys.readouterr().out)["scenarios"]
    assert (scenario["verdict"], len(scenario["edges"])) == ("as expected", 4)

    def early(scenario: Scenario) -> VirtualRun:
        moved = any(
            isinstance(one, Departure) and isinstance(one.anchor, At) and one.anchor.ns
            for one in scenario.connections[0].steps
        )
        server = scenario.server | {"idle_timeout_s": 59.9 if moved else 60}
        return virtual_run.play(replace(scenario, server=server))

    assert run_timer_edges(Namespace(json=None, failed=False), [path], early) == 1
    assert "the server had given up" in capsys.readouterr().out
    path.write_text("nonsense")
    assert main.main(["run", "--timer-edges", str(path)]) == 2
