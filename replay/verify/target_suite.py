"""Runs transcripts against a server that is there, one file after another, in real time."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS
from replay.load.plan import RECEIVES, UnsuitableError, needs_of_its_own, refuse_timers
from replay.load.tally import Latency
from replay.play import realtime
from replay.play.realtime import CappedWait, RealRun
from replay.play.realtime_player import RealtimeOptions
from replay.play.target import Target, TargetError
from replay.transcript import transcript
from replay.transcript.notation import TranscriptError
from replay.transcript.script import MaskedOctets, Scenario
from replay.verify.comparison import Tolerance, compare_all
from replay.verify.suite import AS_EXPECTED, DIFFERS, UNREADABLE, ScenarioResult

TOLERANCE = Tolerance(100 * NS_PER_MS)
"""Room for a process to start or a disk to be flushed, and little beside a server's timers."""


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How to run: how to play, and how to judge.

    ``line_masks`` say what may differ in texts that are expected exactly; ``forced`` plays also
    what no server is likely to do as expected.
    """

    options: RealtimeOptions = field(default_factory=RealtimeOptions)
    tolerance: Tolerance = TOLERANCE
    codes_only: bool = False
    line_masks: tuple[MaskedOctets, ...] = ()
    forced: bool = False


@dataclass(slots=True)
class TargetPacing:
    """How well time was kept: ``lateness`` of all departures, and which waits were cut short.

    ``unverified`` counts TLS connections whose certificate was not checked.
    """

    lateness: Latency = field(default_factory=Latency)
    capped: list[tuple[Path, CappedWait]] = field(default_factory=list)
    unverified: int = 0


class TargetRun:
    """Plays files at ``target``: ``run_all`` yields the results, ``pacing`` sums up all of them.

    ``left_out`` names the files that were not played, and why.
    """

    def __init__(self, target: Target, how: TargetOptions, clock: Clock) -> None:
        self.target = target
        self.how = how
        self._clock = clock
        self._reached = False
        self.pacing = TargetPacing()
        self.left_out: list[str] = []

    def run_all(self, paths: Iterable[Path]) -> Iterator[ScenarioResult]:
        """Run each transcript but those left out.  Raises TargetError where the target cannot be
        reached from the beginning."""
        for path in paths:
            try:
                scenario = transcript.load(path)
            except TranscriptError as error:
                yield ScenarioResult(path, "", 0, UNREADABLE, complaint=str(error))
                continue
            except OSError as error:
                yield ScenarioResult(path, "", 0, UNREADABLE, complaint=f"{path}: {error.strerror}")
                continue
            if reason := self._unsuitable(scenario):
                self.left_out.append(f"{path}: {reason}")
            else:
                yield self._run(scenario, path)

    def _unsuitable(self, scenario: Scenario) -> str:
        if scenario.plays_receivers:
            return RECEIVES
        return "" if self.how.forced else unsuitable(scenario)

    def _play(self, scenario: Scenario) -> RealRun:
        return realtime.play(scenario, self.target, self.how.options, self._clock)

    def _run(self, scenario: Scenario, path: Path) -> ScenarioResult:
        how = self.how
        played = self._play(scenario)
        if played.unreachable and not self._reached:
            raise TargetError(f"cannot connect to {self.target.name}: {played.unreachable}")
        self._reached = True
        for late_ns in played.lateness_ns:
            self.pacing.lateness.record(late_ns)
        self.pacing.capped += [(path, one) for one in played.capped]
        if how.options.verify is None:
            self.pacing.unverified += sum(one.handshake == "done" for one in played.connections)
        differences = compare_all(
            scenario,
            played.connections,
            tolerance=how.tolerance,
            codes_only=how.codes_only,
            line_masks=how.line_masks,
        )
        return ScenarioResult(
            path,
            scenario.story,
            len(scenario.connections),
            DIFFERS if differences else AS_EXPECTED,
            real_ns=played.real_ns,
            differences=differences,
            scenario=scenario,
            observed=played.connections,
        )


class ClientRun(TargetRun):
    """Plays the receivers of files for a client that is there: ``target`` is where it connects to.

    Senders of a file, which bring ``mailsrv`` its mail, are left out: the client has its own.
    """

    def __init__(
        self, target: Target, listener: socket.socket, how: TargetOptions, clock: Clock
    ) -> None:
        super().__init__(target, how, clock)
        self._listener = listener

    def _unsuitable(self, scenario: Scenario) -> str:
        return "" if scenario.plays_receivers else "it plays no receiver of mail"

    def _play(self, scenario: Scenario) -> RealRun:
        return realtime.serve(scenario, self._listener, self.how.options, self._clock)

    def _run(self, scenario: Scenario, path: Path) -> ScenarioResult:
        receivers = tuple(one for one in scenario.connections if one.plays_receiver)
        return super()._run(dataclasses.replace(scenario, connections=receivers), path)


def unsuitable(scenario: Scenario) -> str:
    """Why no server is likely to do as expected, as for load; empty if one may."""
    if reason := needs_of_its_own(scenario, with_tls=True):
        return reason
    for connection in scenario.connections:
        try:
            refuse_timers(connection)
        except UnsuitableError as error:
            return str(error)
    return ""
