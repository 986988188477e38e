"""``import --for-any-server``: what is recorded becomes claims, and no habit of one server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from running import CAPTURES, TO_POSTFIX, replay

from replay.convert.for_any_server import for_any_server
from replay.convert.importer import import_capture
from replay.transcript import transcript
from replay.transcript.claims.claim import Accepts, RepliesAsExpected, RepliesWith, Strength
from replay.transcript.script import Abandon, Departure, ExactOctets, ReplyCode, Scenario


@pytest.fixture
def imported(tmp_path: Path) -> Scenario:
    ran = replay("import", TO_POSTFIX, "--for-any-server", "-o", tmp_path / "family" / "name")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.endswith(f"next: replay check HOST:PORT --from {tmp_path}/family/name.smtp\n")
    return transcript.load(tmp_path / "family" / "name.smtp")


def of_capture(name: str) -> Scenario:
    """A capture of mailsrv itself, whose octets an import expects."""
    return for_any_server(import_capture(CAPTURES / name).scenario)


def test_it_names_no_server_and_needs_no_settings(imported: Scenario) -> None:
    assert (imported.target, imported.server, imported.world) == ("", {}, {})


def test_no_words_of_the_recorded_server_are_expected() -> None:
    scenario = of_capture("client/curl.pcap")
    outcomes = [one.outcome for one in scenario.connections[0].expectations()]
    assert outcomes
    assert not any(isinstance(one, ExactOctets) for one in outcomes)
    assert all(one.at_ns is None for one in scenario.connections[0].expectations())


def test_what_was_taken_is_claimed_and_behind_a_refusal_anything_may_come(
    imported: Scenario,
) -> None:
    claims = imported.connections[0].claims
    assert [one.strength for one in claims] == [Strength.MAY, Strength.SHOULD]
    assert isinstance(claims[0].statement, RepliesWith)
    assert isinstance(claims[1].statement, RepliesAsExpected)
    above = imported.connections[0].steps[claims[0].after - 1]
    assert getattr(above, "outcome").code == 550  # noqa: B009


def test_there_are_at_most_as_many_messages_as_were_sent(imported: Scenario) -> None:
    assert [one.statement for one in imported.claims] == [Accepts(0, 1)]


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("smtplib-utf8", {"8BITMIME", "SMTPUTF8"}),
        ("javamail-chunks", {"CHUNKING", "DSN"}),
        ("curl", set()),
    ],
)
def test_the_extensions_that_its_sender_uses_are_needed(name: str, needs: set[str]) -> None:
    assert set(of_capture(f"client/{name}.pcap").needs) - {"SIZE"} == needs


def test_a_reply_that_the_sender_did_not_wait_for_is_not_expected() -> None:
    (connection,) = of_capture("mta/nullmailer.pcap").connections
    codes = [one.outcome for one in connection.expectations() if isinstance(one.outcome, ReplyCode)]
    assert codes[-1].code == 250  # to the final dot; that to QUIT came behind its close


def test_of_a_session_that_is_not_shown_whole_no_number_of_messages_is_claimed() -> None:
    scenario = import_capture(TO_POSTFIX).scenario
    (connection,) = scenario.connections
    *steps, close = connection.steps
    assert isinstance(close, Departure)
    cut = replace(connection, steps=(*steps, replace(close, action=Abandon())))
    assert for_any_server(replace(scenario, connections=(cut,))).claims == ()
    late = replace(connection, steps=(connection.steps[0], close))
    assert for_any_server(replace(scenario, connections=(late,))).claims == ()


def test_it_is_a_transcript_that_can_be_read_again(imported: Scenario) -> None:
    again = transcript.parse(transcript.write(imported), "x.smtp")
    assert again.connections[0].claims == imported.connections[0].claims
    assert again.claims == imported.claims


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*/*.pcap"))[::9], ids=lambda path: path.stem)
def test_any_capture_can_be_imported_so(path: Path) -> None:
    if path.name.endswith(".delayed.pcap"):
        path = path.with_name(path.name.replace(".delayed", ""))
    scenario = for_any_server(import_capture(path).scenario)
    transcript.parse(transcript.write(scenario), "x.smtp")


@pytest.mark.parametrize("option", [("--receiver",), ("--anchor", "recorded")])
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, option: tuple[str, ...]) -> None:
    ran = replay("import", TO_POSTFIX, "--for-any-server", *option, "-o", tmp_path / "f" / "n")
    assert ran.status == 2
    assert "--for-any-server" in ran.err
