"""The server that tests are about, whatever their author says that it is: plays transcripts at it.

A target is "mailsrv"; an address, in real time; or what starts a server written with asyncio, in
virtual time.  Each has a name, which every result carries.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS
from replay.load.plan import needs_of_its_own
from replay.play import virtual_run
from replay.play.fakes.world import settings_from
from replay.play.mailsrv_harness import MailsrvHarness
from replay.play.target import TargetError, resolve
from replay.play.virtual_asyncio.harness import AsyncioHarness, AsyncioTarget
from replay.play.virtual_run import VirtualRun, play_at
from replay.testing.asyncio_server import AsyncioServer
from replay.testing.real_sender import RealServer
from replay.testing.virtual_server import ServerInVirtualTime, VirtualServer
from replay.transcript import transcript
from replay.transcript.header import MAILSRV
from replay.transcript.notation import TranscriptError
from replay.transcript.script import ExactOctets, MaskedOctets, Outcome, Scenario
from replay.verify import suite
from replay.verify.check.delivered import Delivered, Mailbox
from replay.verify.check.offer import ask
from replay.verify.check.prepared import Introduction
from replay.verify.check.runner import Check, CheckOptions, CheckResult
from replay.verify.check.selection import NamedScenario, named
from replay.verify.check.virtual import Begin, VirtualCheck
from replay.verify.suite import ScenarioResult

_CLAIM = re.compile(rb"^(?:must|should)[ \t]", re.MULTILINE)
Server = ServerInVirtualTime | RealServer


class TargetValueError(ValueError):
    """What was named as a target is none; the message says what is."""


class LeftOut(Exception):
    """A transcript that is not for this server; the message says why."""


class NoTarget(Exception):
    """No server was named for what can be about any."""


class ServerUnderTest(ABC):
    """A server that transcripts are played at."""

    name: str

    @abstractmethod
    def run_file(
        self, path: Path, clock: Clock, *, updating: Collection[str] = ()
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


class Mailsrv(ServerUnderTest):
    """The shipped server, in virtual time."""

    name = f"{MAILSRV}, in virtual time"

    def run_file(
        self, path: Path, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        return suite.run_file(path, clock, updating=updating)

    def check(
        self,
        scenarios: Sequence[NamedScenario],
        introduction: Introduction,
        mailbox: Mailbox | None,
        clock: Clock,
    ) -> list[CheckResult]:
        begin = partial(MailsrvHarness, settings_from({}))
        return _in_virtual_time(begin, self.name, scenarios, introduction, mailbox)

    def server(self) -> Server:
        return VirtualServer()


class OnlyMailsrv(Mailsrv):
    """What there is where no server was named: transcripts that name ``mailsrv`` are played at it,
    and others raise NoTarget."""

    def run_file(
        self, path: Path, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        return suite.run_file(path, clock, updating=updating, play=self._play)

    def _play(self, scenario: Scenario) -> VirtualRun:
        if not names_mailsrv(scenario):
            raise NoTarget
        return virtual_run.play(scenario)

    def check(self, *arguments: object) -> list[CheckResult]:
        raise NoTarget

    def server(self) -> Server:
        raise NoTarget


class AsyncioUnderTest(ServerUnderTest):
    """A server written with asyncio, in virtual time: each transcript has one of its own."""

    def __init__(self, target: AsyncioTarget, *, clocks: bool = False) -> None:
        self._target = target
        self._clocks = clocks
        where = getattr(target, "__qualname__", type(target).__qualname__).partition(".<locals>")[0]
        self.name = f"{getattr(target, '__module__', '')}.{where}, asyncio in virtual time"

    def run_file(
        self, path: Path, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        return suite.run_file(path, clock, updating=updating, play=self._play)

    def _play(self, scenario: Scenario) -> VirtualRun:
        if reason := needs_of_its_own(scenario, with_tls=True):
            raise LeftOut(reason)
        return play_at(self._begin(), scenario)

    def _begin(self) -> AsyncioHarness:
        return AsyncioHarness(self._target, clocks=self._clocks)

    def check(
        self,
        scenarios: Sequence[NamedScenario],
        introduction: Introduction,
        mailbox: Mailbox | None,
        clock: Clock,
    ) -> list[CheckResult]:
        return _in_virtual_time(self._begin, self.name, scenarios, introduction, mailbox)

    def server(self) -> Server:
        return AsyncioServer(self._target, clocks=self._clocks)


class AddressUnderTest(ServerUnderTest):
    """A server that is there, in real time.  Raises TargetError for what is no address."""

    def __init__(self, address: str) -> None:
        self._target = resolve(address)
        self.name = f"{address}, in real time"

    def run_file(
        self, path: Path, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        from replay.verify.target_suite import TargetOptions, TargetRun  # keeps histograms

        if updating:
            raise LeftOut("no instant of real time would hold again: nothing is updated at it")
        run = TargetRun(self._target, TargetOptions(), clock)
        for result in run.run_all([path]):
            if result.verdict == suite.UNREADABLE:
                raise suite.InputError(result.complaint)
            return result
        raise LeftOut(run.left_out[0].removeprefix(f"{path}: "))

    def check(
        self,
        scenarios: Sequence[NamedScenario],
        introduction: Introduction,
        mailbox: Mailbox | None,
        clock: Clock,
    ) -> list[CheckResult]:
        run = f"{clock.realtime_ns() // NS_PER_MS % 2**32:08x}"
        options = CheckOptions(introduction, run=run)
        offer = ask(self._target, options.how, introduction, clock)
        delivered = Delivered(mailbox) if mailbox else None
        if delivered is not None:
            delivered.pass_over()
        checking = Check(self._target, offer, options, clock, delivered)
        results = {one.name: one for one in checking.results(scenarios)}
        if checking.ended:
            raise TargetError(checking.ended)
        return [results[one.name] for one in scenarios]

    def server(self) -> Server:
        host, port = self._target.address[:2]
        return RealServer(str(host), int(port))


def server_under_test(target: object, *, clocks: bool = False) -> ServerUnderTest:
    """The server that ``target`` names.  Raises TargetValueError, and TargetError for an address
    that cannot be found."""
    if target == MAILSRV:
        return Mailsrv()
    if isinstance(target, tuple) and len(target) >= 2:
        host, port = target[:2]
        return AddressUnderTest(f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}")
    if isinstance(target, str):
        return AddressUnderTest(target)
    if callable(target) and _takes_a_loop(target):
        return AsyncioUnderTest(cast(AsyncioTarget, target), clocks=clocks)
    raise TargetValueError(
        f"a target is {MAILSRV!r}, HOST:PORT, a pair of host and port, a context manager that "
        "yields one of these, or a function of an asyncio loop that starts a server; "
        f"not {target!r}"
    )


def _takes_a_loop(target: Callable[..., object]) -> bool:
    """Whether ``target`` can be called with an event loop and nothing else."""
    try:
        inspect.signature(target).bind(None)
    except TypeError:
        return False
    return True


def _in_virtual_time(
    begin: Begin,
    name: str,
    scenarios: Sequence[NamedScenario],
    introduction: Introduction,
    mailbox: Mailbox | None,
) -> list[CheckResult]:
    checking = VirtualCheck(begin, name, introduction, mailbox)
    return [checking.check(one) for one in scenarios]


def named_scenarios(paths: Sequence[Path]) -> list[NamedScenario]:
    """The scenarios at ``paths``, those in folders included.  Raises InputError."""
    found = []
    for path in suite.find(paths):
        with suite.input_errors(path):
            found.append(named(path, transcript.load(path)))
    return found


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


def is_for_any_server(path: Path) -> bool:
    """Whether the transcript at ``path`` is judged by its claims alone: it has some, and names no
    server.  False for one that cannot be read."""
    if not _claims_something(path):
        return False
    try:
        return not names_mailsrv(transcript.load(path))
    except (OSError, TranscriptError):
        return False


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
