"""Connections of the shipped server in virtual time: patience, ends, and clients that misbehave.

``run_until(T)`` stops before the timers at T, ``run_until(T + 1)`` behind them: so each deadline
is known to the nanosecond.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from conversing import (
    ENVELOPE,
    HELLO,
    HOSTNAME,
    MESSAGE,
    NS_PER_MS,
    NS_PER_S,
    Caller,
    Run,
    codes,
    harness,
)

from mailsrv.smtp.session import DISCARD_MAX_OCTETS, TURN_COMMANDS
from mailsrv.transport.closing_drain import DRAIN_MAX_OCTETS
from mailsrv.transport.transport import CHUNK_OCTETS
from replay.play.harness import ServerFault

LINGER_NS = 5 * NS_PER_S


def assert_ends_at(run: Run, caller: Caller, at_ns: int, sentence: str) -> None:
    """The 421 comes at ``at_ns``, not a nanosecond earlier, and names its limit."""
    caller.news  # noqa: B018 - forget
    run.run_until(at_ns)
    assert (caller.news, caller.ended) == (b"", "")
    run.run_until(at_ns + 1)
    assert caller.news.decode() == f"421 4.4.2 {HOSTNAME} Error: timeout exceeded: {sentence}\r\n"
    assert (caller.ended, caller.ended_at_ns) == ("eof", at_ns)


def in_content(run: Run) -> Caller:
    caller = Caller(run)
    assert codes(caller.say(HELLO + ENVELOPE + b"DATA\r\n")) == [250, 250, 250, 354]
    return caller


# -- patience with commands -----------------------------------------------------------------------


def test_who_says_nothing_is_told_so_after_the_idle_timeout() -> None:
    with harness() as run:
        caller = Caller(run)
        assert caller.news == b"220 mx.example.test ESMTP mailsrv\r\n"
        assert_ends_at(run, caller, 300 * NS_PER_S, "no command for 300 s")
        assert any("event=timeout" in line and "limit=idle" in line for line in run.log)


def test_the_idle_timeout_begins_anew_with_each_reply() -> None:
    with harness(idle_timeout_s=60) as run:
        caller = Caller(run)
        for second in (50, 100, 150):
            run.run_until(second * NS_PER_S)
            assert caller.say(b"NOOP\r\n")
        assert_ends_at(run, caller, 210 * NS_PER_S, "no command for 60 s")


def test_a_command_arriving_at_the_very_end_of_patience_is_still_heard() -> None:
    with harness(idle_timeout_s=60) as run:
        caller = Caller(run)
        run.run_until(60 * NS_PER_S)
        assert codes(caller.say(b"NOOP\r\n")) == [250]
        assert_ends_at(run, caller, 120 * NS_PER_S, "no command for 60 s")


def test_a_dripped_command_ends_from_its_first_octet() -> None:
    with harness(command_timeout_s=100) as run:
        caller = Caller(run)
        for second in range(10, 110, 10):
            run.run_until(second * NS_PER_S)
            caller.say(b"x")
        assert_ends_at(run, caller, 110 * NS_PER_S, "command not ended after 100 s")


def test_a_command_that_begins_behind_another_begins_there() -> None:
    with harness(command_timeout_s=100) as run:
        caller = Caller(run)
        caller.say(b"NO")
        run.run_until(90 * NS_PER_S)
        assert codes(caller.say(b"OP\r\nNO")) == [250]
        assert_ends_at(run, caller, 190 * NS_PER_S, "command not ended after 100 s")


def test_an_overlong_line_is_under_the_command_limit_too() -> None:
    with harness(command_timeout_s=100) as run:
        caller = Caller(run)
        caller.say(b"x" * 5000)
        run.run_until(50 * NS_PER_S)
        caller.say(b"x" * 5000)
        assert_ends_at(run, caller, 100 * NS_PER_S, "command not ended after 100 s")


# -- patience with content ------------------------------------------------------------------------


def test_content_that_stops_ends_from_its_last_octet() -> None:
    with harness() as run:
        caller = in_content(run)
        run.run_until(10 * NS_PER_S)
        caller.say(b"x" * 50_000)  # buys 100 s of the content rate
        assert_ends_at(run, caller, 190 * NS_PER_S, "no content for 180 s")
        assert run.world.courier.aborted == 1


def test_dripped_content_ends_at_the_head_start_and_two_milliseconds_an_octet() -> None:
    with harness() as run:
        caller = in_content(run)
        for number in range(1, 18):
            run.run_until(number * 10 * NS_PER_S)
            caller.say(b"x")
        due_ns = 180 * NS_PER_S + 17 * 2 * NS_PER_MS
        assert_ends_at(run, caller, due_ns, "content slower than 500 octets/s")


def test_all_octets_of_content_buy_time_also_those_that_came_with_the_command() -> None:
    with harness() as run:
        caller = Caller(run)
        body = b"..stuffed\r\n"
        caller.say(HELLO + ENVELOPE + b"DATA\r\n" + body)
        run.run_until(100 * NS_PER_S)
        caller.say(b"x")
        due_ns = 180 * NS_PER_S + (len(body) + 1) * 2 * NS_PER_MS
        assert_ends_at(run, caller, due_ns, "content slower than 500 octets/s")


def test_slow_large_mail_is_spared() -> None:
    with harness(session_timeout_s=10**6) as run:
        caller = in_content(run)
        for minute in range(1, 200):
            run.run_until(minute * 60 * NS_PER_S)
            caller.say(b"x" * 29_998 + b"\r\n")  # 500 octets a second
        assert codes(caller.say(b".\r\n")) == [250]


def test_a_sender_of_bare_lf_is_waited_for_and_told() -> None:
    with harness() as run:
        caller = in_content(run)
        assert caller.say(b"Subject: x\n\nhello\n.\nQUIT\n") == b""
        assert_ends_at(run, caller, 180 * NS_PER_S, "no content for 180 s")
        assert run.world.courier.accepted == []


def test_the_second_message_has_patience_of_its_own() -> None:
    with harness() as run:
        caller = in_content(run)
        run.run_until(100 * NS_PER_S)
        assert codes(caller.say(b".\r\n" + ENVELOPE + b"DATA\r\n")) == [250, 250, 250, 354]
        assert_ends_at(run, caller, 280 * NS_PER_S, "no content for 180 s")


# -- the session, and ties ------------------------------------------------------------------------


def test_a_session_ends_whatever_it_does() -> None:
    with harness(session_timeout_s=1000) as run:
        caller = Caller(run)
        for second in range(100, 1000, 100):
            run.run_until(second * NS_PER_S)
            caller.say(HELLO)
        assert_ends_at(run, caller, 1000 * NS_PER_S, "session longer than 1000 s")


@pytest.mark.parametrize(
    ("settings", "said", "sentence"),
    [
        ({"session_timeout_s": 300}, b"", "no command for 300 s"),
        ({"session_timeout_s": 300}, b"NOO", "command not ended after 300 s"),
        ({}, HELLO + ENVELOPE + b"DATA\r\n", "no content for 180 s"),
        ({"session_timeout_s": 180}, HELLO + ENVELOPE + b"DATA\r\n", "no content for 180 s"),
    ],
)
def test_at_a_tie_the_narrower_limit_is_named(
    settings: dict[str, Any], said: bytes, sentence: str
) -> None:
    with harness(**settings) as run:
        caller = Caller(run)
        caller.say(said)
        assert_ends_at(run, caller, (180 if b"DATA" in said else 300) * NS_PER_S, sentence)


def test_at_a_tie_the_content_rate_is_named_before_the_session() -> None:
    with harness(session_timeout_s=180.002) as run:
        caller = in_content(run)
        run.run_until(100 * NS_PER_S)
        caller.say(b"x")
        due_ns = 180_002 * NS_PER_MS
        assert_ends_at(run, caller, due_ns, "content slower than 500 octets/s")


# -- the greet wait -------------------------------------------------------------------------------


def test_the_greeting_comes_after_the_greet_wait() -> None:
    with harness(greet_wait_s=6) as run:
        caller = Caller(run)
        run.run_until(6 * NS_PER_S)
        assert caller.news == b""
        run.run_until(6 * NS_PER_S + 1)
        assert codes(caller.news) == [220]
        assert caller.last_at_ns == 6 * NS_PER_S
        assert_ends_at(run, caller, 306 * NS_PER_S, "no command for 300 s")


def test_who_talks_during_the_greet_wait_is_refused_and_logged() -> None:
    with harness(greet_wait_s=6) as run:
        caller = Caller(run)
        run.run_until(6 * NS_PER_S)
        assert codes(caller.say(HELLO + MESSAGE)) == [554]
        assert caller.ended == "eof"
        assert run.world.courier.begun == 0
        assert any('event="early talker"' in line for line in run.log)


def test_who_goes_during_the_greet_wait_is_let_go() -> None:
    with harness(greet_wait_s=6) as run:
        caller = Caller(run)
        caller.half_close()
        assert (caller.news, caller.ended) == (b"", "eof")


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
        assert connection.session.buffered_octets <= 2 * CHUNK_OCTETS
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
        assert connection.session.buffered_octets <= CHUNK_OCTETS
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
        bad.say(HELLO + ENVELOPE + b"DATA\r\nx\r\n")
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
