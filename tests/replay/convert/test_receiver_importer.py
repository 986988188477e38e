"""The receiver of a capture becomes one that is played, with the mail that it was delivered."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from capture_builder import ACK, FIN, Wire

from replay.capture.oddity import CaptureError
from replay.convert.exporter import export
from replay.convert.importer import ImportedCapture
from replay.convert.receiver_importer import import_receiver
from replay.transcript import transcript
from replay.transcript.script import (
    Abandon,
    After,
    AfterArrival,
    Close,
    CommandVerb,
    Departure,
    Evidence,
    Expectation,
    Listen,
    PeerCloses,
    PeerOpens,
    SendOctets,
    UntilClosed,
)

MS = 1_000_000


def imported(path: Path, wire: Wire, **how: bool) -> ImportedCapture:
    result = import_receiver(wire.write(path), **how)  # type: ignore[arg-type]
    text = transcript.write(result.scenario, result.remarks)
    assert transcript.parse(text, "some.smtp") == result.scenario
    return result


def greeted() -> Wire:
    wire = Wire().handshake()
    wire.server_says(b"220 strange\r\n", 10)
    wire.client_says(b"EHLO me\r\n", 12)
    wire.server_says(b"250 PIPELINING\r\n", 15)
    return wire


def enveloped(wire: Wire, recipients: bytes = b"RCPT TO:<b@example.net> NOTIFY=NEVER\r\n") -> Wire:
    wire.client_says(
        b"MAIL FROM:<a@example.org> SIZE=99 BODY=8BITMIME AUTH=<>\r\n" + recipients + b"DATA\r\n",
        16,
    )
    return wire


def delivered() -> Wire:
    wire = enveloped(greeted())
    wire.server_says(b"250 ok\r\n250 ok\r\n354 go\r\n", 20)
    wire.client_says(b"Subject: x\r\n\r\n..\r\n.\r\n", 21)
    wire.server_says(b"250 taken\r\n", 2021)
    wire.client_says(b"QUIT\r\n", 2022)
    wire.server_says(b"221 bye\r\n", 2023)
    return wire


def test_the_server_is_played_and_each_reply_hangs_on_what_it_answered(tmp_path: Path) -> None:
    wire = delivered()
    wire.packet(1, flags=FIN | ACK, ms=2023)
    result = imported(tmp_path / "x.pcap", wire)
    sender, receiver = result.scenario.connections
    assert not sender.plays_receiver
    steps = list(receiver.steps)
    assert steps[:4] == [
        Departure(steps[0].anchor, Listen("198.51.100.25")),  # type: ignore[union-attr]
        Expectation(PeerOpens()),
        Departure(After(10 * MS), SendOctets(b"220 strange\r\n")),
        Expectation(CommandVerb("EHLO", b"EHLO me\r\n")),
    ]
    departures = list(receiver.departures())
    assert departures[2] == Departure(AfterArrival(3 * MS), SendOctets(b"250 PIPELINING\r\n"))
    assert departures[4] == Departure(AfterArrival(2000 * MS), SendOctets(b"250 taken\r\n"))
    assert departures[-1].action == Close()
    assert Evidence.PRESUMED in {one.evidence for one in departures}
    expected = [one.outcome for one in receiver.expectations()]
    assert CommandVerb("content") in expected
    assert result.scenario.server == {"delivery": "relay=198.51.100.25:25"}


def test_its_mail_comes_in_by_itself_without_what_was_its_clients_affair(tmp_path: Path) -> None:
    result = imported(tmp_path / "x.pcap", delivered())
    sent = b"".join(
        one.action.octets
        for one in result.scenario.connections[0].departures()
        if isinstance(one.action, SendOctets)
    )
    assert b"MAIL FROM:<a@example.org> BODY=8BITMIME\r\n" in sent
    assert b"RCPT TO:<b@example.net> NOTIFY=NEVER\r\n" in sent
    assert b"Subject: x\r\n\r\n..\r\n.\r\n" in sent


def test_a_chunk_is_content_like_any_other(tmp_path: Path) -> None:
    wire = greeted()
    wire.client_says(b"MAIL FROM:<>\r\nRCPT TO:<b@c>\r\nBDAT 4\r\n.a\r\n", 16)
    wire.client_says(b"BDAT 3 LAST\r\nb\r\n", 17)
    wire.server_says(b"250 ok\r\n" * 4, 20)
    result = imported(tmp_path / "x.pcap", wire)
    sent = [one.action for one in result.scenario.connections[0].departures()]
    assert SendOctets(b"..a\r\nb\r\n.\r\n") in sent


def test_a_server_that_hangs_up_and_one_whose_record_just_ends(tmp_path: Path) -> None:
    wire = enveloped(greeted())
    wire.packet(0, flags=FIN | ACK, ms=30)
    receiver = imported(tmp_path / "x.pcap", wire).scenario.connections[1]
    assert [step.action for step in receiver.departures()][-1] == UntilClosed()
    assert PeerCloses() in [one.outcome for one in receiver.expectations()]
    receiver = imported(tmp_path / "y.pcap", enveloped(greeted())).scenario.connections[1]
    assert [step.action for step in receiver.departures()][-1] == Abandon()


def test_an_early_reply_hangs_on_the_servers_own_clock(tmp_path: Path) -> None:
    wire = greeted()
    wire.client_says(b"MAIL FROM:<a@b>\r\n", 16)
    wire.server_says(b"421 closing\r\n", 17, ack=len(b"EHLO me\r\n"))
    result = imported(tmp_path / "x.pcap", wire)
    last = list(result.scenario.connections[-1].departures())[-2]
    assert last.action == SendOctets(b"421 closing\r\n")
    assert (last.anchor, last.evidence) == (After(2 * MS), Evidence.PROVEN_EARLY)


def test_a_retry_is_the_same_message_and_another_is_not(tmp_path: Path) -> None:
    wire = greeted()
    wire.client_says(b"MAIL FROM:<a@b>\r\nRCPT TO:<b@c>\r\nRCPT TO:<d@c>\r\n", 16)
    wire.server_says(b"250 ok\r\n450 later\r\n450 later\r\n", 17)
    wire.client_says(b"RSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<d@c>\r\nDATA\r\n", 18)
    wire.server_says(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", 19)
    wire.client_says(b"x: y\r\n\r\n.\r\n", 20)
    wire.server_says(b"250 ok\r\n", 21)
    wire.client_says(b"MAIL FROM:<a@b>\r\nRCPT TO:<d@c>\r\n", 22)
    wire.server_says(b"250 ok\r\n550 no\r\n", 23)
    names = [one.name for one in imported(tmp_path / "x.pcap", wire).scenario.connections]
    assert names == ["mail-1", "mail-2", "1"]


def test_a_capture_that_shows_no_mail_gets_some(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"554 go away\r\n", 10)
    wire.client_says(b"QUIT\r\n", 12)
    names = [one.name for one in imported(tmp_path / "x.pcap", wire).scenario.connections]
    assert names == ["mail-1", "1"]


def test_a_server_whose_beginning_is_not_there_cannot_be_played(tmp_path: Path) -> None:
    wire = Wire()
    wire.client_says(b"RCPT TO:<b@example.net>\r\n", 0)
    wire.server_says(b"250 ok\r\n", 1)
    with pytest.raises(CaptureError, match="no server in it can be played"):
        import_receiver(wire.write(tmp_path / "x.pcap"))


def test_recorded_times_are_absolute(tmp_path: Path) -> None:
    result = imported(tmp_path / "x.pcap", delivered(), recorded_times=True)
    departures = list(result.scenario.connections[1].departures())
    assert {type(one.anchor).__name__ for one in departures[:-1]} == {"At"}


def test_what_is_exported_of_a_receiver_imports_as_the_same(tmp_path: Path) -> None:
    wire = delivered()
    wire.packet(1, flags=FIN | ACK, ms=2023)
    first = imported(tmp_path / "x.pcap", wire).scenario
    receiver = dataclasses.replace(first, connections=first.connections[1:])
    path = tmp_path / "again.pcapng"
    with path.open("wb") as file:
        export(file, receiver)
    again = import_receiver(path).scenario.connections[-1]
    assert again.steps == receiver.connections[0].steps
