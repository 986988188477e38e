"""How many may be here at once: the counts, the bounds, and when there is stress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy.connection_limits import Admission, stress_settings
from mailsrv.settings import Settings


def test_each_client_has_its_own_bound_and_the_limit_is_named() -> None:
    admission = Admission(Settings(connections_per_client=2), 100)
    assert [admission.enter("192.0.2.1") for _ in range(3)] == [None, None, "2 from 192.0.2.1"]
    assert admission.enter("192.0.2.2") is None


def test_the_bound_in_all_holds_for_everybody_also_for_the_trusted() -> None:
    admission = Admission(Settings(connections_per_client=2), 3)
    clients = ["192.0.2.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"]
    assert [admission.enter(client) for client in clients] == [None, None, None, "3 in all"]


def test_trusted_networks_are_exempt_from_the_limit_for_one_client() -> None:
    settings = Settings(connections_per_client=1, trusted_networks=("198.51.100.0/24", "::1/128"))
    admission = Admission(settings, 100)
    for client in ("198.51.100.7", "::1"):
        assert [admission.enter(client) for _ in range(5)] == [None] * 5
    assert admission.enter("127.0.0.1") is None
    assert admission.enter("127.0.0.1") == "1 from 127.0.0.1"


def test_who_leaves_makes_room() -> None:
    admission = Admission(Settings(connections_per_client=1), 1)
    for _ in range(3):
        assert admission.enter("192.0.2.1") is None
        admission.leave("192.0.2.1")


def test_a_network_has_its_own_bound_and_it_is_named() -> None:
    admission = Admission(Settings(connections_per_client=2, connections_per_network=3), 100)
    assert [admission.enter("192.0.2.1") for _ in range(3)] == [None, None, "2 from 192.0.2.1"]
    assert admission.enter("192.0.2.2") is None
    assert admission.enter("192.0.2.3") == "3 from network 192.0.2.0/24"
    assert admission.enter("192.0.3.1") is None
    admission.leave("192.0.2.1")
    assert admission.enter("192.0.2.3") is None
    assert admission.enter("192.0.2.2") == "3 from network 192.0.2.0/24"


def test_an_ipv6_network_is_a_64() -> None:
    admission = Admission(Settings(connections_per_network=1), 100)
    assert admission.enter("2001:db8::1") is None
    assert admission.enter("2001:db8::2") == "1 from network 2001:db8::/64"
    assert admission.enter("2001:db8:0:1::2") is None


def test_the_trusted_use_up_nobodys_share_of_their_network() -> None:
    settings = Settings(connections_per_network=2, trusted_networks=("192.0.2.1/32",))
    admission = Admission(settings, 100)
    assert [admission.enter("192.0.2.1") for _ in range(5)] == [None] * 5
    assert [admission.enter("192.0.2.2") for _ in range(2)] == [None, None]
    assert admission.enter("192.0.2.1") is None
    assert admission.enter("192.0.2.3") == "2 from network 192.0.2.0/24"


def test_when_all_have_left_nothing_is_kept() -> None:
    admission = Admission(Settings(connections_per_network=10), 100)
    clients = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "127.0.0.1", "2001:db8::1"]
    for client in clients:
        assert admission.enter(client) is None
    for client in clients:
        admission.leave(client)
    for slot in ("_by_client", "_by_network", "_network_of"):
        assert not dict(getattr(admission, slot)), slot


def test_a_reload_keeps_who_is_here_and_counts_them_by_the_new_limits() -> None:
    admission = Admission(Settings(), 100)
    for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "198.51.100.1"):
        assert admission.enter(client) is None
    admission.reload(Settings(connections_per_client=2, connections_per_network=4), 100)
    assert admission.enter("192.0.2.1") == "2 from 192.0.2.1"
    assert admission.enter("192.0.2.2") is None
    assert admission.enter("192.0.2.3") == "4 from network 192.0.2.0/24"
    admission.reload(Settings(trusted_networks=("192.0.2.0/24",), connections_per_network=1), 6)
    assert admission.enter("192.0.2.1") is None
    assert admission.enter("192.0.2.1") == "6 in all"
    for client in ("192.0.2.1",) * 3 + ("192.0.2.2",) * 2 + ("198.51.100.1",):
        admission.leave(client)
    assert admission.enter("198.51.100.1") is None
    assert admission.enter("198.51.100.2") == "1 from network 198.51.100.0/24"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 2)), max_size=80))
def test_the_counts_are_those_of_who_is_here(steps: list[tuple[bool, int, int]]) -> None:
    """Whatever the order of coming and going, by a model that counts anew each time."""
    settings = Settings(connections_per_client=3, connections_per_network=4)
    admission = Admission(settings, 10)
    here: list[str] = []
    for coming, subnet, host in steps:
        client = f"192.0.{subnet}.{host}"
        if not coming:
            if client in here:
                here.remove(client)
                admission.leave(client)
            continue
        neighbours = sum(one.startswith(f"192.0.{subnet}.") for one in here)
        expected = None
        if len(here) == 10:
            expected = "10 in all"
        elif here.count(client) == 3:
            expected = f"3 from {client}"
        elif neighbours == 4:
            expected = f"4 from network 192.0.{subnet}.0/24"
        else:
            here.append(client)
        assert admission.enter(client) == expected


# -- stress ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connections_max", "percent", "begins", "ends"),
    [
        (100, 80, 80, 70),
        (10, 80, 8, 7),
        (5, 80, 4, 3),
        (5, 75, 4, 3),
        (1, 80, 1, 0),
        (100, 100, 100, 90),
        (100, 10, 10, 0),
        (100, 5, 5, 0),
        (3, 1, 1, 0),
        (1000, 80, 800, 700),
    ],
)
def test_stress_begins_at_its_share_and_ends_ten_points_below(
    connections_max: int, percent: int, begins: int, ends: int
) -> None:
    admission = Admission(Settings(stress_percent=percent), connections_max)
    seen = []
    for number in range(connections_max):
        assert admission.enter(f"192.0.{number >> 8}.{number & 255}") is None
        seen.append(admission.stressed)
    assert seen == [here >= begins for here in range(1, connections_max + 1)]
    seen.clear()
    for number in range(connections_max):
        admission.leave(f"192.0.{number >> 8}.{number & 255}")
        seen.append(admission.stressed)
    assert seen == [here > ends for here in range(connections_max - 1, -1, -1)]


def test_between_its_two_bounds_stress_stays_what_it_was() -> None:
    admission = Admission(Settings(), 100)
    for _ in range(50):
        admission.enter("127.0.0.1")
    for stressed, moves in ((False, 29), (True, 1), (True, -9), (False, -1), (False, 9), (True, 1)):
        for _ in range(abs(moves)):
            if moves > 0:
                admission.enter("127.0.0.1")
            else:
                admission.leave("127.0.0.1")
        assert admission.stressed is stressed, moves


def test_there_is_no_stress_where_none_is_set() -> None:
    admission = Admission(Settings(stress_percent=0), 10)
    assert not admission.stressed
    for _ in range(10):
        admission.enter("127.0.0.1")
        assert not admission.stressed


def test_a_reload_finds_out_anew_whether_there_is_stress() -> None:
    admission = Admission(Settings(), 10)
    for _ in range(8):
        admission.enter("127.0.0.1")
    assert admission.stressed
    admission.reload(Settings(), 100)
    assert not admission.stressed
    admission.reload(Settings(stress_percent=8), 100)
    assert admission.stressed
    admission.reload(Settings(stress_percent=0), 8)
    assert not admission.stressed


def test_under_stress_no_wait_for_a_client_is_longer_than_the_stress_timeout() -> None:
    plain = Settings(greet_wait_s=30)
    stressed = stress_settings(plain)
    changed = {
        name: getattr(stressed, name)
        for name in Settings.__dataclass_fields__
        if getattr(stressed, name) != getattr(plain, name)
    }
    assert changed == {
        "greet_wait_s": 10,
        "handshake_timeout_s": 10,
        "idle_timeout_s": 10,
        "command_timeout_s": 10,
        "content_start_timeout_s": 10,
        "content_timeout_s": 10,
        "errors_soft": 1,
        "errors_hard": 1,
    }


def test_stress_makes_nobody_more_patient_than_before() -> None:
    strict = Settings(idle_timeout_s=3, errors_soft=1, errors_hard=2, stress_errors=4)
    stressed = stress_settings(strict)
    assert (stressed.idle_timeout_s, stressed.errors_soft, stressed.errors_hard) == (3, 1, 2)
