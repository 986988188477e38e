"""Connections, messages and recipients in a minute: refused to the nanosecond, and no longer."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy.rate_limits import MINUTE_NS, MinuteCounts, Rates
from mailsrv.runtime.clock import FakeClock
from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Event, NegativeReply, RefusedReply
from mailsrv.smtp.path import MailPath

START_S = 12_345.678901
CLIENT, NEIGHBOUR, STRANGER = "192.0.2.1", "192.0.2.2", "198.51.100.1"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start=START_S)


def rates(clock: FakeClock, **settings: Any) -> Rates:
    return Rates(Settings(**settings), clock)


def connect(limited: Rates, client: str) -> str | None:
    """As the door does: who is refused is not counted."""
    limit = limited.connection(client)
    if limit is None:
        limited.charge_connection(client)
    return limit


def pass_ns(clock: FakeClock, duration_ns: int) -> None:
    clock.advance_to_ns(clock.monotonic_ns() + duration_ns)


# -- what a minute is -----------------------------------------------------------------------------


def test_the_first_of_the_next_minute_is_taken_60_s_after_the_first_of_this_one(
    clock: FakeClock,
) -> None:
    limited = rates(clock, client_connections_per_min=2)
    assert connect(limited, CLIENT) is None
    pass_ns(clock, 7)
    assert connect(limited, CLIENT) is None
    assert connect(limited, CLIENT) == "2 a minute from 192.0.2.1"
    pass_ns(clock, MINUTE_NS - 8)
    assert connect(limited, CLIENT) == "2 a minute from 192.0.2.1"
    pass_ns(clock, 1)
    assert connect(limited, CLIENT) is None


def test_a_new_minute_begins_with_what_is_counted_not_with_the_end_of_the_last(
    clock: FakeClock,
) -> None:
    limited = rates(clock, client_connections_per_min=1)
    assert connect(limited, CLIENT) is None
    pass_ns(clock, MINUTE_NS + MINUTE_NS // 2)
    assert connect(limited, CLIENT) is None
    pass_ns(clock, MINUTE_NS - 1)
    assert connect(limited, CLIENT) is not None
    pass_ns(clock, 1)
    assert connect(limited, CLIENT) is None


def test_who_keeps_trying_is_not_shut_out_for_longer(clock: FakeClock) -> None:
    limited = rates(clock, client_connections_per_min=3)
    taken = []
    for second in range(180):
        if connect(limited, CLIENT) is None:
            taken.append(second)
        pass_ns(clock, MINUTE_NS // 60)
    assert taken == [0, 1, 2, 60, 61, 62, 120, 121, 122]


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, MINUTE_NS // 2) | st.just(0) | st.just(MINUTE_NS), max_size=60),
)
def test_no_minute_wherever_it_begins_sees_twice_the_limit(limit: int, gaps: list[int]) -> None:
    clock = FakeClock(start=START_S)
    limited = rates(clock, client_messages_per_min=limit)
    recent: deque[int] = deque()
    for gap_ns in gaps:
        pass_ns(clock, gap_ns)
        now_ns = clock.monotonic_ns()
        if limited.message(CLIENT) is None:
            limited.charge_message(CLIENT)
            recent.append(now_ns)
        while recent and now_ns - recent[0] >= MINUTE_NS:
            recent.popleft()
        assert len(recent) <= 2 * limit - 1


# -- who and what is counted ----------------------------------------------------------------------


def test_a_client_and_its_network_have_each_their_own_limit_and_it_is_named(
    clock: FakeClock,
) -> None:
    limited = rates(clock, client_connections_per_min=2, network_connections_per_min=3)
    assert [connect(limited, CLIENT) for _ in range(3)] == [
        None,
        None,
        "2 a minute from 192.0.2.1",
    ]
    assert [connect(limited, NEIGHBOUR) for _ in range(2)] == [
        None,
        "3 a minute from network 192.0.2.0/24",
    ]
    assert connect(limited, STRANGER) is None


def test_clients_of_one_ipv6_network_share_its_limit(clock: FakeClock) -> None:
    limited = rates(clock, network_connections_per_min=1)
    assert connect(limited, "2001:db8::1") is None
    assert connect(limited, "2001:db8::2") == "1 a minute from network 2001:db8::/64"
    assert connect(limited, "2001:db8:0:1::1") is None


def test_what_the_client_limit_refuses_is_not_charged_to_the_network(clock: FakeClock) -> None:
    limited = rates(clock, client_connections_per_min=1, network_connections_per_min=2)
    for _ in range(5):
        connect(limited, CLIENT)
    assert connect(limited, NEIGHBOUR) is None


def test_a_message_is_charged_only_when_it_is_accepted(clock: FakeClock) -> None:
    limited = rates(clock, client_messages_per_min=2)
    for _ in range(2):
        assert [limited.message(CLIENT) for _ in range(5)] == [None] * 5
        limited.charge_message(CLIENT)
    refused = limited.message(CLIENT)
    assert refused is not None
    assert str(refused) == "450 4.7.1 Error: too many messages: 2 a minute from 192.0.2.1"
    assert refused.check == "rate"


def test_messages_accepted_at_once_on_many_connections_are_all_charged(clock: FakeClock) -> None:
    limited = rates(clock, client_messages_per_min=2)
    for _ in range(5):
        limited.charge_message(CLIENT)
    pass_ns(clock, MINUTE_NS - 1)
    assert limited.message(CLIENT) is not None
    pass_ns(clock, 1)
    assert limited.message(CLIENT) is None


def test_recipients_have_a_limit_of_their_own(clock: FakeClock) -> None:
    limited = rates(clock, client_recipients_per_min=2, client_messages_per_min=1)
    limited.charge_message(CLIENT)
    assert [limited.recipient(CLIENT) for _ in range(2)] == [None, None]
    refused = limited.recipient(CLIENT)
    assert refused is not None
    assert str(refused) == "450 4.7.1 Error: too many recipients: 2 a minute from 192.0.2.1"


def test_trusted_clients_are_neither_refused_nor_counted(clock: FakeClock) -> None:
    limited = rates(
        clock,
        trusted_networks=("192.0.2.1/32",),
        client_connections_per_min=1,
        network_connections_per_min=1,
        network_messages_per_min=1,
    )
    for _ in range(5):
        assert connect(limited, CLIENT) is None
        limited.charge_message(CLIENT)
        assert limited.message(CLIENT) is None
        assert limited.recipient(CLIENT) is None
    assert limited.message(NEIGHBOUR) is None
    assert connect(limited, NEIGHBOUR) is None
    limited.charge_message(NEIGHBOUR)
    for client, refused in ((NEIGHBOUR, True), (CLIENT, False)):
        assert (limited.message(client) is not None) is refused
        assert (connect(limited, client) is not None) is refused


def test_each_limit_holds_without_the_other_for_messages_too(clock: FakeClock) -> None:
    for limits, words in (
        ({"client_messages_per_min": 1}, "1 a minute from 192.0.2.1"),
        ({"network_messages_per_min": 1}, "1 a minute from network 192.0.2.0/24"),
    ):
        limited = rates(clock, **limits)
        limited.charge_message(CLIENT)
        assert words in str(limited.message(CLIENT))
        assert limited.message(STRANGER) is None


def test_without_limits_nothing_is_kept(clock: FakeClock) -> None:
    limited = rates(clock)
    for _ in range(100):
        assert connect(limited, STRANGER) is None
        assert limited.message(STRANGER) is None
        limited.charge_message(STRANGER)
        assert limited.recipient(STRANGER) is None


def test_a_reload_changes_the_limit_and_keeps_what_was_counted(clock: FakeClock) -> None:
    limited = rates(clock, client_connections_per_min=2)
    assert [connect(limited, CLIENT) for _ in range(2)] == [None, None]
    limited.reload(Settings(client_connections_per_min=3))
    assert connect(limited, CLIENT) is None
    assert connect(limited, CLIENT) == "3 a minute from 192.0.2.1"
    limited.reload(Settings(client_connections_per_min=4))
    assert connect(limited, CLIENT) is None
    limited.reload(Settings(client_connections_per_min=1))
    assert connect(limited, CLIENT) == "1 a minute from 192.0.2.1"
    pass_ns(clock, MINUTE_NS)
    assert connect(limited, CLIENT) is None


# -- the table ------------------------------------------------------------------------------------


def test_minutes_that_are_over_are_forgotten_in_passing() -> None:
    minutes = MinuteCounts(limit=2)
    for number in range(50):
        minutes.count(f"a{number}", 0)
        minutes.count(f"b{number}", 0)
        minutes.count(f"b{number}", 0)
    assert len(minutes) == 100
    minutes.count("late", MINUTE_NS - 1)
    assert len(minutes) == 101
    for number in range(25):
        minutes.count(f"c{number}", MINUTE_NS)
    assert len(minutes) == 1 + 25


def test_a_minute_that_is_over_and_not_yet_forgotten_counts_for_nothing() -> None:
    minutes = MinuteCounts(limit=2)
    for key in "abcde":
        minutes.count(key, 0)
    minutes.count("e", MINUTE_NS)
    assert not minutes.is_spent("e", MINUTE_NS)
    minutes.count("e", 2 * MINUTE_NS - 1)
    assert minutes.is_spent("e", 2 * MINUTE_NS - 1)
    assert not minutes.is_spent("e", 2 * MINUTE_NS)


def test_a_full_table_forgets_the_minute_that_ends_first() -> None:
    minutes = MinuteCounts(limit=3, entries=3)
    for now_ns, key in enumerate(("a", "b", "a", "c")):
        minutes.count(key, now_ns)
    minutes.count("d", 10)
    assert len(minutes) == 3
    for _ in range(2):
        minutes.count("a", 11)  # the third and the fourth, were the first two not forgotten
    assert not minutes.is_spent("a", 11)
    minutes.count("a", 11)
    assert minutes.is_spent("a", 11)


def test_a_flood_of_new_clients_pushes_nobody_out_who_has_reached_the_limit() -> None:
    minutes = MinuteCounts(limit=2, entries=10)
    for _ in range(2):
        minutes.count("spammer", 0)
    for number in range(1000):
        minutes.count(f"crowd{number}", number)
    assert minutes.is_spent("spammer", MINUTE_NS - 1)
    assert not minutes.is_spent("spammer", MINUTE_NS)
    assert len(minutes) <= 20


def test_a_flood_of_clients_at_their_limit_stays_within_the_bound() -> None:
    minutes = MinuteCounts(limit=1, entries=10)
    for number in range(1000):
        minutes.count(f"spammer{number}", number)
    assert len(minutes) == 10


def test_a_limit_lowered_meets_who_has_gone_beyond_it() -> None:
    minutes = MinuteCounts(limit=5)
    for _ in range(3):
        minutes.count("a", 0)
    minutes.limit = 2
    assert minutes.is_spent("a", 1)


# -- refused recipients ---------------------------------------------------------------------------

RECIPIENT = RefusedReply(None, "x", None, MailPath("b", "example.test"), "", reply.GREYLISTED)
OTHERS: list[Event] = [
    RefusedReply(None, "x", None, None, "XYZZY", reply.UNKNOWN_COMMAND),
    NegativeReply(reply.GREYLISTED),
]


def test_refused_recipients_of_a_client_keep_it_out_until_their_minute_is_over(
    clock: FakeClock,
) -> None:
    limited = rates(clock, client_refusals_per_min=3)
    limited.charge_refusals(CLIENT, [RECIPIENT, *OTHERS, RECIPIENT])
    assert limited.refusals(CLIENT) is None
    limited.charge_refusals(CLIENT, [RECIPIENT])
    assert limited.refusals(CLIENT) == "3 a minute from 192.0.2.1"
    assert (limited.refusals(NEIGHBOUR), limited.refusals(STRANGER)) == (None, None)
    pass_ns(clock, MINUTE_NS)
    assert limited.refusals(CLIENT) is None


def test_refused_recipients_are_counted_for_a_network_too(clock: FakeClock) -> None:
    limited = rates(clock, network_refusals_per_min=4)
    for client in (CLIENT, NEIGHBOUR):
        limited.charge_refusals(client, [RECIPIENT] * 2)
    assert limited.refusals("192.0.2.99") == "4 a minute from network 192.0.2.0/24"
    assert limited.refusals(STRANGER) is None


def test_one_client_cannot_use_up_its_network_s_refusals(clock: FakeClock) -> None:
    """However many connections it had open when its own were used up."""
    limited = rates(clock, client_refusals_per_min=2, network_refusals_per_min=5)
    for _ in range(5):
        limited.charge_refusals(CLIENT, [RECIPIENT] * 3)
    assert limited.refusals(CLIENT) == "2 a minute from 192.0.2.1"
    assert limited.refusals(NEIGHBOUR) is None
    pass_ns(clock, MINUTE_NS)
    limited.charge_refusals(CLIENT, [RECIPIENT] * 3)
    assert limited.refusals(CLIENT) == "2 a minute from 192.0.2.1"


def test_trusted_clients_may_be_refused_as_often_as_they_like(clock: FakeClock) -> None:
    limited = rates(clock, client_refusals_per_min=1)
    limited.charge_refusals("127.0.0.1", [RECIPIENT] * 5)
    assert limited.refusals("127.0.0.1") is None


def test_without_a_limit_nothing_is_counted(clock: FakeClock) -> None:
    limited = rates(clock, client_refusals_per_min=0, network_refusals_per_min=0)
    limited.charge_refusals(CLIENT, [RECIPIENT] * 5)
    assert limited.refusals(CLIENT) is None
