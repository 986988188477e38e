"""Marks of evidence behind the times of a transcript."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from running import GOODBYE, HELLO, write

from mailsrv.runtime.clock import FakeClock
from replay.transcript import transcript
from replay.transcript.notation import TranscriptError
from replay.transcript.script import Evidence, Scenario
from replay.verify import suite
from replay.verify.shrink import shrink

TEXT = r"""+++
notation = 2
story  = "A recorded sender."
+++
@0          open from ::1
@0          S? 220
reply+1ms?  C: EHLO a\r\n
@1ms        S? 250
reply+1ms!  C: NOOP\r\n
+2ms!       C: NOOP\r\n
+3ms^       C: NOOP\r\n
+0          close
"""


def marks(scenario: Scenario) -> list[Evidence | None]:
    return [one.evidence for one in scenario.connections[0].departures()]


def test_a_mark_is_read_with_its_kind_of_time_and_written_again() -> None:
    scenario = transcript.parse(TEXT, "x")
    assert marks(scenario) == [
        None,
        Evidence.PRESUMED,
        Evidence.CONFIRMED,
        Evidence.OWN_CLOCK,
        Evidence.PROVEN_EARLY,
        None,
    ]
    assert transcript.write(scenario) == TEXT


def test_marks_change_nothing_of_what_is_played() -> None:
    bare = TEXT.replace("?  C", "   C").replace("!", " ").replace("^", " ")
    assert transcript.parse(bare, "x") == transcript.parse(TEXT, "x")


@pytest.mark.parametrize("time", ["+1ms?", "@1ms!", "reply+1ms^", "@0?"])
def test_a_mark_where_it_means_nothing_is_refused_with_those_that_do(time: str) -> None:
    with pytest.raises(TranscriptError, match=r"x:7:\d+: .* takes no .*; marks are \? and !"):
        transcript.parse(TEXT.replace("reply+1ms?", time), "x")


def test_an_expectation_has_no_mark() -> None:
    with pytest.raises(TranscriptError, match="no duration"):
        transcript.parse(TEXT.replace("@1ms ", "@1ms?"), "x")


def test_an_update_keeps_marks(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", HELLO.replace("reply+1ms C", "reply+1ms! C") + GOODBYE)
    text = path.read_text(encoding="utf-8").replace("@1ms ", "*    ")
    path.write_text(text, encoding="utf-8")
    assert suite.run_file(path, FakeClock(), updating=("create",)).verdict == suite.UPDATED
    assert "reply+1ms! C: HELO me" in path.read_text(encoding="utf-8")


def test_shrinking_keeps_the_marks_of_what_still_hangs_on_a_reply() -> None:
    body = HELLO.replace("reply+1ms C", "reply+1ms? C") + GOODBYE.replace("221", "222")
    text = f'+++\nstory = "x"\n+++\n{body.strip()}\n'
    small = shrink(transcript.parse(text, "x"), Path("x")).scenario
    kept = [one for one in small.connections[0].departures() if one.evidence]
    assert all(dataclasses.replace(one, evidence=None) == one for one in kept)
    assert transcript.parse(transcript.write(small), "x") == small
