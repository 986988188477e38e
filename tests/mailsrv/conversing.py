"""Conversations for tests: with a bare session, in any segmentation; and with a whole server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from mailsrv.settings import Settings
from mailsrv.smtp.events import Question, Stage, TransactionEnded
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.session import Session
from mailsrv.smtp.state import SessionContext
from replay.play.fakes.world import DeliveredMessage, FakeCourier
from replay.play.mailsrv_harness import MailsrvHarness

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
HOSTNAME = "mx.example.test"
CLIENT = "192.0.2.10"
STEPS_MAX = 10_000

HELLO = b"EHLO client.example\r\n"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\n"
MESSAGE = ENVELOPE + b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"


def codes(octets: bytes) -> list[int]:
    """The reply codes in ``octets``, one for each whole reply."""
    return [int(line[:3]) for line in octets.split(b"\r\n")[:-1] if line[3:4] == b" "]


# -- with a bare session --------------------------------------------------------------------------


class Talk:
    """A session with somebody at hand who answers its questions at once.

    ``decide`` is asked about MAIL and RCPT; the courier is scripted through ``courier.then``.
    ``asked`` keeps the questions in order, the pauses among them.
    """

    def __init__(
        self,
        decide: Callable[[Question], Reply | None] | None = None,
        *,
        stages: frozenset[Stage] = frozenset(),
        outcomes: tuple[object, ...] = (),
        tls: bool = False,
        tolerates: Callable[[str, str, Sequence[str]], bool] | None = None,
        **settings: Any,
    ) -> None:
        numbers = count(1)
        self.courier = FakeCourier(lambda delay_ns, act: None)
        for outcome in outcomes:
            self.courier.then(outcome)
        self._decide = decide or (lambda question: None)
        self.asked: list[Question] = []
        self.flights: list[bytes] = []
        self.session = Session(
            SessionContext.of(
                Settings(hostname=HOSTNAME, **settings),
                self.courier,
                stages if decide is None else stages or {Stage.SENDER, Stage.RECIPIENT},
                lambda: f"ID{next(numbers)}",
                tls,
                dsn=True,
                tolerates=tolerates,
            ),
            CLIENT,
        )

    @property
    def heard(self) -> bytes:
        """Everything the session has said."""
        return b"".join(self.flights)

    @property
    def codes(self) -> list[int]:
        return codes(self.heard)

    @property
    def ended(self) -> list[TransactionEnded]:
        """How each transaction ended."""
        return [one for one in self.session.events or () if isinstance(one, TransactionEnded)]

    @property
    def messages(self) -> list[DeliveredMessage]:
        return self.courier.messages

    def feed(self, *chunks: bytes) -> Talk:
        """Let the session receive each chunk, and answer what it asks."""
        for chunk in chunks:
            self.session.receive(chunk)
            self._serve()
        return self

    def _serve(self) -> None:
        session = self.session
        for _ in range(STEPS_MAX):
            self.flights += session.output
            session.output.clear()
            if session.question is not None:
                self._answer(session.question)
            elif session.unfinished:
                session.proceed()
            else:
                return
        raise AssertionError("the session never comes to rest")

    def _answer(self, question: Question) -> None:
        self.asked.append(question)
        match question.stage:
            case Stage.PAUSE:
                self.session.answer(None)
            case Stage.MESSAGE:
                transaction = self.session.transaction
                assert transaction is not None
                assert transaction.sink is not None
                transaction.sink.finish(self.session.answer)
            case _:
                self.session.answer(self._decide(question))


def cuts(octets: bytes) -> Iterator[list[bytes]]:
    """Segmentations: whole, octet by octet, and every cut in two."""
    yield [octets]
    yield [octets[at : at + 1] for at in range(len(octets))]
    for at in range(1, len(octets)):
        yield [octets[:at], octets[at:]]


def talk_in_every_cut(octets: bytes, make: Callable[[], Talk] = Talk) -> Talk:
    """Feed ``octets`` in every segmentation: all must give the same replies and messages.

    Gives the conversation that heard them whole.
    """
    whole: Talk | None = None
    for chunks in cuts(octets):
        talk = make().feed(*chunks)
        whole = whole or talk
        assert talk.heard == whole.heard, chunks
        assert talk.messages == whole.messages, chunks
        assert talk.session.closing == whole.session.closing, chunks
    assert whole is not None
    return whole


def greeted(**settings: Any) -> Talk:
    """A conversation after EHLO, with its replies forgotten."""
    talk = Talk(**settings).feed(HELLO)
    talk.flights.clear()
    return talk


def path(text: str) -> MailPath:
    local, _, domain = text.partition("@")
    return MailPath(local, domain)


# -- with a whole server in virtual time ----------------------------------------------------------


class Run(MailsrvHarness):
    """A harness that closes its callers' sockets at the end."""

    def __init__(self, settings: Settings, world: dict[str, object] | None) -> None:
        self.callers: list[Caller] = []
        super().__init__(settings, world)

    def __enter__(self) -> Run:
        return self

    def finish(self, *, check: bool = True) -> None:
        for caller in self.callers:
            if not caller.link.played_gone:
                caller.link.close()
                self.touch(caller.link)
        super().finish(check=check)


def harness(world: dict[str, object] | None = None, **settings: Any) -> Run:
    """A server in virtual time; ``settings`` by name."""
    return Run(Settings(hostname=HOSTNAME, **settings), world)


class Caller:
    """One sender's connection, driven by hand.  ``heard`` keeps what came, with its instant."""

    def __init__(self, harness: Run, client: str = CLIENT) -> None:
        self._harness = harness
        harness.callers.append(self)
        self.heard: list[tuple[int, bytes]] = []
        self.ended = ""
        self.ended_at_ns = -1
        self._taken = 0
        self.link = harness.connect(client, self._hear, self._end)
        harness.settle()

    def _hear(self, octets: bytes) -> None:
        self.heard.append((self._harness.now_ns, octets))

    def _end(self, how: str) -> None:
        self.ended, self.ended_at_ns = how, self._harness.now_ns

    @property
    def news(self) -> bytes:
        """What came since this was last asked."""
        octets = b"".join(one for _, one in self.heard)
        fresh, self._taken = octets[self._taken :], len(octets)
        return fresh

    @property
    def last_at_ns(self) -> int:
        """When the last octets came."""
        return self.heard[-1][0]

    def say(self, octets: bytes) -> bytes:
        """Send, settle, and give what came back at the same instant."""
        self.news  # noqa: B018 - forget what was heard before
        self._harness.send(self.link, octets)
        return self.news

    def half_close(self) -> None:
        self.link.half_close()
        self._touch()

    def close(self) -> None:
        self.link.close()
        self._touch()

    def reset(self) -> None:
        self.link.reset()
        self._touch()

    def _touch(self) -> None:
        self._harness.touch(self.link)
        self._harness.settle()


def in_content(run: Run) -> Caller:
    """A client that has been asked for its content."""
    caller = Caller(run)
    assert codes(caller.say(HELLO + ENVELOPE + b"DATA\r\n")) == [250, 250, 250, 354]
    return caller
