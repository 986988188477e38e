"""The load client against real and rude servers on loopback.  Limits are at most 100 ms."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import pytest
from loading import (
    HELLO,
    LIMIT_NS,
    MESSAGE,
    lines_of,
    rude_server,
    run,
    saying,
)

from replay.load.interval import (
    CLOSED,
    COMPLAINTS_MAX,
    NO_REPLY,
    OTHER_COMPLAINTS,
    REFUSED,
    RESET,
    TIMEOUT,
    TOO_LONG,
    UNEXPECTED,
    Recorder,
)
from replay.load.result import Idle

# -- what is counted ------------------------------------------------------------------------------


def test_every_session_is_counted_with_its_replies_and_latencies(mailsrv_port: int) -> None:
    outcome = run(MESSAGE, mailsrv_port, concurrency=3, sessions=7)
    tally = outcome.tally
    assert (tally.good, tally.failed, tally.messages) == (7, 0, 7)
    assert tally.replies == {220: 7, 250: 28, 354: 7, 221: 7}
    assert [tally.of(step).count for step in ("greeting", "dot", "session")] == [7, 7, 7]
    assert 0 < tally.of("greeting").percentile_us(50) <= tally.session.max_us
    assert outcome.all_well
    assert outcome.good_counted == outcome.messages_counted == 7
    assert outcome.sessions_per_s > 0


def test_a_run_begins_sessions_until_its_duration_is_over(mailsrv_port: int) -> None:
    outcome = run(HELLO, mailsrv_port, concurrency=2, sessions=0, duration_ns=3 * LIMIT_NS)
    assert outcome.all_well
    assert outcome.window_ns >= 3 * LIMIT_NS
    assert 0 < outcome.good_counted <= outcome.tally.good


def test_transcripts_are_played_in_turn_and_connections_of_a_file_are_sessions() -> None:
    said: list[bytes] = []

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"220 x\r\n")
        for line in lines_of(sock):
            said.append(line)
            sock.sendall(b"250 x\r\n")

    with rude_server(behave) as port:
        first = "".join(f"{line[:9]}a| {line[9:]}" for line in HELLO.splitlines(True))
        second = first.replace("a|", "b|").replace("client", "other")
        outcome = run(first + second, port, sessions=4)
    assert outcome.all_well
    assert said == [b"EHLO client.example\r\n", b"EHLO other.example\r\n"] * 2


def test_as_many_sessions_as_asked_are_in_progress_at_once() -> None:
    together = threading.Barrier(3)

    def behave(sock: socket.socket) -> None:
        together.wait()
        saying(b"220 x\r\n", b"250 x\r\n")(sock)

    with rude_server(behave) as port:
        outcome = run(HELLO, port, concurrency=3, sessions=6)
    assert outcome.tally.good == 6


def test_clients_have_addresses_of_their_own_on_loopback() -> None:
    seen: list[str] = []

    def behave(sock: socket.socket) -> None:
        seen.append(sock.getpeername()[0])
        saying(b"220 x\r\n", b"250 x\r\n")(sock)

    with rude_server(behave) as port:
        run(HELLO, port, sessions=3)
    assert seen == ["127.0.1.1", "127.0.1.2", "127.0.1.3"]


def test_more_than_the_kernel_takes_at_once_is_sent_piece_by_piece(mailsrv_port: int) -> None:
    body = "C: Subject: x\\r\\n\n         C: \\r\\n\n         C*200000: 0123456789012345678\\r\\n"
    outcome = run(MESSAGE.replace("C: Subject: x\\r\\n", body), mailsrv_port)
    assert outcome.tally.messages == 1


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_reply_of_another_class_ends_the_session() -> None:
    with rude_server(saying(b"220 x\r\n", b"250 x\r\n", b"451 4.3.0 not now\r\n")) as port:
        outcome = run(MESSAGE, port)
    assert outcome.tally.errors == {UNEXPECTED: 1}
    assert outcome.tally.complaints == {"x.smtp: reply 3: 451 instead of 250": 1}
    assert list(outcome.tally.examples.values()) == ["451 4.3.0 not now"]
    assert outcome.tally.replies == {220: 1, 250: 1, 451: 1}
    assert not outcome.all_well


def test_another_code_of_the_same_class_fails_the_session_at_its_end() -> None:
    steps = HELLO.replace(
        "+0       close", "reply+0  C: NOOP\\r\\n\n*        S? 250\n+0       close"
    )
    with rude_server(saying(b"220 x\r\n", b"252 x\r\n", b"250 x\r\n")) as port:
        outcome = run(steps, port)
    assert outcome.tally.errors == {UNEXPECTED: 1}
    assert outcome.tally.replies == {220: 1, 252: 1, 250: 1}


def reset(sock: socket.socket) -> None:
    sock.sendall(b"220 x\r\n")
    sock.recv(100)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("behave", "kind", "complaint"),
    [
        (lambda sock: None, CLOSED, "the server closed before reply 1"),
        (lambda sock: saying(b"220 x\r\n", b"HTTP/1.1 400\r\n")(sock), NO_REPLY, "reply 2 is none"),
        (lambda sock: saying(b"220 x\r\n" * 3)(sock), UNEXPECTED, "reply 2: 220 instead of 250"),
        (lambda sock: saying(b"x" * 70_000)(sock), TOO_LONG, "reply 1 has over 65536 octets"),
        (lambda sock: saying(b"220-x\r\n" * 10_000)(sock), NO_REPLY, "reply 1 is none"),
        (reset, RESET, "reset before reply 2"),
    ],
)
def test_each_kind_of_error_has_its_name(
    behave: Callable[[socket.socket], None], kind: str, complaint: str
) -> None:
    with rude_server(behave) as port:
        tally = run(HELLO, port).tally
    assert (tally.errors, tally.complaints) == ({kind: 1}, {f"x.smtp: {complaint}": 1})


@pytest.mark.parametrize(
    ("replies", "complaint"),
    [
        ((b"",), "timeout before reply 1"),
        ((b"220 x\r\n", b"250-x\r\n"), "timeout before reply 2"),
        ((b"220 x\r\n", b"250 x\r\n"), "timeout before the end of the session"),
    ],
)
def test_a_session_that_takes_too_long_fails(replies: tuple[bytes, ...], complaint: str) -> None:
    steps = HELLO.replace("+0       close", "*        S eof\n+0       until-closed")
    with rude_server(saying(*replies)) as port:
        tally = run(steps, port, timeout_ns=3 * LIMIT_NS).tally
    assert (tally.errors, tally.complaints) == ({TIMEOUT: 1}, {f"x.smtp: {complaint}": 1})


def test_a_target_that_goes_away_is_tried_again_only_after_a_pause() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve_one() -> None:
        sock, _ = listener.accept()
        listener.close()
        with sock:
            saying(b"220 x\r\n", b"250 x\r\n")(sock)

    thread = threading.Thread(target=serve_one)
    thread.start()
    outcome = run(HELLO, port, sessions=0, duration_ns=LIMIT_NS)
    thread.join()
    assert outcome.tally.good == 1
    assert outcome.tally.errors == {REFUSED: outcome.tally.failed}
    assert 1 <= outcome.tally.failed <= 2


def test_complaints_are_bounded() -> None:
    recorder = Recorder()
    for number in range(COMPLAINTS_MAX + 50):
        recorder.ended(UNEXPECTED, f"complaint {number}", None)
    tally = recorder.part
    assert len(tally.complaints) == COMPLAINTS_MAX + 1
    assert tally.complaints[OTHER_COMPLAINTS] == 50
    assert tally.failed == COMPLAINTS_MAX + 50


# -- idle connections -----------------------------------------------------------------------------


def test_idle_connections_are_held_beside_the_load(mailsrv_port: int) -> None:
    outcome = run(MESSAGE, mailsrv_port, idle=150, sessions=5)
    assert (outcome.idle.opened, outcome.idle.held, outcome.idle.lost) == (150, 150, 0)
    assert outcome.all_well
    assert outcome.tally.replies[220] == 5  # theirs are not mixed with the load's


def test_idle_connections_that_the_server_ends_are_lost() -> None:
    idle: list[socket.socket] = []
    ended = threading.Event()

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"220 x\r\n")
        lines = lines_of(sock)
        if b"idle" in next(lines):
            idle.append(sock)
            sock.sendall(b"250 x\r\n")
            ended.wait()
            return
        idle.pop().sendall(b"421 4.3.2 bye\r\n")
        idle.pop().shutdown(socket.SHUT_RDWR)
        sock.sendall(b"250 x\r\n")

    with rude_server(behave) as port:
        outcome = run(HELLO, port, idle=5)
        ended.set()
    assert outcome.tally.good == 1
    assert (outcome.idle.opened, outcome.idle.held, outcome.idle.lost) == (5, 3, 2)
    assert not outcome.all_well
    assert outcome.idle.complaints == {
        "idle connection: reply 3: 421 instead of nothing": 1,
        "idle connection: the server closed an idle connection": 1,
    }


def test_idle_connections_that_cannot_be_opened_are_told() -> None:
    with rude_server(saying(b"421 4.7.0 too many\r\n")) as port:
        outcome = run(HELLO, port, idle=2)
    assert outcome.idle == Idle(2, 0, 0, {"idle connection: reply 1: 421 instead of 220": 2})
