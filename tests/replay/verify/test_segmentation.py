"""The sweep itself: which ways of cutting there are, and that it can tell them apart."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from replay.cli import main
from replay.cli.sweeps import run_cuts
from replay.play import virtual_run
from replay.play.virtual_run import VirtualRun
from replay.play.virtual_time import Leaked
from replay.transcript import transcript
from replay.transcript.script import After, Departure, Scenario, ScriptedConnection, SendOctets
from replay.verify import segmentation

HEADER = '+++\nstory = "x"\n+++\n'
MESSAGE = """\
@0       open from 192.0.2.1
*        S? 220
reply+0  C: HELO a\\r\\n
*        S? 250
reply+0  C: MAIL FROM:<>\\r\\nRCPT TO:<b@c>\\r\\nDATA\\r\\n
*        S? 250
*        S? 250
*        S? 354
reply+2s C: a\\r\\n.\\r\\n
*        S? 250
reply+0  C: QUIT\\r\\n
*        S? 221
reply+0  close
"""


def sweep(
    steps: str,
    header: str = HEADER,
    cuts_max: int = segmentation.CUTS_MAX,
    play: virtual_run.Play = virtual_run.play,
) -> segmentation.Sweep:
    return segmentation.sweep(
        transcript.parse(header + steps, "x.smtp"), cuts_max=cuts_max, play=play
    )


def test_every_place_is_cut_and_all_at_once_and_octet_by_octet_are_played_too() -> None:
    found = sweep(MESSAGE)
    assert found.good
    assert found.octets == len("HELO a..MAIL FROM:<>..RCPT TO:<b@c>..DATA..a.....QUIT..")
    assert found.ways == found.variants == found.octets - 1 + 2


def test_a_half_close_in_one_flight_with_octets_that_are_cut_comes_behind_them() -> None:
    steps = """\
@0       open from 192.0.2.1
*        S? 220
reply+0  C: HELO me\\r\\n
*        S? 250
reply+0  C: NOOP\\r\\nQUIT\\r\\n
+0       half-close-at-once
*        S? 250
*        S? 221
+0       until-closed
"""
    found = sweep(steps)
    assert (found.good, found.left_out, found.octets) == (True, "", 21)


def test_fewer_places_are_taken_at_even_distances_and_the_result_says_so() -> None:
    found = sweep(MESSAGE, cuts_max=10)
    assert 2 < found.variants <= 12
    assert list(segmentation.describe(found)) == [
        f"55 octets in {found.variants} of 56 ways of cutting them: always the same"
    ]


def hears(broken: Callable[[bytes], bytes]) -> virtual_run.Play:
    """A run in which each segment reaches the server as ``broken`` makes it."""

    def play(scenario: Scenario) -> VirtualRun:
        (connection,) = scenario.connections
        steps = [
            replace(step, action=SendOctets(broken(step.action.octets)))
            if isinstance(step, Departure) and isinstance(step.action, SendOctets)
            else step
            for step in connection.steps
        ]
        return virtual_run.play(
            replace(scenario, connections=(ScriptedConnection("1", tuple(steps)),))
        )

    return play


def test_a_server_that_takes_a_line_end_in_two_pieces_otherwise_is_found() -> None:
    found = sweep(MESSAGE, play=hears(lambda octets: b"\n " if octets == b"\n" else octets))
    assert found.cut == "octet by octet"
    first, so_far, written, *rest = segmentation.describe(found)
    assert first == "differs: octet by octet"
    assert so_far.endswith("the last of them 250 mx.example.test\\r\\n")
    assert "as written: 250 2.1.0 Ok" in written
    assert any("cut:        500 5.5.2" in line for line in rest)


def test_the_place_of_the_cut_that_made_the_difference_is_shown() -> None:
    found = sweep(MESSAGE, play=hears(lambda octets: b"X" if octets.endswith(b"DATA") else octets))
    assert found.cut == (
        "cut after octet 41 of 55:  ..."
        r"ELO a\r\nMAIL FROM:<>\r\nRCPT TO:<b@c>\r\nDATA | \r\na\r\n.\r\nQUIT\r\n..."
    )


def test_a_message_taken_otherwise_is_found_though_the_replies_are_the_same() -> None:
    found = sweep(MESSAGE, play=hears(lambda octets: octets.replace(b"\na", b"\nb")))
    assert found.cut == "all at once"
    assert any(
        line.endswith(r"accepted: <> to <b@c>: \r\na\r\n") for line in segmentation.describe(found)
    )


def test_a_run_that_fails_is_a_difference() -> None:
    def play(scenario: Scenario) -> VirtualRun:
        if len(list(scenario.connections[0].departures())) > 8:
            raise Leaked("left: 1 timer")
        return virtual_run.play(scenario)

    found = sweep(MESSAGE, play=play)
    assert "the run failed: left: 1 timer" in "\n".join(segmentation.describe(found))


def test_policies_about_segmentation_are_let_be() -> None:
    header = '+++\nstory = "x"\n[server]\ngreet_wait_s = 6\nearly_talkers = "reject"\n+++\n'
    assert sweep(MESSAGE.replace("reply+2s", "reply+0"), header).good


def test_pauses_of_the_sender_do_not_count_and_those_of_the_server_do() -> None:
    errors = "@0 open from 192.0.2.1\n* S? 220\n" + 12 * "+90s C: FOO\\r\\n\n* S? 500\n"
    assert sweep(errors + "reply+0 close\n").good


def test_of_several_connections_each_is_cut_and_the_others_do_as_written() -> None:
    steps = (
        "@0 a| open from 192.0.2.1\n* a| S? 220\n+5s a| C: QUIT\\r\\n\n+0 a| until-closed\n"
        "@2s b| open from 192.0.2.2\n* b| S? 220\n+0 b| C: HELO b\\r\\n\n* b| S? 250\n"
        "+0 b| close\n@3s c| open from 192.0.2.3\n+0 c| close\n"
    )
    instants = set()

    def play(scenario: Scenario) -> VirtualRun:
        instants.add(tuple(list(one.departures())[-2].anchor for one in scenario.connections[:2]))
        return virtual_run.play(scenario)

    found = sweep(steps, play=play)
    assert found.good
    assert (found.octets, found.ways, found.variants) == (14, 16, 16)
    assert instants == {(After(0), After(0)), (After(5_000_000_000), After(0))}


def test_the_connection_that_made_the_difference_is_named() -> None:
    steps = "".join(
        f"@{at_s}s {name}| open from 192.0.2.1\n* {name}| S? 220\n"
        f"reply+0 {name}| C: {verb}\\r\\n\n* {name}| S? 250\n+0 {name}| close\n"
        for at_s, name, verb in ((1, "a", "NOOP"), (2, "b", "RSET"))
    )

    def play(scenario: Scenario) -> VirtualRun:
        halves = [one.octets for one in sends(scenario.connections[1])]
        run = virtual_run.play(scenario)
        if halves == [b"RS", b"ET\r\n"]:
            run.connections[1].end = "reset"
        return run

    found = sweep(steps, play=play)
    assert found.cut == r"connection b, cut after octet 2 of 6:  ...RS | ET\r\n..."


def sends(connection: ScriptedConnection) -> list[SendOctets]:
    actions = (one.action for one in connection.departures())
    return [action for action in actions if isinstance(action, SendOctets)]


def test_a_half_close_stays_behind_what_was_said() -> None:
    found = sweep(
        "@0 open from 192.0.2.1\n+0 C: HELO a\\r\\nQUIT\\r\\n\n+0 half-close\n"
        "* S? 220\n* S? 250\n* S? 221\n* S eof\n+0 until-closed\n"
    )
    assert found.good
    assert found.octets == 14


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ("@0 open from 192.0.2.1\n* S? 220\nreply+0 close\n", "says nothing"),
        ("@0 open from 192.0.2.1\n+0 stop-reading\n+0 C: A\n+0 close\n", "stops reading"),
        (
            "@0 a| open from 192.0.2.1\n+0 a| C: A\n+0 a| close\n"
            "@0 b| open from 192.0.2.1\n+0 b| C: B\n+0 b| close\n",
            "at the same instants",
        ),
        (
            "@0 open from 192.0.2.1\n* S? 220\n+0 C: A\n* S? 500\n* S? 500\n"
            "reply+0 C: B\n+0 close\n",
            "only with its pauses",
        ),
    ],
)
def test_what_cannot_be_swept_is_left_out_with_a_word(steps: str, why: str) -> None:
    found = sweep(steps)
    assert (found.good, found.variants) == (True, 0)
    assert why in found.left_out


def test_the_command_tells_of_each_and_its_status_says_whether_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text(HEADER + MESSAGE)
    assert main.main(["run", "--cuts", str(path)]) == 0
    assert "55 octets in 56 ways of cutting them: always the same" in capsys.readouterr().out
    assert main.main(["run", "--cuts", str(path), "--json", "-"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["scenarios"]
    assert (one["verdict"], one["ways_played"]) == ("always the same", 56)


def test_the_command_fails_where_a_cut_makes_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text(HEADER + MESSAGE)
    deaf = hears(lambda octets: octets if len(octets) > 1 else b"x")
    assert run_cuts(Namespace(json=None, failed=False), [path], deaf) == 1
    assert f"{path}: differs: octet by octet" in capsys.readouterr().out


def test_ctrl_c_is_told_with_how_many_transcripts_were_played(tmp_path: Path) -> None:
    def interrupted(scenario: object) -> NoReturn:
        raise KeyboardInterrupt

    path = tmp_path / "x.smtp"
    path.write_text(HEADER + MESSAGE)
    with pytest.raises(KeyboardInterrupt, match=r"^0 of 1 transcripts were played$"):
        run_cuts(Namespace(json=None, failed=False), [path], interrupted)


def test_the_command_names_a_transcript_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text("nothing")
    assert main.main(["run", "--cuts", str(path)]) == 2
    assert f"{path}:1:1: " in capsys.readouterr().err
