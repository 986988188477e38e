"""Greylisting, on a clock that starts at an odd instant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy.greylist import (
    EXPIRED_A_CHECK_MAX,
    KEPT_S,
    RETRY_WITHIN_S,
    TRIPLETS_FOR_A_CLIENT,
    Greylist,
    GreylistDecision,
    GreylistKey,
    GreylistRecord,
    MemoryStore,
)
from mailsrv.runtime.clock import FakeClock
from mailsrv.settings import Settings

START_S = 12_345.678901
DELAY_S = 300
NS_IN_S = 1e-9

TRIPLET = ("192.0.2.1", "a@example.org", "b@example.test")
FAR_OFF = ("198.51.100.7", "a@example.org", "b@example.test")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start=START_S, realtime_offset_ns=1_700_000_000_123_456_789)


@pytest.fixture
def gl(clock: FakeClock) -> Greylist:
    return Greylist(clock=clock, delay=DELAY_S)


def passed_once(gl: Greylist, clock: FakeClock, triplet: tuple[str, str, str]) -> None:
    gl.check(triplet)
    clock.advance(DELAY_S)
    assert gl.check(triplet) == "PASS"


def test_it_works_as_people_type_it() -> None:
    clock = FakeClock(start=0)
    gl = Greylist(clock=clock, delay=300)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance(120)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance(180)
    assert gl.check(TRIPLET) == "PASS"
    assert gl.check(TRIPLET) is GreylistDecision.PASS


def test_a_retry_passes_exactly_at_the_delay_and_not_a_nanosecond_before(
    clock: FakeClock, gl: Greylist
) -> None:
    due_ns = clock.monotonic_ns() + DELAY_S * 10**9
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance_to_ns(due_ns - 1)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance_to_ns(due_ns)
    assert gl.check(TRIPLET) == "PASS"


def test_even_without_a_delay_the_first_try_is_deferred(clock: FakeClock) -> None:
    gl = Greylist(clock=clock, delay=0)
    assert [gl.check(TRIPLET), gl.check(TRIPLET)] == ["DEFER", "PASS"]


def test_impatient_retries_do_not_start_the_delay_again(clock: FakeClock, gl: Greylist) -> None:
    for _ in range(10):
        assert gl.check(TRIPLET) == "DEFER"
        clock.advance(DELAY_S / 10)
    assert gl.check(TRIPLET) == "PASS"


@pytest.mark.parametrize(("beyond_s", "outcome"), [(0, "PASS"), (NS_IN_S, "DEFER")])
def test_a_retry_after_the_window_is_a_first_try(
    clock: FakeClock, gl: Greylist, beyond_s: float, outcome: str
) -> None:
    gl.check(TRIPLET)
    clock.advance(RETRY_WITHIN_S)
    clock.advance(beyond_s)
    assert gl.check(TRIPLET) == outcome
    clock.advance(DELAY_S)
    assert gl.check(TRIPLET) == "PASS"


@pytest.mark.parametrize(("beyond_s", "outcome"), [(0, "PASS"), (NS_IN_S, "DEFER")])
def test_a_passed_triplet_is_kept_from_its_last_use(
    clock: FakeClock, gl: Greylist, beyond_s: float, outcome: str
) -> None:
    passed_once(gl, clock, TRIPLET)
    clock.advance(KEPT_S)
    assert gl.check(TRIPLET) == "PASS"
    clock.advance(KEPT_S)
    clock.advance(beyond_s)
    assert gl.check(TRIPLET) == outcome


def test_another_sender_or_recipient_is_another_triplet(clock: FakeClock, gl: Greylist) -> None:
    passed_once(gl, clock, TRIPLET)
    assert gl.check((TRIPLET[0], "other@example.org", TRIPLET[2])) == "DEFER"
    assert gl.check((TRIPLET[0], TRIPLET[1], "other@example.test")) == "DEFER"


def test_letter_case_makes_no_other_triplet(clock: FakeClock, gl: Greylist) -> None:
    gl.check(TRIPLET)
    clock.advance(DELAY_S)
    assert gl.check((TRIPLET[0], TRIPLET[1].upper(), TRIPLET[2].title())) == "PASS"


def numbered(number: int) -> tuple[str, str, str]:
    return ("192.0.2.1", f"sender{number}@example.org", "b@example.test")


def make_known(gl: Greylist, clock: FakeClock) -> None:
    for number in range(TRIPLETS_FOR_A_CLIENT):
        passed_once(gl, clock, numbered(number))


def test_a_client_passes_after_enough_passed_triplets(clock: FakeClock, gl: Greylist) -> None:
    make_known(gl, clock)
    assert gl.check(("192.0.2.200", "new@example.org", "new@example.test")) == "PASS"
    assert gl.check(("192.0.3.200", "new@example.org", "other@example.test")) == "DEFER"


def test_one_triplet_counts_once_for_its_client(clock: FakeClock, gl: Greylist) -> None:
    for number in range(TRIPLETS_FOR_A_CLIENT - 1):
        passed_once(gl, clock, numbered(number))
    for _ in range(10):
        assert gl.check(numbered(0)) == "PASS"
    assert gl.check(numbered(99)) == "DEFER"


def test_a_known_client_is_kept_from_its_last_use(clock: FakeClock, gl: Greylist) -> None:
    make_known(gl, clock)
    for number in range(100, 103):
        clock.advance(KEPT_S)
        assert gl.check(numbered(number)) == "PASS"
    clock.advance(KEPT_S + 1)
    assert gl.check(numbered(103)) == "DEFER"


# -- settings and allow lists ---------------------------------------------------------------------


def test_the_windows_come_from_the_settings() -> None:
    settings = Settings(
        greylist_delay_s=10,
        greylist_retry_within_s=20,
        greylist_kept_s=30,
        greylist_client_passes=2,
    )
    clock = FakeClock(start=START_S)
    gl = Greylist.of(settings, clock)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance(20)
    clock.advance(NS_IN_S)
    assert gl.check(TRIPLET) == "DEFER"  # the window was missed
    clock.advance(10)
    assert gl.check(TRIPLET) == "PASS"
    clock.advance(30)
    assert gl.check(TRIPLET) == "PASS"
    clock.advance(30)
    clock.advance(NS_IN_S)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance(10)
    assert gl.check(TRIPLET) == "PASS"
    passed = (TRIPLET[0], "second@example.org", TRIPLET[2])
    gl.check(passed)
    clock.advance(10)
    assert gl.check(passed) == "PASS"
    assert gl.check((TRIPLET[0], "third@example.org", TRIPLET[2])) == "PASS"


@pytest.mark.parametrize(
    ("client", "reverse_name", "recipient", "outcome"),
    [
        ("203.0.113.9", "", "b@example.test", "PASS"),
        ("2001:db8:5::1", "", "b@example.test", "PASS"),
        ("203.0.114.9", "", "b@example.test", "DEFER"),
        ("192.0.2.1", "Mail.Good.Example", "b@example.test", "PASS"),
        ("192.0.2.1", "good.example", "b@example.test", "PASS"),
        ("192.0.2.1", "notgood.example", "b@example.test", "DEFER"),
        ("192.0.2.1", "good.example.net", "b@example.test", "DEFER"),
        ("192.0.2.1", "", "Postmaster@Example.Test", "PASS"),
        ("192.0.2.1", "", "postmaster", "PASS"),
        ("192.0.2.1", "", "anybody@open.test", "PASS"),
        ("192.0.2.1", "", "anybody@at.test", "PASS"),
        ("192.0.2.1", "", "anybody@below.open.test", "DEFER"),
    ],
)
def test_who_is_on_an_allow_list_is_not_greylisted(
    client: str, reverse_name: str, recipient: str, outcome: str
) -> None:
    store = MemoryStore()
    settings = Settings(
        greylist_allow_networks=("203.0.113.0/24", "2001:db8:5::/48"),
        greylist_allow_names=("good.example",),
        greylist_allow_recipients=(
            "postmaster@example.test",
            "postmaster",
            "open.test",
            "@at.test",
        ),
    )
    gl = Greylist.of(settings, FakeClock(start=START_S), store)
    triplet = (client, "a@example.org", recipient)
    assert gl.check(triplet, helo="good.example", reverse_name=reverse_name) == outcome
    assert (len(store) == 0) == (outcome == "PASS")  # and leaves no trace


# -- the wall clock is set ------------------------------------------------------------------------


class SteppedClock(FakeClock):
    """A clock whose wall can be set."""

    step_ns = 0

    def realtime_ns(self) -> int:
        return super().realtime_ns() + self.step_ns


STEPS_S = [-56 * 365 * 86_400, -365 * 86_400, -3600, 3600, 365 * 86_400]


@pytest.mark.parametrize("step_s", STEPS_S)
def test_a_wall_clock_set_while_running_changes_nothing(step_s: int) -> None:
    clock = SteppedClock(start=START_S, realtime_offset_ns=1_767_225_600 * 10**9)
    store = MemoryStore()
    gl = Greylist(clock=clock, delay=DELAY_S, store=store)
    passed_once(gl, clock, TRIPLET)
    waiting = (FAR_OFF[0], "w@example.org", "b@example.test")
    gl.check(waiting)
    records = len(store)
    clock.step_ns = step_s * 10**9
    clock.advance(DELAY_S)
    assert gl.check(TRIPLET) == "PASS"
    assert gl.check(waiting) == "PASS"
    assert len(store) == records + 1  # with what is now known of the second client


@pytest.mark.parametrize("step_s", STEPS_S)
def test_a_wall_clock_that_is_wrong_after_a_restart_blocks_and_erases_nobody(step_s: int) -> None:
    store = MemoryStore()
    before = FakeClock(start=START_S, realtime_offset_ns=1_767_225_600 * 10**9)
    gl = Greylist(clock=before, delay=DELAY_S, store=store)
    passed_once(gl, before, TRIPLET)
    waiting = (FAR_OFF[0], "w@example.org", "b@example.test")
    gl.check(waiting)

    after = FakeClock(start=7, realtime_offset_ns=before.realtime_ns() + step_s * 10**9)
    gl = Greylist(clock=after, delay=DELAY_S, store=store)
    for _ in range(20):
        assert gl.check(TRIPLET) == "PASS"
    gl.check(waiting)
    after.advance(DELAY_S)
    assert gl.check(waiting) == "PASS"


def test_time_that_passes_between_two_runs_counts() -> None:
    store = MemoryStore()
    before = FakeClock(start=10**9)
    Greylist(clock=before, delay=DELAY_S, store=store).check(TRIPLET)
    early = FakeClock(start=10**9 + DELAY_S - 1)
    assert Greylist(clock=early, delay=DELAY_S, store=store).check(TRIPLET) == "DEFER"
    due = FakeClock(start=10**9 + DELAY_S)
    assert Greylist(clock=due, delay=DELAY_S, store=store).check(TRIPLET) == "PASS"


# -- the store ------------------------------------------------------------------------------------


def test_a_flood_of_new_triplets_is_bounded_and_spares_who_has_passed(clock: FakeClock) -> None:
    store = MemoryStore(entries=10)
    gl = Greylist(clock=clock, delay=DELAY_S, store=store)
    passed_once(gl, clock, TRIPLET)
    for number in range(1000):
        gl.check((f"198.51.{number % 256}.1", f"{number}@example.org", "b@example.test"))
    assert len(store) <= 2 * 10
    assert gl.check(TRIPLET) == "PASS"


@pytest.mark.parametrize("flooder", ["203.0.113.{}", "2001:db8:666:{:x}::1", "::ffff:203.0.113.{}"])
def test_a_flood_from_one_network_pushes_out_nothing_that_waits_for_others(
    clock: FakeClock, flooder: str
) -> None:
    gl = Greylist(clock=clock, delay=DELAY_S, store=MemoryStore(entries=400))
    others = [(f"198.51.{number}.1", "a@example.org", "b@example.test") for number in range(100)]
    for other in others:
        assert gl.check(other) == "DEFER"
    for number in range(2000):
        client = flooder.format(number % 250)
        assert gl.check((client, f"x{number}@example.com", "b@example.test")) == "DEFER"
    clock.advance(DELAY_S)
    assert [gl.check(other) for other in others[:5]] == ["PASS"] * 5
    last = (flooder.format(1999 % 250), "x1999@example.com", "b@example.test")
    assert gl.check(last) == "PASS"  # of its own it has lost the oldest


def test_what_passes_by_a_claim_alone_pushes_out_nothing_of_others(clock: FakeClock) -> None:
    """Two hosts that say one HELO name pass without credit, and so with a record for each try."""
    gl = Greylist(clock=clock, delay=DELAY_S, store=MemoryStore(entries=80))
    passed_once(gl, clock, TRIPLET)
    for number in range(100):
        word = "abcdefghij"[number // 10] + "abcdefghij"[number % 10]
        for client, said in (("203.0.113.1", "DEFER"), ("198.18.0.1", "PASS")):
            tried = (client, f"{word}@evil.example", "b@example.test")
            assert gl.check(tried, helo="mx.evil.example") == said
            clock.advance(DELAY_S)
    assert gl.check(TRIPLET) == "PASS"


def test_what_passes_or_expires_makes_room_for_its_network(clock: FakeClock) -> None:
    store = MemoryStore(entries=80)
    gl = Greylist(clock=clock, delay=DELAY_S, store=store, client_passes=1000)
    for number in range(50):
        first, second = (
            ("203.0.113.1", f"{name}{number}@example.com", "b@example.test") for name in "xy"
        )
        assert (gl.check(first), gl.check(second)) == ("DEFER", "DEFER")
        clock.advance(DELAY_S)
        assert (gl.check(first), gl.check(second)) == ("PASS", "PASS")


def test_what_is_stale_is_forgotten_in_small_steps(clock: FakeClock) -> None:
    store = MemoryStore()
    gl = Greylist(clock=clock, delay=DELAY_S, store=store)
    for number in range(20):
        gl.check(numbered(number))
    clock.advance(RETRY_WITHIN_S + 1)
    gl.check(TRIPLET)
    assert len(store) == 20 - EXPIRED_A_CHECK_MAX + 1
    for _ in range(20 // EXPIRED_A_CHECK_MAX):
        gl.check(TRIPLET)
    assert len(store) == 1


def test_the_store_forgets_the_oldest_of_each_kind() -> None:
    store = MemoryStore(entries=2)
    for number in range(3):
        store.put(GreylistKey(str(number)), GreylistRecord(number, 0), f"network {number}")
        store.put(GreylistKey(f"passed {number}"), GreylistRecord(number, 1))
    assert [store.get(GreylistKey(str(number))) for number in range(3)] == [None, (1, 0), (2, 0)]
    store.expire(waiting_before_ns=2, passed_before_ns=2, at_most=10)
    assert len(store) == 2
    store.delete(GreylistKey("2"))
    store.delete(GreylistKey("2"))
    assert len(store) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700)), max_size=40))
def test_a_triplet_passes_only_after_a_try_that_is_a_delay_old(
    tries: list[tuple[int, int]],
) -> None:
    clock = FakeClock(start=START_S)
    gl = Greylist(clock=clock, delay=DELAY_S)
    first_ns: dict[int, int] = {}
    for number, wait_s in tries:
        clock.advance(wait_s)
        now_ns = clock.monotonic_ns()
        age_ns = now_ns - first_ns.setdefault(number, now_ns)
        seen = age_ns > 0 or gl.check(numbered(number)) == "DEFER"
        assert seen
        expected = "PASS" if age_ns >= DELAY_S * 10**9 else "DEFER"
        assert gl.check(numbered(number)) == expected
