"""Runs transcripts in virtual time, one file after another; each has a verdict."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import NamedTuple

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_S, seconds_to_ns
from replay.capture.pcap import begins_as_capture
from replay.play import virtual_run
from replay.play.conditions import TIMEOUT_NS, Patience
from replay.play.fakes.world import DeliveredMessage, WorldError
from replay.play.observed import ObservedConnection
from replay.play.virtual_run import Play, VirtualDriver, VirtualRun
from replay.play.virtual_time import Leaked, NotVirtual, ServerFault, Stalled, TargetFault
from replay.transcript import transcript
from replay.transcript.claims.places import all_claims
from replay.transcript.notation import TranscriptError
from replay.transcript.script import Scenario
from replay.verify import update
from replay.verify.accepted import compare_accepted
from replay.verify.check.claims import CheckedRun
from replay.verify.check.verdict import claim_differences
from replay.verify.comparison import Difference, compare_all
from replay.verify.surroundings import compare_surroundings

FILES_MAX = 100_000
"""Transcripts in one run."""

AS_EXPECTED = "as expected"
DIFFERS = "differs"
BROKEN = "broken"
UPDATED = "updated"
UNREADABLE = "unreadable"

NOT_CI = ("", "0", "false", "no", "off")
"""Values of the variable CI that mean: this is no CI."""


class UpdateChange(NamedTuple):
    """What an update wrote of one kind ("fixed" or "created"): how many ``expectations``, and the
    lines of a unified diff without its header."""

    kind: str
    expectations: int
    diff: tuple[str, ...]


class InputError(Exception):
    """An input that cannot be used; the message names it, and what can be used instead."""


class ReadTranscript(NamedTuple):
    """A transcript file, its text and what that says."""

    path: Path
    text: str
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """The result of one transcript.

    ``verdict`` is one of the constants of this module; ``complaint`` is, in a sentence, what was
    wrong with a run that is ``BROKEN`` (the run itself failed: a leak, a stall, a fault), with a
    transcript that is ``UNREADABLE``, or why an update was not made.  ``changes`` say what an
    update wrote, the fixes first.

    ``scenario`` is what was played and ``observed`` what came of it, connection by connection in
    its order; ``delivered`` are the messages that were accepted, None where that cannot be seen.
    They are kept only when asked for, since many runs are many messages; the latter two are empty
    where the run is ``BROKEN``.
    """

    path: Path
    story: str
    sessions: int
    verdict: str
    virtual_ns: int = 0
    real_ns: int = 0
    trace_hash: str = ""
    differences: tuple[Difference, ...] = ()
    changes: tuple[UpdateChange, ...] = ()
    complaint: str = ""
    log: Sequence[str] = field(default=(), repr=False)
    scenario: Scenario | None = field(default=None, repr=False)
    observed: tuple[ObservedConnection, ...] = field(default=(), repr=False)
    delivered: tuple[DeliveredMessage, ...] | None = field(default=(), repr=False)

    @property
    def good(self) -> bool:
        return self.verdict in (AS_EXPECTED, UPDATED)


def find(paths: Iterable[Path]) -> list[Path]:
    """The transcripts at ``paths``, those in folders included, in a fixed order.

    Raises InputError for a path that is not there, a folder without transcripts, or another
    kind of file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(_inside(path))
            if not inside:
                raise InputError(f"{path}: no .smtp transcript in this folder")
            found += inside
        elif not path.exists():
            raise InputError(f"{path}: no such file or folder")
        elif path.suffix == ".smtp":
            found.append(path)
        else:
            raise InputError(f"{path}: not a .smtp transcript{_way_to_one(path)}")
    if len(found) > FILES_MAX:
        raise InputError(f"{len(found)} transcripts; at most {FILES_MAX} at a time")
    return list(dict.fromkeys(found))


def _inside(folder: Path) -> Iterator[Path]:
    """The transcripts in ``folder``; a folder that has gone by then is passed over."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name.endswith(".smtp"))


def _way_to_one(path: Path) -> str:
    """How a capture becomes a transcript; "" for any other file."""
    with contextlib.suppress(OSError):
        if begins_as_capture(path):
            return f"; make one of a capture with 'replay import {path} -o {path.with_suffix('')}'"
    return ""


def run_all(
    paths: Iterable[Path], clock: Clock, *, updating: Collection[str] = (), keep: bool = False
) -> Iterator[ScenarioResult]:
    """Run each transcript in virtual time; one that cannot be read does not stop the others.

    ``updating`` and ``keep`` as of ``run_file``.
    """
    with VirtualDriver() as play:
        for path in paths:
            try:
                yield run_file(path, clock, updating=updating, keep=keep, play=play)
            except InputError as error:
                yield ScenarioResult(path, "", 0, UNREADABLE, complaint=str(error))


def run_file(
    path: Path,
    clock: Clock,
    *,
    updating: Collection[str] = (),
    keep: bool = False,
    play: Play = virtual_run.play,
) -> ScenarioResult:
    """Run one transcript; ``clock`` measures the real duration.  Raises InputError.

    ``updating`` names the kinds of changes (``update.KINDS``) that are written into the
    transcript.  ``keep`` leaves on the result what was played and what was observed.
    ``play`` plays it, at whichever server.
    """
    began_ns = clock.monotonic_ns()
    result = _run(read_transcript(path), updating, play)
    return _kept(result, keep, clock.monotonic_ns() - began_ns)


def run_read(
    read: ReadTranscript,
    clock: Clock,
    *,
    updating: Collection[str] = (),
    play: Play = virtual_run.play,
) -> ScenarioResult:
    """As ``run_file``, for a transcript that has been read."""
    began_ns = clock.monotonic_ns()
    result = _run(read, updating, play)
    return _kept(result, False, clock.monotonic_ns() - began_ns)


def read_transcript(path: Path) -> ReadTranscript:
    """What stands in the file at ``path``.  Raises InputError."""
    with input_errors(path):
        text = transcript.read_text(path)
        return ReadTranscript(path, text, transcript.parse(text, str(path)))


def _run(read: ReadTranscript, updating: Collection[str], play: Play) -> ScenarioResult:
    with input_errors(read.path):
        result = run_scenario(read.scenario, read.path, play)
        if updating and result.verdict != BROKEN:
            result = _update(result, read, updating, play)
    return result


def _kept(result: ScenarioResult, keep: bool, real_ns: int) -> ScenarioResult:
    if keep:
        return dataclasses.replace(result, real_ns=real_ns)
    return dataclasses.replace(result, real_ns=real_ns, scenario=None, observed=(), delivered=())


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Raise InputError, which names ``path``, for whatever can be wrong with a transcript."""
    try:
        yield
    except TranscriptError as error:
        raise InputError(str(error)) from None
    except WorldError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def run_scenario(scenario: Scenario, path: Path, play: Play = virtual_run.play) -> ScenarioResult:
    """Run one scenario, and keep what was observed.  Raises WorldError for a header that cannot
    be."""
    story, sessions = scenario.story, len(scenario.connections)
    try:
        played = play(scenario)
    except (Leaked, NotVirtual, ServerFault, Stalled, TargetFault) as error:
        complaint = str(error)
        return ScenarioResult(path, story, sessions, BROKEN, complaint=complaint, scenario=scenario)
    differences = (
        *compare_all(scenario, played.connections),
        *compare_surroundings(played),
        *compare_accepted(scenario.accepted, played.messages),
        *_broken_claims(scenario, played),
    )
    return ScenarioResult(
        path,
        story,
        sessions,
        DIFFERS if differences else AS_EXPECTED,
        virtual_ns=played.virtual_ns,
        trace_hash=played.trace_hash,
        differences=differences,
        log=played.log,
        scenario=scenario,
        observed=played.connections,
        delivered=played.messages,
    )


def _broken_claims(scenario: Scenario, played: VirtualRun) -> Iterator[Difference]:
    """The claims that do not hold; few transcripts make any."""
    if any(all_claims(scenario)):
        yield from claim_differences(scenario, _checked(scenario, played))


def _checked(scenario: Scenario, played: VirtualRun) -> CheckedRun:
    """What a run in virtual time showed for the claims: everything, and to the nanosecond."""
    timeout_s = scenario.server.get("idle_timeout_s", TIMEOUT_NS // NS_PER_S)
    return CheckedRun(
        played.connections,
        played.virtual_ns,
        None if played.messages is None else [one.content for one in played.messages],
        patience=Patience(timeout_ns=seconds_to_ns(timeout_s), grace_ns=0),
    )


def under_ci(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this runs where no person reads what an update changes."""
    return environment.get("CI", "").strip().lower() not in NOT_CI


def _update(
    result: ScenarioResult, read: ReadTranscript, kinds: Collection[str], play: Play
) -> ScenarioResult:
    """Write what was observed into the transcript, and see that it then holds."""
    if stuck := next((one.waits_for for one in result.observed if one.waits_for), ""):
        # Without the reply that is waited for, what follows would hang on another one.
        complaint = f"not updated: the script could not go on, it waited for {stuck}"
        return dataclasses.replace(result, complaint=complaint)
    text, path = read.text, read.path
    updated = update.update(read.scenario, result.observed, kinds, result.delivered)
    try:
        fixed_text = transcript.rewrite(text, updated.fixed, str(path))
        new_text = transcript.rewrite(fixed_text, updated.scenario, str(path))
    except ValueError as error:
        return dataclasses.replace(result, complaint=f"not updated: {error}")
    if new_text == text:
        return result
    again = run_scenario(transcript.parse(new_text, str(path)), path, play)
    kept_apart = set(kinds) != set(update.KINDS)  # then differences may be left
    if again.trace_hash != result.trace_hash or (again.differences and not kept_apart):
        complaint = "not updated: what was observed would not hold a second time"
        return dataclasses.replace(again, complaint=complaint)
    _replace(path, new_text)
    changes = (
        UpdateChange("fixed", updated.fixes, _diff(text, fixed_text)),
        UpdateChange("created", updated.creations, _diff(fixed_text, new_text)),
    )
    return dataclasses.replace(
        again,
        verdict=DIFFERS if again.differences else UPDATED,
        changes=tuple(one for one in changes if one.diff),
    )


def _diff(before: str, after: str) -> tuple[str, ...]:
    lines = unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
    return tuple(lines)[2:]


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path = path.resolve()  # what a link points to is written, and the link stays
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(name, path.stat().st_mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
