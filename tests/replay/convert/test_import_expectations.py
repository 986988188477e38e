"""Captures become scenarios: which replies are expected, when, and of which connection."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from capture_builder import ACK, FIN, Wire
from importing import (
    BYE,
    CLIENT,
    EHLO,
    GREETING,
    QUIT,
    greeted,
    imported,
    ms,
)

from replay.capture.oddity import CaptureError
from replay.convert.importer import import_capture
from replay.transcript import transcript
from replay.transcript.script import (
    At,
    Departure,
    ExactOctets,
    Expectation,
    Open,
    PeerCloses,
    ReplyCode,
    SendOctets,
)
from replay.verify import suite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


# -- what is expected -----------------------------------------------------------------------------


def from_mailsrv(hostname: bytes = b"mx.example.test") -> Wire:
    wire = Wire().handshake()
    wire.server_says(b"220 " + hostname + b" ESMTP mailsrv\r\n", 10.000001)
    wire.client_says(b"x\r\n.\r\n", 12)
    wire.server_says(b"250 2.0.0 Ok: queued as 22352CBB401240C\r\n", 13)
    wire.client_says(QUIT, 14)
    wire.server_says(BYE, 15)
    wire.packet(1, flags=FIN | ACK, ms=16)
    return wire


def test_our_own_server_is_expected_to_the_octet_but_for_queue_ids_at_any_time(path: Path) -> None:
    result = imported(path, from_mailsrv())
    (connection,) = result.scenario.connections
    assert list(connection.expectations()) == [
        Expectation(ExactOctets(b"220 mx.example.test ESMTP mailsrv\r\n")),
        Expectation(ReplyCode(250, b"250 2.0.0 Ok: queued as 22352CBB401240C\r\n")),
        Expectation(ExactOctets(BYE)),
        Expectation(PeerCloses()),
    ]
    assert result.remarks["1", 1] == "recorded at 10.000001ms"
    assert result.scenario.server == {}


def test_with_recorded_times_our_own_server_is_expected_to_the_nanosecond(path: Path) -> None:
    (connection,) = imported(path, from_mailsrv(), recorded_times=True).scenario.connections
    assert list(connection.expectations()) == [
        Expectation(ExactOctets(b"220 mx.example.test ESMTP mailsrv\r\n"), 10_000_001),
        Expectation(ExactOctets(b"250 2.0.0 Ok: queued as 22352CBB401240C\r\n"), ms(13)),
        Expectation(ExactOctets(BYE), ms(15)),
        Expectation(PeerCloses(), ms(16)),
    ]


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        ([b"mail.example.org"], {"hostname": "mail.example.org"}),
        ([b"mx.example.test"], {}),
        ([b"a.example", b"a.example"], {"hostname": "a.example"}),
        ([b"a.example", b"b.example"], {}),
        ([b"\xff\x00"], {}),
        ([b"-.."], {}),
    ],
)
def test_the_name_of_our_own_server_becomes_a_setting(
    path: Path, names: list[bytes], settings: dict[str, str]
) -> None:
    wire = from_mailsrv(names[0])
    for number, name in enumerate(names[1:], 1):
        other = Wire(ports=(40_000 + number, 25)).handshake()
        other.server_says(b"220 " + name + b" ESMTP mailsrv\r\n", 10)
        wire.frames += other.frames
    assert imported(path, wire).scenario.server == settings


OURS = sorted((Path(__file__).resolve().parents[3] / "captures" / "client").glob("*.toml"))


@pytest.mark.parametrize("note", OURS, ids=lambda note: note.stem)
def test_what_was_recorded_at_our_own_server_passes_as_imported(note: Path) -> None:
    """But for the answer to EHLO, which has grown since: see the transcript beside it, which also
    says what the server was told while it was recorded."""
    result = import_capture(note.with_suffix(".pcap"))
    told = transcript.load(note.with_suffix(".smtp"))
    scenario = dataclasses.replace(
        result.scenario, server=result.scenario.server | told.server, world=told.world
    )
    ran = suite.run_scenario(scenario, note)
    others = [one for one in ran.differences if "250 LIMITS" not in (one.observed or "")]
    assert list(map(str, others)) == []


def test_the_recorded_times_of_other_servers_are_remarks(path: Path) -> None:
    result = imported(path, greeted())
    assert result.remarks == {("1", 1): "recorded at 10ms"}


# -- several connections --------------------------------------------------------------------------


def two_senders() -> Wire:
    wire = greeted()
    second = Wire(client="192.0.2.77", ports=(50_000, 25))
    second.handshake(ms=30)
    second.server_says(GREETING, 31)
    wire.frames += second.frames
    return wire


def test_several_connections_count_from_the_first_ones_beginning(path: Path) -> None:
    result = imported(path, two_senders())
    assert [connection.name for connection in result.scenario.connections] == ["1", "2"]
    assert [connection.steps[0] for connection in result.scenario.connections] == [
        Departure(At(0), Open("192.0.2.10")),
        Departure(At(ms(30)), Open("192.0.2.77")),
    ]


def test_one_session_can_be_picked(path: Path) -> None:
    two_senders().write(path)
    scenario = import_capture(path, session=2).scenario
    assert [connection.name for connection in scenario.connections] == ["1"]
    assert scenario.connections[0].steps[0] == Departure(At(0), Open("192.0.2.77"))
    assert scenario.source == "some.pcap, connection 2: 220 mx.example.test ESMTP"
    for wrong in (0, 3):
        with pytest.raises(CaptureError, match=f"no session {wrong}; it has 1 to 2"):
            import_capture(path, session=wrong)


def test_a_story_counts_the_connections_and_asks_to_be_told(path: Path) -> None:
    story = imported(path, greeted()).scenario.story
    assert story == "Not yet described: one connection from 192.0.2.10."
    story = imported(path, two_senders()).scenario.story
    assert story == "Not yet described: 2 connections from 192.0.2.10 and 1 more."


def test_an_import_that_expects_nothing_says_so_in_its_story(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.frames = [wire.frames[0], *wire.frames[2:3], *wire.frames[4:]]
    story = imported(path, wire).scenario.story
    assert story.endswith("192.0.2.10, without anything from the server: nothing is expected.")


def test_conversations_years_apart_are_no_scenario_but_each_alone_is(path: Path) -> None:
    wire = greeted()
    later = Wire(ports=(50_000, 25)).handshake(ms=1000 * 86_400_000)
    later.server_says(GREETING, later.now_ms + 1)
    wire.frames += later.frames
    wire.write(path)
    with pytest.raises(CaptureError, match=r"lie 1000 days apart; .* so pick one with --session"):
        import_capture(path)
    for session in (1, 2):
        (connection,) = import_capture(path, session=session).scenario.connections
        assert connection.steps[0] == Departure(At(0), CLIENT)


def test_recorded_times_can_be_kept(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    result = imported(path, wire, recorded_times=True)
    departures = list(result.scenario.connections[0].departures())
    assert departures[1] == Departure(At(ms(12)), SendOctets(EHLO))


def test_a_capture_without_smtp_says_what_it_has_instead(path: Path) -> None:
    wire = Wire(ports=(40_000, 80)).handshake()
    wire.server_says(b"HTTP/1.1 200 OK\r\n", 1)
    with pytest.raises(CaptureError, match=r"no SMTP conversation is in it .*speaks HTTP"):
        import_capture(wire.write(path))


def test_a_jump_of_years_is_shortened_and_told(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 14 * 365 * 86_400_000)
    result = imported(path, wire)
    assert "too-long" in [oddity.kind for oddity in result.connections[0].oddities]
