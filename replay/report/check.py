"""Shows a check of a server: each scenario as it comes, a summary of one screen, and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from replay.counted import counted
from replay.transcript.claims.text import statement_text
from replay.transcript.duration import long_duration
from replay.transcript.octets import printable, to_text
from replay.verify.check.claims import ClaimResult
from replay.verify.check.duration import Plan
from replay.verify.check.known import gone, is_new
from replay.verify.check.runner import Check, CheckResult
from replay.verify.check.selection import bases
from replay.verify.check.verdict import Verdict, told

SCHEMA = 1
"""Of the JSON; a key that goes or changes its meaning makes it another."""
STYLES = {
    Verdict.HOLDS: "green",
    Verdict.VIOLATES: "bold red",
    Verdict.DEPARTS: "yellow",
    Verdict.COULD_NOT_TELL: "magenta",
    Verdict.DOES_NOT_APPLY: "dim",
}
_NAMES_MAX, _REASONS_MAX = 6, 3
"""In the summary, of each verdict."""
_VERDICT_WIDTH = max(len(verdict.value) for verdict in Verdict)

Known = Mapping[str, Verdict]


def show_doubt(doubt: str, console: Console) -> None:
    """Before all others the remark that may make them worthless."""
    if doubt:
        console.print(Text(printable(doubt), style="yellow"), soft_wrap=True)


def show_plan(plan: Plan, console: Console) -> None:
    """How long it may take, for those who wait."""
    jobs = f", {plan.at_once} at a time" if plan.scenarios > plan.at_once else ""
    text = (
        f"{counted(plan.scenarios, 'scenario')} to play{jobs}: {long_duration(plan.longest_ns)} at "
        "most, and longer where replies do not come"
    )
    console.print(Text(text, style="dim"), soft_wrap=True)


def show_result(result: CheckResult, known: Known, console: Console) -> None:
    """The line of a scenario that was played, and below it each claim that is broken."""
    if result.verdict is Verdict.DOES_NOT_APPLY:
        return
    line = Text(result.verdict.value.ljust(_VERDICT_WIDTH), STYLES[result.verdict])
    line.append(f"  {printable(result.name)}", "default")
    if result.name in known and not is_new(result.name, result.verdict, dict(known)):
        line.append("  (known)", "dim")
    if result.judgement.reason:
        line.append(f"  {printable(result.judgement.reason)}", "dim")
    console.print(line, soft_wrap=True)
    for one in result.judgement.broken:
        console.print(Text(f"{'':{_VERDICT_WIDTH}}    {told(one)}"), soft_wrap=True)


def show_summary(
    check: Check, results: Sequence[CheckResult], known: Known, real_ns: int, console: Console
) -> None:
    """How many of each verdict, which are bad, and why others say nothing."""
    counts = Counter(one.verdict for one in results)
    console.print()
    for verdict in Verdict:
        if counts[verdict]:
            line = Text(f"{counts[verdict]:5} {verdict.value}", STYLES[verdict])
            line.append(_summed(verdict, results, known), "default")
            console.print(line, soft_wrap=True)
    for text in _remarks(check, results, known):
        console.print(Text(printable(text), style="yellow"), soft_wrap=True)
    total = f"{counted(len(results), 'scenario')} at {check.target.name}, {long_duration(real_ns)}"
    console.print(Text(printable(total), style="bold"), soft_wrap=True)


def _summed(verdict: Verdict, results: Sequence[CheckResult], known: Known) -> str:
    of_verdict = [one for one in results if one.verdict is verdict]
    if verdict in (Verdict.VIOLATES, Verdict.DEPARTS):
        new = [one.name for one in of_verdict if is_new(one.name, verdict, dict(known))]
        told = f", {len(new)} of them new" if known else ""
        return f"{told}: {_some(new, _NAMES_MAX)}" if new else told
    reasons = Counter(one.judgement.reason for one in of_verdict if one.judgement.reason)
    lines = [f"{count} because {printable(reason)}" for reason, count in reasons.most_common()]
    more = len(lines) - _REASONS_MAX
    others = [f"{counted(more, 'other reason')}; --json has all"] if more > 0 else []
    lines = lines[:_REASONS_MAX] + others
    return "".join(f"\n        {line}" for line in lines)


def _some(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more; --json has all" if len(names) > most else ""
    return printable(", ".join(names[:most]) + more)


def _remarks(check: Check, results: Sequence[CheckResult], known: Known) -> list[str]:
    remarks = [check.offer.doubt] if check.offer.doubt else []
    if missing := missing_messages(results):
        remarks.append(missing)
    fixed = gone(((one.name, one.verdict) for one in results), dict(known))
    if fixed:
        remarks.append(f"known, and holds now: {_some(fixed, _NAMES_MAX)}")
    if check.variants:
        were = "was" if check.variants == 1 else "were"
        variants = counted(check.variants, "variant")
        remarks.append(f"{variants} {were} played, the octets cut in other ways")
    return remarks


def missing_messages(results: Sequence[CheckResult]) -> str:
    """That messages were accepted and not seen where they should have been delivered; or ""."""
    seen = [one for one in results if one.delivered is not None]
    accepted = sum(one.accepted for one in seen)
    delivered = sum(min(one.delivered or 0, one.accepted) for one in seen)
    if delivered >= accepted:
        return ""
    told = f"of {counted(accepted, 'accepted message')} {delivered:,} came to --delivered in time"
    return told if delivered else f"{told}: is that where the server delivers?"


def as_json(check: Check, results: Sequence[CheckResult], known: Known, real_ns: int) -> str:
    """Everything, for machines; durations of the real world stand under keys that begin with
    real_."""
    counts = Counter(one.verdict for one in results)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "target": check.target.name,
        "greeting": check.offer.greeting,
        "keywords": sorted(check.offer.keywords),
        "ended": check.ended,
        "not_played": check.not_played,
        "variants": check.variants,
        "real_ns": real_ns,
        "known_and_holds_now": gone(((one.name, one.verdict) for one in results), dict(known)),
        "verdicts": {verdict.value: counts[verdict] for verdict in Verdict},
        "scenarios": [_scenario(one, known) for one in results],
    }
    return json.dumps(document, indent=2)


def _scenario(result: CheckResult, known: Known) -> dict[str, Any]:
    return {
        "name": result.name,
        "path": str(result.named.path),
        "story": result.named.scenario.story,
        "verdict": result.verdict.value,
        "reason": result.judgement.reason,
        "new": is_new(result.name, result.verdict, dict(known)),
        "bases": bases(result.named.scenario),
        "accepted": result.accepted,
        "delivered": result.delivered,
        "real_ns": result.real_ns,
        "claims": [_claim(one) for one in result.judgement.results],
        "connections": [
            {
                "name": one.name,
                "replies": [to_text(reply.octets) for reply in one.replies],
                "end": one.end,
            }
            for one in result.observed
        ],
    }


def _claim(one: ClaimResult) -> dict[str, Any]:
    return {
        "line": one.claim.line,
        "connection": one.connection,
        "strength": one.claim.strength.value,
        "basis": list(one.claim.basis),
        "claim": statement_text(one.claim.statement),
        "finding": one.finding.value,
        "how": one.how.value if one.how else "",
        "observed": one.observed,
    }
