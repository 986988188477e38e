"""The report of a run: one file, well-formed, complete, and deaf to what captures say."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as Xml
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from running import GOODBYE, HELLO, replay, write

from mailsrv.runtime.clock import SystemClock
from replay.cli.common import report_is_missing
from replay.report.html import connection, transcript
from replay.report.html import page as html_report
from replay.verify import suite

WRONG = HELLO.replace("@1ms      S: 250 mx", "@1ms      S[7]: 550 mx") + GOODBYE
SEVERAL = """
@0        a| open from 192.0.2.10
@0        a| S: 220 mx.example.test ESMTP mailsrv\\r\\n
reply+0   a| close
@1s       b| open from 192.0.2.11
@1s       b| S: 220 other.example.test ESMTP mailsrv\\r\\n
reply+0   b| close
"""
HOSTILE = "<script>alert(1)</script> & \"double\" 'single' \u202e\u2066 \x1b[31m \x00 ]]> --> %s"
COLOURS = re.compile(r"--([a-z-]+):\s*(#[0-9a-f]{6})")


def played(*paths: Path) -> list[suite.ScenarioResult]:
    return list(suite.run_all(paths, SystemClock(), keep=True))


def page(results: Sequence[suite.ScenarioResult]) -> str:
    return html_report.page(results)


def parsed(text: str) -> Xml.Element:
    """A page, which is well-formed XML as well."""
    return Xml.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def told(element: Xml.Element) -> str:
    return "".join(element.itertext())


def of_class(element: Xml.Element, name: str) -> list[Xml.Element]:
    return [one for one in element.iter() if name in one.get("class", "").split()]


def ladders(element: Xml.Element) -> list[Xml.Element]:
    return of_class(element, "ladder")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "family" / "good.smtp")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    return write(tmp_path / "family" / "wrong.smtp", WRONG)


# -- structure ------------------------------------------------------------------------------------


def test_every_transcript_is_in_the_table_and_linked_to_its_part(good: Path, wrong: Path) -> None:
    root = parsed(page(played(good, wrong)))
    ids = {one.get("id") for one in root.iter()}
    rows = [row for table in of_class(root, "captures") for row in table.iter("tr")]
    links = [link for row in rows for link in row.iter("a")]
    assert [link.text for link in links] == ["family/wrong", "family/good"]
    assert all((link.get("href") or "")[1:] in ids for link in links)
    assert len(ladders(root)) == 2


def test_what_differs_comes_first_and_the_rest_is_folded(good: Path, wrong: Path) -> None:
    root = parsed(page(played(good, wrong)))
    headings = [told(one) for one in root.iter("h3")]
    assert [heading.rsplit("/", 1)[-1] for heading in headings] == [
        "wrong.smtp ≠ differs",
        "good.smtp ✓ as expected",
    ]
    (folded,) = of_class(root, "capture")
    assert (folded.tag, folded.get("open")) == ("details", None)
    assert len(ladders(folded)) == 1


def test_the_summary_counts_verdicts_sessions_and_times(good: Path, wrong: Path) -> None:
    results = [replace(one, real_ns=2 * 10**9) for one in played(good, wrong)]
    (tiles,) = of_class(parsed(page(results)), "tiles")
    shown = {told(one[0]): told(one[1]) for one in tiles}
    assert shown == {
        "differs": "1",
        "as expected": "1",
        "sessions": "2",
        "virtual time": "4.0 ms",
        "real time": "4.0 s",
    }


def test_the_first_difference_is_marked_in_both_columns(wrong: Path) -> None:
    root = parsed(page(played(wrong)))
    (first,) = of_class(root, "first")
    assert [one.text for one in of_class(first, "mark")] == ["550", "250"]
    assert first.get("id") == "c1-1-first"


def test_differences_are_told_with_line_and_packet(wrong: Path) -> None:
    (differences,) = of_class(parsed(page(played(wrong))), "differences")
    text = told(differences)
    assert "reply 2: code 250 instead of 550" in text
    assert "line 7, packet 7" in text
    assert "expected @1ms" in text
    assert [one.text for one in differences.iter("mark")] == ["550", "250"]


def test_each_connection_has_a_ladder_and_those_that_differ_are_linked(tmp_path: Path) -> None:
    root = parsed(page(played(write(tmp_path / "several.smtp", SEVERAL))))
    assert [told(one) for one in root.iter("h4")] == ["Connection a", "Connection b: 1 difference"]
    assert len(ladders(root)) == 2
    assert [one.get("href") for one in of_class(root, "captures")[0].iter("a")] == ["#c1", "#c1-2"]


def test_a_long_ladder_shows_its_first_difference_before_all_of_it(tmp_path: Path) -> None:
    noops = "".join(
        f"reply+1ms C: NOOP\\r\\n\n@{at + 2}ms S: 250 2.0.0 Ok\\r\\n\n" for at in range(30)
    )
    body = HELLO + noops.replace("@20ms S: 250", "@20ms S: 350") + "reply+0 abandon\n"
    root = parsed(page(played(write(tmp_path / "long.smtp", body))))
    near, all_of_it = ladders(root)
    rungs = of_class(near, "row")
    assert len(rungs) < connection.LONG_LADDER_RUNGS
    assert len(of_class(near, "first")) == 1
    assert len(of_class(all_of_it, "row")) == 65


def test_ids_are_unique(good: Path, wrong: Path) -> None:
    ids = [one.get("id") for one in parsed(page(played(good, wrong))).iter() if one.get("id")]
    assert len(ids) == len(set(ids))


def test_steps_are_told_as_text_with_all_octets(good: Path) -> None:
    (steps,) = of_class(parsed(page(played(good))), "steps")
    assert [told(one) for one in steps.iter("th")][:5] == [
        *("time", "who", "expected", "observed", "where")
    ]
    assert r"220 mx.example.test ESMTP mailsrv\r\n" in told(steps)


def test_what_could_not_be_run_or_read_is_told(tmp_path: Path, good: Path) -> None:
    bad = write(tmp_path / "bad.smtp", "no transcript")
    (result,) = played(good)
    broken = replace(result, verdict=suite.BROKEN, complaint="a timer was left", observed=())
    text = told(parsed(page([*played(bad), broken])))
    assert f"{bad}:4:" in text
    assert "a timer was left" in text


def test_changes_that_an_update_made_are_told(wrong: Path) -> None:
    results = list(suite.run_all([wrong], SystemClock(), updating=("fix",), keep=True))
    root = parsed(page(results))
    (changes,) = of_class(root, "changes")
    assert "S[7]: 550" in told(next(changes.iter("del")))
    assert any("S[7]: 250" in told(one) for one in changes.iter("ins"))


def test_nothing_run_is_a_page_too() -> None:
    assert "0 captures" in told(parsed(page([])))


# -- it stands alone ------------------------------------------------------------------------------


class References(HTMLParser):
    """Collects what a page could fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
            self._in_script = False


def references(text: str) -> References:
    found = References()
    found.feed(text)
    return found


def test_nothing_is_fetched_and_only_its_own_script_runs(good: Path, wrong: Path) -> None:
    text = page(played(good, wrong))
    found = references(text)
    assert found.fetched
    assert all(one.startswith("#") for one in found.fetched)
    assert len(found.scripts) == 1
    assert found.handlers == []
    assert re.findall(r"url\((?!#)|@import|https?://", text) == []
    assert "default-src 'none'" in unescape(text)


def test_without_its_script_nothing_is_hidden_but_the_filter(good: Path, wrong: Path) -> None:
    hidden = [one for one in parsed(page(played(good, wrong))).iter() if "hidden" in one.attrib]
    assert [one.get("class") for one in hidden] == ["filters"]


def test_the_same_results_give_the_same_page(good: Path, wrong: Path) -> None:
    results = played(good, wrong)
    assert page(results) == page(results)


# -- what captures say is text --------------------------------------------------------------------


def hostile(tmp_path: Path) -> Path:
    body = r"""
@0        open from 192.0.2.10
@0        S: 220 </pre><script>alert(2)</script>\r\n
# <img src=x onerror=alert(3)>
reply+0   C: HELO <svg onload=alert(4)>\x00\x1b\xe2\x80\xae"'&amp;]]>\r\n
reply+0   C*40000: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
reply+0   abandon
"""
    return write(tmp_path / "<b>&'.smtp", body)


def test_what_captures_say_neither_runs_nor_breaks_the_page(tmp_path: Path) -> None:
    (result,) = played(hostile(tmp_path))
    assert result.verdict == suite.DIFFERS and result.scenario is not None
    scenario = replace(result.scenario, source=HOSTILE)
    result = replace(result, story=HOSTILE, scenario=scenario, log=(HOSTILE,), complaint=HOSTILE)
    text = page([result])
    root = parsed(text)
    found = references(text)
    assert (len(found.scripts), found.handlers) == (1, [])
    assert list(root.iter("img")) == []
    assert "\x1b" not in text and "\x00" not in text
    assert "\u202e" not in text and "\u2066" not in text
    assert "<script>alert(1)</script> & \"double\" 'single' ??" in told(root)
    assert r"HELO <svg onload=alert(4)>\x00\x1b\xe2\x80\xae" in told(root)


def test_a_megabyte_of_content_is_folded_and_cut_with_a_word(tmp_path: Path) -> None:
    text = page(played(hostile(tmp_path)))
    assert len(text) < 100_000
    shown = connection.STEP_CHARACTERS_MAX
    assert f"… and {40_000 * 30 - shown:,} octets more" in text
    assert "1,200,000 octets, 0 lines" in [one.text for one in parsed(text).iter("summary")]


def test_a_name_that_is_no_text_can_be_told(good: Path) -> None:
    (result,) = played(good)
    odd = replace(result, path=Path("family/\udcff\n\x07.smtp"))
    assert "family/??" in page([odd]).encode("utf-8").decode()


# -- bounds ---------------------------------------------------------------------------------------


def test_ladders_are_bounded_and_what_is_without_is_said(good: Path, wrong: Path) -> None:
    as_expected, differs = played(good, wrong)
    many = [replace(as_expected) for _ in range(8)] + [differs]
    root = parsed(html_report.page(many, bounds=html_report.Bounds(ladders=3)))
    assert len(ladders(root)) == 3
    assert len(of_class(root, "first")) == 1
    assert "6 transcripts are told without their ladders" in told(root)


def test_of_many_connections_those_that_differ_are_drawn(tmp_path: Path) -> None:
    many = "".join(
        SEVERAL.replace("a|", f"a{n}|").replace("b|", f"b{n}|")
        for n in range(transcript.CONNECTIONS_MAX // 2 + 5)
    )
    root = parsed(page(played(write(tmp_path / "many.smtp", many))))
    assert len(ladders(root)) == transcript.CONNECTIONS_MAX
    assert len(of_class(root, "first")) == transcript.CONNECTIONS_MAX // 2 + 5
    assert "and 10 more connections" in told(root)


def test_what_cannot_be_drawn_need_not_be_kept(good: Path, wrong: Path) -> None:
    as_expected, differs = played(good, wrong)
    many = [as_expected] * 8 + [differs]
    bounds = html_report.Bounds(ladders=5)
    kept = list(html_report.without_what_is_not_drawn(many, bounds))
    assert [one.verdict for one in kept] == [one.verdict for one in many]
    bare = [number for number, one in enumerate(kept) if one.scenario is None]
    assert bare == [5, 6, 7]


def test_the_size_of_what_is_drawn_is_bounded(good: Path, wrong: Path) -> None:
    many = [replace(one) for one in played(good, wrong) * 5]
    bounds = html_report.Bounds(drawn_characters=20_000)
    text = html_report.page(many, bounds=bounds)
    assert 1 < len(ladders(parsed(text))) < 10


def test_of_many_differences_the_first_stay_above_the_ladder(wrong: Path) -> None:
    (result,) = played(wrong)
    (one,) = result.differences
    shown = transcript.DIFFERENCES_SHOWN_MAX
    root = parsed(page([replace(result, differences=(one,) * (shown + 9))]))
    first, rest = (len(list(part.iter("li"))) for part in of_class(root, "differences"))
    assert (first, first + rest) == (transcript.DIFFERENCES_OPEN_MAX, shown)
    assert "… and 9 more." in told(root)


def test_rows_are_bounded_and_the_rest_is_counted(good: Path) -> None:
    (result,) = played(good)
    many = [replace(result) for _ in range(10)]
    root = parsed(html_report.page(many, bounds=html_report.Bounds(rows=3)))
    rows = [row for table in of_class(root, "captures") for row in table.iter("a")]
    assert len(rows) == 3
    assert "… and 7 more" in told(root)


# -- to be looked at ------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_is_legible_in_light_and_in_dark() -> None:
    style = files("replay.report.html").joinpath("report.css").read_text("utf-8")
    light, dark = (dict(COLOURS.findall(part)) for part in style.split("@media", 2)[:2])
    assert len(light) == len(dark) >= 15
    for colours in (light, dark):
        grounds = [colours[name] for name in ("ground", "panel", "differs", "first")]
        for ink in ("ink", "dim", "sender", "server", "good", "bad", "mark"):
            for ground in grounds if ink != "good" else grounds[:2]:
                assert contrast(colours[ink], ground) >= 4.5, (ink, ground)
        assert contrast(colours["silence-ink"], colours["silence"]) >= 4.5


def test_headings_go_down_one_level_at_a_time(good: Path, wrong: Path) -> None:
    root = parsed(page(played(good, wrong)))
    levels = [int(one.tag[1]) for one in root.iter() if re.fullmatch("h[1-6]", str(one.tag))]
    assert levels[0] == 1
    assert all(lower - upper <= 1 for upper, lower in pairwise(levels))


def test_tables_have_captions_or_heads_for_columns_and_rows(wrong: Path) -> None:
    tables = list(parsed(page(played(wrong))).iter("table"))
    assert len(tables) == 2
    for table in tables:
        scopes = {one.get("scope") for one in table.iter("th")}
        assert scopes == {"col", "row"}


# -- the command ----------------------------------------------------------------------------------


def test_run_writes_the_page_and_still_tells_the_terminal(wrong: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    ran = replay("run", wrong, "--html", report)
    assert (ran.status, ran.err) == (1, "")
    assert "1 not as expected" in ran.out
    assert len(ladders(parsed(report.read_text("utf-8")))) == 1


def test_the_page_can_go_to_standard_output(good: Path) -> None:
    ran = replay("run", good, "--html", "-")
    assert ran.status == 0
    assert ran.out.startswith("<!DOCTYPE html>\n")
    assert ran.out.endswith("</html>\n")


def test_a_page_that_cannot_be_written_is_status_2(good: Path, tmp_path: Path) -> None:
    ran = replay("run", good, "--html", tmp_path / "nowhere" / "report.html")
    assert ran.status == 2
    assert "report.html: there is no folder " in ran.err


def test_without_the_libraries_of_pages_it_is_said_what_to_install() -> None:
    assert report_is_missing() == ""
    assert report_is_missing(("no_such_one", "json", "nor_such")) == (
        "--html needs no_such_one and nor_such: pip install 'mailsrv[report]'"
    )


def test_a_run_without_a_page_does_not_load_them(good: Path) -> None:
    program = (
        "import sys\nfrom replay.cli.main import main\nmain(sys.argv[1:])\n"
        "print('loaded:', {'jinja2', 'pygal', 'markupsafe', 'locust'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, "run", str(good)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded: set()"


@pytest.mark.parametrize("sweep", ["--cuts", "--timer-edges"])
def test_a_sweep_has_no_page(good: Path, tmp_path: Path, sweep: str) -> None:
    ran = replay("run", good, sweep, "--html", tmp_path / "report.html")
    assert (ran.status, ran.out) == (2, "")
    assert "--html" in ran.err
