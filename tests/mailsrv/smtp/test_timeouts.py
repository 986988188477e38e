"""Deadlines: the formulas of docs/run/timeouts.md, and which limit is named."""

from __future__ import annotations

import pytest
from conversing import NS_PER_MS, NS_PER_S
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.settings import Settings
from mailsrv.smtp.timeouts import ConnectionTimeouts, Timeout, Timeouts

T = 1_000_000_007
"""The instant of acceptance: an odd one."""


def at(**settings: float) -> ConnectionTimeouts:
    return ConnectionTimeouts(Timeouts(Settings(**settings)), T)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (Timeout.IDLE, 300),
        (Timeout.COMMAND, 300),
        (Timeout.CONTENT_START, 300),
        (Timeout.CONTENT_IDLE, 180),
        (Timeout.LOOKUP, 10),
        (Timeout.DELIVERY, 300),
        (Timeout.PAUSE, 1),
        (Timeout.UNREAD, 300),
        (Timeout.LINGER, 5),
    ],
)
def test_a_phase_ends_its_time_after_it_began(limit: Timeout, seconds: int) -> None:
    deadlines = at()
    deadlines.enter(limit, T + 5)
    if limit is Timeout.CONTENT_IDLE:
        deadlines.enter_content(T + 5, octets=10**6)
    assert deadlines.next() == (T + 5 + seconds * NS_PER_S, limit)


def test_fractions_of_seconds_are_exact() -> None:
    deadlines = at(idle_timeout_s=0.25)
    deadlines.enter(Timeout.IDLE, T)
    assert deadlines.next() == (T + 250 * NS_PER_MS, Timeout.IDLE)


def test_the_session_ends_whatever_the_phase() -> None:
    deadlines = at(session_timeout_s=100)
    for limit in (Timeout.IDLE, Timeout.COMMAND, Timeout.LOOKUP, Timeout.UNREAD):
        deadlines.enter(limit, T + 95 * NS_PER_S)
        assert deadlines.next() == (T + 100 * NS_PER_S, Timeout.SESSION)


def test_lingering_may_outlast_the_session() -> None:
    deadlines = at(session_timeout_s=100)
    deadlines.enter(Timeout.LINGER, T + 99 * NS_PER_S)
    assert deadlines.next() == (T + 104 * NS_PER_S, Timeout.LINGER)


def test_a_message_that_keeps_its_rate_outlasts_the_session_and_so_does_its_reply() -> None:
    deadlines = at(session_timeout_s=100)
    deadlines.enter_content(T + 90 * NS_PER_S)
    assert deadlines.next() == (T + 390 * NS_PER_S, Timeout.CONTENT_START)
    deadlines.enter_content(T + 380 * NS_PER_S, octets=10**6)
    assert deadlines.next() == (T + 560 * NS_PER_S, Timeout.CONTENT_IDLE)
    deadlines.enter(Timeout.DELIVERY, T + 400 * NS_PER_S)
    assert deadlines.next() == (T + 700 * NS_PER_S, Timeout.DELIVERY)
    deadlines.enter(Timeout.IDLE, T + 410 * NS_PER_S)
    assert deadlines.next() == (T + 100 * NS_PER_S, Timeout.SESSION)


def test_content_longer_than_a_message_may_be_outlasts_nothing() -> None:
    deadlines = at(session_timeout_s=100, message_octets=1000)
    deadlines.enter_content(T, octets=1000)
    assert deadlines.next()[1] is not Timeout.SESSION
    deadlines.content_came(1, T + NS_PER_S)
    assert deadlines.next() == (T + 100 * NS_PER_S, Timeout.SESSION)


def test_a_message_that_began_when_the_time_was_over_outlasts_nothing() -> None:
    """Else a client that begins the next with the end of each would stay for days."""
    deadlines = at(session_timeout_s=100)
    over = T + 100 * NS_PER_S, Timeout.SESSION
    deadlines.enter_content(T + 101 * NS_PER_S, began_ns=T + 100 * NS_PER_S)
    assert deadlines.next() == over
    deadlines.enter_content(T + 101 * NS_PER_S, octets=10**6, began_ns=T + 100 * NS_PER_S)
    assert deadlines.next() == over
    deadlines.pause_message(T + 100 * NS_PER_S, octets=5000)
    deadlines.enter(Timeout.IDLE, T + 102 * NS_PER_S)
    assert deadlines.next() == over
    deadlines.enter(Timeout.LINGER, T + 103 * NS_PER_S)  # the 421 must still arrive
    assert deadlines.next() == (T + 108 * NS_PER_S, Timeout.LINGER)


def test_between_two_chunks_a_message_keeps_the_session_as_long_as_it_keeps_its_rate() -> None:
    deadlines = at(session_timeout_s=100)
    deadlines.pause_message(T, octets=5000)
    deadlines.enter(Timeout.IDLE, T + 480 * NS_PER_S)
    assert deadlines.next() == (T + (300 + 180 + 10) * NS_PER_S, Timeout.SESSION)


def test_the_content_rate_counts_from_the_first_octet_and_grows_with_each() -> None:
    deadlines = at()
    deadlines.enter_content(T)
    assert deadlines.next() == (T + 300 * NS_PER_S, Timeout.CONTENT_START)
    deadlines.enter_content(T, octets=1)
    deadlines.content_came(49_999, T + 110 * NS_PER_S)
    assert deadlines.next() == (T + 280 * NS_PER_S, Timeout.CONTENT_RATE)
    deadlines.content_came(10**6, T + 120 * NS_PER_S)
    assert deadlines.next() == (T + 300 * NS_PER_S, Timeout.CONTENT_IDLE)


def test_the_next_content_begins_with_no_credit() -> None:
    deadlines = at()
    deadlines.enter_content(T, octets=10**6)
    deadlines.enter_content(T + NS_PER_S, octets=1)
    deadlines.content_came(0, T + 150 * NS_PER_S)
    assert deadlines.next() == (T + 181 * NS_PER_S + 2 * NS_PER_MS, Timeout.CONTENT_RATE)


def test_at_a_tie_the_narrower_limit_is_named() -> None:
    deadlines = at(idle_timeout_s=100, session_timeout_s=100)
    deadlines.enter(Timeout.IDLE, T)
    assert deadlines.next()[1] is Timeout.IDLE
    deadlines = at(session_timeout_s=182, message_octets=100)
    deadlines.enter_content(T, octets=1000)
    deadlines.content_came(0, T + 100 * NS_PER_S)
    assert deadlines.next() == (T + 182 * NS_PER_S, Timeout.CONTENT_RATE)
    deadlines.content_came(0, T + 2 * NS_PER_S)
    assert deadlines.next() == (T + 182 * NS_PER_S, Timeout.CONTENT_IDLE)


@given(st.lists(st.tuples(st.integers(0, 10**11), st.integers(1, 10**6)), max_size=20))
def test_the_named_limit_is_the_earliest_of_the_formulas(steps: list[tuple[int, int]]) -> None:
    deadlines = at(session_timeout_s=400, message_octets=1)
    deadlines.enter_content(T, octets=2)
    now_ns, octets = T, 2
    for wait_ns, came in steps:
        now_ns, octets = now_ns + wait_ns, octets + came
        deadlines.content_came(came, now_ns)
    wanted = [
        (now_ns + 180 * NS_PER_S, 0, Timeout.CONTENT_IDLE),
        (T + 180 * NS_PER_S + octets * NS_PER_S // 500, 1, Timeout.CONTENT_RATE),
        (T + 400 * NS_PER_S, 2, Timeout.SESSION),
    ]
    due_ns, _, limit = min(wanted, key=lambda one: one[:2])
    assert deadlines.next() == (due_ns, limit)


def test_each_limit_that_a_421_may_name_has_a_sentence() -> None:
    patience = Timeouts(Settings(idle_timeout_s=1.5, content_rate_octets_s=10))
    assert patience.sentence(Timeout.IDLE) == "no command for 1.5 s"
    assert patience.sentence(Timeout.COMMAND) == "command not ended after 300 s"
    assert patience.sentence(Timeout.CONTENT_IDLE) == "no content for 180 s"
    assert patience.sentence(Timeout.CONTENT_RATE) == "content slower than 10 octets/s"
    assert patience.sentence(Timeout.SESSION) == "session longer than 3600 s"
