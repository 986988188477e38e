"""The server that tests are about, whatever their author says that it is: plays transcripts at it.

A target is "mailsrv"; an address, in real time; or what starts a server written with asyncio, in
virtual time.  Each has a name, which every result carries.  Most tests are about mailsrv, so what
the others need is not loaded here (``other_servers``), nor is what judges by claims.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mailsrv.runtime.clock import Clock
from replay.play import virtual_run
from replay.play.fakes.world import settings_from
from replay.play.mailsrv_harness import MailsrvHarness
from replay.play.virtual_run import Play
from replay.play.virtual_time import Harness
from replay.transcript.claims.claim import Strength
from replay.transcript.claims.places import all_claims
from replay.transcript.header import MAILSRV
from replay.transcript.script import ExactOctets, MaskedOctets, Outcome, Scenario
from replay.verify import suite
from replay.verify.suite import ReadTranscript, ScenarioResult

if TYPE_CHECKING:
    from replay.testing.real_sender import RealServer
    from replay.testing.virtual_server import ServerInVirtualTime
    from replay.verify.check.delivered import Mailbox
    from replay.verify.check.prepared import Introduction
    from replay.verify.check.runner import CheckResult
    from replay.verify.check.selection import NamedScenario

    Server = ServerInVirtualTime | RealServer

_CLAIM = re.compile(rb"^(?:must|should)[ \t]", re.MULTILINE)


class LeftOut(Exception):
    """A transcript that is not for this server; the message says why."""


class NoTarget(Exception):
    """No server was named for what can be about any."""


class ServerUnderTest(ABC):
    """A server that transcripts are played at."""

    name: str

    @abstractmethod
    def run(
        self, read: ReadTranscript, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        """Play a transcript and compare with what it expects.

        Raises InputError for one that cannot be used, LeftOut for one that is not for this server,
        TargetError for a server that is not there.
        """

    @abstractmethod
    def check(
        self,
        scenarios: Sequence[NamedScenario],
        introduction: Introduction,
        mailbox: Mailbox | None,
        clock: Clock,
    ) -> list[CheckResult]:
        """Judge the server by the claims of ``scenarios``, in their order.

        ``mailbox`` shows what it delivered, if that can be seen.  Raises TargetError for what is
        no SMTP server, and what a server in virtual time raises.
        """

    @abstractmethod
    def server(self) -> Server:
        """The server, to open senders at; use it as a context manager."""


class InVirtualTime(ServerUnderTest):
    """A server in virtual time, one for each transcript: ``play`` plays one at it, ``begin`` makes
    one to be judged by claims."""

    def __init__(self, name: str, play: Play, begin: Callable[[], Harness]) -> None:
        self.name = name
        self._play = play
        self._begin = begin

    def run(
        self, read: ReadTranscript, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        return suite.run_read(read, clock, updating=updating, play=self._play)

    def check(
        self,
        scenarios: Sequence[NamedScenario],
        introduction: Introduction,
        mailbox: Mailbox | None,
        clock: Clock,
    ) -> list[CheckResult]:
        from replay.verify.check.virtual import VirtualCheck

        checking = VirtualCheck(self._begin, self.name, introduction, mailbox)
        return [checking.check(one) for one in scenarios]


class Mailsrv(InVirtualTime):
    """The shipped server; ``play`` plays transcripts at it."""

    def __init__(self, play: Play = virtual_run.play) -> None:
        begin = partial(MailsrvHarness, settings_from({}))
        super().__init__(f"{MAILSRV}, in virtual time", play, begin)

    def server(self) -> Server:
        from replay.testing.virtual_server import VirtualServer

        return VirtualServer()


class OnlyMailsrv(Mailsrv):
    """What there is where no server was named: transcripts that name ``mailsrv`` are played at it,
    and others raise NoTarget."""

    def run(
        self, read: ReadTranscript, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        if not names_mailsrv(read.scenario):
            raise NoTarget
        return super().run(read, clock, updating=updating)

    def check(self, *arguments: object) -> list[CheckResult]:
        raise NoTarget

    def server(self) -> Server:
        raise NoTarget


def claiming(paths: Iterable[Path]) -> list[Path]:
    """The transcripts at ``paths``, those in folders included, that claim something of any
    server."""
    found = [one for path in paths for one in (suite.find([path]) if path.is_dir() else [path])]
    return [one for one in found if _claims_something(one)]


def _claims_something(path: Path) -> bool:
    try:
        return _CLAIM.search(path.read_bytes()) is not None
    except OSError:
        return True  # what is not there is told when it is to be played


def is_for_any_server(scenario: Scenario) -> bool:
    """Whether a transcript is judged by its claims alone: it has some, and names no server."""
    demands = any(one.strength is not Strength.MAY for one in all_claims(scenario))
    return demands and not names_mailsrv(scenario)


def names_mailsrv(scenario: Scenario) -> bool:
    """Whether a transcript is about ``mailsrv``: its header names it, or has settings or a world
    that only that server has; or a reply is expected that only that server sends."""
    if scenario.target == MAILSRV or scenario.server or scenario.world or scenario.plays_receivers:
        return True
    word = MAILSRV.encode()
    return any(
        word in octets
        for connection in scenario.connections
        for one in connection.expectations()
        for octets in _octets(one.outcome)
    )


def _octets(outcome: Outcome) -> list[bytes]:
    """What is expected to the octet."""
    if isinstance(outcome, MaskedOctets):
        return [piece for piece in outcome.pieces if isinstance(piece, bytes)]
    return [outcome.octets] if isinstance(outcome, ExactOctets) else []
