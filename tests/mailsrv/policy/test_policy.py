"""Checks: which answers of DNS, reputation and greylist refuse, and with which reply."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conversing import ENVELOPE, HELLO, NS_PER_S, Caller, codes, harness, path

from mailsrv.policy.greylist import Greylist
from mailsrv.policy.lookups import NoReputation, NoResolver
from mailsrv.policy.policy import Policy
from mailsrv.policy.runner import PolicyContext, PolicyRunner
from mailsrv.runtime.clock import FakeClock
from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question, Stage
from mailsrv.smtp.reply import Reply
from replay.play.fakes.world import World, world_from


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
    counsel = PolicyRunner(policy, PolicyContext(world.resolver, world.reputation), question.client)
    counsel.begin()
    counsel.ask(question, verdicts.append)
    return verdicts


def sender(text: str) -> Question:
    return Question(Stage.SENDER, "192.0.2.10", "client.example", path(text))


CHECKS = Policy(Settings(sender_domain_check="reject"))
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


@pytest.mark.parametrize(("score", "refused"), [(4, False), (5, True)])
def test_a_reputation_that_reaches_the_threshold_refuses(score: int, refused: bool) -> None:
    world = world_from({"reputation": {"192.0.2.10": score}}, Later())
    verdict = reply.bad_reputation(5, 5, ()) if refused else None
    assert ask(Policy(Settings(reputation_threshold=5)), world, MAIL) == [verdict]
    assert world.reputation.questions == [("192.0.2.10", "", "")]


def test_a_refusal_by_what_the_screening_found_asks_nothing_more() -> None:
    world = world_from({"reputation": {"192.0.2.10": 9}}, Later())
    policy = Policy(Settings(reputation_threshold=5, sender_domain_check="reject"))
    assert ask(policy, world, MAIL) == [reply.bad_reputation(9, 5, ())]
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


def test_a_server_without_a_resolver_defers_what_needs_one() -> None:
    verdicts: list[Reply | None] = []
    counsel = PolicyRunner(CHECKS, PolicyContext(NoResolver(), NoReputation()), MAIL.client)
    counsel.ask(MAIL, verdicts.append)
    assert verdicts == [reply.RESOLVER_TROUBLE]


def test_the_greylist_defers_the_first_try_and_passes_a_later_one() -> None:
    clock = FakeClock(start=0)
    policy = Policy(Settings(), greylist=Greylist(clock=clock, delay=300))
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
        world,
        sender_domain_check="reject",
        reputation_threshold=5,
        greylist=True,
        greylist_delay_s=100,
    ) as run:
        good, bad = Caller(run), Caller(run, "192.0.2.66")
        for caller in (good, bad):
            caller.say(HELLO + ENVELOPE)
        run.run_until(NS_PER_S + 1)
        assert codes(good.news) == [250, 450]
        assert codes(bad.news) == [550, 503]
        assert any("event=message" in line and "550 5.7.1" in line for line in run.log)
        run.run_until(102 * NS_PER_S)
        assert codes(good.say(b"RCPT TO:<b@example.test>\r\n")) == [250]
