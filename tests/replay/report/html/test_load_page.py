"""The page of a load run: whole, well-formed, with its plots, and deaf to what servers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as Xml
from typing import Any

from load_results import interval, result

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load.condition import parse, verdicts
from replay.load.interval import Interval
from replay.load.result import Idle, LoadResult
from replay.report.html.charts import FONT_PX, HEIGHT, SERIES_MAX, WIDTH, line_chart, time_labels
from replay.report.html.load_page import page

HOSTILE = "<script>alert(1)</script> & \"double\" 'single' \u202e \x1b[31m \x00 {{ 7 * 7 }}"
SVG = "{http://www.w3.org/2000/svg}"


def busy(number: int, **more: int) -> Interval:
    part = interval(
        number, late_ms=1, connect=1, greeting=2, MAIL=3, dot={5: 95, 60: 5}, session={20: 100}
    )
    part.begun, part.good, part.messages, part.open = 101, 100, 120, 4
    part.replies.update({220: 100, 250: 400})
    for name, value in more.items():
        setattr(part, name, value)
    return part


def failing(number: int) -> Interval:
    part = busy(number, failed=2)
    part.errors.update({"reset": 1, "closed early": 1})
    part.complaints[f"{HOSTILE}: reply 2: 554"] = 2
    part.examples[f"{HOSTILE}: reply 2: 554"] = HOSTILE
    return part


def root(run: LoadResult, *more: Any) -> Xml.Element:
    return Xml.fromstring(page(run, *(more or ((),))).removeprefix("<!DOCTYPE html>\n"))


def told(element: Xml.Element) -> str:
    return "".join(element.itertext())


def figures(element: Xml.Element) -> dict[str, Xml.Element]:
    return {told(next(one.iter("h3"))): one for one in element.iter("figure")}


def lines(figure: Xml.Element) -> list[str]:
    """The names of a plot's lines, as its legend says."""
    drawn = [one for one in figure.iter() if "legend" in one.get("class", "").split()]
    return [told(one) for one in drawn]


def test_an_open_loop_has_its_plots() -> None:
    shown = figures(root(result(*map(busy, range(20)), rate="200")))
    assert {title: lines(figure) for title, figure in shown.items()} == {
        "Reply to a whole message over time": ["p50", "p90", "p99", "max"],
        "Session over time": ["p50", "p90", "p99", "max"],
        "Latency by percentile": ["connect", "greeting", "MAIL", "dot", "session"],
        "Throughput": ["sessions", "messages", "begun"],
        "Open connections": ["open"],
        "Errors": [],
        "Lateness of the generator": ["p50", "p90", "p99", "max"],
    }
    assert "No session failed." in told(shown["Errors"])


def test_a_closed_loop_has_no_lateness_and_errors_are_drawn_by_kind() -> None:
    shown = figures(root(result(busy(0), failing(1), busy(2))))
    assert "Lateness of the generator" not in shown
    assert sorted(lines(shown["Errors"])) == ["closed early", "reset"]


def test_a_line_goes_through_its_points() -> None:
    svg = line_chart(
        "x", "X", {"a": [(0, 0), (5, 50), (10, 100)]}, x_labels=time_labels(10), y_format=str
    )
    drawn = Xml.fromstring(svg)
    (path,) = [one for one in drawn.iter() if one.get("class", "").startswith("line reactive")]
    points = [
        tuple(map(float, pair))
        for pair in re.findall(r"([\d.]+) ([\d.]+)", path.get("d", "").replace(",", " "))
    ]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == x2 - x1 > WIDTH / 4
    assert round(y0 - y1, 3) == round(y1 - y2, 3) > 0
    assert drawn.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"


def test_a_legend_shows_the_dashes_of_its_line() -> None:
    lines_ = {name: [(0.0, 1.0), (1.0, 2.0)] for name in ("p50", "p90", "p99", "max")}
    drawn = Xml.fromstring(line_chart("x", "X", lines_, x_labels=time_labels(1), y_format=str))
    for number, name in enumerate(lines_):
        of_series = [
            one for one in drawn.iter() if f"serie-{number}" in one.get("class", "").split()
        ]
        (legend,) = [one for one in of_series if "legend" in one.get("class", "").split()]
        assert told(legend) == name
        assert len(of_series) > 1  # the style sheet's dashes are of both
        (line,) = legend.iter(f"{SVG}line")
        assert line.get("class") == f"line color-{number}"
    style = page(result(busy(0)), [])
    dashes = [
        re.search(rf"\.serie-{n} \.line {{ (stroke-dasharray: [^}}]*)", style)
        for n in range(1, SERIES_MAX)
    ]
    assert len({one[1] for one in dashes if one}) == SERIES_MAX - 1


def test_what_the_plot_by_percentile_leaves_out_is_told_with_the_reason() -> None:
    steps = ("connect", "tls", "greeting", "EHLO", "MAIL", "RCPT", "RSET", "QUIT", "dot", "session")
    slower = {step: {ms: 9} for ms, step in enumerate(steps, 1)}
    figure = figures(root(result(interval(**slower))))["Latency by percentile"]
    assert len(lines(figure)) == SERIES_MAX
    assert told(figure).strip().endswith("but in the table below: EHLO, MAIL.")
    few = figures(root(result(busy(0))))["Latency by percentile"]
    assert "Not drawn" not in told(few)


def test_a_wide_table_can_be_scrolled_with_the_keyboard() -> None:
    shown = root(result(busy(0)))
    (wide,) = [one for one in shown.iter("div") if one.get("class") == "wide"]
    assert (wide.get("tabindex"), wide.get("aria-label")) == ("0", "Latencies")


def test_a_logarithmic_axis_has_its_decades() -> None:
    points = [(0.0, 0.3), (1.0, 4_000.0)]
    svg = line_chart(
        "x",
        "X",
        {"a": points},
        x_labels=time_labels(1),
        y_format=lambda y: f"<{y:g}>",
        logarithmic=True,
    )
    words = [told(one) for one in Xml.fromstring(svg).iter(f"{SVG}text")]
    assert words[:6] == ["<0.1>", "<1>", "<10>", "<100>", "<1000>", "<10000>"]


def test_a_chart_of_one_point_or_none_or_too_many_lines_is_one_too() -> None:
    assert line_chart("x", "X", {"a": []}, x_labels=time_labels(1), y_format=str) == ""
    many = {str(number): [(0.5, 0.0)] for number in range(SERIES_MAX + 3)}
    svg = line_chart("x", "X", many, x_labels=time_labels(1), y_format=str)
    assert len(list(Xml.fromstring(svg).iter(f"{SVG}circle"))) == SERIES_MAX


def test_the_figures_stand_there_as_text_too() -> None:
    text = told(root(result(*map(busy, range(10)), rate="200", idle=Idle(9, 9, 2))))
    for words in ("mx.example:25: 200 sessions/s for 10.0 s", "p99.99", "service p99", "60.0 ms"):
        assert words in text
    assert re.search(r"idle lost\s*2", text)


def test_what_makes_the_run_fail_stands_at_the_top() -> None:
    run = result(busy(0), rate="200", lateness_max_ns=NS_PER_MS // 2, unbegun=3)
    header = next(root(run, (), verdicts([parse("p99(dot) > 5ms")], run)).iter("header"))
    assert "fails: p99(dot) > 5ms (60.03 ms, judged by 100 samples, and takes 300)" in told(header)
    assert "the schedule was not kept: of 100 sessions one began 1.0 ms late or later, 3 never" in (
        told(header)
    )


def test_conditions_stand_there_that_passed_too_and_by_how_many_samples() -> None:
    run = result(*map(busy, range(3)), rate="200")
    conditions = [parse("p99(dot) > 1s"), parse("p99.9(dot) > 1s"), parse("failed > 0")]
    shown = root(run, (), verdicts(conditions, run))
    (table,) = [one for one in shown.iter("table") if one.get("class") == "conditions"]
    assert [[told(cell) for cell in row] for row in table.iter("tr")][1:] == [
        ["p99(dot) > 1s", "60.03 ms, judged by 300 samples", "passes"],
        ["p99.9(dot) > 1s", "60.03 ms, judged by 300 samples, and takes 3,000", "cannot be judged"],
        ["failed > 0", "0", "passes"],
    ]


def test_the_page_says_when_the_run_began_and_what_made_it() -> None:
    header = told(next(root(result(busy(0), began_ns=86_400 * NS_PER_S)).iter("header")))
    assert "1970-01-02 00:00:00 UTC, replay of mailsrv " in header


def test_rates_that_are_over_more_than_the_schedule_say_so() -> None:
    run = result(busy(0), rate="8000", window_ns=2 * NS_PER_S, counted_ns=20 * NS_PER_S)
    header = told(next(root(run).iter("header")))
    assert "8000 sessions/s for 2.0 s of schedule, 20.0 s until the last good session" in header
    assert re.search(r"sessions/s\s*5\b", header)
    assert "from the beginning until the last good session ended." in header
    closed = told(next(root(result(busy(0))).iter("header")))
    assert "those that ended well while sessions were begun." in closed


def test_nothing_measured_is_a_page_too() -> None:
    for rate in ("", "5"):
        shown = root(result(rate=rate, window_ns=0))
        assert "Nothing was measured." in told(shown)


def test_what_servers_and_names_say_neither_runs_nor_breaks_the_page() -> None:
    run = result(failing(0), target=HOSTILE)
    text = page(run, [f"{HOSTILE}: left out"])
    shown = root(run, [f"{HOSTILE}: left out"])
    assert list(shown.iter("script")) == []
    assert not {"\x1b", "\x00", "\u202e"} & set(text)
    assert "{{ 7 * 7 }}" in told(shown)
    assert told(shown).count("<script>alert(1)</script> & \"double\" 'single' ?") >= 3


def test_the_page_fetches_and_runs_nothing_and_is_small() -> None:
    text = page(result(*map(busy, range(600)), rate="200", window_ns=300 * NS_PER_S), [])
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'none'" in (
        text.replace("&#39;", "'")
    )
    assert re.findall(r"<script|<link|\ssrc=|url\((?!#)|@import|\son\w+=", text) == []
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert len(text) < 400_000


def test_the_same_run_gives_the_same_page() -> None:
    parts = [busy(number) for number in range(5)]
    assert page(result(*parts), []) == page(result(*parts), [])


def test_colours_and_sizes_of_plots_stand_in_the_style_sheet() -> None:
    text = page(result(busy(0)), [])
    for number in range(SERIES_MAX):
        assert f"--line-{number}:" in text
    sizes = [int(one) for one in re.findall(r"\.chart \{[^}]*font-size: (\d+)px", text)]
    assert max(sizes) == FONT_PX
