"""TLS in a capture: a session is kept up to it, and is replayed in it if it was recorded in the
clear."""

from __future__ import annotations

from pathlib import Path

import pytest
from capture_builder import Wire

from replay.convert.importer import import_capture
from replay.transcript import script
from replay.transcript.script import Scenario
from replay.verify import suite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


def scenario_of(path: Path, wire: Wire) -> Scenario:
    return import_capture(wire.write(path)).scenario


def in_the_clear(port: int, *said: tuple[int, bytes]) -> Wire:
    wire = Wire(ports=(40_000, port)).handshake()
    for ms, (side, octets) in enumerate(said, 1):
        (wire.server_says if side else wire.client_says)(octets, ms)
    return wire


def test_who_goes_on_under_tls_needs_a_certificate_and_is_left_where_it_begins(path: Path) -> None:
    said = [(1, b"220 mx ESMTP\r\n"), (0, b"STARTTLS\r\n"), (1, b"220 go\r\n")]
    scenario = scenario_of(path, in_the_clear(25, *said, (0, b"\x16\x03\x01hello")))
    assert scenario.world == {"tls": True}
    assert scenario.connections[0].steps[-1].action == script.Abandon()
    assert scenario.story.endswith("one connection from 192.0.2.10, without what was encrypted.")


def test_tls_recorded_in_the_clear_is_begun_where_it_began(path: Path) -> None:
    said = [(1, b"220 mx ESMTP\r\n"), (0, b"STARTTLS\r\n"), (1, b"220 go\r\n")]
    wire = in_the_clear(25, *said, (0, b"EHLO me\r\n"), (1, b"250 mx\r\n"))
    scenario = scenario_of(path, wire)
    assert scenario.world == {"tls": True}
    actions = [departure.action for departure in scenario.connections[0].departures()]
    assert actions[1:4] == [
        script.SendOctets(b"STARTTLS\r\n"),
        script.StartTls(),
        script.SendOctets(b"EHLO me\r\n"),
    ]
    assert "encrypted" not in scenario.story
    ran = suite.run_scenario(scenario, path)
    assert [str(one) for one in ran.differences] == []


def test_tls_from_the_start_is_left_at_once(path: Path) -> None:
    wire = in_the_clear(465, (0, b"\x16\x03\x01\0\x09\x01"), (1, b"\x16\x03\x03\0\x7a"))
    scenario = scenario_of(path, wire)
    assert scenario.world == {"tls": "implicit"}
    actions = [departure.action for departure in scenario.connections[0].departures()]
    assert actions == [script.Open("192.0.2.10"), script.Abandon()]
