"""Captures become scenarios: what hangs on what, how it ends, and that no octet is missing."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from capture_builder import ACK, FIN, RST, Wire
from importing import (
    BYE,
    CLIENT,
    EHLO,
    GREETING,
    OK,
    QUIT,
    evidence,
    expect,
    greeted,
    imported,
    ms,
    steps,
)

from replay.capture.reader import read_capture
from replay.convert.anchors import Evidence
from replay.convert.importer import ImportedCapture, import_capture
from replay.report.capture_json import summary
from replay.transcript import transcript
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.script import (
    Abandon,
    After,
    AfterArrival,
    At,
    Close,
    Departure,
    Expectation,
    HalfClose,
    PeerCloses,
    PeerResets,
    Reset,
    SendOctets,
    UntilClosed,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


# -- causality ------------------------------------------------------------------------------------


def test_a_polite_sender_hangs_on_each_reply_it_had_acknowledged(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.server_says(OK, 20)
    wire.packet(0, ms=21)  # acknowledged at once, answered later
    wire.client_says(QUIT, 60)
    wire.server_says(BYE, 61)
    wire.packet(1, flags=FIN | ACK, ms=61)
    wire.packet(0, flags=FIN | ACK, ms=62)
    result = imported(path, wire)
    assert result.scenario.connections[0].steps == (
        Departure(At(0), CLIENT),
        expect(220, GREETING),
        Departure(AfterArrival(ms(2)), SendOctets(EHLO)),
        expect(250, OK),
        Departure(AfterArrival(ms(40)), SendOctets(QUIT)),
        expect(221, BYE),
        Expectation(PeerCloses()),
        Departure(After(0), UntilClosed()),
    )
    assert evidence(result) == [Evidence.PRESUMED] * 2
    assert [step.packet for step in result.scenario.connections[0].steps] == [
        *(1, 4, 5, 6, 8, 9, 10, 0),
    ]


def test_a_reply_on_its_way_but_not_acknowledged_proves_an_early_talker(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12, ack=0)
    wire.client_says(QUIT, 15, ack=0)
    wire.server_says(OK, 20)
    wire.client_says(b"NOOP\r\n", 22)
    result = imported(path, wire)
    assert result.scenario.connections[0].steps == (
        Departure(At(0), CLIENT),
        Departure(After(ms(12)), SendOctets(EHLO)),
        Departure(After(ms(3)), SendOctets(QUIT)),
        expect(220, GREETING),
        expect(250, OK),
        Departure(AfterArrival(ms(2)), SendOctets(b"NOOP\r\n")),
        Departure(After(0), Abandon()),
    )
    assert evidence(result) == [Evidence.PROVEN_EARLY] * 2 + [Evidence.PRESUMED]
    first = result.connections[0].evidence[1]
    assert first.because == "packet 5 had not acknowledged reply 1 (packet 4)"
    text = transcript.write(result.scenario, result.remarks)
    assert "\n+12ms^       C[5]: EHLO" in text or "\n+12ms^      C[5]: EHLO" in text
    assert "reply+2ms?" in text


def test_half_an_acknowledged_reply_is_not_seen(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12, ack=len(GREETING) - 1)
    assert evidence(imported(path, wire)) == [Evidence.PROVEN_EARLY]


def test_a_reply_in_two_segments_is_seen_when_its_last_octet_is(path: Path) -> None:
    for acknowledged, expected in ((0, Evidence.PRESUMED), (1, Evidence.PROVEN_EARLY)):
        wire = Wire().handshake()
        wire.server_says(GREETING[:9], 1)
        wire.server_says(GREETING[9:], 2)
        wire.client_says(EHLO, 3, ack=len(GREETING) - acknowledged)
        assert evidence(imported(path, wire)) == [expected]


def test_who_talks_before_the_greeting_hangs_on_its_own_clock(path: Path) -> None:
    wire = Wire().handshake()
    wire.client_says(EHLO, 5)
    wire.server_says(GREETING + OK, 10)
    result = imported(path, wire)
    assert result.scenario.connections[0].steps == (
        Departure(At(0), CLIENT),
        Departure(After(ms(5)), SendOctets(EHLO)),
        expect(220, GREETING),
        expect(250, OK),
        Departure(AfterArrival(0), Abandon()),
    )
    assert evidence(result) == [Evidence.OWN_CLOCK]


def test_further_segments_of_a_flight_keep_their_distances(path: Path) -> None:
    wire = greeted()
    for at, octets in ((12, b"MAIL"), (12, b" FROM:<>\r\n"), (19, b"RCPT TO:<a@b>\r\n")):
        wire.client_says(octets, at)
    assert steps(path, wire)[2:5] == (
        Departure(AfterArrival(ms(2)), SendOctets(b"MAIL")),
        Departure(After(0), SendOctets(b" FROM:<>\r\n")),
        Departure(After(ms(7)), SendOctets(b"RCPT TO:<a@b>\r\n")),
    )


def test_an_acknowledgement_captured_before_its_reply_waits_for_nothing(path: Path) -> None:
    wire = Wire().handshake()
    wire.client_says(EHLO, 5, ack=len(GREETING))
    wire.server_says(GREETING, 6, ack=0)
    assert steps(path, wire)[1:3] == (
        expect(220, GREETING),
        Departure(AfterArrival(0), SendOctets(EHLO)),
    )


# -- endings --------------------------------------------------------------------------------------


def test_endings_are_as_they_were(path: Path) -> None:
    wire = greeted()
    wire.packet(0, ms=11)
    wire.packet(0, flags=RST, ms=15)
    assert steps(path, wire)[-1] == Departure(AfterArrival(ms(5)), Reset())
    wire = greeted()
    wire.packet(0, flags=FIN | ACK, ms=15)
    assert steps(path, wire)[-1] == Departure(AfterArrival(ms(5)), Close())
    wire = greeted()
    wire.client_says(QUIT, 12)
    wire.packet(1, flags=RST, ms=15)
    assert steps(path, wire)[-2:] == (
        Expectation(PeerResets()),
        Departure(After(0), UntilClosed()),
    )


def test_a_half_close_goes_on_hearing_until_the_server_closes(path: Path) -> None:
    wire = greeted()
    wire.client_says(QUIT, 12)
    wire.packet(0, flags=FIN | ACK, ms=13)
    wire.server_says(BYE, 14)
    wire.packet(1, flags=FIN | ACK, ms=15)
    wire.packet(0, ms=16)
    assert steps(path, wire)[-5:] == (
        Departure(AfterArrival(ms(2)), SendOctets(QUIT)),
        Departure(After(ms(1)), HalfClose()),
        expect(221, BYE),
        Expectation(PeerCloses()),
        Departure(After(0), UntilClosed()),
    )


def test_what_the_server_said_to_nobody_stands_after_the_senders_end(path: Path) -> None:
    wire = greeted()
    wire.client_says(QUIT, 11)
    wire.packet(0, flags=FIN | ACK, ms=12)
    wire.server_says(BYE, 13)
    wire.packet(1, flags=FIN | ACK, ms=13)
    wire.packet(0, flags=RST, ms=14)
    assert steps(path, wire)[2:] == (
        Departure(AfterArrival(ms(1)), SendOctets(QUIT)),
        Departure(After(ms(1)), Close()),
        expect(221, BYE),
    )


def test_who_holds_a_finished_connection_closes_it_when_it_did(path: Path) -> None:
    wire = greeted()
    wire.packet(1, flags=FIN | ACK, ms=20)
    wire.packet(0, ms=21)
    wire.packet(0, flags=FIN | ACK, ms=97_000)
    assert steps(path, wire)[-3:] == (
        expect(220, GREETING),
        Expectation(PeerCloses()),
        Departure(AfterArrival(ms(96_990)), Close()),
    )


def test_a_record_that_just_ends_is_abandoned_when_it_did(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.server_says(OK, 13)
    wire.packet(0, ms=53)
    assert steps(path, wire)[-2:] == (expect(250, OK), Departure(AfterArrival(ms(40)), Abandon()))


def test_after_starttls_the_script_is_abandoned_with_the_last_reply(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"STARTTLS\r\n", 12)
    wire.server_says(b"220 go\r\n", 13)
    wire.client_says(b"\x16\x03\x01\x00\x05hello", 14)
    result = imported(path, wire)
    assert result.scenario.connections[0].steps[-2:] == (
        expect(220, b"220 go\r\n"),
        Departure(AfterArrival(0), Abandon()),
    )
    assert "encrypted" in transcript.write(result.scenario, result.remarks)


def test_a_hole_in_the_senders_octets_ends_the_script_before_it(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.packet(0, b"RCPT", seq=20, ms=13)
    wire.packet(1, b"250 lost\r\n", ms=14, ack=24)
    result = imported(path, wire)
    assert result.scenario.connections[0].steps[-2:] == (
        Departure(AfterArrival(ms(2)), SendOctets(EHLO)),
        Departure(After(0), Abandon()),
    )
    assert "cut-short" in [oddity.kind for oddity in result.connections[0].oddities]


def test_one_direction_alone_gives_a_script_on_the_senders_clock(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.packet(0, flags=FIN | ACK, ms=15)
    wire.frames = [wire.frames[0], *wire.frames[2:3], *wire.frames[4:]]
    assert steps(path, wire) == (
        Departure(At(0), CLIENT),
        Departure(After(ms(12)), SendOctets(EHLO)),
        Departure(After(ms(3)), HalfClose()),
        Departure(After(0), Abandon()),
    )


# -- for machines ---------------------------------------------------------------------------------


def test_the_summary_holds_both_streams_segments_times_and_oddities(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.packet(0, EHLO, seq=0, ms=13)
    other = Wire(ports=(40_001, 80)).handshake()
    other.server_says(b"HTTP/1.1 200 OK\r\n", 1)
    wire.frames += other.frames
    data = json.loads(json.dumps(summary(read_capture(wire.write(path)))))
    assert (data["file"], data["packets"], data["sessions"]) == ("some.pcap", 10, 1)
    smtp, http = data["connections"]
    assert base64.b64decode(smtp["client"]["octets_base64"]) == EHLO
    assert base64.b64decode(smtp["server"]["octets_base64"]) == GREETING
    assert smtp["client"]["segments"] == [
        {"at_ns": ms(12), "packet": 5, "start": 0, "octets": 9, "acknowledged": len(GREETING)}
    ]
    assert [oddity["kind"] for oddity in smtp["oddities"]] == ["retransmission"]
    assert smtp["acts"][0]["evidence"] == "presumed"
    assert smtp["replies"][0]["at_ns"] == ms(10)
    assert (http["session"], http["left_out"]) == (None, "the server speaks HTTP")


def corpus() -> list[Path]:
    folder = os.environ.get("SMTP_CORPUS")
    return sorted(Path(folder).glob("*.pcap*")) if folder else []


@pytest.mark.skipif(not corpus(), reason="SMTP_CORPUS names no folder with captures")
def test_every_conversation_of_the_corpus_becomes_a_transcript_with_all_its_octets() -> None:
    for file in corpus():
        capture = read_capture(file)
        json.dumps(summary(capture))
        if not capture.conversations:
            continue
        opened_ns = [one.opened_ns for one in capture.conversations]
        far_apart = max(opened_ns) - min(opened_ns) >= DURATION_NS_MAX
        sessions = range(1, len(opened_ns) + 1) if far_apart else [None]
        for result in [import_capture(file, session=session) for session in sessions]:
            text = transcript.write(result.scenario, result.remarks)
            assert transcript.parse(text, file.name) == result.scenario
            assert_all_octets(result)


def assert_all_octets(result: ImportedCapture) -> None:
    for one in result.connections:
        sent = b"".join(
            step.action.octets
            for step in one.script.departures()
            if isinstance(step.action, SendOctets)
        )
        flow = one.conversation.flow
        side = flow.ends.index(one.conversation.client)
        whole = flow.octets(side)
        assert whole.startswith(sent) if one.conversation.cut_short else whole == sent
