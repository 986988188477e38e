"""The word for the reply to EHLO: what it stands for, and which tools keep it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mailsrv.runtime.clock import FakeClock
from replay.transcript import transcript
from replay.transcript.ehlo import ehlo_reply, with_word
from replay.transcript.script import EhloReply, ExactOctets, Scenario
from replay.verify import suite

HEADER = '+++\nnotation = 2\nstory = "x"\n'
BODY = r"""+++
@0       open from 192.0.2.10
@0       S? 220
reply+0  C: EHLO client.example\r\n
@0       S ehlo  # as it should be
reply+0  C: QUIT\r\n
@0       S? 221
reply+0  close

accepted  nothing
"""


def played(server: str) -> suite.ScenarioResult:
    return suite.run_scenario(transcript.parse(f"{HEADER}{server}{BODY}", "x"), Path("x"))


@pytest.mark.parametrize(
    "server",
    [
        "",
        '[server]\nhostname = "mail.example"\nmessage_octets = 1000\n',
        "[server]\nrecipients = 7\ntransactions = 3\n",
        "[world]\ntls = true\n",
    ],
)
def test_the_server_gives_the_reply_that_its_settings_demand(server: str) -> None:
    assert played(server).verdict == suite.AS_EXPECTED


def test_the_reply_is_held_against_a_list_that_is_not_the_servers() -> None:
    scenario = transcript.parse(f"{HEADER}{BODY}", "x")
    octets = ehlo_reply({}, {}, under_tls=False)
    assert octets.splitlines() == [
        b"250-mx.example.test",
        b"250-PIPELINING",
        b"250-SIZE 52428800",
        b"250-8BITMIME",
        b"250-SMTPUTF8",
        b"250-ENHANCEDSTATUSCODES",
        b"250-CHUNKING",
        b"250-DSN",
        b"250 LIMITS MAILMAX=100 RCPTMAX=1000",
    ]
    result = suite.run_scenario(_expecting(scenario, EhloReply(octets[:-2])), Path("x"))
    assert [one.what for one in result.differences] == ["reply 2: text differs"]
    assert r"250-DSN\r\n" in str(result.differences[0])


def test_starttls_is_offered_until_the_handshake_is_done() -> None:
    offered = b"250-STARTTLS\r\n"
    assert offered in ehlo_reply({}, {"tls": True}, under_tls=False)
    for world, under_tls in (({"tls": True}, True), ({"tls": "implicit"}, False), ({}, False)):
        assert offered not in ehlo_reply({}, world, under_tls=under_tls)
    text = (
        f"{HEADER}[world]\ntls = true\n+++\n@0 open from ::1\n* S? 220\n* S ehlo\n+0 starttls\n"
        "* S tls\n* S ehlo\n+0 close\n"
    )
    outcomes = [one.outcome for one in transcript.parse(text, "x").connections[0].expectations()]
    words = [one.octets for one in outcomes if isinstance(one, EhloReply)]
    assert [offered in one for one in words] == [True, False]


def test_an_update_writes_the_word_for_what_was_open_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "x.smtp"
    path.write_text(f"{HEADER}{BODY}".replace("S ehlo ", "S? 250"), encoding="utf-8")
    suite.run_file(path, FakeClock(), updating=("create",))
    text = path.read_text(encoding="utf-8")
    assert "@0       S ehlo  # as it should be\n" in text
    suite.run_file(path, FakeClock(), updating=("create", "fix"))
    assert path.read_text(encoding="utf-8") == text


def test_an_update_leaves_a_reply_that_is_written_out(tmp_path: Path) -> None:
    path = tmp_path / "x.smtp"
    scenario = transcript.parse(f"{HEADER}{BODY}", "x")
    exact = _expecting(scenario, ExactOctets(ehlo_reply({}, {}, under_tls=False)))
    path.write_text(transcript.write(exact), encoding="utf-8")
    suite.run_file(path, FakeClock(), updating=("create", "fix"))
    assert transcript.load(path).connections[0].steps[3] == exact.connections[0].steps[3]
    assert with_word(exact).connections == scenario.connections


def test_a_word_that_the_settings_no_longer_stand_for_is_written_out() -> None:
    scenario = transcript.parse(f"{HEADER}{BODY}", "x")
    other = dataclasses.replace(scenario, server={"hostname": "mail.example"})
    assert "S: 250-mx.example.test" in transcript.write(other)
    assert "S ehlo" in transcript.write(scenario)


def _expecting(scenario: Scenario, reply: ExactOctets) -> Scenario:
    """``scenario`` with another second reply expected."""
    (connection,) = scenario.connections
    steps = list(connection.steps)
    steps[3] = dataclasses.replace(steps[3], outcome=reply)  # type: ignore[call-arg]
    connection = dataclasses.replace(connection, steps=tuple(steps))
    return dataclasses.replace(scenario, connections=(connection,))
