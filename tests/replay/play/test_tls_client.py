"""A sender's side of TLS: what it says, what it hears, and what it makes of who speaks none."""

from __future__ import annotations

import contextlib
import ssl

import pytest

from mailsrv.transport.tls_context import server_context
from replay.play.tls_client import CERTIFICATE, DONE, KEY, REFUSED, TlsClient

HANDSHAKE_FAILURE = b"\x15\x03\x01\x00\x02\x02\x28"


class Ends:
    """A client and the standard library's server engine, with a wire that a test carries."""

    def __init__(self) -> None:
        self.wire: list[bytes] = []
        self.outcomes: list[str] = []
        self.client = TlsClient(self.wire.append, self.outcomes.append)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server_context(CERTIFICATE, KEY)
        self.server = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def carry(self) -> bytes:
        """Carry everything both ways until both are silent; gives what the client heard."""
        heard = b""
        for _ in range(10):
            self.incoming.write(b"".join(self.wire))
            self.wire.clear()
            with contextlib.suppress(ssl.SSLWantReadError):
                self.server.do_handshake()
            if octets := self.outgoing.read():
                heard += self.client.feed(octets)
            elif not self.wire:
                break
        return heard

    def shake_hands(self) -> None:
        self.client.begin()
        self.carry()
        assert self.outcomes == [DONE]


def test_octets_before_the_handshake_go_out_as_they_are_and_then_never_again() -> None:
    ends = Ends()
    ends.client.send(b"STARTTLS\r\n")
    assert ends.wire == [b"STARTTLS\r\n"]
    ends.wire.clear()
    ends.shake_hands()
    ends.client.send(b"NOOP\r\n")
    assert b"NOOP" not in b"".join(ends.wire)
    ends.carry()
    assert ends.server.read() == b"NOOP\r\n"


def test_each_send_is_one_record_also_what_waited_for_the_handshake() -> None:
    ends = Ends()
    ends.client.begin()
    for text in (b"EHLO me\r\n", b"NOOP\r\n"):
        ends.client.send(text)
    ends.carry()
    for text in (b"RSET\r\n", b"QUIT\r\n"):
        ends.client.send(text)
    ends.carry()
    records = [ends.server.read(1000) for _ in range(4)]
    assert records == [b"EHLO me\r\n", b"NOOP\r\n", b"RSET\r\n", b"QUIT\r\n"]


def test_what_is_said_within_the_handshake_waits_for_its_end() -> None:
    ends = Ends()
    ends.client.begin()
    ends.client.send(b"EHLO a\r\n")
    ends.client.send(b"NOOP\r\n")
    assert len(ends.wire) == 1, "the hello alone"
    ends.carry()
    assert ends.server.read() + ends.server.read() == b"EHLO a\r\nNOOP\r\n"


def test_what_the_server_says_is_heard_decrypted() -> None:
    ends = Ends()
    ends.shake_hands()
    ends.server.write(b"220 hi\r\n")
    ends.server.write(b"250 ok\r\n")
    assert ends.carry() == b"220 hi\r\n250 ok\r\n"


def test_a_goodbye_is_a_close_notify() -> None:
    ends = Ends()
    ends.shake_hands()
    ends.client.send_close_notify()
    ends.carry()
    assert ends.server.read() == b""


def test_a_close_notify_is_answered_and_nothing_is_sent_behind_the_answer() -> None:
    ends = Ends()
    ends.shake_hands()
    ends.server.write(b"221 Bye\r\n")
    with contextlib.suppress(ssl.SSLWantReadError):
        ends.server.unwrap()  # sends close_notify, and wants the client's
    assert ends.carry() == b"221 Bye\r\n"
    ends.server.unwrap()
    ends.client.send(b"NOOP\r\n")
    ends.client.send_close_notify()
    assert b"".join(ends.wire) == b""


@pytest.mark.parametrize("begun", [True, False])
def test_an_alert_refuses_and_is_no_reply(begun: bool) -> None:
    ends = Ends()
    if begun:
        ends.client.begin()
        assert ends.client.feed(HANDSHAKE_FAILURE) == b""
    else:
        assert ends.client.feed(b"220 go\r\n" + HANDSHAKE_FAILURE) == b"220 go\r\n"
    assert ends.outcomes == [REFUSED]


def test_a_server_that_goes_on_in_plaintext_is_caught_at_it() -> None:
    ends = Ends()
    ends.client.begin()
    assert ends.client.feed(b"421 4.7.0 no handshake\r\n") == b"421 4.7.0 no handshake\r\n"
    assert ends.outcomes == [REFUSED]
    assert ends.client.feed(b"250 more\r\n") == b"250 more\r\n"


def test_after_a_refusal_nothing_is_said_any_more() -> None:
    ends = Ends()
    ends.client.begin()
    ends.client.send(b"waiting\r\n")
    ends.client.feed(HANDSHAKE_FAILURE)
    ends.wire.clear()
    ends.client.send(b"NOOP\r\n")
    ends.client.send_close_notify()
    assert ends.wire == []


def test_an_end_within_the_handshake_refuses_and_one_behind_it_does_not() -> None:
    ends = Ends()
    ends.client.ended()
    assert ends.outcomes == []
    ends.client.begin()
    ends.client.ended()
    assert ends.outcomes == [REFUSED]
    ends = Ends()
    ends.shake_hands()
    ends.client.ended()
    assert ends.outcomes == [DONE]


def test_without_any_handshake_octets_pass_as_they_are() -> None:
    ends = Ends()
    assert ends.client.feed(b"220 \x16\x03 odd\r\n") == b"220 \x16\x03 odd\r\n"
    assert ends.outcomes == []
