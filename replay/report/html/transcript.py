"""One transcript's part of the report: what differs, its ladders, its steps with all octets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from replay.play.observed import ObservedConnection
from replay.report.html.ladder import RUNGS_MAX, Drawing, draw, excerpt, whole
from replay.report.html.ladder_labels import CODE_OCTETS, common_length, differing_length
from replay.report.html.markup import NOTHING, Html, joined, tag, text
from replay.report.html.steps import StepPair, StepSide, first_difference, pair_up
from replay.transcript.duration import format_ns, long_duration
from replay.transcript.octets import to_text
from replay.transcript.script import ScriptedConnection
from replay.verify.comparison import Difference
from replay.verify.suite import AS_EXPECTED, DIFFERS, UPDATED, ScenarioResult

CONNECTIONS_MAX = 50
"""Of one transcript, with ladders: those that differ are preferred."""
LONG_LADDER_RUNGS = 24
"""A longer ladder that differs is folded, below an excerpt around the first difference."""
DIFFERENCES_OPEN_MAX = 3
DIFFERENCES_SHOWN_MAX = 50
"""Differences of one transcript: those listed above its ladders, and all that are listed."""
FOLD_FROM_CHARACTERS = 240
"""Octets of one step that are longer than this are folded."""
STEP_CHARACTERS_MAX = 8_000
STEPS_CHARACTERS_MAX = 100_000
"""Of one step, and of all steps of one connection, as shown; of the rest only the count."""
_SIGNS = {AS_EXPECTED: "✓", DIFFERS: "≠", UPDATED: "±"}
LINE_END = r"\r\n"
LOG_LINES_MAX = 200
CHANGES_MAX = 2_000


def article(result: ScenarioResult, name: str, remarks: Mapping[int, str] | None) -> Html:
    """A transcript's part under a heading of its own, folded where it is as expected.

    ``remarks`` are its comments by the line of the step below them; None leaves ladders and steps
    out.  ``name`` is unique in the page and begins every id.
    """
    path = tag("span", text(str(result.path)), class_="path")
    heading = tag("h3", path, text(" "), verdict_badge(result))
    story = tag("p", text(result.story), class_="story") if result.story else NOTHING
    body = joined(
        [
            _facts(result),
            tag("p", text(result.complaint), class_="complaint") if result.complaint else NOTHING,
            _differences(result),
            _changes(result),
            *_ladders(result, name, remarks),
            _log(result) if result.differences or result.complaint else NOTHING,
        ]
    )
    if result.verdict == AS_EXPECTED and not result.complaint:
        words = tag("span", text(result.story), class_="story")
        summary = tag("summary", heading, words)
        return tag("details", summary, tag("article", body), class_="capture", id=name)
    return tag("article", heading, story, body, id=name)


def _ladders(result: ScenarioResult, name: str, remarks: Mapping[int, str] | None) -> list[Html]:
    scenario = result.scenario
    if remarks is None or scenario is None:
        return []
    played = list(enumerate(zip(scenario.connections, result.observed, strict=False), 1))
    differing = {one.connection for one in result.differences}
    chosen = sorted(played, key=lambda one: one[1][0].name not in differing)[:CONNECTIONS_MAX]
    ladders: list[Html] = []
    for number, (connection, observed) in sorted(chosen, key=lambda one: one[0]):
        own = [one for one in result.differences if one.connection == connection.name]
        place = f"{name}-{number}"
        ladders.append(
            _connection(connection, observed, own, remarks, place, alone=len(played) == 1)
        )
    if left := len(played) - len(chosen):
        words = f"… and {left:,} more connections, whose ladders are left out."
        ladders.append(tag("p", text(words)))
    return ladders


def verdict_badge(result: ScenarioResult) -> Html:
    """The verdict with a sign of its own, for readers who see no colours."""
    kind = "good" if result.good else "bad"
    return tag(
        "span",
        text(f"{_SIGNS.get(result.verdict, '!')} {result.verdict}"),
        class_=f"verdict {kind}",
    )


def ladders_in(result: ScenarioResult) -> int:
    """How many of a result's connections an article draws as ladders."""
    return min(len(result.observed), CONNECTIONS_MAX)


# -- what there is to read before the ladders -----------------------------------------------------


def _facts(result: ScenarioResult) -> Html:
    facts = []
    if result.scenario and result.scenario.source:
        facts.append(("source", result.scenario.source))
    facts.append(("sessions", str(result.sessions)))
    if result.virtual_ns:
        facts.append(("virtual time", long_duration(result.virtual_ns)))
    facts.append(("real time", long_duration(result.real_ns)))
    if result.trace_hash:
        facts.append(("trace", result.trace_hash[:16]))
    parts = (tag("div", tag("dt", text(name)), tag("dd", text(fact))) for name, fact in facts)
    return tag("dl", *parts, class_="facts")


def _differences(result: ScenarioResult) -> Html:
    found = result.differences
    if not found:
        return NOTHING
    several = result.sessions > 1
    parts = [_difference(one, several=several) for one in found[:DIFFERENCES_SHOWN_MAX]]
    first, rest = parts[:DIFFERENCES_OPEN_MAX], parts[DIFFERENCES_OPEN_MAX:]
    shown = tag("ol", *first, class_="differences")
    if not rest:
        return shown
    more = tag("ol", *rest, class_="differences", start=DIFFERENCES_OPEN_MAX + 1)
    unshown = len(found) - DIFFERENCES_SHOWN_MAX
    words = tag("p", text(f"… and {unshown:,} more.")) if unshown > 0 else NOTHING
    return joined([shown, _folded(f"{len(found) - len(first):,} more differences", more, words)])


def _difference(one: Difference, *, several: bool) -> Html:
    where = [f"connection {one.connection}"] if several and one.connection else []
    where += [f"line {one.line}"] if one.line else []
    where += [f"packet {one.packet}"] if one.packet else []
    place = _first_other(one)
    return tag(
        "li",
        tag("p", tag("strong", text(one.what)), text(" "), tag("span", text(", ".join(where)))),
        tag(
            "dl",
            _side("expected", one.expected_at_ns, one.expected, place),
            _side("observed", one.observed_at_ns, one.observed, place),
            class_="sides",
        ),
    )


def _side(label: str, at_ns: int | None, shown: str | None, place: int | None) -> Html:
    """One side of a difference, marked from ``place`` to the end of that line."""
    when = "" if at_ns is None else f" @{format_ns(at_ns)}"
    shown = shown or "nothing"
    before, marked, after = shown, "", ""
    if place is not None:
        end = shown.find(LINE_END, place)
        line = shown[place:] if end < 0 else shown[place : end + len(LINE_END)]
        end = place + differing_length(line, place)
        before, marked, after = shown[:place], shown[place:end], shown[end:]
    pre = tag(
        "pre",
        text(_broken(before)),
        tag("mark", text(marked)) if marked else NOTHING,
        text(_broken(after).rstrip("\n")),
    )
    return tag("div", tag("dt", text(f"{label}{when}")), tag("dd", pre))


def _broken(shown: str) -> str:
    """Visible text with each line on a line of its own."""
    return shown.replace(LINE_END, f"{LINE_END}\n")


def _first_other(one: Difference) -> int | None:
    """Where two exact replies begin to differ; None where that would not help."""
    if one.expected is None or one.observed is None or not one.expected[:3].isdigit():
        return None
    place = common_length(one.expected, one.observed)
    place = 0 if place < CODE_OCTETS else place
    return place if place < max(len(one.expected), len(one.observed)) else None


def _changes(result: ScenarioResult) -> Html:
    if not result.changes:
        return NOTHING
    kinds = {"+": "ins", "-": "del"}
    parts: list[Html] = []
    for change in result.changes:
        many = f"{change.expectations} expectation{'s' if change.expectations != 1 else ''}"
        lines = [tag(kinds.get(one[:1], "span"), text(one)) for one in change.diff[:CHANGES_MAX]]
        parts.append(tag("p", tag("strong", text(f"{change.kind}: {many}"))))
        parts.append(tag("pre", joined(lines, "\n"), class_="changes"))
    return joined(parts)


def _log(result: ScenarioResult) -> Html:
    if not result.log:
        return NOTHING
    lines = list(result.log[:LOG_LINES_MAX])
    if len(result.log) > LOG_LINES_MAX:
        lines.append(f"… and {len(result.log) - LOG_LINES_MAX} more lines")
    log = tag("pre", text("\n".join(lines)), class_="log")
    return _folded("What the server logged", log)


def _folded(summary: str, *content: Html) -> Html:
    return tag("details", tag("summary", text(summary)), *content)


# -- a connection ---------------------------------------------------------------------------------


def _connection(
    connection: ScriptedConnection,
    observed: ObservedConnection,
    differences: Sequence[Difference],
    remarks: Mapping[int, str],
    name: str,
    *,
    alone: bool,
) -> Html:
    pairs = pair_up(connection, observed, differences, remarks)
    place = first_difference(pairs)
    first = None if place is None else pairs[place]
    title = "Ladder" if alone else f"Ladder of connection {connection.name}"
    description = f"{len(pairs)} steps, expected on the left and observed on the right; "
    description += "no step differs." if first is None else "the first that differs is marked."
    description += " The table of steps below has all of it as text."
    parts: list[Html] = []
    if place is not None and first is not None and len(pairs) > LONG_LADDER_RUNGS:
        near = draw(
            excerpt(pairs, place), first, name, f"{title}: the first difference", description
        )
        parts.append(_figure(near, pairs))
        all_of_it = draw(whole(pairs, place), first, f"{name}-all", title, description)
        drawn = f"the {RUNGS_MAX} nearest of" if len(pairs) > RUNGS_MAX else "all"
        parts.append(_folded(f"The ladder with {drawn} {len(pairs)} steps", all_of_it.svg))
    else:
        parts.append(_figure(draw(whole(pairs, place), first, name, title, description), pairs))
    steps = _steps(whole(pairs, place))
    parts.append(_folded(f"The {len(pairs)} steps as text, with all octets", steps))
    if alone:
        return tag("section", *parts, class_="connection")
    count = len(differences)
    heading = f"Connection {connection.name}"
    if count:
        heading += f": {count} difference{'s' if count != 1 else ''}"
        return tag("section", tag("h4", text(heading), id=name), *parts, class_="connection")
    summary = tag("summary", tag("h4", text(heading)), text(", as expected"))
    return tag("details", summary, *parts, class_="connection", id=name)


def _figure(drawing: Drawing, pairs: Sequence[StepPair]) -> Html:
    return tag("figure", drawing.svg, tag("figcaption", *_legend(drawing, pairs)))


def _legend(drawing: Drawing, pairs: Sequence[StepPair]) -> list[Html]:
    parts: list[Html] = []
    bar_ns, bar_px = drawing.scale.bar()
    if bar_px:
        bar = tag("line", class_="passing", x1=4, x2=4, y1=0, y2=bar_px)
        figure = tag("svg", bar, width=8, height=bar_px, aria_hidden="true", class_="bar")
        parts.append(tag("span", figure, text(f"= {format_ns(bar_ns)}")))
    if any(one.differs for one in pairs):
        sign = tag("b", text("≠"))
        parts.append(tag("span", sign, text(" differs; the first that does is framed")))
    if drawing.scale.silences:
        parts.append(tag("span", text("Bands are silences, shortened.")))
    for kind, class_, meaning in (
        ("proven early", "early", "proven early"),
        ("confirmed", "confirmed", "confirmed to wait for the reply"),
        ("presumed", "presumed", "presumed to wait for the reply"),
        ("own clock", "own", "by the sender's own clock"),
    ):
        if any(one.evidence == kind for one in pairs):
            mark = tag("use", href=f"#{class_}", x=7, y=7)
            figure = tag("svg", mark, width=14, height=14, aria_hidden="true")
            parts.append(tag("span", figure, text(f" {meaning}")))
    return parts


# -- steps as text --------------------------------------------------------------------------------


def _steps(rungs: Sequence[StepPair | int]) -> Html:
    heads = ("time", "who", "expected", "observed", "where")
    head = tag("tr", *(tag("th", text(one), scope="col") for one in heads))
    left = STEPS_CHARACTERS_MAX
    rows: list[Html] = []
    for rung in rungs:
        if isinstance(rung, int):
            words = text(f"… {rung:,} steps are left out here")
            rows.append(tag("tr", tag("td", words, colspan=len(heads))))
            continue
        row, used = _step(rung, left)
        left -= used
        rows.append(row)
    return tag("table", tag("thead", head), tag("tbody", *rows), class_="steps")


def _step(pair: StepPair, left: int) -> tuple[Html, int]:
    same = _is_same(pair)
    expected, used = _cell(pair.expected, left)
    observed, more = (text("the same"), 0) if same else _cell(pair.observed, left - used)
    at = f"@{format_ns(pair.at_ns)}"
    when = [tag("span", text(at))]
    if pair.when not in ("", at):
        when.append(tag("small", text(pair.when)))
    where = [f"line {pair.line}"] if pair.line else []
    where += [f"packet {pair.packet}"] if pair.packet else []
    notes = [tag("small", text(pair.remark or pair.evidence))]
    sign = text("≠ ") if pair.differs else NOTHING
    row = tag(
        "tr",
        tag("th", sign, joined(when, " "), scope="row"),
        tag("td", text("server" if pair.by_server else "sender"), data_head="who"),
        tag("td", expected, data_head="expected"),
        tag("td", observed, class_="same" if same else None, data_head="observed"),
        tag("td", text(", ".join(where)), text(" "), *notes, data_head="where"),
        class_="differs" if pair.differs else None,
    )
    return row, used + more


def _is_same(pair: StepPair) -> bool:
    expected, observed = pair.expected, pair.observed
    if expected is None or observed is None or pair.differs:
        return False
    return (expected.octets, expected.words) == (observed.octets, observed.words)


def _cell(side: StepSide | None, left: int) -> tuple[Html, int]:
    """What a side shows, in full as far as there is room; and how many characters that took."""
    if side is None:
        return tag("em", text("nothing")), 0
    words = tag("em", text(side.words)) if side.words else NOTHING
    if not side.octets:
        return words, 0
    room = max(min(STEP_CHARACTERS_MAX, left), 0)
    shown = to_text(side.octets[:room]).replace(r"\n", "\\n\n").rstrip("\n")[:room]
    unshown = len(side.octets) - room
    if unshown > 0:
        shown += f"\n… and {unshown:,} octets more"
    octets = tag("pre", text(shown))
    if len(shown) > FOLD_FROM_CHARACTERS:
        lines = side.octets.count(b"\n")
        octets = _folded(f"{len(side.octets):,} octets, {lines:,} lines", octets)
    return joined([words, octets]), len(shown)
