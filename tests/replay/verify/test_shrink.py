"""Shrinking: what goes, what stays, and that the failure stays the same one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replay.cli import main
from replay.transcript import transcript
from replay.transcript.script import Evidence, Scenario, SendOctets
from replay.verify import shrink, suite
from replay.verify.suite import ScenarioResult

HEADER = '+++\nstory = "x"\n+++\n'
LONG = """\
@0       early| open from 192.0.2.1
*        early| S? 220
reply+1s early| C: QUIT\\r\\n
*        early| S? 221
reply+0  early| close
@3s      late|  open from 192.0.2.2
*        late|  S? 220
reply+2s late|  C: EHLO a.very.long.name.example\\r\\n
*        late|  S? 250
reply+9s late|  C: NOOP\\r\\n
         late|  C: MAIL FROM:<somebody@example.org> SIZE=1000\\r\\n
         late|  C: RCPT TO:<b@example.test>\\r\\n
*        late|  S? 250
*        late|  S? 250
*        late|  S? 550
reply+1s late|  C: RSET\\r\\n
*        late|  S? 250
reply+0  late|  C: QUIT\\r\\n
*        late|  S? 221
reply+0  late|  close
"""


def shrunk(text: str, header: str = HEADER) -> shrink.Shrunk:
    return shrink.shrink(transcript.parse(header + text, "x.smtp"), Path("x.smtp"))


def sent(scenario: Scenario) -> list[bytes]:
    (connection,) = scenario.connections
    return [
        one.action.octets for one in connection.departures() if isinstance(one.action, SendOctets)
    ]


def test_what_does_not_lead_to_the_failure_goes() -> None:
    found = shrunk(LONG)
    assert found.whole
    assert found.failure == "reply 5: code 250 instead of 550"
    assert [one.name for one in found.scenario.connections] == ["late"]
    hello, mail = sent(found.scenario)
    assert (len(hello.split()), b"NOOP" in mail, b"RCPT TO:<" in mail) == (2, False, True)
    assert shrink.size(found.scenario).pauses_ns == 0
    assert shrink.size(found.scenario).octets < 60


def test_what_is_left_still_fails_in_the_same_way_and_nowhere_else() -> None:
    found = shrunk(LONG)
    again = suite.run_scenario(found.scenario, Path("x.smtp"))
    (difference,) = again.differences
    assert difference.what.endswith("code 250 instead of 550")
    assert (difference.observed or "").startswith("250 2.1.5")


def test_settings_and_answers_that_do_not_matter_go_and_those_that_do_stay() -> None:
    header = (
        '+++\nstory = "x"\n[server]\nidle_timeout_s = 60\nsender_domain_check = true\n'
        '[world.dns]\n"example.org MX" = { status = "NXDOMAIN", delay_s = 1 }\n'
        '"other.example MX" = ["10 mx.other.example."]\n+++\n'
    )
    text = (
        "@0 open from 192.0.2.1\n* S? 220\nreply+0 C: EHLO a\\r\\n\n* S? 250\n"
        "reply+0 C: MAIL FROM:<a@example.org>\\r\\n\n* S? 250\nreply+0 close\n"
    )
    found = shrunk(text, header)
    assert found.scenario.server == {"sender_domain_check": True}
    assert "other.example MX" not in found.scenario.world.get("dns", {})


def test_a_failure_about_time_keeps_the_instant_it_is_about() -> None:
    text = (
        "@0 open from 192.0.2.1\n@0 S? 220\nreply+5s C: NOOP\\r\\n\n@5s S? 250\n"
        "@200s S: 421 4.4.2 mx.example.test Error: timeout exceeded: no command for 300 s\\r\\n\n"
        "@200s S eof\n+1s until-closed\n"
    )
    found = shrunk(text)
    assert "late" in found.failure
    (connection,) = found.scenario.connections
    last = list(connection.expectations())[-1]
    assert last.at_ns == 200_000_000_000


def test_what_does_not_fail_is_not_shrunk() -> None:
    with pytest.raises(shrink.NothingToShrink):
        shrunk(LONG.replace("S? 550", "S? 250"))


def test_a_broken_run_is_shrunk_by_its_complaint() -> None:
    scenario = transcript.parse(HEADER + LONG, "x.smtp")

    def leaks_at_noop(one: Scenario) -> ScenarioResult:
        octets = b"".join(b"".join(map(_octets, c.departures())) for c in one.connections)
        verdict = suite.BROKEN if b"NOOP" in octets else suite.AS_EXPECTED
        return ScenarioResult(Path("x"), "x", 1, verdict, complaint=f"left: {len(octets)} timers")

    def _octets(departure: object) -> bytes:
        action = getattr(departure, "action", None)
        return action.octets if isinstance(action, SendOctets) else b""

    found = shrink.shrink(scenario, Path("x"), play=leaks_at_noop)
    assert sent(found.scenario) == [b"NOOP"]


def test_the_command_writes_the_small_one_beside_and_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ticket.smtp"
    path.write_text(HEADER + LONG)
    assert main.main(["shrink", str(path)]) == 0
    out = capsys.readouterr().out
    assert "fails with: reply 5: code 250 instead of 550" in out
    small = tmp_path / "ticket-small.smtp"
    assert main.main(["run", str(small)]) == 1
    assert main.main(["shrink", str(path)]) == 2
    capsys.readouterr()
    assert main.main(["shrink", str(path), "--force", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["after"]["connections"] == 1
    assert told["before"]["connections"] == 2
    path.write_text(HEADER + LONG.replace("S? 550", "S? 250"))
    assert main.main(["shrink", str(path), "--force"]) == 2


MESSAGE = r"""+++
story = "x"
+++
@0 open from ::1
* S? 220
reply+0 C: HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n
* S? 250
* S? 250
* S? 250
* S? 354
reply+0 C: a\r\n.\r\n
* S? 250
reply+0 C: QUIT\r\n
* S? 222
reply+0 close

"""


def test_what_a_smaller_sender_no_longer_brings_is_not_expected_of_it() -> None:
    found = shrink.shrink(transcript.parse(MESSAGE + "accepted nothing\n", "x"), Path("x"))
    assert found.failure == "reply 7: code 221 instead of 222"
    assert found.scenario.accepted is None


def test_a_failure_in_an_accepted_message_is_not_shrunk() -> None:
    text = MESSAGE.replace("222", "221") + "accepted nothing\n"
    with pytest.raises(shrink.NothingToShrink, match="would be another message"):
        shrink.shrink(transcript.parse(text, "x"), Path("x"))


def test_a_mark_stays_with_a_wait_that_is_still_the_recorded_one_and_goes_with_another() -> None:
    text = """\
@0       open from 192.0.2.1
*        S? 220
reply+0! C: EHLO a.example\\r\\n
*        S? 250
reply+0! C: NOOP\\r\\n
*        S? 250
reply+0! C: QUIT\\r\\n
*        S? 555
reply+0? close
"""
    (connection,) = shrunk(text).scenario.connections
    farewell = next(one for one in connection.departures() if one.line == 10)
    assert (farewell.action, farewell.evidence) == (SendOctets(b"QUIT\r\n"), None)
    kept = text.replace("reply+0! C: NOOP\\r\\n\n*        S? 250\n", "")
    kept = kept.replace("reply+0! C: EHLO a.example\\r\\n\n*        S? 250\n", "")
    (connection,) = shrunk(kept).scenario.connections
    assert [one.evidence for one in connection.departures()][1] is Evidence.CONFIRMED
