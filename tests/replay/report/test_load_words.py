"""A load run in words: what is told once, and what is told of its time."""

from __future__ import annotations

from load_results import interval, result

from mailsrv.units import NS_PER_S
from replay.load.tally import Tally
from replay.report.load_words import complaints, facts, time_taken


def differing(**counts: int) -> Tally:
    """``b=2`` is a complaint that was seen twice, about b.smtp."""
    tally = Tally()
    for name, count in counts.items():
        tally.complaints[f"{name}.smtp: reply 3: 502 instead of 220"] = count
        tally.examples[f"{name}.smtp: reply 3: 502 instead of 220"] = f"502 {name}"
    return tally


def test_what_befell_many_transcripts_alike_is_told_once() -> None:
    tally = differing(a=2, b=5, c=1)
    tally.complaints["b.smtp: reset before reply 2"] = 7
    assert complaints(tally) == [
        (8, "reply 3: 502 instead of 220 (3 transcripts, such as b.smtp)", "502 b"),
        (7, "b.smtp: reset before reply 2", ""),
    ]


def test_what_befell_few_is_told_of_each() -> None:
    assert complaints(differing(a=2, b=5)) == [
        (5, "b.smtp: reply 3: 502 instead of 220", "502 b"),
        (2, "a.smtp: reply 3: 502 instead of 220", "502 a"),
    ]


def test_complaints_too_many_to_be_kept_are_told_as_such() -> None:
    tally = Tally()
    tally.complaints["others"] = 3
    assert complaints(tally) == [(3, "others", "")]


def test_the_time_until_the_last_ended_is_told_where_it_is_another() -> None:
    times = {"window_ns": 2 * NS_PER_S, "counted_ns": 20 * NS_PER_S}
    run = result(interval(), rate="8000", **times, good_counted=10_000)
    told = "2.0 s of schedule, 20.0 s until the last good session ended"
    assert time_taken(run) == told
    shown = {name: words for name, words, _ in facts(run)}
    assert shown["target"] == f"mx.example:25, 8000 sessions/s, {told}"
    assert shown["sessions"] == "0 good, 500/s"
    assert time_taken(result(interval(), rate="1")) == "10.0 s"
    assert time_taken(result(interval(), **times)) == "2.0 s", "a closed loop has its window"
