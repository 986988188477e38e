"""Finding transcripts and running them: what can be used is used, the rest is one sentence."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from running import CAPTURES, write

from mailsrv.runtime.clock import FakeClock
from replay.report import console
from replay.transcript import transcript
from replay.verify import suite
from replay.verify.suite import AS_EXPECTED, BROKEN, DIFFERS, UNREADABLE, InputError, ScenarioResult
from replay.verify.update import KINDS


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        suite.run_file(path, FakeClock())
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# -- finding --------------------------------------------------------------------------------------


def test_a_folder_stands_for_the_transcripts_in_and_under_it_in_order(tmp_path: Path) -> None:
    wanted = [write(tmp_path / name) for name in ("b/c.smtp", "b/d.smtp", "z.smtp")]
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.smtp").mkdir()
    assert suite.find([tmp_path]) == wanted


def test_a_transcript_named_twice_runs_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp")
    assert suite.find([path, tmp_path, path]) == [path]


def test_what_is_no_transcript_is_refused_with_a_hint(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcap"
    capture.write_bytes(b"\xd4\xc3\xb2\xa1")
    for path, sentence in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path, "no .smtp transcript in this folder"),
        (capture, f"replay import {capture} -o {tmp_path / 'x'}"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{re.escape(sentence)}"):
            suite.find([path])


# -- running --------------------------------------------------------------------------------------


def test_a_golden_transcript_runs_as_expected_and_says_how_long(tmp_path: Path) -> None:
    result = suite.run_file(write(tmp_path / "x.smtp"), FakeClock())
    assert (result.verdict, result.good, result.differences) == (AS_EXPECTED, True, ())
    assert (result.story, result.sessions, result.virtual_ns) == ("A test.", 1, 2_000_000)
    assert re.fullmatch("[0-9a-f]{64}", result.trace_hash)


def test_a_setting_in_the_header_that_changes_a_timeout_makes_it_fail(tmp_path: Path) -> None:
    text = (CAPTURES / "slow" / "idle-until-421.smtp").read_text(encoding="utf-8")
    path = tmp_path / "x.smtp"
    path.write_text(text.replace("idle_timeout_s = 60", "idle_timeout_s = 45"), encoding="utf-8")
    result = suite.run_file(path, FakeClock())
    assert result.verdict == DIFFERS
    first, end = result.differences
    assert first.what == "reply 3: text differs, 15s too early"
    assert (first.expected_at_ns, first.observed_at_ns) == (67_001_000_000, 52_001_000_000)
    assert text.splitlines()[first.line - 1].startswith("@67.001s    S: 421")
    assert end.what == "the server's end: 15s too early"


def test_one_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.smtp", "nonsense")
    write(tmp_path / "b.smtp")
    results = list(suite.run_all(suite.find([tmp_path]), FakeClock()))
    assert [one.verdict for one in results] == [UNREADABLE, AS_EXPECTED]
    assert results[0].complaint.startswith(f"{tmp_path / 'a.smtp'}:4:1: ")


# -- what cannot be run ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", ":1:1: "),
        ("EHLO me\r\n", ":1:8: "),
        ("+++\n", ":"),
        ("+++\nstory = 'x'\n", ":"),
        ("+++\nstory = \n+++\n@0 open from ::1\n", ":2:"),
        ("+++\nstory = 'x'\n[server]\nidel_timeout_s = 3\n+++\n@0 open from ::1\n+0 close\n", ": "),
        ("+++\nstory = 'x'\nserver.idle_timeout_s = -3\n+++\n@0 open from ::1\n+0 close\n", ": "),
        ("+++\nstory = 'x'\n[world.dns]\n'x' = 3\n+++\n@0 open from ::1\n+0 close\n", ": "),
        ("+++\nstory = 'x'\n+++\n", ":"),
        ("+++\nstory = 'x'\n+++\n@0 open from nowhere\n", ":4:"),
        ("+++\nstory = 'x'\n+++\n@0 open from ::1\n+0.1ns close\n", ":5:"),
        ("+++\nstory = 'x'\n+++\n@0 open from ::1\n+0 C: \\q\n+0 close\n", ":5:"),
        ("+++\nstory = 'x'\n+++\n@0 open from ::1\nreply+0 close\n", ":5:"),
        ("+++\nstory = 'x'\n+++\n@0 open from ::1\n", ":4:"),
        ("+++\nstory = 'x'\n+++\n@0 open from ::1\n* S? 25\n+0 close\n", ":5:"),
    ],
)
def test_a_broken_transcript_is_a_sentence_that_names_file_and_place(
    tmp_path: Path, text: str, where: str
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text(text, encoding="utf-8")
    assert refusal(path).startswith(f"{path}{where}")


def test_octets_that_are_no_text_are_refused_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "x.smtp"
    path.write_bytes(b'+++\nstory = "x"\n+++\n@0 open from 192.0.2.1 \xff\n')
    assert refusal(path).startswith(f"{path}:4:24: ")


def test_a_folder_or_a_file_that_has_gone_is_refused_by_name(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: Is a directory"
    assert refusal(tmp_path / "x.smtp") == f"{tmp_path / 'x.smtp'}: No such file or directory"


REAL = [
    (CAPTURES / family / f"{name}.smtp").read_text(encoding="utf-8")
    for family, name in (
        ("mta", "exim"),
        ("slow", "idle-until-421"),
        ("policy", "greylist-too-soon-then-patient"),
    )
]
LINES = sorted({line for text in REAL for line in text.splitlines()})
SCRAPS = st.text(max_size=4) | st.sampled_from(
    (
        "*",
        "@",
        "+",
        "reply+",
        "S?",
        "S:",
        "C*999999: ",
        "0",
        "1ms",
        "\\x",
        "\\",
        "\r",
        "|",
        "99999h",
    )
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A real transcript with a few lines and characters changed."""
    lines = draw(st.sampled_from(REAL)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        line = lines[place]
        kind = draw(st.sampled_from(("drop", "double", "other", "cut", "scrap")))
        if kind == "scrap":
            at = draw(st.integers(0, len(line)))
            until = draw(st.integers(at, min(len(line), at + 5)))
            line = line[:at] + draw(SCRAPS) + line[until:]
        elif kind == "cut":
            line = line[: draw(st.integers(0, len(line)))]
        elif kind == "other":
            line = draw(st.sampled_from(LINES))
        lines[place : place + 1] = {"drop": [], "double": [line, line]}.get(kind, [line])
        if not lines:
            break
    return "\n".join(lines) + "\n"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutated(), st.sampled_from([(), KINDS]))
def test_a_mutated_transcript_is_refused_in_a_sentence_or_runs(
    tmp_path: Path, text: str, updating: tuple[str, ...]
) -> None:
    path = tmp_path / "x.smtp"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        result = suite.run_file(path, FakeClock(), updating=updating)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert result.verdict in (AS_EXPECTED, DIFFERS, suite.UPDATED)


def test_a_run_that_itself_failed_is_not_good_and_says_why(tmp_path: Path) -> None:
    complaint = "left after the server's shutdown: 1 timers"
    result = ScenarioResult(tmp_path / "x.smtp", "A test.", 1, BROKEN, complaint=complaint)
    assert not result.good
    shown = io.StringIO()
    console.show([result], Console(file=shown, width=100))
    assert f"{tmp_path / 'x.smtp'}: broken\n  {complaint}\n" in shown.getvalue()


def test_what_was_played_and_observed_is_kept_only_when_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp")
    (plain,) = suite.run_all([path], FakeClock())
    (kept,) = suite.run_all([path], FakeClock(), keep=True)
    assert (plain.scenario, plain.observed) == (None, ())
    assert kept.scenario == transcript.load(path)
    (observed,) = kept.observed
    assert [reply.code for reply in observed.replies] == [220, 250, 221]
    assert "observed" not in repr(kept)
