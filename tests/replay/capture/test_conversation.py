"""Flows become timed SMTP conversations, or are left out with a reason."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from capture_builder import ACK, BEGIN_NS, FIN, NS_PER_MS, RST, SYN, Wire, ethernet, write_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.capture.conversation import Conversation
from replay.capture.oddity import CaptureError
from replay.capture.pcap import read_records
from replay.capture.reader import Capture, read_capture

GREETING = b"220 mx.example.test ESMTP\r\n"
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pcap"


def one(path: Path, wire: Wire) -> Conversation:
    capture = read_capture(wire.write(path))
    assert capture.left_out == []
    (conversation,) = capture.conversations
    return conversation


def left_out(path: Path, wire: Wire) -> str:
    capture = read_capture(wire.write(path))
    assert capture.conversations == []
    ((_, reason),) = capture.left_out
    return reason


def replies(conversation: Conversation) -> list[tuple[float, int, int, bytes]]:
    return [
        ((reply.ts_ns - BEGIN_NS) / NS_PER_MS, reply.packet, reply.code, reply.octets)
        for reply in conversation.replies
    ]


def acts(conversation: Conversation) -> list[tuple[str, float, int, bytes]]:
    return [
        (act.kind, (act.ts_ns - BEGIN_NS) / NS_PER_MS, act.packet, act.octets)
        for act in conversation.acts
    ]


def kinds(conversation: Conversation) -> list[str]:
    return [oddity.kind for oddity in conversation.oddities]


def greeted(ports: tuple[int, int] = (40_000, 25)) -> Wire:
    wire = Wire(ports=ports).handshake()
    wire.server_says(GREETING, 1)
    return wire


# -- what is said ---------------------------------------------------------------------------------


def test_a_session_is_acts_of_the_sender_and_whole_replies(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"EHLO me\r\n", 2)
    wire.server_says(b"250-mx.example.test\r\n250-SIZE\r\n250 8BIT", 3)
    wire.server_says(b"MIME\r\n", 4)
    wire.client_says(b"QU", 5)
    wire.client_says(b"IT\r\n", 6)
    wire.server_says(b"221 2.0.0 Bye\r\n", 7)
    wire.packet(1, flags=FIN | ACK, ms=8)
    wire.packet(0, flags=FIN | ACK, ms=9)
    conversation = one(path, wire)
    assert acts(conversation) == [
        ("send", 2, 5, b"EHLO me\r\n"),
        ("send", 5, 8, b"QU"),
        ("send", 6, 9, b"IT\r\n"),
        ("close", 9, 12, b""),
    ]
    assert replies(conversation) == [
        (1, 4, 220, GREETING),
        (4, 7, 250, b"250-mx.example.test\r\n250-SIZE\r\n250 8BITMIME\r\n"),
        (7, 10, 221, b"221 2.0.0 Bye\r\n"),
    ]
    assert conversation.server_end is not None
    assert not conversation.server_end.is_reset
    assert kinds(conversation) == []
    assert str(conversation.client) == "192.0.2.10:40000"


def test_two_replies_in_one_segment_are_two(path: Path) -> None:
    wire = greeted()
    wire.server_says(b"250 one\r\n354\r\n", 2)
    assert [code for _, _, code, _ in replies(one(path, wire))] == [220, 250, 354]


def test_lines_that_are_no_replies_are_told_and_left_out(path: Path) -> None:
    wire = greeted()
    wire.server_says(b"hello there\r\n250 ok\r\nworld\r\n250 un", 2)
    conversation = one(path, wire)
    assert [code for _, _, code, _ in replies(conversation)] == [220, 250]
    assert sorted(set(kinds(conversation))) == ["not-a-reply", "unterminated-reply"]


def test_a_reply_that_ends_in_a_bare_line_feed_is_a_reply_and_told(path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\n", 1)
    conversation = one(path, wire)
    assert replies(conversation) == [(1, 4, 220, b"220 mx\n")]
    assert kinds(conversation) == ["bare-lf-reply"]


def test_an_answer_to_a_line_without_an_end_is_told(path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx", 1)
    wire.client_says(b"EHLO me\r\n", 2)
    wire.server_says(b"250 ok\r\n", 3)
    conversation = one(path, wire)
    assert [octets for *_, octets in replies(conversation)] == [b"220 mx250 ok\r\n"]
    assert [(odd.packet, odd.kind) for odd in conversation.oddities] == [(5, "unterminated-reply")]


def test_a_line_without_end_is_given_up(path: Path) -> None:
    wire = Wire().handshake()
    for n in range(70):
        wire.server_says(b"220 " + b"A" * 1000, n)
    wire.server_says(b"\r\n250 ok\r\n", 80)
    conversation = one(path, wire)
    assert replies(conversation) == []
    assert "not-a-reply" in kinds(conversation)


# -- how it ends ----------------------------------------------------------------------------------


def test_a_sender_that_finishes_and_takes_what_follows_has_half_closed(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"QUIT\r\n", 2)
    wire.packet(0, flags=FIN | ACK, ms=3)
    wire.server_says(b"221 bye\r\n", 4)
    wire.packet(0, ms=5)
    assert acts(one(path, wire))[-1] == ("half-close", 3, 6, b"")


def test_a_sender_that_takes_what_follows_may_reset_in_the_end(path: Path) -> None:
    wire = greeted()
    wire.packet(0, flags=FIN | ACK, ms=3)
    wire.server_says(b"421 late\r\n", 4)
    wire.packet(0, ms=5)
    wire.packet(0, flags=RST, ms=6)
    assert [kind for kind, *_ in acts(one(path, wire))] == ["half-close", "reset"]


def test_a_sender_that_finishes_and_refuses_what_follows_has_closed(path: Path) -> None:
    wire = greeted()
    wire.packet(0, flags=FIN | ACK, ms=3)
    wire.server_says(b"221 bye\r\n", 4)
    wire.packet(0, flags=RST, ms=5)
    assert acts(one(path, wire)) == [("close", 3, 5, b"")]


def test_a_reset_that_acknowledges_what_it_refuses_has_taken_nothing(path: Path) -> None:
    wire = greeted()
    wire.packet(0, flags=FIN | ACK, ms=3)
    wire.server_says(b"221 bye\r\n", 4)
    wire.packet(0, flags=RST | ACK, ms=5)
    assert [kind for kind, *_ in acts(one(path, wire))] == ["close"]


def test_a_sender_that_finishes_last_has_closed(path: Path) -> None:
    wire = greeted()
    wire.packet(0, flags=FIN | ACK, ms=3)
    wire.packet(1, flags=FIN | ACK, ms=4)
    wire.packet(0, ms=5)
    assert [kind for kind, *_ in acts(one(path, wire))] == ["close"]


def test_a_reset_of_either_side_is_told(path: Path) -> None:
    wire = greeted()
    wire.packet(0, flags=RST, ms=3)
    assert acts(one(path, wire)) == [("reset", 3, 5, b"")]
    wire = greeted()
    wire.packet(1, flags=RST, ms=3)
    conversation = one(path, wire)
    assert conversation.server_end is not None
    assert conversation.server_end.is_reset


# -- encryption and holes -------------------------------------------------------------------------


def test_after_an_accepted_starttls_the_conversation_is_followed_no_further(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"starttls\r\n", 2)
    wire.server_says(b"220 go ahead\r\n", 3)
    wire.client_says(TLS_HELLO, 4)
    wire.server_says(b"\x16\x03\x03\x00\x40hello\n250 no reply\r\n", 5)
    wire.packet(0, flags=FIN | ACK, ms=6)
    conversation = one(path, wire)
    assert [octets for _, _, _, octets in acts(conversation)] == [b"starttls\r\n"]
    assert [code for _, _, code, _ in replies(conversation)] == [220, 220]
    assert conversation.cut_short == "encrypted"
    assert "11 octets of the sender and 25 of the server" in conversation.oddities[0].sentence


def test_what_a_tap_behind_tls_recorded_in_the_clear_is_followed(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"STARTTLS\r\n", 2)
    wire.server_says(b"220 go ahead\r\n", 3)
    wire.client_says(b"EHLO me\r\n", 40)
    wire.server_says(b"250 mx\r\n", 41)
    wire.client_says(b"QUIT\r\n", 42)
    conversation = one(path, wire)
    assert [act[0] for act in acts(conversation)] == ["send", "starttls", "send", "send"]
    assert [code for _, _, code, _ in replies(conversation)] == [220, 220, 250]
    assert (conversation.tls, conversation.cut_short) == ("starttls", "")
    assert [(odd.packet, odd.kind) for odd in conversation.oddities] == [(7, "decrypted")]


def test_a_command_instead_of_a_handshake_is_no_tls_where_nobody_understands_it(
    path: Path,
) -> None:
    wire = greeted()
    wire.client_says(b"STARTTLS\r\n", 2)
    wire.server_says(b"220 go ahead\r\n", 3)
    wire.client_says(b"EHLO me\r\n", 4)
    wire.server_says(b"\x15\x03\x01\0\x02\x02\x46", 5)
    conversation = one(path, wire)
    assert [act[0] for act in acts(conversation)] == ["send", "send"]
    assert conversation.cut_short == "encrypted"


def test_where_the_server_was_not_captured_a_handshake_tells_that_tls_begins(path: Path) -> None:
    wire = Wire()
    wire.packet(0, flags=SYN, seq=-1)
    wire.client_says(b"EHLO me\r\n", 1)
    wire.client_says(b"STARTTLS\r\n", 2)
    wire.client_says(TLS_HELLO, 3)
    conversation = one(path, wire)
    assert [octets for *_, octets in acts(conversation)] == [b"EHLO me\r\n", b"STARTTLS\r\n"]
    assert (conversation.tls, conversation.cut_short) == ("starttls", "encrypted")


def test_a_refused_starttls_changes_nothing(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"STARTTLS\r\n", 2)
    wire.server_says(b"454 4.7.0 not now\r\n", 3)
    wire.client_says(TLS_HELLO + b"\r\n", 4)
    wire.server_says(b"500 5.5.2 what\r\n", 5)
    conversation = one(path, wire)
    assert [octets for *_, octets in acts(conversation)] == [b"STARTTLS\r\n", TLS_HELLO + b"\r\n"]
    assert [code for _, _, code, _ in replies(conversation)] == [220, 454, 500]
    assert conversation.cut_short == ""


def test_tls_from_the_start_on_a_port_of_smtp_is_a_session_without_a_word(path: Path) -> None:
    wire = Wire(ports=(40_000, 465)).handshake()
    wire.client_says(TLS_HELLO, 1)
    wire.server_says(b"\x16\x03\x03\x00\x7a", 2)
    conversation = one(path, wire)
    assert (acts(conversation), replies(conversation)) == ([], [])
    assert conversation.cut_short == "encrypted"
    assert "from packet 4 on the conversation is encrypted" in conversation.oddities[0].sentence


def test_a_server_that_greets_who_says_hello_in_tls_speaks_smtp(path: Path) -> None:
    wire = Wire().handshake()
    wire.client_says(TLS_HELLO, 1)
    wire.server_says(b"220 mx\r\n", 2)
    assert [octets for *_, octets in acts(one(path, wire))] == [TLS_HELLO]


def test_the_sender_is_followed_up_to_the_octets_that_are_missing(path: Path) -> None:
    wire = greeted()
    wire.client_says(b"EHLO me\r\n", 2)
    wire.packet(0, b"RCPT", seq=20, ms=3)
    wire.packet(1, ack=24, ms=4)
    conversation = one(path, wire)
    assert [octets for *_, octets in acts(conversation)] == [b"EHLO me\r\n"]
    assert conversation.cut_short == "missing octets"
    assert "cut-short" in kinds(conversation)


def test_where_the_servers_octets_are_missing_its_replies_are_unknown_from_there(
    path: Path,
) -> None:
    wire = greeted()
    wire.packet(1, b"250 ok\r\n", seq=60, ms=2)
    wire.client_says(b"QUIT\r\n", 3)
    conversation = one(path, wire)
    assert [code for _, _, code, _ in replies(conversation)] == [220]
    assert conversation.blind_from == 1
    assert [octets for *_, octets in acts(conversation)] == [b"QUIT\r\n"]


# -- which flows are SMTP, and who is who ---------------------------------------------------------


def test_a_server_that_greets_on_any_port_speaks_smtp(path: Path) -> None:
    for port in (25, 8025, 10_025):
        assert len(one(path, greeted((40_000, port))).replies) == 1


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n", TLS_HELLO, b"\0\1\2", b"SSH-2.0-x\r\n"]
)
def test_nonsense_said_to_an_smtp_server_is_an_smtp_conversation(
    path: Path, nonsense: bytes
) -> None:
    wire = greeted((40_000, 8025))
    wire.client_says(nonsense, 2)
    wire.server_says(b"500 5.5.2 no\r\n", 3)
    conversation = one(path, wire)
    assert [octets for *_, octets in acts(conversation)] == [nonsense]


def test_a_connection_that_is_dropped_without_a_word_is_an_smtp_conversation(path: Path) -> None:
    wire = greeted()
    wire.packet(0, flags=RST, ms=2)
    assert one(path, wire).replies[0].code == 220
    wire = Wire().handshake()
    wire.packet(0, flags=FIN | ACK, ms=2)
    assert acts(one(path, wire)) == [("close", 2, 4, b"")]


def test_a_client_that_greets_speaks_smtp_even_to_a_damaged_server(path: Path) -> None:
    wire = Wire(ports=(40_000, 8025)).handshake()
    wire.server_says(b"mx.example.test ESMTP\r\n", 1)
    wire.client_says(b"helo me\r\n", 2)
    assert kinds(one(path, wire)) == ["not-a-reply"]


def test_in_mid_stream_the_client_is_told_by_what_is_said(path: Path) -> None:
    wire = Wire(ports=(25, 40_000))  # the ports say otherwise
    wire.server_says(b"250 ok\r\n", 1)
    wire.client_says(b"RCPT TO:<a@example.test>\r\n", 2)
    conversation = one(path, wire)
    assert conversation.client.port == 25
    assert kinds(conversation) == ["blind", "mid-stream"]


def test_in_mid_stream_without_words_the_client_is_told_by_the_ports(path: Path) -> None:
    wire = Wire()
    wire.packet(1, flags=FIN | ACK, ms=1)
    wire.packet(0, b"some content\r\n.\r\n", ms=2)
    assert one(path, wire).client.port == 40_000


def test_the_senders_direction_alone_is_used_and_told(path: Path) -> None:
    wire = Wire().handshake()
    wire.client_says(b"EHLO me\r\n", 1)
    wire.frames = [wire.frames[0], *wire.frames[2:]]
    conversation = one(path, wire)
    assert conversation.blind_from == 0
    assert kinds(conversation) == ["one-sided"]


@pytest.mark.parametrize(
    ("port", "client", "server", "reason"),
    [
        (80, b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n", "HTTP"),
        (80, b"POST / HTTP/1.1\r\n\r\nEHLO me\r\n", b"HTTP/1.1 400 No\r\n", "HTTP"),
        (443, TLS_HELLO, b"\x16\x03\x03\x00\x7a", "TLS is spoken from its first octet on"),
        (443, TLS_HELLO, b"", "TLS is spoken from its first octet on"),
        (8080, b"CONNECT mx:25 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", "an HTTP proxy is"),
        (
            8080,
            b"CONNECT mx:25 HTTP/1.1\r\n\r\nEHLO me\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n220 mx ESMTP\r\n",
            "asked to connect first; the SMTP within is not followed",
        ),
        (1080, b"\x04\x01\0\x19abcd\0", b"\0\x5a\0\0abcd", "a SOCKS proxy is asked first"),
        (
            1080,
            b"\x05\x01\x00\x05\x01\0\x01abcd\0\x19EHLO me\r\n",
            b"\x05\0\x05\0\0\x01abcd\0\x19220 mx ESMTP\r\n",
            "SOCKS proxy is asked first; the SMTP within is not followed",
        ),
        (21, b"", b"220 ftp.example.test\r\n", "FTP"),
        (2121, b"USER me\r\n", b"220 ready\r\n", "FTP"),
        (110, b"USER me\r\n", b"+OK\r\n", "POP3"),
        (143, b"a LOGIN\r\n", b"* OK\r\n", "IMAP"),
        (119, b"", b"200 news\r\n", "NNTP"),
        (22, b"SSH-2.0-a\r\n", b"SSH-2.0-b\r\n", "SSH"),
        (1080, b"\x05\x01\x00", b"\x05\x00", "SOCKS"),
        (5000, b"hello", b"there", "nothing said in it is SMTP"),
        (5000, b"", b"", "nothing is said"),
    ],
)
def test_what_is_not_smtp_is_left_out_with_a_reason(
    path: Path, port: int, client: bytes, server: bytes, reason: str
) -> None:
    wire = Wire(ports=(40_000, port)).handshake()
    if client:
        wire.client_says(client, 1)
    if server:
        wire.server_says(server, 2)
    assert reason in left_out(path, wire)


def test_a_refused_connection_is_left_out(path: Path) -> None:
    wire = Wire()
    wire.packet(0, flags=SYN, seq=-1)
    wire.packet(1, flags=RST | ACK, seq=0, ack=0)
    assert left_out(path, wire) == "the connection was never accepted"


def test_our_own_server_is_known_by_its_greeting(path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx.example.test ESMTP mailsrv\r\n", 1)
    assert one(path, wire).is_mailsrv
    assert not one(path, greeted()).is_mailsrv


# -- whole files ----------------------------------------------------------------------------------


def test_a_capture_without_tcp_holds_nothing(path: Path) -> None:
    capture = read_capture(write_frames(path, [(0, ethernet(bytes(28), 0x0806), None)]))
    assert (capture.packets, capture.conversations, capture.left_out) == (1, [], [])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=8))
def test_a_damaged_capture_raises_nothing_but_capture_errors(
    tmp_path_factory: pytest.TempPathFactory, place: int, damage: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pcap"
    wire = greeted()
    for n in range(20):
        wire.client_says(b"NOOP\r\n", n)
        wire.server_says(b"250 ok\r\n", n)
    octets = bytearray(wire.write(path).read_bytes())
    octets[place : place + len(damage)] = damage
    path.write_bytes(octets)
    with contextlib.suppress(CaptureError):
        assert isinstance(read_capture(path), Capture)


def corpus() -> list[Path]:
    folder = os.environ.get("SMTP_CORPUS")
    return sorted(Path(folder).glob("*.pcap*")) if folder else []


@pytest.mark.skipif(not corpus(), reason="SMTP_CORPUS names no folder with captures")
def test_every_file_of_the_corpus_is_read_and_explained() -> None:
    for file in corpus():
        capture = read_capture(file)
        assert capture.conversations or capture.left_out, file.name
        assert all(reason for _, reason in capture.left_out)
        assert capture.packets == sum(1 for _ in read_records(file, []))
