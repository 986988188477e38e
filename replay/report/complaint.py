"""What a failing test says: every difference or broken claim, each under its file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from replay.transcript.octets import printable
from replay.verify.check.runner import CheckResult
from replay.verify.check.verdict import Verdict, told
from replay.verify.suite import ScenarioResult


def of_transcript(result: ScenarioResult, shown: str, server: str) -> str:
    """Of a transcript, whose path is ``shown``; at last what it shows, and where it was played.

    pytest's summary has room for the first line.
    """
    lines = [_updated(result, shown)] if result.changes else []
    lines += [f"{shown}: {result.complaint}"] if result.complaint else []
    for one in result.differences:
        place = f"{shown}:{one.line}" if one.line else shown
        name = f"connection {one.connection}, " if one.connection and result.sessions > 1 else ""
        lines.append(f"{place}: {name}{dataclasses.replace(one, line=0)}")
    return "\n".join([*lines, f"{shown}: {printable(result.story)}", f"played at {server}"])


def _updated(result: ScenarioResult, shown: str) -> str:
    """What an update wrote.  Its test fails, so that no run that writes passes for a check."""
    counts = ", ".join(f"{one.expectations} {one.kind}" for one in result.changes)
    lines = [f"{shown}: updated ({counts}): read the change, then run again"]
    for change in result.changes:
        lines += [f"{change.kind}:", *(printable(line.expandtabs()) for line in change.diff)]
    return "\n".join(lines)


def of_checks(results: Iterable[CheckResult], server: str, *, should: bool = False) -> str:
    """Of scenarios in which a server does what it must not, or ``should`` not; empty if it does
    neither."""
    fails = (Verdict.VIOLATES, Verdict.DEPARTS) if should else (Verdict.VIOLATES,)
    lines = [line for one in results if one.verdict in fails for line in _broken(one)]
    return "\n".join([*lines, f"at {server}"]) if lines else ""


def _broken(result: CheckResult) -> list[str]:
    path = result.named.path
    lines = [f"{path}:{one.claim.line}: {told(one)}" for one in result.judgement.broken]
    return [f"{result.name} {result.verdict.value}", *lines, printable(result.named.scenario.story)]
