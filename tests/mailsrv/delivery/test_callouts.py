"""Recipients asked ahead: what is asked, what is remembered, and what is done without an answer."""

from __future__ import annotations

from typing import Any

import pytest
from advising import Advised, Asked
from conversing import path

from mailsrv.delivery.callouts import (
    ANSWERS_MAX,
    UNANSWERED_NS,
    UNDER_WAY_MAX,
    WAITING_MAX,
    Callouts,
)
from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.queue.ways import Way
from mailsrv.policy.greylist import Greylist
from mailsrv.policy.lookups import CalloutAnswer, CalloutStatus
from mailsrv.policy.policy import Policy
from mailsrv.policy.recipients import Directory
from mailsrv.policy.runner import PolicyContext, PolicyRunner
from mailsrv.runtime.clock import FakeClock
from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question, Stage
from mailsrv.smtp.path import NULL_PATH, MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

TAKEN_S, REFUSED_S = 1000, 100
BOB = path("bob@example.test")
NO = (OutcomeKind.FAILED, "5.1.1", "550 5.1.1 no such user")
YES = (OutcomeKind.RELAYED, "2.1.5", "250 ok")
LATER = (OutcomeKind.DEFERRED, "4.4.1", "connect to 192.0.2.1: no answer")


class NextHop:
    """A way out that answers when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Job, Done]] = []

    def deliver(self, job: Job, done: Done) -> None:
        self.jobs.append((job, done))

    def room(self) -> int:
        return 1

    def close(self) -> None: ...

    def answer(self, *outcome: Any) -> None:
        """Answer the first that waits."""
        _, done = self.jobs.pop(0)
        done([Outcome(0, *outcome)])


class World:
    """Callouts to a next hop, and what they have answered."""

    def __init__(self) -> None:
        self.clock = FakeClock(start=0)
        self.hop = NextHop()
        self.callouts = Callouts(self.clock.monotonic_ns)
        self.use()
        self.said: list[CalloutAnswer] = []

    def use(self, name: str = "relay=hop:25") -> None:
        way = Way(name, self.hop)
        self.callouts.configure(lambda recipient: way, TAKEN_S, REFUSED_S)

    def ask(self, recipient: MailPath = BOB) -> World:
        self.callouts.ask(recipient, self.said.append)
        return self

    @property
    def statuses(self) -> list[str]:
        return [one.status.value for one in self.said]


def test_the_next_hop_is_asked_with_a_null_reverse_path_and_no_message() -> None:
    world = World().ask()
    ((job, _),) = world.hop.jobs
    assert job.probe
    assert job.envelope.reverse_path == NULL_PATH
    assert job.envelope.forward_paths == [BOB]
    assert list(job.content()) == []
    world.hop.answer(*NO)
    assert world.said == [
        CalloutAnswer(CalloutStatus.REFUSED, "5.1.1", "550 5.1.1 no such user"),
    ]


@pytest.mark.parametrize(
    ("outcome", "kept_s"), [(YES, TAKEN_S), (NO, REFUSED_S), (LATER, UNANSWERED_NS // 10**9)]
)
def test_what_was_said_is_remembered_for_its_time(outcome: Any, kept_s: float) -> None:
    world = World().ask()
    world.hop.answer(*outcome)
    world.clock.advance(kept_s - 0.001)
    world.ask(path("BOB@EXAMPLE.test"))
    assert world.statuses[0] == world.statuses[1]
    assert world.hop.jobs == []
    world.clock.advance(0.001)
    world.ask()
    assert len(world.said) == 2
    assert len(world.hop.jobs) == 1


def test_those_who_ask_at_the_same_time_wait_for_one_answer() -> None:
    world = World().ask().ask().ask(path("eve@example.test"))
    assert len(world.hop.jobs) == 2
    world.hop.answer(*NO)
    assert world.statuses == ["refused", "refused"]
    world.hop.answer(*YES)
    assert world.statuses == ["refused", "refused", "taken"]
    assert world.callouts.under_way == 0


def test_a_defect_of_one_who_waits_keeps_the_answer_from_no_other() -> None:
    world = World()

    def broken(answer: CalloutAnswer) -> None:
        raise RuntimeError

    world.callouts.ask(BOB, broken)
    world.ask()
    with pytest.raises(RuntimeError):
        world.hop.answer(*YES)
    assert world.statuses == ["taken"]


def test_what_one_next_hop_says_is_not_believed_of_another() -> None:
    world = World().ask()
    world.hop.answer(*NO)
    world.use("relay=other:25")
    world.ask()
    assert len(world.hop.jobs) == 1


def test_where_there_is_no_next_hop_every_recipient_is_taken() -> None:
    callouts = Callouts(FakeClock(start=0).monotonic_ns)
    said: list[CalloutAnswer] = []
    callouts.ask(BOB, said.append)
    assert said == [CalloutAnswer(CalloutStatus.TAKEN)]
    assert len(callouts) == 0


def test_no_more_than_so_many_are_asked_about_at_once() -> None:
    world = World()
    for number in range(UNDER_WAY_MAX + 1):
        world.ask(path(f"u{number}@example.test"))
    assert len(world.hop.jobs) == UNDER_WAY_MAX
    assert world.statuses == ["unanswered"]
    assert len(world.callouts) == 0  # which is not remembered: the next hop did not say it


def test_no_more_than_so_many_wait_for_the_same_answer() -> None:
    world = World()
    for _ in range(WAITING_MAX + 5):
        world.ask()
    assert world.statuses == ["unanswered"] * 5
    world.hop.answer(*YES)
    assert world.statuses[5:] == ["taken"] * WAITING_MAX


def test_no_more_than_so_many_answers_are_remembered_and_the_oldest_goes_first() -> None:
    world = World()
    for number in range(ANSWERS_MAX):
        world.ask(path(f"u{number}@example.test"))
        world.hop.answer(*NO)
    world.ask(path("u0@example.test"))  # asked for lately
    assert world.hop.jobs == []
    world.ask(path("one-more@example.test"))
    world.hop.answer(*NO)
    assert len(world.callouts) == ANSWERS_MAX
    world.ask(path("u0@example.test"))
    assert world.hop.jobs == []
    world.ask(path("u1@example.test"))
    assert len(world.hop.jobs) == 1


# -- in the policy --------------------------------------------------------------------------------


class Scene:
    """Questions at RCPT to a policy that asks the next hop."""

    def __init__(self, use: str, directory: Directory | None = None, **settings: Any) -> None:
        self.world = World()
        policy = Policy(
            Settings(recipient_callout=use, **settings),  # type: ignore[arg-type]
            directory=directory,
        )
        self.stages = policy.stages
        self.advised = Advised(policy, Asked())
        self.advised.counsel = PolicyRunner(
            policy,
            PolicyContext(Asked(), Asked(), self.world.callouts),
            "192.0.2.10",
            self.advised._note,
        )

    def rcpt(self, address: str = "bob@example.test") -> Scene:
        question = Question(Stage.RECIPIENT, "192.0.2.10", "x", path("a@b.example"), path(address))
        self.advised.ask(question)
        return self

    @property
    def verdicts(self) -> list[str]:
        return [str(one) for one in self.advised.verdicts]


def test_what_the_next_hop_refuses_is_refused_with_its_words() -> None:
    scene = Scene("take").rcpt()
    assert scene.verdicts == []
    scene.world.hop.answer(*NO)
    assert scene.verdicts == [
        "550 5.1.1 Recipient address rejected by next hop: 550 5.1.1 no such user"
    ]
    scene.rcpt()
    assert len(scene.verdicts) == 2


def test_what_it_takes_is_taken() -> None:
    scene = Scene("defer").rcpt()
    scene.world.hop.answer(*YES)
    assert scene.advised.verdicts == [None]


@pytest.mark.parametrize(
    ("use", "verdict"), [("take", None), ("defer", reply.RECIPIENT_UNVERIFIED)]
)
def test_without_an_answer_the_setting_decides(use: str, verdict: object) -> None:
    scene = Scene(use).rcpt()
    scene.world.hop.answer(*LATER)
    assert scene.advised.verdicts == [verdict]
    assert scene.advised.notes == [
        (
            "recipient not verified",
            {"recipient": "bob@example.test", "why": "connect to 192.0.2.1: no answer"},
        )
    ]


@pytest.mark.parametrize(
    ("use", "verdict"), [("take", None), ("defer", reply.RECIPIENT_UNVERIFIED)]
)
def test_an_answer_that_takes_too_long_is_none_and_serves_the_next_client(
    use: str, verdict: object
) -> None:
    scene = Scene(use).rcpt()
    scene.advised.counsel.expire()
    assert scene.advised.verdicts == [verdict]
    scene.world.hop.answer(*NO)
    scene.rcpt()
    assert scene.verdicts[1].startswith("550 5.1.1")


@pytest.mark.parametrize("address", ["postmaster", "Postmaster@example.test", "ann@example.test"])
def test_who_is_known_to_exist_is_not_asked_about(address: str) -> None:
    table = {"ann@example.test"} if address.startswith("ann") else None
    scene = Scene("defer", Directory(["example.test"], table)).rcpt(address)
    assert scene.advised.verdicts == [None]
    assert scene.world.hop.jobs == []


def test_a_recipient_that_is_not_ours_is_not_asked_about() -> None:
    scene = Scene("take", Directory(["example.test"])).rcpt("bob@elsewhere.example")
    assert scene.advised.verdicts == [reply.RELAY_DENIED]
    assert scene.world.hop.jobs == []


def test_a_client_that_is_greylisted_learns_nothing_and_asks_nothing() -> None:
    world = World()
    clock = FakeClock(start=0)
    policy = Policy(
        Settings(recipient_callout="take", greylist=True), greylist=Greylist(clock=clock, delay=300)
    )
    said: list[object] = []
    runner = PolicyRunner(
        policy, PolicyContext(Asked(), Asked(), world.callouts), "127.0.0.1", lambda *a, **b: None
    )
    runner.begin()
    question = Question(Stage.RECIPIENT, "127.0.0.1", "x", path("a@b.example"), BOB)
    runner.ask(question, said.append)
    assert said == [reply.GREYLISTED]
    assert world.hop.jobs == []


def test_nobody_is_asked_about_unless_the_settings_say_so() -> None:
    scene = Scene("off").rcpt()
    assert scene.advised.verdicts == [None]
    assert scene.world.hop.jobs == []
    assert Stage.RECIPIENT not in scene.stages
    assert Stage.RECIPIENT in Scene("take").stages
