"""The scripted client over a real socket, against a server in a thread, with real time passing.

Nothing here takes longer than 100 ms, and all waiting is waiting on the socket.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from real_server import HOST, JOIN_S, mailsrv

from mailsrv.units import NS_PER_MS
from replay.play.target import Target
from replay.testing import Expect, Send, Unexpected, session


def port_of(target: Target) -> int:
    return int(target.address[1])


def test_a_message_is_sent_and_every_reply_given_back() -> None:
    def greets(expect: Expect, send: Send) -> None:
        expect(220)
        send("EHLO client.example")
        assert "PIPELINING" in expect(250).text

    def delivers(expect: Expect, send: Send) -> None:
        for line, code in (
            ("MAIL FROM:<ann@example.org>", 250),
            ("RCPT TO:<bob@example.test>", 250),
            ("DATA", 354),
        ):
            send(line)
            expect(code)
        send(b"Subject: hello\r\n\r\n", pause=0.01)
        send(b"hello\r\n.\r\n")
        expect(250)

    def leaves(expect: Expect, send: Send) -> None:
        send("QUIT")
        expect(221)

    with mailsrv() as target:
        replies = session(HOST, port_of(target), [greets, delivers, leaves])

    assert [reply.code for reply in replies] == [220, 250, 250, 250, 354, 250, 221]


def test_a_silence_longer_than_the_timeout_gets_421() -> None:
    def falls_asleep(expect: Expect, send: Send) -> None:
        greeting = expect(220)
        told = expect(421)
        assert "no command for 0.1 s" in told.text
        assert told.at_ns - greeting.at_ns > 90 * NS_PER_MS  # whatever delayed the greeting

    with mailsrv(idle_timeout_s=0.1) as target:
        session(HOST, port_of(target), [falls_asleep])


def test_what_arrives_during_a_pause_is_kept() -> None:
    def pauses(expect: Expect, send: Send) -> None:
        send("NOOP", pause=0.03)
        send("NOOP")
        first, second, third = expect(220), expect(250), expect(250)
        assert first.at_ns <= second.at_ns <= third.at_ns
        assert third.at_ns >= 30 * NS_PER_MS

    with mailsrv() as target:
        session(HOST, port_of(target), [pauses])


def test_another_code_is_unexpected_and_says_what_came_when() -> None:
    with (
        mailsrv() as target,
        pytest.raises(Unexpected, match=r"expected 250, came at .*ms: 220 mx.example.test ESMTP"),
    ):
        session(HOST, port_of(target), [lambda expect, send: expect(250)])


def test_a_reply_that_does_not_come_is_unexpected_at_the_deadline() -> None:
    def waits(expect: Expect, send: Send) -> None:
        expect(220)
        expect(250)

    with (
        mailsrv() as target,
        pytest.raises(Unexpected, match=r"waits for a reply 2.0, but nothing came within 0\.05 s"),
    ):
        session(HOST, port_of(target), [waits], timeout_s=0.05)


def test_a_server_that_ends_the_connection_is_told_by_the_next_expect() -> None:
    def leaves(expect: Expect, send: Send) -> None:
        expect(220)
        send("QUIT", pause=0.1)
        expect(221)
        send("NOOP")
        expect(250)

    with (
        mailsrv() as target,
        pytest.raises(Unexpected, match=r"expected 250, but the server (ended|reset) the conn"),
    ):
        session(HOST, port_of(target), [leaves])


@contextlib.contextmanager
def peer(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A peer that is no server of ours; gives its port."""
    with socket.create_server((HOST, 0)) as listening:

        def serve() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                behave(sock)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join(JOIN_S)
    assert not thread.is_alive()


def to_the_end(sock: socket.socket) -> None:
    """Read until the client's FIN."""
    while sock.recv(1 << 20):
        pass


def test_a_reply_of_several_lines_in_many_segments_is_one_reply() -> None:
    def drips(sock: socket.socket) -> None:
        for octet in b"220-one\r\n220-two\r\n220 three\r\n":
            sock.send(bytes([octet]))
        to_the_end(sock)

    with peer(drips) as port:
        (reply,) = session(HOST, port, [lambda expect, send: expect(220)])
    assert reply.text == "220-one\r\n220-two\r\n220 three"


def test_a_peer_that_takes_no_octets_does_not_hold_the_script_for_ever() -> None:
    over = threading.Event()

    def floods(expect: Expect, send: Send) -> None:
        send(64 * 1024 * 1024 * b"x")

    def reads_nothing(sock: socket.socket) -> None:
        over.wait()

    with peer(reads_nothing) as port:
        try:
            with pytest.raises(Unexpected, match=r"the server took no octets for 0\.05 s"):
                session(HOST, port, [floods], timeout_s=0.05)
        finally:
            over.set()


def test_what_a_peer_said_before_it_reset_the_connection_is_heard() -> None:
    def complains_and_resets(sock: socket.socket) -> None:
        sock.recv(1)
        sock.send(b"554 no\r\n")  # closing with octets unread resets the connection

    def talks_on(expect: Expect, send: Send) -> None:
        send(b"xx", pause=0.02)
        expect(554)
        send(b"yy")
        expect(250)

    with (
        peer(complains_and_resets) as port,
        pytest.raises(Unexpected, match=r"expected 250, but the server reset the connection "),
    ):
        session(HOST, port, [talks_on])


def test_what_a_peer_said_before_it_reset_is_heard_though_a_send_failed_meanwhile() -> None:
    gone = threading.Event()

    def complains_and_resets(sock: socket.socket) -> None:
        sock.recv(1)
        sock.send(b"554 no\r\n")
        sock.close()
        gone.set()

    def talks_on(expect: Expect, send: Send) -> None:
        send(b"xx")
        gone.wait()
        send(b"yy")
        send(b"zz")
        expect(554)
        expect(250)

    with (
        peer(complains_and_resets) as port,
        pytest.raises(Unexpected, match=r"expected 250, but the server (ended|reset) the conn"),
    ):
        session(HOST, port, [talks_on])


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda expect, send: send("NOOP\r\n"), "leave it out, or pass bytes"),
        (lambda expect, send: send("NOOP", pause=-1), "from 0 to 86400000, not -1"),
        (lambda expect, send: expect("22"), "takes a reply code, such as 250"),
        (lambda expect, sned: None, "a step takes sender, or any of expect, .*, and not 'sned'"),
    ],
)
def test_misuse_is_refused_at_once(misuse: Callable[[Expect, Send], object], sentence: str) -> None:
    with peer(to_the_end) as port, pytest.raises((TypeError, ValueError), match=sentence):
        session(HOST, port, [misuse])
