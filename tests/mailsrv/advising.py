"""A counsel for tests, and a resolver that answers when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conversing import path

from mailsrv.policy.lookups import DnsAnswer, DnsStatus, Rating
from mailsrv.policy.policy import Policy
from mailsrv.policy.runner import PolicyContext, PolicyRunner
from mailsrv.settings import Settings
from mailsrv.smtp.events import Question, Stage
from mailsrv.smtp.reply import Reply
from replay.play.fakes.world import world_from

CLIENT = "192.0.2.10"
HELO = "client.example"

NXDOMAIN = DnsAnswer(DnsStatus.NXDOMAIN)
TIMEOUT = DnsAnswer(DnsStatus.TIMEOUT)
SERVFAIL = DnsAnswer(DnsStatus.SERVFAIL)


def records(*records: str) -> DnsAnswer:
    return DnsAnswer(DnsStatus.NOERROR, records)


def sender(address: str = "a@example.org", *, client: str = CLIENT, helo: str = HELO) -> Question:
    return Question(Stage.SENDER, client, helo, path(address))


def recipient(*, client: str = CLIENT) -> Question:
    return Question(Stage.RECIPIENT, client, HELO, path("a@example.org"), path("b@example.test"))


class Asked:
    """Resolver and reputation: keep what they are asked, and answer when told to."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        """Each "NAME TYPE", or "reputation", in order."""
        self._waiting: list[tuple[str, Callable[[Any], None]]] = []

    def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
        self.questions.append(f"{name} {rtype}")
        self._waiting.append((f"{name} {rtype}", answer))

    def ask(
        self, client: str, helo: str, reverse_path: str, answer: Callable[[Rating], None]
    ) -> None:
        self.questions.append("reputation")
        self._waiting.append(("reputation", answer))

    @property
    def waiting(self) -> list[str]:
        return [question for question, _ in self._waiting]

    def answer(self, question: str, answer: DnsAnswer | Rating) -> None:
        """Answer the first who waits for ``question``."""
        place = self.waiting.index(question)
        self._waiting.pop(place)[1](answer)


class Advised:
    """A counsel on its way: ``verdicts`` and ``notes`` are what has come so far."""

    def __init__(
        self,
        policy: Policy,
        asked: Any,
        client: str = CLIENT,
        *,
        reputation: Any = None,
    ) -> None:
        self.verdicts: list[Reply | None] = []
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.counsel = PolicyRunner(
            policy, PolicyContext(asked, reputation or asked), client, self._note
        )

    def _note(self, event: str, **values: object) -> None:
        self.notes.append((event, values))

    def ask(self, question: Question) -> list[Reply | None]:
        self.counsel.ask(question, self.verdicts.append)
        return self.verdicts


def policy(**settings: Any) -> Policy:
    return Policy(Settings(hostname="mx.example.test", **settings))


def advised(
    dns: dict[str, object],
    question: Question,
    *,
    reputation: dict[str, object] | None = None,
    **settings: Any,
) -> Advised:
    """Who was advised about ``question`` in a world that answers at once."""
    world = world_from({"dns": dns, "reputation": reputation or {}}, lambda delay_ns, act: None)
    one = Advised(policy(**settings), world.resolver, question.client, reputation=world.reputation)
    one.counsel.begin()
    one.ask(question)
    return one
