"""Connections of the shipped server in virtual time: ends, waits, and clients that misbehave.

``run_until(T)`` stops before the timers at T, ``run_until(T + 1)`` behind them: so each deadline
is known to the nanosecond.
"""

from __future__ import annotations

import re

import pytest
from conversing import (
    ENVELOPE,
    HELLO,
    MESSAGE,
    NS_PER_S,
    Caller,
    codes,
    harness,
    in_content,
)

from mailsrv.runtime.memory_budget import READ_OCTETS
from mailsrv.smtp.session import DISCARD_MAX_OCTETS, TURN_COMMANDS
from mailsrv.transport.closing_drain import DRAIN_MAX_OCTETS
from replay.play.virtual_time import ServerFault

LINGER_NS = 5 * NS_PER_S


# -- the client's end -----------------------------------------------------------------------------


def test_a_half_close_after_the_final_dot_is_answered() -> None:
    world: dict[str, object] = {"delivery": {"replies": [{"delay_s": 3}]}}
    with harness(world) as run:
        caller = Caller(run)
        caller.say(HELLO + MESSAGE + b"QUIT\r\n")
        caller.half_close()
        run.run_until(3 * NS_PER_S + 1)
        assert codes(caller.news) == [250, 221]
        assert (caller.ended, caller.ended_at_ns) == ("eof", 3 * NS_PER_S)


def test_a_client_that_goes_in_the_middle_of_content_leaves_nothing() -> None:
    with harness() as run:
        caller = in_content(run)
        caller.say(b"half a mess")
        caller.half_close()
        assert (caller.news, caller.ended) == (b"", "eof")
        assert (run.world.courier.aborted, run.world.courier.messages) == (1, [])
        assert any("event=disconnect" in line for line in run.log)


def test_a_client_that_goes_in_the_middle_of_a_command_is_not_answered() -> None:
    with harness() as run:
        caller = Caller(run)
        caller.say(HELLO + b"MAIL FROM:<a@exam")
        caller.half_close()
        assert (caller.news, caller.ended) == (b"", "eof")


def test_a_reset_in_the_middle_of_content_leaves_nothing() -> None:
    with harness() as run:
        caller = in_content(run)
        caller.say(b"half a mess")
        caller.reset()
        assert run.server.connections == {}
        assert run.world.courier.aborted == 1
        run.settle()
    assert any('how="Connection reset by peer"' in line for line in run.log)


def test_an_answer_for_a_client_that_has_gone_is_dropped() -> None:
    world: dict[str, object] = {"delivery": {"replies": [{"delay_s": 3}]}}
    with harness(world) as run:
        caller = Caller(run)
        caller.say(HELLO + MESSAGE)
        caller.reset()
        run.run_until(4 * NS_PER_S)
        assert run.server.connections == {}


# -- waiting for others ---------------------------------------------------------------------------


MUTE: dict[str, object] = {"dns": {"example.org MX": "silence"}}


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_resolver_that_stays_silent_costs_ten_seconds(half_closed: bool) -> None:
    with harness(MUTE, sender_domain_check=True) as run:
        caller = Caller(run)
        caller.say(HELLO + ENVELOPE)
        run.run_until(7 * NS_PER_S)
        if half_closed:
            caller.half_close()
        run.run_until(10 * NS_PER_S)
        assert caller.news == b""
        run.run_until(10 * NS_PER_S + 1)
        assert codes(caller.news) == [451, 503]


def test_a_courier_that_stays_silent_costs_the_delivery_timeout() -> None:
    world: dict[str, object] = {"delivery": {"replies": ["silence"]}}
    with harness(world) as run:
        caller = Caller(run)
        caller.say(HELLO + MESSAGE)
        run.run_until(300 * NS_PER_S)
        assert caller.news == b""
        run.run_until(300 * NS_PER_S + 1)
        assert caller.news.startswith(b"451 4.3.2 ")
        assert codes(caller.say(b"NOOP\r\n")) == [250]


def test_replies_keep_their_order_while_a_lookup_is_slow() -> None:
    world: dict[str, object] = {
        "dns": {"example.org MX": {"records": ["10 mx.example.org."], "delay_s": 4}}
    }
    with harness(world, sender_domain_check=True) as run:
        caller = Caller(run)
        assert codes(caller.say(HELLO + ENVELOPE)) == [250]
        run.run_until(2 * NS_PER_S)
        assert caller.say(b"DATA\r\n") == b""
        run.run_until(5 * NS_PER_S)
        assert codes(caller.news) == [250, 250, 354]
        assert caller.last_at_ns == 4 * NS_PER_S


def test_input_behind_an_open_question_is_bounded_and_read_later() -> None:
    with harness(MUTE, sender_domain_check=True, junk_commands=10**6) as run:
        caller = Caller(run)
        caller.say(HELLO + b"MAIL FROM:<a@example.org>\r\n")
        for _ in range(10):
            caller.say(b"NOOP\r\n" * 5000)
        connection = run.server.connections[1]
        assert not connection.reading
        assert connection.session.buffered_octets <= 2 * READ_OCTETS
        run.run_until(10 * NS_PER_S + 1)
        assert codes(caller.news) == [451] + [250] * 50_000


@pytest.mark.parametrize("half_closed", [False, True])
def test_errors_over_the_soft_limit_hold_replies_back_for_a_second(half_closed: bool) -> None:
    with harness() as run:
        caller = Caller(run)
        assert codes(caller.say(b"X\r\n" * 12)) == [500] * 10
        run.run_until(NS_PER_S // 2)
        if half_closed:
            caller.half_close()
        run.run_until(3 * NS_PER_S)
        assert [(at_ns, codes(octets)) for at_ns, octets in caller.heard[-2:]] == [
            (NS_PER_S, [500]),
            (2 * NS_PER_S, [500]),
        ]


# -- the server's end -----------------------------------------------------------------------------


def test_after_its_fin_the_server_drains_for_five_seconds() -> None:
    with harness() as run:
        caller = Caller(run)
        assert codes(caller.say(b"QUIT\r\n")) == [221]
        assert caller.ended == "eof"
        run.run_until(4 * NS_PER_S)
        assert caller.say(b"NOOP\r\n") == b""
        run.run_until(LINGER_NS)
        assert len(run.server.connections) == 1
        run.run_until(LINGER_NS + 1)
        assert run.server.connections == {}


def test_the_draining_is_bounded_in_octets() -> None:
    with harness() as run:
        caller = Caller(run)
        caller.say(b"QUIT\r\n")
        caller.say(b"x" * (DRAIN_MAX_OCTETS - 1))
        assert len(run.server.connections) == 1
        caller.say(b"x")
        assert run.server.connections == {}


def test_the_draining_ends_with_the_clients_fin() -> None:
    with harness() as run:
        caller = Caller(run)
        caller.say(b"QUIT\r\n")
        caller.half_close()
        assert run.server.connections == {}


def test_the_421_reaches_a_client_that_is_still_sending() -> None:
    with harness(errors_hard=2) as run:
        caller = Caller(run)
        heard = caller.say(b"X\r\nX\r\n" + b"more\r\n" * 5000)
        assert codes(heard) == [500, 500, 421]
        assert caller.ended == "eof"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "554 5.5.1 .* an HTTP request"),
        (b"\x16\x03\x01", "554 5.5.1 .* a TLS handshake"),
        (b"X\r\n" * 3, "421 4.7.0 .* too many errors: 3"),
        (b"NOOP\r\n" * 9, "421 4.7.0 .* too many commands without mail, 5 allowed"),
        (HELLO + MESSAGE * 2, "421 4.7.0 .* 1 transactions allowed"),
        (b"x" * (DISCARD_MAX_OCTETS + 1), "421 4.7.0 .* octets without a line end"),
    ],
)
def test_who_is_turned_away_hears_why_and_the_log_has_it_in_one_line(
    said: bytes, told: str
) -> None:
    with harness(errors_hard=3, junk_commands=5, transactions=1) as run:
        caller = Caller(run)
        assert re.search(told, caller.say(said).decode())
        assert caller.ended == "eof"
    lines = [line for line in run.log if "event=refused" in line and re.search(told, line)]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        (b"MAIL FROM:<a@example.org> SIZE=9999999\r\n", ["552 5.3.4 "]),
        (ENVELOPE + b"RCPT TO:<c@>\r\n", ["sender=<a@example.org> ", "501 5.1.3 "]),
        (ENVELOPE + b"DATA\r\nx\ny\r\n.\r\n", ["id=", "sender=<a@example.org> ", "550 5.5.2 "]),
        (ENVELOPE + b"DATA\r\n" + b"x" * 3000 + b"\r\n.\r\n", ["id=", "552 5.3.4 "]),
        (b"XYZZY\r\n", ["500 5.5.2 "]),
    ],
)
def test_each_refusal_is_logged_once_with_what_is_known_of_it(
    said: bytes, logged: list[str]
) -> None:
    with harness(message_octets=2000) as run:
        Caller(run).say(HELLO + said)
    (line,) = [line for line in run.log if logged[-1] in line]
    for part in (*logged, "client=192.0.2.10"):
        assert part in line.replace('"', "")


def test_the_log_says_for_whom_a_message_was() -> None:
    with harness() as run:
        Caller(run).say(HELLO + MESSAGE)
    (line,) = [line for line in run.log if "event=message" in line]
    assert 'recipients=1 to="<b@example.test>"' in line


def test_after_the_soft_limit_every_reply_comes_a_pause_later() -> None:
    with harness(errors_soft=2, error_pause_s=1) as run:
        caller = Caller(run)
        assert codes(caller.say(HELLO + b"X\r\nX\r\nX\r\nNOOP\r\n")) == [250, 500, 500]
        run.run_until(NS_PER_S + 1)
        assert codes(caller.news) == [500]
        run.run_until(2 * NS_PER_S + 1)
        assert codes(caller.news) == [250]


def test_who_takes_leave_is_no_news() -> None:
    with harness() as run:
        caller = Caller(run)
        caller.say(HELLO)
        caller.say(b"QUIT\r\n")
    assert run.log == []


# -- who does not read ----------------------------------------------------------------------------


def test_who_does_not_read_is_not_read_from_and_closed_after_the_idle_timeout() -> None:
    with harness(junk_commands=10**9, session_timeout_s=10**6) as run:
        caller = Caller(run)
        caller.link.reading = False
        flood = b"HELP\r\n" * 5000
        connection = run.server.connections[1]
        for second in range(1, 2000):
            run.run_until(second * NS_PER_S)
            caller.say(flood)
            if not connection.reading:
                break
        assert not connection.reading
        assert 0 < connection.pending_octets <= TURN_COMMANDS * 1000
        assert connection.session.buffered_octets <= READ_OCTETS
        assert_closed = (second + 300) * NS_PER_S
        run.run_until(assert_closed)
        assert len(run.server.connections) == 1
        run.run_until(assert_closed + 1)
        assert run.server.connections == {}
        assert any("replies not read" in line for line in run.log)


def test_the_end_of_its_session_closes_who_does_not_read_without_a_word() -> None:
    with harness(junk_commands=10**9, session_timeout_s=100) as run:
        caller = Caller(run)
        caller.link.reading = False
        while run.server.connections[1].reading:
            caller.say(b"HELP\r\n" * 5000)
        run.run_until(100 * NS_PER_S)
        assert len(run.server.connections) == 1
        run.run_until(100 * NS_PER_S + 1)
        assert run.server.connections == {}
    assert any("event=timeout" in line and "limit=session" in line for line in run.log)


# -- one bad connection ---------------------------------------------------------------------------


class Broken:
    """A courier with a defect."""

    def begin(self, envelope: object) -> Broken:
        return self

    def write(self, chunk: bytes) -> None:
        raise ZeroDivisionError("a defect")

    def finish(self, answer: object) -> None:
        raise AssertionError("never")

    def abort(self) -> None:
        raise ZeroDivisionError("another")


class Forgetful(Broken):
    """One that never answers, and cannot let go either."""

    def write(self, chunk: bytes) -> None: ...

    def finish(self, answer: object) -> None: ...


def test_a_defect_drops_the_connection_it_struck_and_no_other() -> None:
    with pytest.raises(ServerFault, match="ZeroDivisionError"), harness() as run:
        good, bad = Caller(run), Caller(run)
        good.say(HELLO)
        run.world.courier.begin = Broken().begin  # type: ignore[method-assign]
        bad.say(HELLO + ENVELOPE + b"DATA\r\nx: y\r\n")
        assert bad.ended
        assert list(run.server.connections) == [1]
        del run.world.courier.begin
        assert codes(good.say(MESSAGE)) == [250, 250, 354, 250]


def test_a_defect_in_a_timer_drops_the_connection_it_struck_once() -> None:
    with pytest.raises(ServerFault, match="ZeroDivisionError"), harness() as run:
        good, bad = Caller(run), Caller(run)
        run.world.courier.begin = Forgetful().begin  # type: ignore[method-assign]
        bad.say(HELLO + MESSAGE)
        del run.world.courier.begin
        run.run_until(200 * NS_PER_S)
        good.say(HELLO)
        run.run_until(301 * NS_PER_S)
        assert list(run.server.connections) == [1]
        assert sum("event=fault" in line for line in run.log) == 1
        assert codes(good.say(MESSAGE)) == [250, 250, 354, 250]
        run.run_until(302 * NS_PER_S)
