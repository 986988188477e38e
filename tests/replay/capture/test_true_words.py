"""What a capture holds is called by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from capture_builder import Wire, write_frames

from replay.capture.reader import Capture, read_capture
from replay.report.capture import sender_summary


def captured(path: Path, wire: Wire) -> Capture:
    return read_capture(wire.write(path / "some.pcap"))


def session() -> Wire:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"EHLO me\r\n", 2)
    wire.server_says(b"250 mx\r\n", 3)
    wire.client_says(b"DATA\r\n", 4)
    wire.server_says(b"354 go\r\n", 5)
    wire.client_says(b"Hello\r\nMAIL FROM:<a@b> is a line\r\n.\r\n", 6)
    wire.server_says(b"250 ok\r\n", 7)
    return wire


@pytest.mark.parametrize(
    ("client", "server", "name"),
    [
        (b"CONNECT mx:25 HTTP/1.1\r\n", b"HTTP/1.1 200 ok\r\n", "an HTTP proxy"),
        (b"connect mx.example:25 http/1.0\r\n", b"http/1.0 200 ok\r\n", "an HTTP proxy"),
        (b"Connect\tmx:25\tHTTP/1.1\r\n", b"HTTP/1.1 407 no\r\n", "an HTTP proxy"),
        (b"\x05\x01\x00", b"\x05\x00", "a SOCKS proxy"),
        (b"\x05\x20" + bytes(range(0x20)), b"\x05\xff", "a SOCKS proxy"),
        (
            b"\x04\x01\x00\x19\x00\x00\x00\x01me\x00mx.example\x00",
            b"\x00\x5a" + bytes(6),
            "a SOCKS",
        ),
    ],
)
def test_a_proxy_that_is_asked_first_is_named(
    tmp_path: Path, client: bytes, server: bytes, name: str
) -> None:
    wire = Wire(ports=(40_000, 3128)).handshake()
    wire.client_says(client, 1)
    wire.server_says(server, 2)
    wire.server_says(b"220 mx ESMTP\r\n", 3)
    wire.client_says(b"EHLO me\r\n", 4)
    capture = captured(tmp_path, wire)
    assert not capture.conversations
    assert capture.left_out[0].reason.startswith(name)
    assert "SMTP within is not followed" in capture.left_out[0].reason


def test_a_message_line_is_no_command_whatever_is_known_of_replies(tmp_path: Path) -> None:
    whole = session()
    (conversation,) = captured(tmp_path, whole).conversations
    assert sender_summary(conversation).commands == "EHLO DATA"
    whole.frames = [whole.frames[place] for place in (0, 1, 2, 4, 6, 8)]  # without any reply
    (conversation,) = captured(tmp_path, whole).conversations
    assert sender_summary(conversation).commands == "EHLO DATA"


def test_a_snapshot_length_is_named_as_what_cut_octets_off(tmp_path: Path) -> None:
    wire = session()
    wire.frames = [(ts_ns, frame[:66], len(frame)) for ts_ns, frame, _ in wire.frames]
    (conversation,) = captured(tmp_path, wire).conversations
    told = [one.sentence for one in conversation.oddities]
    assert any("the capture's snapshot length cut off" in one for one in told)
    assert any("capture whole packets (-s 0)" in one for one in told)


def test_a_session_joined_in_its_midst_expects_no_greeting(tmp_path: Path) -> None:
    wire = session()
    wire.frames = wire.frames[6:]
    (conversation,) = captured(tmp_path, wire).conversations
    assert conversation.mid_stream
    assert "blind" in [one.kind for one in conversation.oddities]


def test_a_connection_seen_at_two_taps_is_told_once(tmp_path: Path) -> None:
    wire = session()
    frames = sorted(
        [*wire.frames, *((ts_ns + 20_000, frame, size) for ts_ns, frame, size in wire.frames)],
        key=lambda one: one[0],
    )
    (conversation,) = read_capture(write_frames(tmp_path / "two.pcap", frames)).conversations
    alone = captured(tmp_path, wire).conversations[0]
    assert [one.octets for one in conversation.acts] == [one.octets for one in alone.acts]
    assert [one.kind for one in conversation.oddities] == ["seen-twice"]


def test_a_segment_sent_again_is_no_second_tap(tmp_path: Path) -> None:
    wire = session()
    wire.frames.insert(5, wire.frames[4])
    (conversation,) = captured(tmp_path, wire).conversations
    assert [one.kind for one in conversation.oddities] == ["retransmission"]
