"""Captures become scenarios: what hangs on what, and what is expected."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from pathlib import Path

import pytest
from capture_builder import ACK, FIN, NS_PER_MS, RST, Wire

from replay.capture.oddity import CaptureError
from replay.capture.reader import read_capture
from replay.convert.anchors import Evidence
from replay.convert.importer import ImportedCapture, import_capture
from replay.report.capture_json import summary
from replay.transcript import transcript
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.script import (
    Abandon,
    After,
    AfterReply,
    At,
    Close,
    Departure,
    ExactReply,
    Expectation,
    HalfClose,
    Open,
    ReplyCode,
    Reset,
    SendOctets,
    ServerCloses,
    ServerResets,
    Step,
    UntilClosed,
)
from replay.verify import suite

GREETING = b"220 mx.example.test ESMTP\r\n"
EHLO, QUIT = b"EHLO me\r\n", b"QUIT\r\n"
OK, BYE = b"250 mx\r\n", b"221 bye\r\n"
CLIENT = Open("192.0.2.10")


def ms(milliseconds: float) -> int:
    return round(milliseconds * NS_PER_MS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


def imported(path: Path, wire: Wire, *, recorded_times: bool = False) -> ImportedCapture:
    result = import_capture(wire.write(path), recorded_times=recorded_times)
    text = transcript.write(result.scenario, result.remarks)
    assert transcript.parse(text, "some.smtp") == result.scenario
    return result


def steps(path: Path, wire: Wire) -> tuple[Step, ...]:
    (connection,) = imported(path, wire).scenario.connections
    return connection.steps


def expect(code: int, octets: bytes) -> Expectation:
    return Expectation(ReplyCode(code, octets))


def evidence(result: ImportedCapture) -> list[Evidence]:
    return [one.evidence for one in result.connections[0].evidence.values()]


def greeted() -> Wire:
    wire = Wire().handshake()
    wire.server_says(GREETING, 10)
    return wire


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
        Departure(AfterReply(ms(2)), SendOctets(EHLO)),
        expect(250, OK),
        Departure(AfterReply(ms(40)), SendOctets(QUIT)),
        expect(221, BYE),
        Expectation(ServerCloses()),
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
        Departure(AfterReply(ms(2)), SendOctets(b"NOOP\r\n")),
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
        Departure(AfterReply(0), Abandon()),
    )
    assert evidence(result) == [Evidence.OWN_CLOCK]


def test_further_segments_of_a_flight_keep_their_distances(path: Path) -> None:
    wire = greeted()
    for at, octets in ((12, b"MAIL"), (12, b" FROM:<>\r\n"), (19, b"RCPT TO:<a@b>\r\n")):
        wire.client_says(octets, at)
    assert steps(path, wire)[2:5] == (
        Departure(AfterReply(ms(2)), SendOctets(b"MAIL")),
        Departure(After(0), SendOctets(b" FROM:<>\r\n")),
        Departure(After(ms(7)), SendOctets(b"RCPT TO:<a@b>\r\n")),
    )


def test_an_acknowledgement_captured_before_its_reply_waits_for_nothing(path: Path) -> None:
    wire = Wire().handshake()
    wire.client_says(EHLO, 5, ack=len(GREETING))
    wire.server_says(GREETING, 6, ack=0)
    assert steps(path, wire)[1:3] == (
        expect(220, GREETING),
        Departure(AfterReply(0), SendOctets(EHLO)),
    )


# -- endings --------------------------------------------------------------------------------------


def test_endings_are_as_they_were(path: Path) -> None:
    wire = greeted()
    wire.packet(0, ms=11)
    wire.packet(0, flags=RST, ms=15)
    assert steps(path, wire)[-1] == Departure(AfterReply(ms(5)), Reset())
    wire = greeted()
    wire.packet(0, flags=FIN | ACK, ms=15)
    assert steps(path, wire)[-1] == Departure(AfterReply(ms(5)), Close())
    wire = greeted()
    wire.client_says(QUIT, 12)
    wire.packet(1, flags=RST, ms=15)
    assert steps(path, wire)[-2:] == (
        Expectation(ServerResets()),
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
        Departure(AfterReply(ms(2)), SendOctets(QUIT)),
        Departure(After(ms(1)), HalfClose()),
        expect(221, BYE),
        Expectation(ServerCloses()),
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
        Departure(AfterReply(ms(1)), SendOctets(QUIT)),
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
        Expectation(ServerCloses()),
        Departure(AfterReply(ms(96_990)), Close()),
    )


def test_a_record_that_just_ends_is_abandoned_when_it_did(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.server_says(OK, 13)
    wire.packet(0, ms=53)
    assert steps(path, wire)[-2:] == (expect(250, OK), Departure(AfterReply(ms(40)), Abandon()))


def test_after_starttls_the_script_is_abandoned_with_the_last_reply(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"STARTTLS\r\n", 12)
    wire.server_says(b"220 go\r\n", 13)
    wire.client_says(b"\x16\x03\x01\x00\x05hello", 14)
    result = imported(path, wire)
    assert result.scenario.connections[0].steps[-2:] == (
        expect(220, b"220 go\r\n"),
        Departure(AfterReply(0), Abandon()),
    )
    assert "encrypted" in transcript.write(result.scenario, result.remarks)


def test_a_hole_in_the_senders_octets_ends_the_script_before_it(path: Path) -> None:
    wire = greeted()
    wire.client_says(EHLO, 12)
    wire.packet(0, b"RCPT", seq=20, ms=13)
    wire.packet(1, b"250 lost\r\n", ms=14, ack=24)
    result = imported(path, wire)
    assert result.scenario.connections[0].steps[-2:] == (
        Departure(AfterReply(ms(2)), SendOctets(EHLO)),
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
        Expectation(ExactReply(b"220 mx.example.test ESMTP mailsrv\r\n")),
        Expectation(ReplyCode(250, b"250 2.0.0 Ok: queued as 22352CBB401240C\r\n")),
        Expectation(ExactReply(BYE)),
        Expectation(ServerCloses()),
    ]
    assert result.remarks["1", 1] == "recorded at 10.000001ms"
    assert result.scenario.server == {}


def test_with_recorded_times_our_own_server_is_expected_to_the_nanosecond(path: Path) -> None:
    (connection,) = imported(path, from_mailsrv(), recorded_times=True).scenario.connections
    assert list(connection.expectations()) == [
        Expectation(ExactReply(b"220 mx.example.test ESMTP mailsrv\r\n"), 10_000_001),
        Expectation(ExactReply(b"250 2.0.0 Ok: queued as 22352CBB401240C\r\n"), ms(13)),
        Expectation(ExactReply(BYE), ms(15)),
        Expectation(ServerCloses(), ms(16)),
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
