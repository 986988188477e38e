"""Greylisting, on a clock that starts at an odd instant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.clock import FakeClock
from mailsrv.greylist import (
    EXPIRED_A_CHECK_MAX,
    KEPT_S,
    RETRY_WITHIN_S,
    TRIPLETS_FOR_A_CLIENT,
    Greylist,
    MemoryStore,
    Outcome,
    Record,
)

START_S = 12_345.678901
DELAY_S = 300
NS_IN_S = 1e-9

TRIPLET = ("192.0.2.1", "a@example.org", "b@example.test")


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
    assert gl.check(TRIPLET) is Outcome.PASS


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


@pytest.mark.parametrize(
    ("retry_from", "outcome"),
    [
        ("192.0.2.254", "PASS"),
        ("::ffff:192.0.2.9", "PASS"),
        ("192.0.3.1", "DEFER"),
    ],
)
def test_a_retry_may_come_from_a_neighbouring_address(
    clock: FakeClock, gl: Greylist, retry_from: str, outcome: str
) -> None:
    gl.check(TRIPLET)
    clock.advance(DELAY_S)
    assert gl.check((retry_from, *TRIPLET[1:])) == outcome


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
    assert gl.check(("192.0.3.200", "new@example.org", "new@example.test")) == "DEFER"


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


def test_a_wall_clock_set_back_makes_nobody_wait_for_it() -> None:
    store = MemoryStore()
    Greylist(clock=FakeClock(start=10**9), delay=DELAY_S, store=store).check(TRIPLET)
    clock = FakeClock(start=START_S)
    gl = Greylist(clock=clock, delay=DELAY_S, store=store)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance(DELAY_S)
    assert gl.check(TRIPLET) == "PASS"


# -- the store ------------------------------------------------------------------------------------


def test_a_flood_of_new_triplets_is_bounded_and_spares_who_has_passed(clock: FakeClock) -> None:
    store = MemoryStore(entries=10)
    gl = Greylist(clock=clock, delay=DELAY_S, store=store)
    passed_once(gl, clock, TRIPLET)
    for number in range(1000):
        gl.check((f"198.51.{number % 256}.1", f"{number}@example.org", "b@example.test"))
    assert len(store) <= 2 * 10
    assert gl.check(TRIPLET) == "PASS"


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
        store.put((str(number),), Record(number, 0))
        store.put((f"passed {number}",), Record(number, 1))
    assert [store.get((str(number),)) for number in range(3)] == [None, (1, 0), (2, 0)]
    store.expire(waiting_before_ns=2, passed_before_ns=2, at_most=10)
    assert len(store) == 2
    store.delete(("2",))
    store.delete(("2",))
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
