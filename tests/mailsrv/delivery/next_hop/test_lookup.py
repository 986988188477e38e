"""The addresses of a next hop, as DNS says them: well meant, broken and hostile."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.config.deliveries import Host
from mailsrv.delivery.next_hop.addresses import ADDRESSES_MAX, Address, Unroutable
from mailsrv.delivery.next_hop.bounded_resolver import (
    LOOKUP_NS,
    LOOKUPS_MAX,
    WAITING_MAX,
    BoundedResolver,
)
from mailsrv.delivery.next_hop.lookup import Found, LookupRules, find_domain, find_hosts
from mailsrv.delivery.next_hop.mail_exchangers import HOSTS_MAX
from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.policy.networks import Networks
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.loop import Loop
from mailsrv.smtp.sending.outcome import OutcomeKind
from replay.play.fakes.world import FakeResolver
from replay.play.mailsrv_harness import VirtualPoll

Table = dict[str, object]


def now(delay_ns: int, act: Callable[[], None]) -> None:
    act()


def resolver(table: Table) -> FakeResolver:
    fake = FakeResolver(now)
    for question, answer in table.items():
        fake[question] = answer
    return fake


def found(domain: str, table: Table, rules: LookupRules | None = None, seed: int = 0) -> Found:
    answers: list[Found] = []
    find_domain(domain, resolver(table), Random(seed), rules or LookupRules(), answers.append)
    (answer,) = answers
    return answer


def ips(domain: str, table: Table, rules: LookupRules | None = None, seed: int = 0) -> list[str]:
    answer = found(domain, table, rules, seed)
    assert not isinstance(answer, Unroutable), answer
    return [address.ip for address in answer]


def status(domain: str, table: Table, rules: LookupRules | None = None) -> tuple[str, str]:
    answer = found(domain, table, rules)
    assert isinstance(answer, Unroutable), answer
    assert answer.diagnostic
    return answer.kind.value, answer.status


A_AND_B: Table = {
    "d.test MX": ["20 b.d.test.", "10 a.d.test."],
    "a.d.test A": ["192.0.2.1"],
    "b.d.test A": ["192.0.2.2"],
}


# -- a domain's MX --------------------------------------------------------------------------------


def test_hosts_come_by_preference() -> None:
    assert found("d.test", A_AND_B) == (
        Address("192.0.2.1", 25, "a.d.test"),
        Address("192.0.2.2", 25, "b.d.test"),
    )


def test_hosts_of_one_preference_come_in_random_order() -> None:
    table = {**A_AND_B, "d.test MX": ["10 b.d.test.", "10 a.d.test."]}
    orders = {tuple(ips("d.test", table, seed=seed)) for seed in range(20)}
    assert orders == {("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1")}


def test_a_host_is_tried_at_both_kinds_of_address_by_turns() -> None:
    table: Table = {
        "d.test MX": ["10 a.d.test."],
        "a.d.test A": ["192.0.2.1", "192.0.2.2"],
        "a.d.test AAAA": ["2001:db8::1", "2001:db8::2"],
    }
    tried = ips("d.test", table)
    assert [":" in ip for ip in tried] == [True, False, True, False]
    assert sorted(tried) == ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]


def test_without_mx_the_domain_itself_is_the_host() -> None:
    assert found("d.test", {"d.test AAAA": ["2001:db8::1"]}) == (
        Address("2001:db8::1", 25, "d.test"),
    )


def test_a_null_mx_takes_no_mail() -> None:
    assert status("d.test", {"d.test MX": ["0 ."], "d.test A": ["192.0.2.1"]}) == (
        "failed",
        "5.1.10",
    )


def test_a_null_mx_beside_others_is_none() -> None:
    assert ips("d.test", {**A_AND_B, "d.test MX": ["0 .", "10 a.d.test."]}) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, ("failed", "5.1.2")),
        ({"d.test TXT": ["x"]}, ("failed", "5.1.2")),
        ({"d.test MX": ["10 nowhere.test."]}, ("failed", "5.4.4")),
        ({"d.test MX": ["10 ."] * 2}, ("failed", "5.4.4")),
        ({"d.test MX": "SERVFAIL"}, ("deferred", "4.4.3")),
        ({"d.test MX": "TIMEOUT"}, ("deferred", "4.4.3")),
        ({"d.test MX": ["10 a.test."], "a.test A": "TIMEOUT"}, ("deferred", "4.4.3")),
        ({"d.test MX": ["10 a.test."], "a.test AAAA": "SERVFAIL"}, ("deferred", "4.4.3")),
        ({"d.test TXT": ["x"], "d.test A": "SERVFAIL"}, ("deferred", "4.4.3")),
    ],
)
def test_what_leads_nowhere_is_final_and_what_failed_is_not(
    table: Table, expected: tuple[str, str]
) -> None:
    assert status("d.test", table) == expected


def test_one_failed_lookup_does_not_keep_mail_from_another_host() -> None:
    assert ips("d.test", {**A_AND_B, "a.d.test A": "TIMEOUT"}) == ["192.0.2.2"]


# -- this server among the hosts ------------------------------------------------------------------

OURS = LookupRules(own_names=frozenset({"mx.our.test"}), own_ips=frozenset({"192.0.2.99"}))
BACKUP: Table = {
    "d.test MX": ["10 a.d.test.", "20 MX.our.test.", "20 c.d.test.", "30 b.d.test."],
    "a.d.test A": ["192.0.2.1"],
    "b.d.test A": ["192.0.2.2"],
    "c.d.test A": ["192.0.2.3"],
    "mx.our.test A": ["192.0.2.99"],
}


def test_a_backup_hands_on_to_better_hosts_alone() -> None:
    assert ips("d.test", BACKUP, OURS) == ["192.0.2.1"]


def test_this_server_is_known_by_its_address_under_another_name() -> None:
    by_address = LookupRules(own_ips=OURS.own_ips)
    for seed in range(10):
        assert ips("d.test", BACKUP, by_address, seed) == ["192.0.2.1"]


@pytest.mark.parametrize("rules", [OURS, LookupRules(own_ips=OURS.own_ips)])
def test_mail_whose_best_host_is_this_server_would_loop(rules: LookupRules) -> None:
    table = {**BACKUP, "d.test MX": ["10 mx.our.test.", "20 a.d.test."]}
    assert status("d.test", table, rules) == ("failed", "5.4.6")
    assert status("mx.our.test", BACKUP, rules) == ("failed", "5.4.6")


# -- hostile DNS ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "private",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "64:ff9b::7f00:1", "2002:7f00:1::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    ],
)
def test_a_domain_cannot_send_us_to_private_addresses(private: str) -> None:
    rtype = "AAAA" if ":" in private else "A"
    table: Table = {"d.test MX": ["10 a.d.test."], f"a.d.test {rtype}": [private]}
    assert status("d.test", table) == ("failed", "5.4.4")
    mixed = {**A_AND_B, f"a.d.test {rtype}": [private], "a.d.test A": ["192.0.2.1", "127.0.0.1"]}
    assert ips("d.test", mixed) == ["192.0.2.1", "192.0.2.2"]
    literal = f"[IPv6:{private}]" if ":" in private else f"[{private}]"
    assert status(literal, {}) == ("failed", "5.4.4")


def test_private_networks_can_be_allowed() -> None:
    rules = LookupRules(allowed=Networks(("10.0.0.0/8",)))
    table: Table = {"d.test MX": ["10 a.d.test."], "a.d.test A": ["10.0.0.1", "192.168.0.1"]}
    assert ips("d.test", table, rules) == ["10.0.0.1"]


def test_an_address_literal_needs_no_dns() -> None:
    assert found("[192.0.2.7]", {}) == (Address("192.0.2.7", 25, "192.0.2.7"),)
    assert ips("[IPv6:2001:db8::7]", {}) == ["2001:db8::7"]


@pytest.mark.parametrize("domain", ["", "a..b", "[300.1.1.1]", "[]", "a b", "x" * 64 + ".test"])
def test_what_is_no_domain_is_not_asked_for(domain: str) -> None:
    assert status(domain, {}) == ("failed", "5.1.2")


def test_a_crowd_of_hosts_and_addresses_is_cut() -> None:
    crowd = [f"192.0.2.{n}" for n in range(200)]
    table: Table = {"d.test MX": [f"{n} h{n}.test." for n in range(200)]}
    for n in range(200):
        table[f"h{n}.test A"] = crowd
        table[f"h{n}.test AAAA"] = [f"2001:db8::{n:x}:{m:x}" for m in range(1, 50)]
    fake = resolver(table)
    answers: list[Found] = []
    find_domain("d.test", fake, Random(0), LookupRules(), answers.append)
    assert len(fake.questions) == 1 + 2 * HOSTS_MAX
    assert isinstance(answers[0], tuple) and len(answers[0]) == ADDRESSES_MAX


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.from_regex(r"\A-?[0-9]{0,400} [a-z0-9.\\-]{0,20}\Z"),
            st.sampled_from(["0 .", "10 a.d.test.", "65536 a.d.test.", "10 127.0.0.1.", "10 -a."]),
        ),
        max_size=8,
    )
)
def test_whatever_mx_records_hold_there_is_one_answer(records: list[str]) -> None:
    answers: list[Found] = []

    class Zone:
        def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
            given = {"MX": tuple(records), "A": ("192.0.2.1", "x", "127.0.0.1")}.get(rtype, ("",))
            answer(DnsAnswer(DnsStatus.NOERROR, given))

    find_domain("d.test", Zone(), Random(0), LookupRules(), answers.append)
    assert len(answers) == 1


# -- hosts that are configured --------------------------------------------------------------------


def hosts(table: Table, *configured: Host) -> Found:
    answers: list[Found] = []
    find_hosts(configured, resolver(table), Random(0), answers.append)
    (answer,) = answers
    return answer


def test_configured_hosts_keep_their_order_their_ports_and_private_addresses() -> None:
    table: Table = {"relay.test A": ["10.0.0.9"]}
    assert hosts(table, Host("127.0.0.1", 2525), Host("relay.test", 26), Host("::1", 25)) == (
        Address("127.0.0.1", 2525, "127.0.0.1"),
        Address("10.0.0.9", 26, "relay.test"),
        Address("::1", 25, "::1"),
    )


def test_a_configured_host_that_is_not_found_is_waited_for() -> None:
    answer = hosts({}, Host("gone.test", 25))
    assert isinstance(answer, Unroutable)
    assert (answer.kind, answer.status) == (OutcomeKind.DEFERRED, "4.4.4")
    answer = hosts({"gone.test A": "SERVFAIL"}, Host("gone.test", 25))
    assert isinstance(answer, Unroutable)
    assert (answer.kind, answer.status) == (OutcomeKind.DEFERRED, "4.4.3")


# -- how much is asked at once --------------------------------------------------------------------


class Silent:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Callable[[DnsAnswer], None]] = []

    def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
        self.asked.append(answer)


def test_lookups_beyond_the_bound_wait_and_beyond_that_fail() -> None:
    silent, answers = Silent(), list[DnsAnswer]()
    bounded = BoundedResolver(silent, Loop(FakeClock(), VirtualPoll(), lambda *_: None))
    for _ in range(LOOKUPS_MAX + WAITING_MAX):
        bounded.lookup("a.test", "A", answers.append)
    assert (len(silent.asked), len(answers)) == (LOOKUPS_MAX, 0)
    bounded.lookup("a.test", "A", answers.append)
    assert [one.status for one in answers] == [DnsStatus.SERVFAIL]
    silent.asked[0](DnsAnswer(DnsStatus.NOERROR))
    assert (len(silent.asked), len(answers)) == (LOOKUPS_MAX + 1, 2)
    bounded.resolver = resolver({})  # which answers at once, however many wait
    silent.asked[1](DnsAnswer(DnsStatus.NOERROR))
    assert len(answers) == 2 + WAITING_MAX


def test_a_resolver_that_never_answers_is_given_up() -> None:
    clock, silent, answers = FakeClock(), Silent(), list[DnsAnswer]()
    loop = Loop(clock, VirtualPoll(), lambda *_: None)
    BoundedResolver(silent, loop).lookup("a.test", "A", answers.append)
    clock.advance_to_ns(clock.monotonic_ns() + LOOKUP_NS - 1)
    loop.expire()
    assert answers == []
    clock.advance_to_ns(clock.monotonic_ns() + 2_000_000)
    loop.expire()
    assert [one.status for one in answers] == [DnsStatus.TIMEOUT]
    silent.asked[0](DnsAnswer(DnsStatus.NOERROR))
    assert len(answers) == 1 and len(loop.timers) == 0
