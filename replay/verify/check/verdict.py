"""The verdict on a scenario, from what became of its claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from replay.play.observed import ObservedConnection
from replay.transcript.claims.claim import Strength
from replay.transcript.claims.text import claim_item, statement_text
from replay.transcript.octets import printable
from replay.transcript.script import Scenario
from replay.verify.check.claims import (
    CheckedRun,
    ClaimResult,
    Finding,
    broken,
    judge_claims,
    shown,
)
from replay.verify.check.progress import Progress
from replay.verify.comparison import Difference


class Verdict(Enum):
    """What a scenario says about a server."""

    HOLDS = "holds"
    VIOLATES = "violates"
    """A claim with MUST is broken."""
    DEPARTS = "departs"
    """A claim with SHOULD is broken."""
    DOES_NOT_APPLY = "does not apply"
    COULD_NOT_TELL = "could not tell"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the reason where it is none of the first three, and the claims behind it."""

    verdict: Verdict
    reason: str = ""
    results: Sequence[ClaimResult] = ()

    @property
    def broken(self) -> list[ClaimResult]:
        return list(broken(self.results))


def judge(scenario: Scenario, run: CheckedRun) -> Judgement:
    """The verdict on a run of ``scenario``, which has claims."""
    results = judge_claims(scenario, run)
    strengths = {one.claim.strength for one in broken(results)}
    if Strength.MUST in strengths:
        return Judgement(Verdict.VIOLATES, "", results)
    if Strength.SHOULD in strengths:
        return Judgement(Verdict.DEPARTS, "", results)
    findings = {one.finding for one in results}
    if Finding.NOT_REACHED in findings:
        excuse = next((one.observed for one in results if one.finding is Finding.NOT_REACHED), "")
        reason = excuse or _why_cut_short(scenario, run)
        return Judgement(Verdict.COULD_NOT_TELL, reason, results)
    if Finding.HOLDS in findings:
        return Judgement(Verdict.HOLDS, "", results)
    if Finding.NOT_SEEN in findings:
        reason = "what was delivered cannot be seen here"
    else:
        reason = "what its claims are about did not arise"
    return Judgement(Verdict.COULD_NOT_TELL, reason, results)


def _why_cut_short(scenario: Scenario, run: CheckedRun) -> str:
    for connection, observed in zip(scenario.connections, run.connections, strict=True):
        if number := Progress(connection, observed).stopped_at:
            name = f" of connection {connection.name}" if len(run.connections) > 1 else ""
            return _stopped(number, observed, name)
    return "it was not looked at for long enough"


def _stopped(number: int, observed: ObservedConnection, name: str) -> str:
    if number <= len(observed.replies):
        return f"reply {number}{name} was {shown(observed.replies[number - 1])}"
    if observed.end:
        last = f" behind {shown(observed.replies[-1])}" if observed.replies else ""
        how = "reset" if observed.end == "reset" else "closed"
        return f"the server {how} the connection before reply {number}{name}{last}"
    return f"reply {number}{name} did not come"


def claim_differences(scenario: Scenario, run: CheckedRun) -> Iterator[Difference]:
    """The claims that do not hold, as a run of transcripts tells differences."""
    for one in broken(judge_claims(scenario, run)):
        claim = one.claim
        yield Difference(
            one.connection,
            "a claim does not hold",
            f"{claim.strength.value} {claim_item(claim)}",
            one.observed,
            None,
            None,
            claim.line,
        )


def told(one: ClaimResult) -> str:
    """A broken claim in one line."""
    claim, how = one.claim, one.how.value if one.how else ""
    wanted = printable(statement_text(claim.statement))
    where = f"line {claim.line}" + (
        f", {one.connection}" if one.connection not in ("", "1") else ""
    )
    return (
        f"{how}: {claim.strength.value} {wanted} [{', '.join(claim.basis)}] ({where}): "
        f"{printable(one.observed)}"
    )
