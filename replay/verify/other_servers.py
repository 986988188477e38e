"""Servers other than mailsrv that tests are about: written with asyncio, in virtual time, or at an
address, in real time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS
from replay.load.plan import needs_of_its_own
from replay.play import virtual_run
from replay.play.target import TargetError, resolve
from replay.play.virtual_asyncio.harness import AsyncioHarness, AsyncioTarget
from replay.play.virtual_run import Play, VirtualRun, play_at
from replay.testing.asyncio_server import AsyncioServer
from replay.testing.real_sender import RealServer
from replay.transcript.header import MAILSRV
from replay.transcript.script import Scenario
from replay.verify import suite
from replay.verify.check.delivered import Delivered, Mailbox
from replay.verify.check.offer import ask
from replay.verify.check.prepared import Introduction
from replay.verify.check.runner import Check, CheckOptions, CheckResult
from replay.verify.check.selection import NamedScenario
from replay.verify.server_under_test import InVirtualTime, LeftOut, Mailsrv, ServerUnderTest
from replay.verify.suite import ReadTranscript, ScenarioResult

if TYPE_CHECKING:
    from replay.verify.server_under_test import Server


class TargetValueError(ValueError):
    """What was named as a target is none; the message says what is."""


class AsyncioUnderTest(InVirtualTime):
    """A server written with asyncio."""

    def __init__(self, target: AsyncioTarget, *, clocks: bool = False) -> None:
        self._target = target
        self._clocks = clocks
        where = getattr(target, "__qualname__", type(target).__qualname__).partition(".<locals>")[0]
        name = f"{getattr(target, '__module__', '')}.{where}, asyncio in virtual time"
        begin = partial(AsyncioHarness, target, clocks=clocks)
        super().__init__(name, partial(_play_at, begin), begin)

    def server(self) -> Server:
        return AsyncioServer(self._target, clocks=self._clocks)


def _play_at(begin: Callable[[], AsyncioHarness], scenario: Scenario) -> VirtualRun:
    if reason := needs_of_its_own(scenario, with_tls=True):
        raise LeftOut(reason)
    return play_at(begin(), scenario)


class AddressUnderTest(ServerUnderTest):
    """A server that is there, in real time.  Raises TargetError for what is no address."""

    def __init__(self, address: str) -> None:
        self._target = resolve(address)
        self.name = f"{address}, in real time"

    def run(
        self, read: ReadTranscript, clock: Clock, *, updating: Collection[str] = ()
    ) -> ScenarioResult:
        from replay.verify.target_suite import TargetOptions, TargetRun  # keeps histograms

        if updating:
            raise LeftOut("no instant of real time would hold again: nothing is updated at it")
        run = TargetRun(self._target, TargetOptions(), clock)
        for result in run.run_all([read.path]):
            if result.verdict == suite.UNREADABLE:
                raise suite.InputError(result.complaint)
            return result
        raise LeftOut(run.left_out[0].removeprefix(f"{read.path}: "))

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


def server_under_test(
    target: object, *, play: Play = virtual_run.play, clocks: bool = False
) -> ServerUnderTest:
    """The server that ``target`` names; ``play`` plays at mailsrv.  Raises TargetValueError, and
    TargetError for an address that cannot be found."""
    if target == MAILSRV:
        return Mailsrv(play)
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
