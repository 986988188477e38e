"""Checks: which answers of DNS, reputation and greylist refuse, and with which reply."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conversing import ENVELOPE, HELLO, NS_PER_S, Caller, codes, harness, path

from mailsrv import deliberation, reply
from mailsrv.clock import FakeClock
from mailsrv.greylist import Greylist
from mailsrv.policy import Deliberation, Lookup, Policy
from mailsrv.question import Question, Stage
from mailsrv.reply import Reply
from mailsrv.seams import DnsAnswer
from mailsrv.settings import Settings
from mailsrv.unwired import NoReputation, NoResolver
from replay.world import World, world_from


class Later:
    """Keeps what should be called later, and calls it when asked."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __call__(self, delay_ns: int, act: Callable[[], None]) -> None:
        self.waiting.append(act)

    def next(self) -> None:
        self.waiting.pop(0)()


def ask(policy: Policy, world: World, question: Question) -> list[Reply | None]:
    """The verdicts so far: none while an answer is awaited, one afterwards."""
    verdicts: list[Reply | None] = []
    panel = deliberation.Panel(world.resolver, world.reputation)
    deliberation.run(policy.deliberate(question), panel, verdicts.append)
    return verdicts


def sender(text: str) -> Question:
    return Question(Stage.SENDER, "192.0.2.10", "client.example", path(text))


CHECKS = Policy(Settings(sender_domain_check=True))
MAIL = sender("a@example.org")


def test_without_settings_nothing_is_asked() -> None:
    assert Policy(Settings()).stages == frozenset()


@pytest.mark.parametrize(
    ("dns", "verdict"),
    [
        ({"example.org MX": ["10 mx.example.org."]}, None),
        ({"example.org MX": ["0 ."]}, reply.SENDER_NULL_MX),
        ({"example.org MX": ["0 .", "10 mx.example.org."]}, None),
        ({"example.org MX": [], "example.org A": ["192.0.2.1"]}, None),
        ({"example.org AAAA": ["2001:db8::1"]}, None),
        ({"example.org TXT": ["x"]}, reply.SENDER_DOMAIN_UNKNOWN),
        ({}, reply.SENDER_DOMAIN_UNKNOWN),
        ({"example.org MX": "SERVFAIL"}, reply.RESOLVER_TROUBLE),
        ({"example.org MX": "TIMEOUT"}, reply.RESOLVER_TROUBLE),
        ({"example.org MX": [], "example.org A": "SERVFAIL"}, reply.RESOLVER_TROUBLE),
        ({"example.org MX": ["garbage"]}, None),
    ],
)
def test_the_senders_domain_must_take_replies(
    dns: dict[str, object], verdict: Reply | None
) -> None:
    world = world_from({"dns": dns}, Later())
    assert ask(CHECKS, world, MAIL) == [verdict]


@pytest.mark.parametrize("address", ["", "a@[192.0.2.1]"])
def test_no_domain_needs_no_dns(address: str) -> None:
    world = world_from({}, Later())
    assert ask(CHECKS, world, sender(address)) == [None]
    assert world.resolver.questions == []


def test_lookups_stop_at_the_first_answer() -> None:
    world = world_from({"dns": {"example.org MX": ["10 mx.example.org."]}}, Later())
    ask(CHECKS, world, MAIL)
    assert world.resolver.questions == [("example.org", "MX")]


@pytest.mark.parametrize(("score", "verdict"), [(4, None), (5, reply.BAD_REPUTATION)])
def test_a_reputation_that_reaches_the_threshold_refuses(score: int, verdict: Reply | None) -> None:
    world = world_from({"reputation": {"192.0.2.10": score}}, Later())
    assert ask(Policy(Settings(reputation_threshold=5)), world, MAIL) == [verdict]
    assert world.reputation.questions == [("192.0.2.10", "client.example", "a@example.org")]


def test_the_first_refusal_ends_the_checks() -> None:
    world = world_from({"reputation": {"192.0.2.10": 9}}, Later())
    policy = Policy(Settings(reputation_threshold=5, sender_domain_check=True))
    assert ask(policy, world, MAIL) == [reply.BAD_REPUTATION]
    assert world.resolver.questions == []


def test_answers_may_come_later_or_at_once_in_any_mixture() -> None:
    later = Later()
    dns = {
        "example.org MX": {"records": [], "delay_s": 1},
        "example.org A": [],
        "example.org AAAA": {"records": ["2001:db8::1"], "delay_s": 1},
    }
    verdicts = ask(CHECKS, world_from({"dns": dns}, later), MAIL)
    assert verdicts == []
    later.next()
    assert verdicts == []
    later.next()
    assert (verdicts, later.waiting) == ([None], [])


def test_a_long_row_of_immediate_answers_is_no_recursion() -> None:
    def endless(times: int) -> Deliberation:
        for _ in range(times):
            answer = yield Lookup("example.org", "MX")
            assert isinstance(answer, DnsAnswer)
        return reply.GREYLISTED

    verdicts: list[Reply | None] = []
    panel = deliberation.Panel(NoResolver(), NoReputation())
    deliberation.run(endless(50_000), panel, verdicts.append)
    assert verdicts == [reply.GREYLISTED]


def test_a_server_without_a_resolver_defers_what_needs_one() -> None:
    verdicts: list[Reply | None] = []
    panel = deliberation.Panel(NoResolver(), NoReputation())
    deliberation.run(CHECKS.deliberate(MAIL), panel, verdicts.append)
    assert verdicts == [reply.RESOLVER_TROUBLE]


def test_the_greylist_defers_the_first_try_and_passes_a_later_one() -> None:
    clock = FakeClock(start=0)
    policy = Policy(Settings(), Greylist(clock=clock, delay=300))
    world = world_from({}, Later())
    question = Question(
        Stage.RECIPIENT, "192.0.2.10", "x", path("a@example.org"), path("b@example.test")
    )
    assert policy.stages == {Stage.RECIPIENT}
    assert ask(policy, world, question) == [reply.GREYLISTED]
    clock.advance(301)
    assert ask(policy, world, question) == [None]


def test_the_whole_server_asks_at_mail_and_at_rcpt() -> None:
    world: dict[str, object] = {
        "dns": {"example.org MX": {"records": ["10 mx.example.org."], "delay_s": 0.5}},
        "reputation": {"192.0.2.66": {"score": 10, "delay_s": 1}},
    }
    with harness(
        world, sender_domain_check=True, reputation_threshold=5, greylist=True, greylist_delay_s=100
    ) as run:
        good, bad = Caller(run), Caller(run, "192.0.2.66")
        for caller in (good, bad):
            caller.say(HELLO + ENVELOPE)
        run.run_until(NS_PER_S + 1)
        assert codes(good.news) == [250, 450]
        assert codes(bad.news) == [550, 503]
        assert any("event=refused" in line and "550 5.7.1" in line for line in run.log)
        run.run_until(102 * NS_PER_S)
        assert codes(good.say(b"RCPT TO:<b@example.test>\r\n")) == [250]
