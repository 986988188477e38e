"""Connection timeouts of the shipped server in virtual time: which ends a connection, and when.

``run_until(T)`` stops before the timers at T, ``run_until(T + 1)`` behind them: so each deadline
is known to the nanosecond.
"""

from __future__ import annotations

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
    in_content,
)


def assert_ends_at(run: Run, caller: Caller, at_ns: int, sentence: str) -> None:
    """The 421 comes at ``at_ns``, not a nanosecond earlier, and names its limit."""
    caller.news  # noqa: B018 - forget
    run.run_until(at_ns)
    assert (caller.news, caller.ended) == (b"", "")
    run.run_until(at_ns + 1)
    assert caller.news.decode() == f"421 4.4.2 {HOSTNAME} Error: timeout exceeded: {sentence}\r\n"
    assert (caller.ended, caller.ended_at_ns) == ("eof", at_ns)


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
        due_ns = 190 * NS_PER_S + 17 * 2 * NS_PER_MS  # the first octet came after 10 s
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


def test_content_that_keeps_its_rate_outlasts_the_session_and_gets_its_reply() -> None:
    with harness(session_timeout_s=400) as run:
        caller = in_content(run)
        run.run_until(299 * NS_PER_S)
        for at_s in range(300, 900, 100):
            caller.say(b"x" * 49_998 + b"\r\n")
            run.run_until(at_s * NS_PER_S)
        assert codes(caller.say(b".\r\n")) == [250]
        run.run_until(800 * NS_PER_S + 1)
        assert b"session longer than 400 s" in caller.news


def test_chunks_that_keep_their_rate_outlast_the_session() -> None:
    with harness(session_timeout_s=400) as run:
        caller = Caller(run)
        caller.say(HELLO + ENVELOPE)
        for at_s in range(100, 900, 100):
            assert codes(caller.say(b"BDAT 50000\r\n" + b"x" * 49_998 + b"\r\n")) == [250]
            run.run_until(at_s * NS_PER_S)
        assert codes(caller.say(b"BDAT 0 LAST\r\n")) == [250]
        run.run_until(800 * NS_PER_S + 1)
        assert b"session longer than 400 s" in caller.news


def test_chunks_of_an_octet_do_not_outlast_the_session_for_ever() -> None:
    with harness(session_timeout_s=400) as run:
        caller = Caller(run)
        caller.say(HELLO + ENVELOPE)
        for at_s in range(100, 500, 100):
            caller.say(b"BDAT 1\r\nx")
            run.run_until(at_s * NS_PER_S)
        caller.say(b"BDAT 1\r\nx")
        assert_ends_at(run, caller, 480_010 * NS_PER_MS, "session longer than 400 s")


def test_the_second_message_has_patience_of_its_own() -> None:
    with harness() as run:
        caller = in_content(run)
        run.run_until(100 * NS_PER_S)
        assert codes(caller.say(b".\r\n" + ENVELOPE + b"DATA\r\n")) == [250, 250, 250, 354]
        assert_ends_at(run, caller, 400 * NS_PER_S, "no content for 300 s")


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
        ({}, HELLO + ENVELOPE + b"DATA\r\n", "no content for 300 s"),
        ({"session_timeout_s": 300}, HELLO + ENVELOPE + b"DATA\r\n", "no content for 300 s"),
    ],
)
def test_at_a_tie_the_narrower_limit_is_named(
    settings: dict[str, Any], said: bytes, sentence: str
) -> None:
    with harness(**settings) as run:
        caller = Caller(run)
        caller.say(said)
        assert_ends_at(run, caller, 300 * NS_PER_S, sentence)


def test_at_a_tie_the_content_rate_is_named_before_the_session() -> None:
    """Only content over the size of a message: other content outlasts the session."""
    with harness(session_timeout_s=180.024, message_octets=1) as run:
        caller = in_content(run)
        caller.say(b"x" * 11)
        run.run_until(100 * NS_PER_S)
        caller.say(b"x")
        due_ns = 180_024 * NS_PER_MS
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
