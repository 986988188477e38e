"""One session is filed alone: its own frames as they were captured, and nobody else's."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from capture_builder import ACK, FIN, Wire, ethernet, ipv4, write_frames
from running import replay

from replay.capture.oddity import CaptureError
from replay.capture.pcap import read_records
from replay.capture.reader import read_capture
from replay.convert.importer import import_capture
from replay.convert.session_cut import cut_session
from replay.transcript import transcript

Frames = list[tuple[int, bytes, int | None]]


def session(number: int) -> Wire:
    wire = Wire(client=f"192.0.2.{number}", ports=(40_000 + number, 25)).handshake(number)
    wire.server_says(b"220 mx\r\n", number + 10)
    wire.client_says(b"EHLO client%d\r\n" % number, number + 20)
    wire.server_says(b"250 mx\r\n", number + 30)
    wire.client_says(b"QUIT\r\n", number + 40)
    wire.server_says(b"221 bye\r\n", number + 50)
    wire.packet(1, flags=FIN | ACK, ms=number + 60)
    wire.packet(0, flags=FIN | ACK, ms=number + 70)
    return wire


def in_fragments(frames: Frames) -> Frames:
    """The frames, each IPv4 packet in two fragments."""
    found: Frames = []
    for number, (ts_ns, frame, _) in enumerate(frames):
        packet = frame[14:]
        (octets,) = struct.unpack_from("!H", packet, 2)
        body = packet[20:octets]
        for start, part, more in ((0, body[:16], 0x2000), (2, body[16:], 0)):
            ends = [".".join(map(str, packet[at : at + 4])) for at in (12, 16)]
            made = bytearray(ipv4(ends[0], ends[1], part, fragment=more | start))
            made[4:6] = struct.pack("!H", number + 1)
            whole = ethernet(bytes(made))
            found.append((ts_ns, whole, len(whole)))
    return found


def mixed(path: Path, *sessions: Frames) -> Path:
    frames = sorted((frame for one in sessions for frame in one), key=lambda frame: frame[0])
    return write_frames(path, frames)


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_session_cut_out_has_its_own_frames_and_no_others(
    tmp_path: Path, fragmented: bool
) -> None:
    wires = [session(number).frames for number in (1, 2, 3)]
    wires[1] = in_fragments(wires[1]) if fragmented else wires[1]
    whole = mixed(tmp_path / "whole.pcap", *wires)
    capture = read_capture(whole)
    target = tmp_path / "cut.pcap"
    cut_session(whole, capture.conversations[1], target)
    found = [(one.ts_ns, one.frame, one.original_octets) for one in read_records(target, [])]
    assert found == wires[1]


def test_imported_it_is_the_session_as_if_captured_alone(tmp_path: Path) -> None:
    alone = mixed(tmp_path / "alone.pcap", session(2).frames)
    whole = mixed(tmp_path / "whole.pcap", *(session(number).frames for number in (1, 2, 3)))
    ran = replay("import", whole, "--session", "2", "-o", tmp_path / "made" / "one")
    assert (ran.status, ran.err) == (0, "")
    filed = tmp_path / "made" / "one.pcap"
    assert b"client1" not in filed.read_bytes()
    assert filed.read_bytes() == alone.read_bytes()
    scenario = transcript.load(tmp_path / "made" / "one.smtp")
    wanted = import_capture(alone).scenario
    assert (
        transcript.write(transcript.parse(transcript.write(scenario), "a")).split("+++")[2]
        == transcript.write(wanted).split("+++")[2]
    )
    assert scenario.source.startswith("whole.pcap, connection 2: 220 mx")


def test_the_second_take_of_a_session_is_filed_alone_too(tmp_path: Path) -> None:
    whole = mixed(tmp_path / "whole.pcap", *(session(number).frames for number in (1, 2)))
    again = mixed(tmp_path / "again.pcap", *(session(number).frames for number in (1, 2)))
    ran = replay(
        "import", whole, "--delayed", again, "--session", "2", "-o", tmp_path / "made" / "one"
    )
    assert (ran.status, ran.err) == (0, "")
    assert b"client1" not in (tmp_path / "made" / "one.delayed.pcap").read_bytes()


def test_a_session_that_is_not_in_the_file_any_more_is_declined(tmp_path: Path) -> None:
    whole = mixed(tmp_path / "whole.pcap", session(1).frames)
    (conversation,) = read_capture(whole).conversations
    with pytest.raises(CaptureError, match="packets are not found again"):
        cut_session(mixed(tmp_path / "other.pcap", session(2).frames), conversation, whole)
