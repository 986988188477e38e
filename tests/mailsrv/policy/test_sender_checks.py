"""The checks of a sender, each in each of its modes, and how what they find adds up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from advising import (
    CLIENT,
    SERVFAIL,
    Advised,
    Asked,
    advised,
    policy,
    recipient,
    records,
    sender,
)
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy import sender_checks
from mailsrv.policy.greylist import Greylist
from mailsrv.policy.lookups import DnsAnswer, DnsStatus, NoReputation
from mailsrv.policy.policy import Policy, needs_dns
from mailsrv.policy.recipients import Directory
from mailsrv.runtime.clock import FakeClock
from mailsrv.settings import DnsList, Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Stage
from mailsrv.smtp.reply import Reply

PTR = "10.2.0.192.in-addr.arpa PTR"
IPV6 = "2001:db8::a"
PTR6 = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR"
MX = {"example.org MX": ["10 mx.example.org."]}


# -- the sender's domain --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "score"),
    [("NXDOMAIN", 5), (["0 ."], 5), ([], 5), (["10 mx.example.org."], 0), ("SERVFAIL", 0)],
)
def test_a_sender_domain_that_scores_counts_what_is_wrong_and_no_trouble(
    answer: object, score: int
) -> None:
    dns = {"example.org MX": answer}
    for threshold in (5, 6):
        one = advised(dns, sender(), sender_domain_check="score", reputation_threshold=threshold)
        if score >= threshold:
            assert one.verdicts == [reply.bad_reputation(5, 5, ("+5 sender domain",))]
        else:
            assert one.verdicts == [None]
    assert one.notes == ([("scored", {"score": 5, "reasons": "+5 sender domain"})] if score else [])


# -- the HELO name --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dns", "verdict"),
    [
        ("out.example", {"out.example A": ["203.0.113.1"]}, None),
        ("OUT.Example.", {"out.example A": ["203.0.113.1"]}, None),
        ("out.example", {"out.example AAAA": ["2001:db8::1"]}, None),
        ("out.example", {"out.example MX": ["10 mx.example."]}, None),
        ("out.example", {"out.example TXT": ["x"]}, reply.HELO_UNKNOWN),
        ("out.example", {}, reply.HELO_UNKNOWN),
        ("out.example", {"out.example A": "SERVFAIL"}, reply.HELO_TROUBLE),
        ("out.example", {"out.example A": [], "out.example AAAA": "TIMEOUT"}, reply.HELO_TROUBLE),
        (f"[{CLIENT}]", {}, None),
        ("[192.0.2.11]", {}, reply.HELO_NOT_YOURS),
        ("[IPv6:2001:db8::1]", {}, reply.HELO_NOT_YOURS),
        (f"[IPv6:::ffff:{CLIENT}]", {}, None),
        ("mx.example.test", {"mx.example.test A": ["203.0.113.1"]}, reply.HELO_OURS),
        ("MX.example.test.", {}, reply.HELO_OURS),
        ("localhost", {"localhost A": ["127.0.0.1"]}, reply.HELO_NOT_A_NAME),
        (CLIENT, {f"{CLIENT} A": [CLIENT]}, reply.HELO_NOT_A_NAME),
        ("a..example", {}, reply.HELO_NOT_A_NAME),
        ("a name.example", {}, reply.HELO_NOT_A_NAME),
        ("[192.0.2.300]", {}, reply.HELO_NOT_A_NAME),
        ("." * 9, {}, reply.HELO_NOT_A_NAME),
        ("under_score.example", {"under_score.example A": ["203.0.113.1"]}, None),
    ],
)
def test_a_helo_name_is_a_name_that_exists_or_the_clients_own_address(
    name: str, dns: dict[str, object], verdict: Reply | None
) -> None:
    assert advised(dns, sender(helo=name), helo_check="reject").verdicts == [verdict]


def test_our_own_name_is_ours_in_any_case() -> None:
    settings = Settings(hostname="MX.Example.TEST", helo_check="reject")
    one = Advised(Policy(settings), Asked())
    assert one.ask(sender(helo="mx.example.test")) == [reply.HELO_OURS]


def test_an_ipv6_client_may_say_its_own_address_in_any_spelling() -> None:
    question = sender(client=IPV6, helo="[IPv6:2001:DB8:0::A]")
    assert advised({}, question, helo_check="reject").verdicts == [None]


def test_a_helo_name_that_scores_counts_what_is_wrong_and_no_trouble() -> None:
    modes = {"helo_check": "score", "helo_score": 3, "reputation_threshold": 3}
    assert advised({}, sender(), **modes).verdicts == [reply.bad_reputation(3, 3, ("+3 helo",))]
    assert advised({"client.example A": "SERVFAIL"}, sender(), **modes).verdicts == [None]


# -- the reverse name -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dns", "verdict"),
    [
        ({PTR: ["out.example."], "out.example A": ["203.0.113.1", CLIENT]}, None),
        ({PTR: ["x.example.", "out.example."], "out.example A": [CLIENT]}, None),
        ({PTR: ["x.example."], "x.example A": ["203.0.113.1"]}, reply.REVERSE_NAME_UNCONFIRMED),
        ({PTR: ["x.example."]}, reply.REVERSE_NAME_UNCONFIRMED),
        ({PTR: ["x.example."], "x.example A": "SERVFAIL"}, reply.REVERSE_NAME_TROUBLE),
        ({}, reply.REVERSE_NAME_MISSING),
        ({PTR: []}, reply.REVERSE_NAME_MISSING),
        ({PTR: ["."]}, reply.REVERSE_NAME_MISSING),
        ({PTR: [r"evil\010name.example.", "."]}, reply.REVERSE_NAME_MISSING),
        ({PTR: "SERVFAIL"}, reply.REVERSE_NAME_TROUBLE),
        ({PTR: "TIMEOUT"}, reply.REVERSE_NAME_TROUBLE),
    ],
)
def test_a_clients_address_has_a_name_that_leads_back(
    dns: dict[str, object], verdict: Reply | None
) -> None:
    assert advised(dns, sender(), reverse_name_check="reject").verdicts == [verdict]


def test_an_ipv6_address_is_asked_by_nibbles_and_compared_as_an_address() -> None:
    dns = {PTR6: ["out.example."], "out.example AAAA": ["2001:0DB8:0:0::000A"]}
    one = advised(dns, sender(client=IPV6), reverse_name_check="reject")
    assert one.verdicts == [None]


def test_an_ipv4_address_mapped_into_ipv6_is_an_ipv4_address() -> None:
    dns = {PTR: ["out.example."], "out.example A": [CLIENT]}
    one = advised(dns, sender(client=f"::ffff:{CLIENT}"), reverse_name_check="reject")
    assert one.verdicts == [None]


def test_only_so_many_reverse_names_are_looked_up_and_all_at_once() -> None:
    asked = Asked()
    one = Advised(policy(reverse_name_check="reject"), asked)
    one.counsel.begin()
    asked.answer(PTR, records(*[f"{number}.example." for number in range(1000)]))
    assert len(asked.waiting) == sender_checks.REVERSE_NAMES_MAX
    asked.answer("3.example A", records(CLIENT))
    for question in asked.waiting:
        asked.answer(question, SERVFAIL)
    assert one.ask(sender()) == [None]


def test_a_reverse_name_that_scores_counts_what_is_wrong_and_no_trouble() -> None:
    modes = {"reverse_name_check": "score", "reputation_threshold": 5}
    reasons = ("+5 reverse name",)
    assert advised({}, sender(), **modes).verdicts == [reply.bad_reputation(5, 5, reasons)]
    assert advised({PTR: "SERVFAIL"}, sender(), **modes).verdicts == [None]


# -- whatever comes -------------------------------------------------------------------------------


@given(
    helo=st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=80),
    records=st.lists(st.text(max_size=40), max_size=8),
    status=st.sampled_from(DnsStatus),
)
def test_no_helo_name_and_no_record_breaks_a_check(
    helo: str, records: list[str], status: DnsStatus
) -> None:
    class Hostile:
        def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
            answer(DnsAnswer(status, tuple(records)))

    everything = policy(
        reputation_threshold=1000,
        dns_lists=(DnsList("bl.example", "127.0.0.0/8", 5),),
        helo_check="reject",
        reverse_name_check="score",
        sender_domain_check="score",
    )
    one = Advised(everything, Hostile(), reputation=NoReputation())
    one.counsel.begin()
    assert len(one.ask(sender(helo=helo))) == 1


# -- weighing -------------------------------------------------------------------------------------


def test_what_counts_adds_up_with_the_reputation_and_the_refusal_names_it_all() -> None:
    one = advised(
        {"10.2.0.192.bl.example A": ["127.0.0.4"], "1.0.0.127.wl.example TXT": ["x"]},
        sender(),
        reputation={CLIENT: 1},
        reputation_threshold=12,
        dns_lists=(DnsList("bl.example", "127.0.0.0/8", 3),),
        helo_check="score",
        helo_score=2,
        reverse_name_check="score",
        reverse_name_score=2,
        sender_domain_check="score",
        sender_domain_score=4,
    )
    reasons = ("+3 bl.example (127.0.0.4)", "+2 helo", "+2 reverse name", "+4 sender domain")
    assert one.verdicts == [reply.bad_reputation(12, 12, reasons)]
    assert one.verdicts[0] is not None
    assert one.verdicts[0].check == "reputation"
    assert str(one.verdicts[0]) == (
        "550 5.7.1 Client refused: bad reputation, score 12 reaches 12: +3 bl.example "
        "(127.0.0.4), +2 helo, +2 reverse name, +4 sender domain"
    )


def test_one_below_the_threshold_is_no_refusal_but_a_line_in_the_log() -> None:
    one = advised({}, sender(), helo_check="score", reputation_threshold=6)
    assert one.verdicts == [None]
    assert one.notes == [("scored", {"score": 5, "reasons": "+5 helo"})]


def test_a_check_that_rejects_refuses_whatever_the_score() -> None:
    one = advised(
        MX,
        sender(),
        reputation={CLIENT: -100},
        reputation_threshold=5,
        helo_check="reject",
    )
    assert one.verdicts == [reply.HELO_UNKNOWN]


def test_the_score_speaks_first_and_then_helo_reverse_name_and_sender_domain() -> None:
    modes = {f"{name}_check": "reject" for name in ("helo", "reverse_name", "sender_domain")}
    assert advised({}, sender(), **modes).verdicts == [reply.REVERSE_NAME_MISSING]
    good = {PTR: ["out.example."], "out.example A": [CLIENT]}
    assert advised(good, sender(), **modes).verdicts == [reply.HELO_UNKNOWN]
    one = advised({}, sender(), reputation={CLIENT: 9}, reputation_threshold=9, **modes)
    assert one.verdicts == [reply.bad_reputation(9, 9, ())]


def test_a_check_that_scores_is_not_made_where_nothing_is_counted() -> None:
    modes = {f"{name}_check": "score" for name in ("helo", "reverse_name", "sender_domain")}
    assert policy(**modes).stages == frozenset()
    assert not needs_dns(Settings(**modes))


@pytest.mark.parametrize(
    ("refusal", "check"),
    [
        (reply.SENDER_DOMAIN_UNKNOWN, "sender domain"),
        (reply.SENDER_NULL_MX, "sender domain"),
        (reply.RESOLVER_TROUBLE, "sender domain"),
        (reply.HELO_NOT_A_NAME, "helo"),
        (reply.HELO_NOT_YOURS, "helo"),
        (reply.HELO_OURS, "helo"),
        (reply.HELO_UNKNOWN, "helo"),
        (reply.HELO_TROUBLE, "helo"),
        (reply.REVERSE_NAME_MISSING, "reverse name"),
        (reply.REVERSE_NAME_UNCONFIRMED, "reverse name"),
        (reply.REVERSE_NAME_TROUBLE, "reverse name"),
    ],
)
def test_each_refusal_names_its_check(refusal: Reply, check: str) -> None:
    assert refusal.check == check


# -- trusted clients ------------------------------------------------------------------------------


def test_no_check_of_the_client_is_made_for_a_trusted_one_but_its_mail_is_checked() -> None:
    asked = Asked()
    everything = policy(
        reputation_threshold=1,
        dns_lists=(DnsList("bl.example", "127.0.0.0/8", 5),),
        helo_check="reject",
        reverse_name_check="reject",
        sender_domain_check="reject",
    )
    one = Advised(everything, asked, "127.0.0.1")
    one.counsel.begin()
    one.ask(sender(client="127.0.0.1", helo="localhost"))
    assert asked.questions == ["example.org MX"]


# -- recipients -----------------------------------------------------------------------------------


def greylisting(**settings: object) -> Policy:
    made = Settings(greylist=True, **settings)  # type: ignore[arg-type]
    return Policy(made, greylist=Greylist.of(made, FakeClock()))


def test_a_recipient_that_does_not_exist_is_refused_and_not_greylisted() -> None:
    settings = Settings(greylist=True, domains=("example.test",))
    directory = Directory.of(settings, frozenset())
    both = Policy(settings, greylist=Greylist.of(settings, FakeClock()), directory=directory)
    one = Advised(both, Asked())
    (refusal,) = one.ask(recipient())
    assert refusal is not None
    assert (refusal.code, refusal.check) == (550, "recipient")


def test_who_is_known_for_good_is_not_greylisted() -> None:
    asked = Asked()
    lists = (DnsList("wl.example", "127.0.0.0/8", -4),)
    for answer, verdict in ((records("127.0.9.2"), None), (records(), reply.GREYLISTED)):
        one = Advised(greylisting(reputation_threshold=5, dns_lists=lists), asked)
        one.counsel.begin()
        for question in list(asked.waiting):
            known = answer if "wl.example" in question else records()
            asked.answer(question, known) if question != "reputation" else None
        if answer.records:
            asked.answer("1.0.0.127.wl.example A", records())
        one.counsel.expire()
        assert one.ask(recipient()) == [verdict]


def test_a_confirmed_reverse_name_reaches_the_greylist_and_another_does_not() -> None:
    for address, verdict in ((CLIENT, None), ("203.0.113.1", reply.GREYLISTED)):
        asked = Asked()
        one = Advised(greylisting(greylist_allow_names=("example.com",)), asked)
        one.counsel.begin()
        assert one.ask(recipient()) == []
        asked.answer(PTR, records("out.example.com."))
        asked.answer("out.example.com A", records(address))
        assert one.verdicts == [verdict]


def test_a_reverse_name_that_never_comes_only_greylists() -> None:
    one = Advised(greylisting(), Asked())
    one.counsel.begin()
    one.ask(recipient())
    one.counsel.expire()
    assert one.verdicts == [reply.GREYLISTED]


# -- what is asked at all -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "stages", "dns"),
    [
        ({}, set(), False),
        ({"reputation_threshold": 5}, {Stage.SENDER}, False),
        ({"dns_lists": (DnsList("bl.example", "127.0.0.0/8", 5),)}, set(), False),
        (
            {"reputation_threshold": 5, "dns_lists": (DnsList("bl.example", "127.0.0.0/8", 5),)},
            {Stage.SENDER},
            True,
        ),
        ({"sender_domain_check": "reject"}, {Stage.SENDER}, True),
        ({"helo_check": "reject"}, {Stage.SENDER}, True),
        ({"reverse_name_check": "reject"}, {Stage.SENDER}, True),
        ({"helo_check": "score", "reputation_threshold": 5}, {Stage.SENDER}, True),
    ],
)
def test_stages_and_the_need_for_dns_follow_from_the_settings(
    settings: dict[str, object], stages: set[Stage], dns: bool
) -> None:
    made = Settings(**settings)  # type: ignore[arg-type]
    assert (Policy(made).stages, needs_dns(made)) == (stages, dns)


def test_the_greylist_needs_dns_for_reverse_names() -> None:
    assert needs_dns(Settings(greylist=True))
    assert greylisting().stages == {Stage.RECIPIENT}
