"""The log: one event a line, and nothing a peer can forge."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mailsrv.clock import FakeClock
from mailsrv.journal import VALUE_MAX_CHARACTERS, Journal
from mailsrv.reply import OK
from mailsrv.units import NS_PER_S


def written(**values: object) -> str:
    texts: list[str] = []
    journal = Journal(FakeClock(start=1_700_000_000.9876), texts.append)
    journal.note("hello", **values)
    journal.flush()
    (text,) = texts
    return text


def test_a_line_says_when_what_and_the_values() -> None:
    assert written(client="192.0.2.1", connection=7) == (
        "time=2023-11-14T22:13:20.987Z event=hello client=192.0.2.1 connection=7\n"
    )


def test_the_time_follows_the_clock_also_backwards_and_is_cut_to_the_millisecond() -> None:
    texts: list[str] = []
    for start_s in (1.000999, 1.999999, 0.5):
        clock = FakeClock(start=5, realtime_offset_ns=round((start_s - 5) * NS_PER_S))
        journal = Journal(clock, texts.append)
        journal.note("a")
        clock.advance(1)
        journal.note("b")
        journal.flush()
    assert [line.split()[0][-7:] for text in texts for line in text.splitlines()] == [
        *("01.000Z", "02.000Z", "01.999Z", "02.999Z", "00.500Z", "01.500Z")
    ]


def test_an_event_without_values_ends_at_its_name() -> None:
    assert written().endswith(" event=hello\n")


def test_a_value_of_none_is_left_out() -> None:
    assert "client" not in written(client=None)


def test_a_reply_is_one_quoted_value() -> None:
    assert written(reply=OK).endswith(' reply="250 2.0.0 Ok"\n')


def test_a_value_is_cut_to_its_bound() -> None:
    assert len(written(helo="x" * 10_000)) < VALUE_MAX_CHARACTERS + 100


@given(st.text())
def test_no_value_forges_a_line_or_a_field_or_reaches_the_terminal(value: str) -> None:
    line = written(helo=value)
    assert line.count("\n") == 1
    assert all(" " <= character <= "~" for character in line[:-1])
    head, _, shown = line[:-1].partition(" helo=")
    assert head == "time=2023-11-14T22:13:20.987Z event=hello"
    assert (json.loads(shown) if shown.startswith('"') else shown) == value
    assert shown.startswith('"') or not set(shown) & set(' "=')


def test_lines_are_written_together_and_once() -> None:
    texts: list[str] = []
    journal = Journal(FakeClock(), texts.append)
    journal.note("a")
    journal.note("b")
    assert texts == []
    journal.flush()
    journal.flush()
    assert [text.count("\n") for text in texts] == [2]


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    def full(text: str) -> None:
        raise OSError("no space left on device")

    journal = Journal(FakeClock(), full)
    journal.note("a")
    journal.flush()
    journal.note("b")
