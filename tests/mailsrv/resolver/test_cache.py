"""The cache of DNS answers: lifetimes to the nanosecond, and what goes when it is full."""

from __future__ import annotations

from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.resolver.cache import ANSWER_CHARACTERS_MAX, ENTRIES_MAX, DnsCache
from mailsrv.units import NS_PER_S

ANSWER = DnsAnswer(DnsStatus.NOERROR, ("192.0.2.1",))
KEY = ("a.example", "A")
NOW_NS = 1_000_003


def test_an_answer_holds_until_its_lifetime_is_over_and_no_longer() -> None:
    cache = DnsCache()
    cache.put(KEY, ANSWER, 60, NOW_NS)
    assert cache.get(KEY, NOW_NS) == ANSWER
    assert cache.get(KEY, NOW_NS + 60 * NS_PER_S - 1) == ANSWER
    assert cache.get(KEY, NOW_NS + 60 * NS_PER_S) is None
    assert len(cache) == 0


def test_names_and_types_are_kept_apart() -> None:
    cache = DnsCache()
    cache.put(KEY, ANSWER, 60, NOW_NS)
    assert cache.get(("a.example", "MX"), NOW_NS) is None
    assert cache.get(("b.example", "A"), NOW_NS) is None


def test_a_newer_answer_takes_the_place_of_the_older() -> None:
    cache = DnsCache()
    newer = DnsAnswer(DnsStatus.NXDOMAIN)
    cache.put(KEY, ANSWER, 60, NOW_NS)
    cache.put(KEY, newer, 60, NOW_NS)
    assert (cache.get(KEY, NOW_NS), len(cache)) == (newer, 1)


def test_a_full_cache_forgets_what_nobody_has_asked_for_longest() -> None:
    cache = DnsCache()
    for number in range(ENTRIES_MAX):
        cache.put((str(number), "A"), ANSWER, 60, NOW_NS)
    assert cache.get(("0", "A"), NOW_NS) == ANSWER
    cache.put(("one more", "A"), ANSWER, 60, NOW_NS)
    assert len(cache) == ENTRIES_MAX
    assert cache.get(("1", "A"), NOW_NS) is None
    assert cache.get(("0", "A"), NOW_NS) == cache.get(("one more", "A"), NOW_NS) == ANSWER


def test_an_answer_that_would_take_much_memory_is_not_kept() -> None:
    cache = DnsCache()
    half = "x" * (ANSWER_CHARACTERS_MAX // 2)
    cache.put(KEY, DnsAnswer(DnsStatus.NOERROR, (half, half)), 60, NOW_NS)
    assert len(cache) == 1
    cache.put(KEY, DnsAnswer(DnsStatus.NOERROR, (half, half, "x")), 60, NOW_NS)
    assert len(cache) == 0
