"""The report of a check as one HTML file that needs nothing else: no network and no script.

First the verdicts, then each scenario that was played: its claims, and what was said.  What a
server says is escaped (``templates``), and the page's own policy forbids scripts and loads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from replay.play.observed import ObservedConnection
from replay.report.check import Known
from replay.report.html.templates import render_page
from replay.report.html.transcript import VerdictBadge
from replay.transcript.claims.text import statement_text
from replay.transcript.duration import format_ns, long_duration
from replay.transcript.octets import to_text
from replay.transcript.script import Departure, ScriptedConnection, SendOctets
from replay.verify.check.claims import ClaimResult
from replay.verify.check.known import is_new
from replay.verify.check.runner import Check, CheckResult
from replay.verify.check.verdict import Verdict

_SIGNS = {
    Verdict.HOLDS: ("✓", "good"),
    Verdict.VIOLATES: ("≠", "bad"),
    Verdict.DEPARTS: ("~", "bad"),
    Verdict.COULD_NOT_TELL: ("?", ""),
    Verdict.DOES_NOT_APPLY: ("·", ""),
}
_FIRST = (Verdict.VIOLATES, Verdict.DEPARTS, Verdict.COULD_NOT_TELL, Verdict.HOLDS)
LINES_MAX = 200
"""Of one connection's dialogue."""
LINE_CHARACTERS_MAX = 500
_NS_PER_US = 1000


class ScenarioView(NamedTuple):
    """A scenario in the table and, where it was played, below it: then it has an ``anchor``."""

    anchor: str
    name: str
    story: str
    what: list[str]
    verdict: VerdictBadge
    real: str
    claims: list[str]
    dialogues: list[str]


def check_page(check: Check, results: Sequence[CheckResult], known: Known) -> str:
    """The whole page."""
    ordered = sorted(results, key=lambda one: (_rank(one), one.name))
    views = [_view(one, f"c{number}", known) for number, one in enumerate(ordered, 1)]
    counts = Counter(one.verdict for one in results)
    return render_page(
        "check.html",
        f"Check of {check.target.name}",
        remarks=[one for one in (check.offer.greeting, check.offer.doubt, check.ended) if one],
        totals=[
            (verdict.value, str(counts[verdict]), kind if counts[verdict] else "none")
            for verdict, (_, kind) in _SIGNS.items()
        ],
        rows=views,
        played=[one for one in views if one.anchor],
    )


def _rank(result: CheckResult) -> int:
    return _FIRST.index(result.verdict) if result.verdict in _FIRST else len(_FIRST)


def _view(result: CheckResult, anchor: str, known: Known) -> ScenarioView:
    what = [result.judgement.reason] if result.judgement.reason else []
    what += [f"{one.how.value if one.how else ''}: {_said(one)}" for one in result.judgement.broken]
    if result.name in known and not is_new(result.name, result.verdict, dict(known)):
        what.append("known")
    sign, kind = _SIGNS[result.verdict]
    played = result.scenario
    connections = played.connections if played else ()
    return ScenarioView(
        anchor if played else "",
        result.name,
        result.named.scenario.story,
        what,
        VerdictBadge(kind, sign, result.verdict.value),
        long_duration(result.real_ns) if result.real_ns else "",
        [_said(one) for one in result.judgement.results],
        [
            "\n".join(_dialogue(connection, observed))
            for connection, observed in zip(connections, result.observed, strict=bool(played))
        ],
    )


def _said(one: ClaimResult) -> str:
    claim = one.claim
    observed = f" — {one.observed}" if one.observed else ""
    return (
        f"{one.finding.value}: {claim.strength.value} {statement_text(claim.statement)} "
        f"[{', '.join(claim.basis)}]{observed}"
    )


def _dialogue(connection: ScriptedConnection, observed: ObservedConnection) -> Iterator[str]:
    """What both sides said, in the order of time."""
    events = [(reply.at_ns, f"S: {to_text(reply.octets)}") for reply in observed.replies]
    for departure, at_ns in zip(connection.departures(), observed.departed_ns, strict=True):
        if at_ns is not None:
            events.append((at_ns, _departed(departure)))
    if observed.handshake:
        events.append((observed.handshake_at_ns, f"S: TLS {observed.handshake}"))
    if observed.end:
        events.append((observed.end_at_ns, f"S: {observed.end}"))
    events.sort(key=lambda event: event[0])
    for at_ns, line in events[:LINES_MAX]:
        shown = line if len(line) <= LINE_CHARACTERS_MAX else f"{line[:LINE_CHARACTERS_MAX]}…"
        yield f"{format_ns(at_ns // _NS_PER_US * _NS_PER_US):>12}  {shown}"
    if len(events) > LINES_MAX:
        yield f"… and {len(events) - LINES_MAX} more lines"


def _departed(departure: Departure) -> str:
    action = departure.action
    if isinstance(action, SendOctets):
        if not departure.line and not action.octets.startswith((b"EHLO ", b"STARTTLS")):
            return "C: (credentials)"  # what stands in no transcript was put in before the mail
        return f"C: {to_text(action.octets[: 2 * LINE_CHARACTERS_MAX])}"
    return f"C  {type(action).__name__}"
