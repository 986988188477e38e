"""TLS that the proxy terminates: what is within goes through and stands in the captures."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import pytest
from recorded import Stage, events, stage, take
from running import replay

from mailsrv.transport.tls_context import server_context
from replay.capture.reader import read_capture
from replay.convert.importer import import_capture
from replay.play.tls_client import CERTIFICATE, KEY
from replay.transcript import script
from replay.verify import suite

GREETING, EHLO, HELLO = b"220 mx ESMTP\r\n", b"EHLO me\r\n", b"250-mx\r\n250 STARTTLS\r\n"
STARTTLS, READY = b"STARTTLS\r\n", b"220 go\r\n"


def arrived(sock: socket) -> bytes:
    """What has arrived, which may be nothing."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


class End:
    """One end's TLS on a socket of the stage."""

    def __init__(self, on: Stage, sock: socket, *, is_server: bool, verify: bool = False) -> None:
        if is_server:
            context = server_context(CERTIFICATE, KEY)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self.sock, self.on, self.done = sock, on, False

    def shake(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.done = True
        self.flush()

    def take_out(self) -> bytes:
        return self._outgoing.read()

    def flush(self) -> None:
        if self._outgoing.pending:
            self.sock.sendall(self._outgoing.read())
        self.on.settle()

    def take_in(self) -> None:
        self._incoming.write(arrived(self.sock))

    def send(self, *texts: bytes) -> None:
        for text in texts:
            self.tls.write(text)
        self.flush()

    def read(self) -> bytes:
        self.take_in()
        with contextlib.suppress(ssl.SSLWantReadError):
            return self.tls.read(65_536)
        return b""


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, tls=server_context(CERTIFICATE, KEY)) as made:
        yield made


def pass_on(on: Stage, origin: socket, octets: bytes, to: socket) -> None:
    origin.sendall(octets)
    on.settle()
    assert take(to) == octets


def up_to_starttls(on: Stage) -> tuple[socket, socket]:
    sender, server = on.connect()
    pass_on(on, server, GREETING, sender)
    pass_on(on, sender, EHLO, server)
    pass_on(on, server, HELLO, sender)
    pass_on(on, sender, STARTTLS, server)
    pass_on_ready(on, server, sender)
    return sender, server


def pass_on_ready(on: Stage, server: socket, sender: socket) -> None:
    server.sendall(READY)
    on.settle()
    assert take(sender) == READY


def shaken(on: Stage, sender: socket, server: socket) -> tuple[End, End]:
    ends = End(on, sender, is_server=False), End(on, server, is_server=True)
    ends[0].shake()
    for _ in range(3):
        for end in ends:
            end.take_in()
            if not end.done:
                end.shake()
    assert [end.done for end in ends] == [True, True]
    return ends


def leave(on: Stage, ends: tuple[End, End]) -> None:
    for end in ends:
        end.sock.close()
        on.settle()
    on.wait(10_000)


def test_what_is_said_under_tls_goes_through_and_is_recorded_in_the_clear(on: Stage) -> None:
    ends = shaken(on, *up_to_starttls(on))
    client, server = ends
    client.send(EHLO, b"NOOP\r\n")
    assert server.read() == EHLO, "each record is one again"
    assert server.read() == b"NOOP\r\n"
    server.send(b"250 mx\r\n")
    assert client.read() == b"250 mx\r\n"
    leave(on, ends)
    for recorder in on.recorders:
        (one,) = read_capture(recorder.file.path).conversations
        assert (one.cut_short, one.tls) == ("", "starttls")
        assert [act.octets for act in one.acts if act.kind == "send"] == [
            EHLO,
            STARTTLS,
            EHLO,
            b"NOOP\r\n",
        ]
        assert [reply.code for reply in one.replies] == [220, 250, 220, 250]


def test_the_recording_becomes_a_script_that_shakes_hands(on: Stage) -> None:
    ends = shaken(on, *up_to_starttls(on))
    ends[0].send(EHLO)
    ends[1].read()
    ends[1].send(b"250 mx\r\n")
    ends[0].read()
    leave(on, ends)
    path = on.recorders[0].file.path
    scenario = import_capture(path).scenario
    assert scenario.world == {"tls": True}
    actions = [one.action for one in scenario.connections[0].departures()]
    assert script.StartTls() in actions
    ran = suite.run_scenario(scenario, path)
    assert [one.what for one in ran.differences] == []


def test_tls_from_the_first_octet_is_terminated_too(on: Stage) -> None:
    client, server = ends = shaken(on, *on.connect())
    server.send(GREETING)
    assert client.read() == GREETING
    client.send(b"QUIT\r\n")
    assert server.read() == b"QUIT\r\n"
    leave(on, ends)
    (one,) = read_capture(on.recorders[0].file.path).conversations
    assert [act.octets for act in one.acts if act.kind == "send"] == [b"QUIT\r\n"]


@pytest.mark.parametrize(
    ("command", "reply"),
    [(STARTTLS, b"454 later\r\n"), (b"NOOP\r\n", READY), (b"STARTTLS now\r\n", READY)],
)
def test_a_session_that_begins_no_tls_goes_on_as_it_is(
    command: bytes, reply: bytes, on: Stage
) -> None:
    sender, server = on.connect()
    pass_on(on, server, GREETING, sender)
    pass_on(on, sender, command, server)
    pass_on(on, server, reply, sender)
    pass_on(on, sender, b"NOOP\r\n", server)
    pass_on(on, server, b"250 ok\r\n", sender)


def test_what_is_injected_behind_starttls_is_never_passed_on(tmp_path: Path) -> None:
    own = server_context(CERTIFICATE, KEY)
    with stage(tmp_path, tls=own, delay_ms=200) as on:
        sender, server = on.connect()
        server.sendall(GREETING)
        on.wait(300)
        pass_on(on, sender, STARTTLS, server)
        server.sendall(READY)
        on.settle()
        sender.sendall(b"MAIL FROM:<injected@example.org>\r\n")  # before it has seen the 220
        on.settle()
        upstream = End(on, server, is_server=True)
        for _ in range(3):
            upstream.take_in()
            if not upstream.done:
                upstream.shake()
        assert upstream.done
        on.wait(300)
        with contextlib.suppress(ConnectionResetError):
            assert upstream.read() == b""
        assert on.said[-1].endswith("TLS with the client failed: WRONG_VERSION_NUMBER")


def test_a_client_that_refuses_the_certificate_is_recorded_as_gone(on: Stage) -> None:
    sender, _ = up_to_starttls(on)
    client = End(on, sender, is_server=False, verify=True)
    client.shake()
    client.take_in()
    with pytest.raises(ssl.SSLCertVerificationError):
        client.tls.do_handshake()
    client.flush()
    assert "TLS with the client failed: " in on.said[-1]
    assert "UNKNOWN_CA" in on.said[-1]
    assert events(on.recorders[0].file.path)[-1] == (0, "RST")


def test_what_came_whole_before_a_broken_record_is_recorded(on: Stage) -> None:
    sender, server = up_to_starttls(on)
    client, _ = shaken(on, sender, server)
    client.tls.write(b"QUIT\r\n")
    sender.sendall(client.take_out() + b"\x17\x03\x03\x00\x20" + bytes(32))
    on.settle()
    on.wait(300)
    assert "TLS with the client failed: " in on.said[-1]
    said = events(on.recorders[0].file.path)
    assert said[-2:] == [(0, b"QUIT\r\n"), (0, "RST")]


def test_the_end_of_the_stream_is_passed_on_as_a_half_close(on: Stage) -> None:
    ends = shaken(on, *up_to_starttls(on))
    client, server = ends
    client.send(b"QUIT\r\n")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.flush()
    assert server.read() == b"QUIT\r\n"
    assert server.tls.read(1) == b"", "close_notify"
    server.send(b"221 bye\r\n")
    assert client.read() == b"221 bye\r\n"
    leave(on, ends)
    assert (0, "FIN") in events(on.recorders[0].file.path)


def test_a_server_that_ends_first_ends_the_session_in_order(on: Stage) -> None:
    ends = shaken(on, *up_to_starttls(on))
    client, server = ends
    client.send(b"QUIT\r\n")
    server.read()
    server.send(b"221 bye\r\n")
    with contextlib.suppress(ssl.SSLWantReadError):
        server.tls.unwrap()
    server.flush()
    assert client.read() == b"221 bye\r\n"
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.flush()
    leave(on, ends)
    assert on.said[-1].endswith(", closed")
    (one,) = read_capture(on.recorders[0].file.path).conversations
    assert one.server_end is not None and not one.server_end.is_reset


def test_a_large_message_goes_through_whole(on: Stage) -> None:
    ends = shaken(on, *up_to_starttls(on))
    client, server = ends
    message = bytes(range(256)) * 4096
    received = b""
    for begin in range(0, len(message), 65_536):
        client.send(message[begin : begin + 65_536])
        while piece := server.read():
            received += piece
    assert received == message
    leave(on, ends)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-key", "x.pem"], "--tls-key goes with --terminate-tls"),
        (["--terminate-tls", "/nowhere.pem"], "--terminate-tls /nowhere.pem: No such file"),
        (["--terminate-tls", str(CERTIFICATE)], "holds no private key in PEM form"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], said: str, tmp_path: Path) -> None:
    where = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:25", "-o", tmp_path / "x.pcap"]
    ran = replay("record", *where, *arguments)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert said in ran.err
