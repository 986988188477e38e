"""Block lists and allow lists: what counts, and what a list that has gone wrong does not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from advising import (
    CLIENT,
    NXDOMAIN,
    SERVFAIL,
    TIMEOUT,
    Advised,
    Asked,
    advised,
    policy,
    records,
    sender,
)
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy import dnsbl
from mailsrv.policy.lookups import DnsAnswer, Rating
from mailsrv.policy.policy import Policy
from mailsrv.settings import DnsList
from mailsrv.smtp import reply

ALL = "127.0.0.0/8"
BLOCK = DnsList("bl.example", ALL, 5)
ALLOW = DnsList("wl.example", ALL, -5)
ASKED = "10.2.0.192.bl.example A"
CONTROL = "1.0.0.127.bl.example A"


def listing(*lists: DnsList, threshold: int = 5) -> Policy:
    return policy(reputation_threshold=threshold, dns_lists=lists)


def told(dns: dict[str, object], *lists: DnsList, client: str = CLIENT) -> Advised:
    return advised(dns, sender(client=client), reputation_threshold=5, dns_lists=lists)


def refused(*reasons: str, score: int = 5) -> list[object]:
    return [reply.bad_reputation(score, 5, reasons)]


# -- what counts ----------------------------------------------------------------------------------


def test_who_is_listed_is_refused_and_who_is_not_is_not() -> None:
    assert told({ASKED: ["127.0.0.2"]}, BLOCK).verdicts == refused("+5 bl.example (127.0.0.2)")
    assert told({}, BLOCK).verdicts == [None]


def test_an_ipv6_client_is_asked_for_by_its_nibbles() -> None:
    name = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example A"
    one = told({name: ["127.0.0.3"]}, BLOCK, client="2001:db8::a")
    assert one.verdicts == refused("+5 bl.example (127.0.0.3)")


def test_an_ipv4_client_mapped_into_ipv6_is_asked_for_by_its_octets() -> None:
    one = told({ASKED: ["127.0.0.2"]}, BLOCK, client=f"::ffff:{CLIENT}")
    assert one.verdicts == refused("+5 bl.example (127.0.0.2)")


def test_several_answers_and_several_lists_add_up() -> None:
    lists = (
        DnsList("bl.example", "127.0.0.2/32", 1),
        DnsList("bl.example", "127.0.0.4/30", 2),
        DnsList("bl.example", "127.0.1.0/24", 40),
        DnsList("other.example", ALL, 2),
    )
    dns: dict[str, object] = {
        ASKED: ["127.0.0.2", "127.0.0.5", "127.0.0.6"],
        "10.2.0.192.other.example A": ["127.0.0.9"],
    }
    assert told(dns, *lists).verdicts == refused(
        "+1 bl.example (127.0.0.2)", "+2 bl.example (127.0.0.5)", "+2 other.example (127.0.0.9)"
    )


def test_an_allow_list_rescues_who_is_listed() -> None:
    dns: dict[str, object] = {ASKED: ["127.0.0.2"], "10.2.0.192.wl.example A": ["127.0.9.3"]}
    one = told(dns, BLOCK, ALLOW)
    assert one.verdicts == [None]
    reasons = "+5 bl.example (127.0.0.2), -5 wl.example (127.0.9.3)"
    assert one.notes == [("scored", {"score": 0, "reasons": reasons})]


def test_a_list_is_asked_once_however_many_of_its_answers_count() -> None:
    asked = Asked()
    lists = (DnsList("bl.example", "127.0.0.2/32", 1), DnsList("bl.example", "127.0.0.3/32", 2))
    Advised(listing(*lists), asked).counsel.begin()
    assert asked.questions == ["reputation", ASKED]


def test_a_client_without_an_address_is_in_no_list() -> None:
    asked = Asked()
    lists = dnsbl.DnsLists((BLOCK,))
    with pytest.raises(StopIteration) as stop:
        next(lists.rate("unknown"))
    assert (stop.value.value, asked.questions) == (Rating(0), [])


@given(st.ip_addresses())
def test_the_name_to_ask_for_is_the_address_reversed(address: object) -> None:
    name = dnsbl.question_name(str(address), "bl.example")
    labels = name.removesuffix(".bl.example").split(".")
    if len(labels) == 4:
        assert ".".join(reversed(labels)) == str(address)
    else:
        assert len(labels) == 32
        assert int("".join(reversed(labels)), 16) == int(address)  # type: ignore[call-overload]


# -- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["203.0.113.1", "126.255.255.255", "127.255.255.254", "junk"])
def test_an_answer_that_is_none_does_not_count_and_is_noted_once(answer: str) -> None:
    lists = listing(BLOCK)
    notes = []
    for _ in range(3):
        asked = Asked()
        one = Advised(lists, asked)
        one.counsel.begin()
        asked.answer("reputation", Rating(0))
        asked.answer(ASKED, records(answer))
        assert one.ask(sender()) == [None]
        notes += one.notes
    wrong = {"list": "bl.example", "answer": answer}
    assert notes == [("list gives an answer that is none", wrong)]


def test_a_good_answer_beside_one_that_is_none_counts() -> None:
    one = told({ASKED: ["203.0.113.1", "127.0.0.2"]}, BLOCK)
    assert one.verdicts == refused("+5 bl.example (127.0.0.2)")


@pytest.mark.parametrize("list_", [BLOCK, DnsList("bl.example", ALL, -5)])
def test_a_list_that_lists_the_world_counts_nothing(list_: DnsList) -> None:
    one = told({ASKED: ["127.0.0.2"], CONTROL: ["127.0.0.2"]}, list_)
    assert one.verdicts == [None]
    assert one.notes == [("list lists the world", {"list": "bl.example", "answer": "127.0.0.2"})]


def test_the_world_is_told_from_an_ipv6_client_by_ipv6() -> None:
    client = "a" + ".0" * 23 + ".8.b.d.0.1.0.0.2.bl.example A"
    control = "1.0.0.0.0.0.f.7.f.f.f.f" + ".0" * 20 + ".bl.example A"
    for dns, count in (
        ({client: ["127.0.0.2"]}, 1),
        ({client: ["127.0.0.2"], control: ["127.0.0.2"]}, 0),
    ):
        one = told(dns, BLOCK, client="2001:db8::a")
        assert len([verdict for verdict in one.verdicts if verdict]) == count


def test_who_is_listed_stays_so_when_the_control_has_no_answer() -> None:
    one = told({ASKED: ["127.0.0.2"], CONTROL: "SERVFAIL"}, BLOCK)
    assert one.verdicts == refused("+5 bl.example (127.0.0.2)")


def test_who_is_not_listed_costs_no_control() -> None:
    asked = Asked()
    one = Advised(listing(BLOCK), asked)
    one.counsel.begin()
    asked.answer(ASKED, NXDOMAIN)
    assert asked.questions == ["reputation", ASKED]


# -- a list that does not answer ------------------------------------------------------------------


class Clients:
    """Many clients under one policy."""

    def __init__(self, *lists: DnsList) -> None:
        self.policy = listing(*lists)
        self.asked = Asked()
        self.all: list[Advised] = []

    def connect(self, count: int) -> list[Advised]:
        fresh = [Advised(self.policy, self.asked) for _ in range(count)]
        for one in fresh:
            one.counsel.begin()
            self.asked.answer("reputation", Rating(0))
        self.all += fresh
        return fresh

    def answer(self, answer: DnsAnswer, count: int = 10**6) -> None:
        for question in self.asked.waiting[:count]:
            self.asked.answer(question, answer)

    @property
    def notes(self) -> list[str]:
        return [event for one in self.all for event, _ in one.notes]


def verdicts(clients: Iterable[Advised]) -> list[object]:
    return [verdict for one in clients for verdict in one.ask(sender())]


@pytest.mark.parametrize("failure", [SERVFAIL, TIMEOUT])
def test_a_dead_list_lets_mail_pass_and_is_noted_when_it_dies_and_when_it_lives(
    failure: DnsAnswer,
) -> None:
    clients = Clients(BLOCK)
    first = clients.connect(3)
    clients.answer(failure)
    assert verdicts(first) == [None] * 3
    assert clients.notes == ["list does not answer"]
    clients.connect(1)
    clients.answer(NXDOMAIN)
    assert clients.notes == ["list does not answer", "list answers again"]


def test_a_dead_list_is_waited_for_by_a_few_only() -> None:
    clients = Clients(BLOCK)
    clients.connect(1)
    clients.answer(TIMEOUT)
    many = clients.connect(100)
    assert len(clients.asked.waiting) == dnsbl.PROBES_MAX
    assert verdicts(many[dnsbl.PROBES_MAX :]) == [None] * (100 - dnsbl.PROBES_MAX)
    clients.answer(NXDOMAIN)
    clients.connect(20)
    assert len(clients.asked.waiting) == 20


def test_lists_never_take_all_that_the_resolver_can_ask() -> None:
    clients = Clients(*[DnsList(f"{number}.example", ALL, 1) for number in range(4)])
    clients.connect(100)
    assert len(clients.asked.waiting) == dnsbl.QUESTIONS_MAX


def test_who_hangs_up_gives_the_place_back_once_the_late_answer_has_come() -> None:
    clients = Clients(BLOCK)
    gone = clients.connect(dnsbl.QUESTIONS_MAX)
    for one in gone:
        one.counsel.cancel()
    clients.connect(1)
    assert len(clients.asked.waiting) == dnsbl.QUESTIONS_MAX  # their questions are still out
    clients.answer(NXDOMAIN)
    clients.connect(1)
    assert len(clients.asked.waiting) == 1
