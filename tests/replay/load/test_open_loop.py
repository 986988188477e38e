"""The open loop: sessions begin when they are due, and what is late is told.  Rates are low and
bounds generous: a busy machine must not fail these."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest
from load_results import interval, result
from loading import GENEROUS_NS, HELLO, LIMIT_NS, lines_of, rude_server, run, saying

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load.arrivals import parse
from replay.load.interval import CLOSED
from replay.load.job import LoadJob, LoadOptions
from replay.load.plan import Plan
from replay.play.target import resolve


def test_as_many_sessions_begin_as_the_schedule_has(mailsrv_port: int) -> None:
    outcome = run(HELLO, mailsrv_port, rate="100", sessions=0, duration_ns=LIMIT_NS)
    assert (outcome.tally.begun, outcome.tally.good, outcome.unbegun) == (10, 10, 0)
    assert outcome.tally.late.count == 10
    assert outcome.rate == "100"
    assert outcome.window_ns >= LIMIT_NS


def test_a_server_that_does_not_answer_holds_no_other_session_up() -> None:
    waiting = threading.Barrier(5)

    def behave(sock: socket.socket) -> None:
        waiting.wait()  # until all five are connected
        saying(b"220 x\r\n", b"250 x\r\n")(sock)

    with rude_server(behave) as port:
        outcome = run(HELLO, port, rate="50", sessions=0, duration_ns=LIMIT_NS)
    assert outcome.tally.good == 5
    assert outcome.tally.rows[0].open == 5


def test_response_times_count_from_when_a_session_was_due() -> None:
    """With one connection at a time and one session every 10 ms at a server that takes 30 ms, the
    last begins some 80 ms late: its client waited for that, too."""
    ended = threading.Event()

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"220 x\r\n")
        next(lines_of(sock))
        sock.settimeout(0.03)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.sendall(b"250 x\r\n")

    with rude_server(behave) as port:
        outcome = run(HELLO, port, rate="100", sessions=5, open_limit=1)
        ended.set()
    tally = outcome.tally
    assert tally.good == 5
    assert 30_000 <= tally.service["EHLO"].percentile_us(50) < tally.service["EHLO"].max_us * 2
    late_us = tally.late.max_us
    assert late_us >= 80_000
    assert (
        tally.response["EHLO"].max_us >= late_us + 30_000 > tally.service["EHLO"].percentile_us(1)
    )
    assert tally.response["session"].max_us >= late_us + 30_000
    assert not outcome.kept_schedule
    assert not outcome.all_well


def test_rates_are_over_the_time_until_the_last_good_session_has_ended() -> None:
    """A server that answers all it owes behind the schedule has not been as fast as the schedule,
    nor as slow as what it answered within it."""

    def behave(sock: socket.socket) -> None:
        sock.settimeout(3 * LIMIT_NS / NS_PER_S)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        saying(b"220 x\r\n", b"250 x\r\n")(sock)

    with rude_server(behave) as port:
        outcome = run(HELLO, port, rate="100", sessions=0, duration_ns=LIMIT_NS)
    assert (outcome.tally.good, outcome.good_counted) == (10, 10)
    assert LIMIT_NS <= outcome.window_ns < 3 * LIMIT_NS <= outcome.counted_ns
    assert outcome.sessions_per_s == 10 * NS_PER_S / outcome.counted_ns
    assert outcome.counted_ns < GENEROUS_NS


def test_a_session_that_times_out_makes_no_others_slower() -> None:
    first = threading.Lock()
    ended = threading.Event()

    def behave(sock: socket.socket) -> None:
        if first.acquire(blocking=False):
            ended.wait()
        saying(b"220 x\r\n", b"250 x\r\n")(sock)

    timeout_ns = 20 * LIMIT_NS
    with rude_server(behave) as port:
        outcome = run(
            HELLO, port, rate="100", sessions=0, duration_ns=LIMIT_NS, timeout_ns=timeout_ns
        )
        ended.set()
    assert (outcome.tally.good, outcome.tally.failed, outcome.good_counted) == (9, 1, 9)
    assert outcome.window_ns <= outcome.counted_ns < timeout_ns


def test_sessions_for_which_there_was_no_room_are_counted_as_never_begun() -> None:
    ended = threading.Event()

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"220 x\r\n")
        ended.wait()

    with rude_server(behave) as port:
        outcome = run(
            HELLO,
            port,
            rate="200",
            sessions=0,
            duration_ns=LIMIT_NS,
            timeout_ns=2 * LIMIT_NS,
            open_limit=3,
        )
        ended.set()
    assert (outcome.tally.begun, outcome.unbegun) == (3, 17)
    assert not outcome.kept_schedule


def test_a_server_that_fails_sessions_gets_all_the_others(mailsrv_port: int) -> None:
    with rude_server(lambda sock: None) as port:
        outcome = run(HELLO, port, rate="100", sessions=0, duration_ns=LIMIT_NS)
    assert outcome.tally.begun == 10
    assert outcome.tally.failed == 10
    assert outcome.tally.errors.total() == 10
    assert CLOSED in outcome.tally.errors


def test_a_schedule_is_kept_where_99_of_100_begin_in_time() -> None:
    in_time = interval(0)
    in_time.late_us[500] = 990
    in_time.late_us[50_000] = 9
    assert result(in_time, rate="1").kept_schedule
    in_time.late_us[50_000] = 12
    assert not result(in_time, rate="1").kept_schedule
    assert result(in_time, rate="1", lateness_max_ns=60 * NS_PER_MS).kept_schedule
    assert result(in_time).kept_schedule  # a closed loop has none
    assert not result(interval(), rate="1", unbegun=1).kept_schedule


# -- shares of several processes ------------------------------------------------------------------


def job(shares: int, rate: str = "", **amounts: int) -> list[LoadJob]:
    plans = [Plan(str(number), (), (), opens_ns=9 - number) for number in range(5)]
    schedule = parse(rate) if rate else None
    options = replace(LoadOptions(rate=schedule, duration_ns=NS_PER_S), **amounts)
    return LoadJob(plans, resolve("127.0.0.1:25"), options).split(shares)


def test_shares_of_a_schedule_are_the_whole_of_it_together() -> None:
    for rate in ("10", "poisson:50", "1-20"):
        (whole,) = job(1, rate)
        parts = [list(part.arrivals_of_share()) for part in job(3, rate)]
        assert sorted(at_ns for part in parts for at_ns in part) == list(whole.arrivals_of_share())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shares_play_what_the_whole_would_have_played_then() -> None:
    parts = [part.plans_of_share() for part in job(3, "10")]
    assert [next(parts[number % 3]).name for number in range(10)] == list("0123401234")


def test_captures_are_played_in_the_order_in_which_they_were_opened() -> None:
    (whole,) = job(1, "captures")
    played = whole.plans_of_share()
    assert "".join(next(played).name for _ in range(6)) == "432104"


def test_numbers_are_split_without_a_rest() -> None:
    parts = job(3, concurrency=10, idle=2, sessions=7)
    assert [part.options.concurrency for part in parts] == [4, 3, 3]
    assert [part.options.idle for part in parts] == [1, 1, 0]
    assert [part.options.sessions for part in parts] == [3, 2, 2]


def test_client_addresses_are_as_many_as_asked_and_none_off_loopback() -> None:
    (whole,) = job(1, clients=2)
    addresses = whole.client_addresses()
    assert [next(addresses) for _ in range(3)] == ["127.0.1.1", "127.0.1.2", "127.0.1.1"]
    elsewhere = replace(whole, target=replace(whole.target, address=("192.0.2.1", 25)))
    assert next(elsewhere.client_addresses()) == ""
