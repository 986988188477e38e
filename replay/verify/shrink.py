"""Shrinks a transcript that fails to the smallest that still fails in the same way.

*The same way* means that the first difference is the same: of the same expectation, in the same
words, with the same reply code and status (where the run itself failed, the same complaint).  So
all expectations before it hold in every step on the way, and what is left is a test that leads up
to the failure and no further.

What is tried: nothing after the failure; without this connection; without these steps, lines and
expectations, in halves, quarters and so on (ddmin: Zeller and Hildebrandt 2002, "Simplifying and
Isolating Failure-Inducing Input"), and in pairs of a line with the reply to it; fewer octets in
a line; without a pause, or a shorter one; without this setting or that answer of the world.  Each
is kept if the failure is still there.  The same again until nothing more can go.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mailsrv.units import NS_PER_S
from replay.play.fakes.world import WorldError
from replay.play.virtual_run import VirtualDriver
from replay.transcript import rules, script
from replay.transcript.script import (
    Abandon,
    After,
    AfterArrival,
    Anchor,
    At,
    Departure,
    Expectation,
    Scenario,
    ScriptedConnection,
    SendOctets,
    Step,
)
from replay.verify.suite import BROKEN, DIFFERS, ScenarioResult, run_scenario

RUNS_MAX = 20_000
"""Scenarios played for one shrinking."""
ROUNDS_MAX = 20
PAIRS_MAX = 2_000
"""Pairs of a line and a reply tried in one round."""
OCTETS_TRIED_MAX = 4_096
"""A line that is longer is only halved."""
_PAUSES_NS = (0, NS_PER_S // 1000, NS_PER_S, 60 * NS_PER_S)
"""Shorter pauses tried, shortest first."""
_STATUS_CHARACTERS = len("250 2.1.5")
"""Of what was observed: it must stay the same."""
_NUMBER = re.compile(r"^reply \d+: ")

Play = Callable[[Scenario], ScenarioResult]
T = TypeVar("T")


class NothingToShrink(Exception):
    """The transcript does not fail, or not in a way that a smaller one could."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much a scenario is: ``pauses_ns`` sums what its senders wait of themselves."""

    connections: int
    steps: int
    octets: int
    pauses_ns: int


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What came of it.  ``failure`` is what both scenarios fail with, in words; ``whole`` is False
    where ``RUNS_MAX`` ended the search."""

    scenario: Scenario
    failure: str
    runs: int
    whole: bool


def size(scenario: Scenario) -> Size:
    """How much ``scenario`` is."""
    steps = [step for connection in scenario.connections for step in connection.steps]
    acts = [step for step in steps if isinstance(step, Departure)]
    return Size(
        len(scenario.connections),
        len(steps),
        sum(len(act.action.octets) for act in acts if isinstance(act.action, SendOctets)),
        sum(act.anchor.ns for act in acts if not isinstance(act.anchor, At)),
    )


def shrink(
    scenario: Scenario,
    path: Path,
    *,
    play: Play | None = None,
    on_success: Callable[[int, Size], object] = lambda runs, size: None,
) -> Shrunk:
    """Shrink ``scenario``; ``on_success`` receives after each success how many were played, and the
    size.

    Raises NothingToShrink if it does not fail, WorldError for a header that cannot be.
    """
    if play is not None:
        return _Shrinking(scenario, play, on_success).run()
    with VirtualDriver() as driver:
        play = partial(run_scenario, path=path, play=driver)
        return _Shrinking(scenario, play, on_success).run()


def _signature(result: ScenarioResult) -> tuple[object, ...] | None:
    """In what way a run failed, None if it did not."""
    if result.verdict == BROKEN:
        return ("broken", result.complaint.partition(":")[0])
    if result.verdict != DIFFERS:
        return None
    first = result.differences[0]
    seen = (first.observed or "")[:_STATUS_CHARACTERS]
    return (first.connection, first.line, _NUMBER.sub("", first.what), seen)


class _Shrinking:
    def __init__(
        self, scenario: Scenario, play: Play, on_success: Callable[[int, Size], object]
    ) -> None:
        self._play = play
        self._on_success = on_success
        self._runs = 0
        if scenario.plays_receivers:
            raise NothingToShrink("it plays a receiver of mail, and only senders are made smaller")
        result = play(scenario)
        signature = _signature(result)
        if signature is None:
            raise NothingToShrink("it does not fail: there is nothing to shrink")
        if result.differences and not result.differences[0].connection:
            raise NothingToShrink(
                "what differs is an accepted message, and a smaller one would be another message"
            )
        scenario = dataclasses.replace(scenario, accepted=None)  # fewer messages are not a failure
        self._signature = signature
        self._failure = result.differences[0].what if result.differences else result.complaint
        self._recorded = self._best = scenario
        self._is_about_time = "early" in self._failure or "late" in self._failure

    def run(self) -> Shrunk:
        if not self._is_about_time:
            self._try(_at_any_time(self._best))
        for _ in range(ROUNDS_MAX):
            before = self._best
            self._drop_the_rest()
            self._drop_connections()
            self._drop_steps()
            self._drop_pairs()
            self._shorten_lines()
            if not self._is_about_time:
                self._shorten_pauses()
            self._drop_settings()
            if self._best == before or self._runs >= RUNS_MAX:
                break
        best = _with_true_marks(self._best, self._recorded)
        return Shrunk(best, self._failure, self._runs, self._runs < RUNS_MAX)

    def _try(self, candidate: Scenario) -> bool:
        """Keep ``candidate`` if it fails in the same way."""
        if self._runs >= RUNS_MAX or candidate == self._best:
            return False
        for connection in candidate.connections:
            if any(rules.faults(connection)):
                return False
        self._runs += 1
        try:
            fails = _signature(self._play(candidate)) == self._signature
        except WorldError:
            return False
        if fails:
            self._best = candidate
            self._on_success(self._runs, size(candidate))
        return fails

    def _minimise(self, items: Sequence[T], make: Callable[[Sequence[T]], Scenario]) -> None:
        """ddmin over ``items``: drop ever smaller stretches of them."""
        kept, stretch = list(items), max(len(items) // 2, 1)
        while True:
            at = 0
            while at < len(kept):
                candidate = kept[:at] + kept[at + stretch :]
                if self._try(make(candidate)):
                    kept = candidate
                else:
                    at += stretch
            if stretch == 1:
                return
            stretch = max(stretch // 2, 1)

    # -- what goes --------------------------------------------------------------------------------

    def _drop_the_rest(self) -> None:
        """What stands behind the failure, in its connection."""
        line = self._signature[1]
        for number, connection in enumerate(self._best.connections):
            if connection.name != self._signature[0] or not isinstance(line, int):
                continue
            for index, step in enumerate(connection.steps):
                if isinstance(step, Expectation) and step.line == line:
                    end = Departure(After(0), Abandon())
                    steps = (*connection.steps[: index + 1], end)
                    self._try(_with(self._best, number, steps))
                    return

    def _drop_connections(self) -> None:
        self._minimise(
            self._best.connections,
            lambda kept: dataclasses.replace(self._best, connections=tuple(kept)),
        )

    def _drop_steps(self) -> None:
        for number in range(len(self._best.connections)):
            units = _units(self._best.connections[number])
            self._minimise(units, lambda kept, at=number: _with(self._best, at, _joined(kept)))  # type: ignore[misc]

    def _drop_pairs(self) -> None:
        """A line of a group with the reply to it, which stands further down."""
        for number in range(len(self._best.connections)):
            tried = 0
            units = _units(self._best.connections[number])
            first = 0
            while first < len(units) and tried < PAIRS_MAX:
                for second in range(first + 2, len(units)):
                    if not isinstance(units[second], Expectation) or tried >= PAIRS_MAX:
                        continue
                    tried += 1
                    kept = units[:first] + units[first + 1 : second] + units[second + 1 :]
                    if self._try(_with(self._best, number, _joined(kept))):
                        units = kept
                        first -= 1
                        break
                first += 1

    def _shorten_lines(self) -> None:
        for number in range(len(self._best.connections)):
            index = 0
            while index < len(units := _units(self._best.connections[number])):
                unit = units[index]
                if isinstance(unit, Departure) and isinstance(unit.action, SendOctets):
                    self._shorten(number, units, index, unit.action.octets)
                index += 1

    def _shorten(self, number: int, units: list[Step], index: int, octets: bytes) -> None:
        unit = units[index]
        assert isinstance(unit, Departure)

        def make(kept: Sequence[int]) -> Scenario:
            changed = dataclasses.replace(unit, action=SendOctets(bytes(kept)))
            middle = [changed] if kept else []
            return _with(
                self._best, number, _joined([*units[:index], *middle, *units[index + 1 :]])
            )

        if len(octets) <= OCTETS_TRIED_MAX:
            self._minimise(octets, make)
            return
        while len(octets) > OCTETS_TRIED_MAX and self._try(make(octets[: len(octets) // 2])):
            octets = octets[: len(octets) // 2]

    def _shorten_pauses(self) -> None:
        for number, connection in enumerate(self._best.connections):
            for index, step in enumerate(connection.steps):
                if not isinstance(step, Departure):
                    continue
                for ns in _PAUSES_NS:
                    if ns >= step.anchor.ns:
                        break
                    anchor = dataclasses.replace(step.anchor, ns=ns)
                    steps = list(self._best.connections[number].steps)
                    steps[index] = dataclasses.replace(step, anchor=anchor)
                    if self._try(_with(self._best, number, steps)):
                        break

    def _drop_settings(self) -> None:
        for path in _paths(self._best.server):
            server = _without(self._best.server, path)
            self._try(dataclasses.replace(self._best, server=server))
        for path in _paths(self._best.world):
            world = _without(self._best.world, path)
            self._try(dataclasses.replace(self._best, world=world))


# -- pieces of a scenario -------------------------------------------------------------------------


def _with(scenario: Scenario, number: int, steps: Sequence[Step]) -> Scenario:
    connections = list(scenario.connections)
    connections[number] = ScriptedConnection(connections[number].name, tuple(steps))
    return dataclasses.replace(scenario, connections=tuple(connections))


def _at_any_time(scenario: Scenario) -> Scenario:
    """The same, expected at any time: shorter pauses would change every instant."""
    for number, connection in enumerate(scenario.connections):
        steps = [
            dataclasses.replace(step, at_ns=None) if isinstance(step, Expectation) else step
            for step in connection.steps
        ]
        scenario = _with(scenario, number, steps)
    return scenario


def _with_true_marks(scenario: Scenario, recorded: Scenario) -> Scenario:
    """``scenario`` with evidence only for waits that are those of ``recorded``: as long, and behind
    the same reply or departure."""
    waits = {one.name: dict(_waits(one.steps)) for one in recorded.connections}
    for number, connection in enumerate(scenario.connections):
        known, now = waits[connection.name], dict(_waits(connection.steps))
        steps = [
            dataclasses.replace(step, evidence=None)
            if isinstance(step, Departure) and now[step.line] != known.get(step.line)
            else step
            for step in connection.steps
        ]
        scenario = _with(scenario, number, steps)
    return scenario


def _waits(steps: Sequence[Step]) -> Iterator[tuple[int, tuple[Anchor, int]]]:
    """Each departure's line, its anchor and the line of what that hangs on."""
    reply = departure = 0
    for step in steps:
        if isinstance(step, Departure):
            yield (
                step.line,
                (step.anchor, reply if isinstance(step.anchor, AfterArrival) else departure),
            )
            departure = step.line
        elif isinstance(step.outcome, script.UTTERANCES):
            reply = step.line


def _units(connection: ScriptedConnection) -> list[Step]:
    """The steps, each line that is sent by itself; those after the first hang on it, with no wait
    (``_joined`` puts them together again)."""
    units: list[Step] = []
    for step in connection.steps:
        if not (isinstance(step, Departure) and isinstance(step.action, SendOctets)):
            units.append(step)
            continue
        lines = step.action.octets.splitlines(keepends=True)
        units += (dataclasses.replace(step, action=SendOctets(line)) for line in lines)
    return units


def _joined(units: Sequence[Step]) -> list[Step]:
    """Steps of units: lines of one departure go out in one segment again."""
    steps: list[Step] = []
    replies = 0
    for unit in units:
        last = steps[-1] if steps else None
        if (
            isinstance(unit, Departure)
            and isinstance(unit.action, SendOctets)
            and isinstance(last, Departure)
            and isinstance(last.action, SendOctets)
            and last.line == unit.line
            and last.anchor == unit.anchor
        ):
            octets = last.action.octets + unit.action.octets
            steps[-1] = dataclasses.replace(last, action=SendOctets(octets))
            continue
        if isinstance(unit, Departure) and isinstance(unit.anchor, AfterArrival) and not replies:
            unit = dataclasses.replace(unit, anchor=After(unit.anchor.ns), evidence=None)
        replies += isinstance(unit, Expectation) and isinstance(unit.outcome, script.UTTERANCES)
        steps.append(unit)
    return steps


def _paths(table: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a table and of the tables in it, the outer ones first."""
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _paths(value, (*above, key))


def _without(table: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if path[0] not in table:
        return table
    if len(path) == 1:
        return {key: value for key, value in table.items() if key != path[0]}
    return table | {path[0]: _without(table[path[0]], path[1:])}
