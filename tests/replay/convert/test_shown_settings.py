"""A capture made at mailsrv carries the settings that its replies show."""

from __future__ import annotations

from pathlib import Path

import pytest
from capture_builder import ACK, FIN, Wire

from mailsrv.runtime.clock import FakeClock
from replay.convert.importer import import_capture
from replay.transcript import transcript
from replay.transcript.ehlo import ehlo_reply
from replay.transcript.script import EhloReply, Scenario
from replay.verify import suite


def recorded(tmp_path: Path, *replies: bytes, software: bytes = b"mailsrv") -> Scenario:
    """What is imported of a sender that says EHLO again and again."""
    wire = Wire().handshake()
    wire.server_says(b"220 mx.example.test ESMTP " + software + b"\r\n", 1)
    for number, reply in enumerate(replies, 1):
        wire.client_says(b"EHLO client.example\r\n", 10 * number)
        wire.server_says(reply, 10 * number + 1)
    wire.packet(0, flags=FIN | ACK, ms=1000)
    return import_capture(wire.write(tmp_path / "some.pcap")).scenario


@pytest.mark.parametrize(
    ("server", "world"),
    [
        ({}, {}),
        ({"message_octets": 1_000_000}, {}),
        ({"transactions": 5, "recipients": 50}, {"tls": True}),
    ],
)
def test_sizes_limits_and_starttls_are_taken_over_and_what_is_imported_then_holds(
    tmp_path: Path, server: dict[str, int], world: dict[str, bool]
) -> None:
    scenario = recorded(tmp_path, ehlo_reply(server, world, under_tls=False))
    assert (scenario.server, scenario.world) == (server, world)
    outcomes = [one.outcome for one in scenario.connections[0].expectations()]
    assert isinstance(outcomes[1], EhloReply)
    path = tmp_path / "some.smtp"
    path.write_text(transcript.write(scenario), encoding="utf-8")
    assert suite.run_file(path, FakeClock()).verdict == suite.AS_EXPECTED


def test_replies_that_do_not_agree_and_those_of_other_servers_give_no_settings(
    tmp_path: Path,
) -> None:
    first, second = (ehlo_reply({"message_octets": n}, {}, under_tls=False) for n in (100, 200))
    assert recorded(tmp_path, first, second).server == {}
    assert recorded(tmp_path, first, first).server == {"message_octets": 100}
    assert recorded(tmp_path, first, software=b"Postfix").server == {}
