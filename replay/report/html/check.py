"""The report of a check as one HTML file that needs nothing else: no network and no script.

First the verdicts, then each scenario that was played: its claims, and what was said.  What a
server says is escaped (``markup``), and the page's own policy forbids every script and every load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from replay.play.observed import ObservedConnection
from replay.report.check import Known
from replay.report.html.markup import Html, tag, text
from replay.report.html.page import style
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
_ORDER = list(_SIGNS)
_FIRST = (Verdict.VIOLATES, Verdict.DEPARTS, Verdict.COULD_NOT_TELL, Verdict.HOLDS)
LINES_MAX = 200
"""Of one connection's dialogue."""
LINE_CHARACTERS_MAX = 500
_NS_PER_US = 1000


def check_page(check: Check, results: Sequence[CheckResult], known: Known) -> str:
    """The whole page."""
    title = f"Check of {check.target.name}"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", text(title)),
        tag("style", style()),
    )
    ordered = sorted(results, key=lambda one: (_rank(one), one.name))
    played = [one for one in ordered if one.scenario is not None]
    names = {one.name: f"c{number}" for number, one in enumerate(played, 1)}
    main = tag(
        "main",
        _summary(check, results, title),
        tag(
            "section",
            tag("h2", text("All scenarios")),
            tag("table", *(_row(one, names, known) for one in ordered), class_="captures"),
        ),
        tag("section", tag("h2", text("What was said")), *(_article(one, names) for one in played)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", main), lang="en")


def _rank(result: CheckResult) -> int:
    return _FIRST.index(result.verdict) if result.verdict in _FIRST else len(_FIRST)


def _summary(check: Check, results: Sequence[CheckResult], title: str) -> Html:
    counts = Counter(one.verdict for one in results)
    tiles = (
        tag(
            "div",
            tag("dt", text(verdict.value)),
            tag("dd", text(str(counts[verdict]))),
            class_=_SIGNS[verdict][1] if counts[verdict] else "none",
        )
        for verdict in _ORDER
    )
    remarks = [check.offer.greeting, check.offer.doubt, check.ended]
    return tag(
        "header",
        tag("h1", text(title)),
        *(tag("p", text(remark), class_="sentence") for remark in remarks if remark),
        tag("dl", *tiles, class_="tiles"),
    )


def _badge(verdict: Verdict) -> Html:
    sign, kind = _SIGNS[verdict]
    return tag("span", text(f"{sign} {verdict.value}"), class_=f"verdict {kind}".strip())


def _row(result: CheckResult, names: dict[str, str], known: Known) -> Html:
    name = text(result.name)
    if result.name in names:
        name = tag("a", name, href=f"#{names[result.name]}")
    story = tag("span", text(result.named.scenario.story), class_="story")
    what = [result.judgement.reason] if result.judgement.reason else []
    what += [f"{one.how.value if one.how else ''}: {_said(one)}" for one in result.judgement.broken]
    if result.name in known and not is_new(result.name, result.verdict, dict(known)):
        what.append("known")
    return tag(
        "tr",
        tag(
            "th",
            name,
            story,
            *(tag("span", text(one), class_="what") for one in what),
            scope="row",
            class_="is-capture",
        ),
        tag("td", _badge(result.verdict), class_="is-verdict"),
        tag("td", text(long_duration(result.real_ns) if result.real_ns else "")),
    )


def _article(result: CheckResult, names: dict[str, str]) -> Html:
    assert result.scenario is not None
    heading = tag("h3", text(f"{result.name} "), _badge(result.verdict))
    claims = tag("ul", *(tag("li", text(_said(one))) for one in result.judgement.results))
    pairs = zip(result.scenario.connections, result.observed, strict=True)
    dialogues = (
        tag("pre", text("\n".join(_dialogue(connection, observed))))
        for connection, observed in pairs
    )
    return tag(
        "details",
        tag("summary", heading),
        tag("p", text(result.named.scenario.story), class_="story"),
        claims,
        *dialogues,
        class_="capture",
        id=names[result.name],
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
        return f"C: {to_text(action.octets[: 2 * LINE_CHARACTERS_MAX])}"
    return f"C  {type(action).__name__}"
