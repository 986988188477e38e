"""A receiver in Python, in virtual time: what a test lets it do, and sees of its client."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dialling import ToyClient

from replay.play.fakes.tables import WorldError
from replay.testing import Unexpected, VirtualServer

S = 1_000_000_000
Server = Callable[..., VirtualServer]
FLIGHTS = (b"EHLO me\r\n", b"MAIL FROM:<>\r\nDATA\r\n", b"", b"x: y\r\n.\r\n", b"QUIT\r\n")


def dial(server: VirtualServer, at_s: float = 0) -> None:
    server.harness.at(server.now_ns + round(at_s * S), lambda: _dial(server))


def _dial(server: VirtualServer) -> None:
    ToyClient(server.harness, FLIGHTS)


def test_a_receiver_takes_a_message_command_by_command(mail_server: Server) -> None:
    server = mail_server()
    hop = server.receiver("192.0.2.25")
    dial(server, 3)
    assert hop.expect_open() == 3 * S
    hop.send("220 hop", pause=1)
    assert hop.expect("EHLO").octets == b"EHLO me\r\n"
    hop.send("250 hop")
    assert hop.expect("MAIL").at_ns == 4 * S
    hop.expect("DATA")
    hop.send(b"250 ok\r\n354 go\r\n")
    assert hop.expect("content").octets == b"x: y\r\n.\r\n"
    hop.send("250 taken")
    hop.expect("QUIT")
    hop.send("221 bye")
    assert hop.expect_close() == 4 * S


def test_a_receiver_tells_what_came_instead(mail_server: Server) -> None:
    server = mail_server()
    hop = server.receiver("192.0.2.25")
    dial(server)
    hop.expect_open()
    hop.send("220 hop")
    with pytest.raises(Unexpected, match="expected MAIL, came at 0: EHLO me"):
        hop.expect("MAIL")


def test_a_client_that_never_comes_is_told_at_once(mail_server: Server) -> None:
    hop = mail_server().receiver("192.0.2.25")
    with pytest.raises(Unexpected, match="waits for the server to connect, but nothing can ever"):
        hop.expect_open()
    with pytest.raises(Unexpected, match="has not connected"):
        hop.send("220 hop")


def test_what_cannot_be_is_refused(mail_server: Server) -> None:
    server = mail_server()
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        server.receiver("mx.example.org")
    with pytest.raises(ValueError, match="expect takes a verb"):
        server.receiver("192.0.2.25").expect("mail")


def test_mail_that_comes_in_by_itself_is_for_transcripts(mail_server: Server) -> None:
    messages = [{"from": "a@example.org", "to": ["b@example.net"]}]
    with pytest.raises(WorldError, match=r"world\.messages: stands in transcripts"):
        mail_server(delivery="relay=192.0.2.25", world={"messages": messages})
