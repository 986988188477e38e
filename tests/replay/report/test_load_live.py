"""A load run as it goes: drawn over and over on a terminal, and gone at the end."""

from __future__ import annotations

import io

from load_results import interval
from rich.console import Console

from mailsrv.units import NS_PER_S
from replay.load.interval import Interval
from replay.load.tally import Tally
from replay.report.load_live import LoadView


def busy(number: int, failed: int = 0) -> Interval:
    part = interval(number, late_ms=2, EHLO=3, session=40)
    part.good, part.messages, part.open, part.failed = 500, 750, 20, failed
    part.errors.update({"reset": failed} if failed else {})
    return part


def drawn(*parts: Interval, held: int = 0, width: int = 100) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    tally = Tally()
    with LoadView(console, NS_PER_S // 2) as view:
        if held:
            view.opening(held)
        for part in parts:
            view.row(tally.add(part), tally)
    return file.getvalue()


def test_an_interval_shows_rates_latencies_and_lateness() -> None:
    text = drawn(busy(3))
    for words in ("2.0 s", "1,000 sessions/s", "1,500 messages/s", "20 open", "late p99 2.0 ms"):
        assert words in text
    assert "EHLO" in text and "40.0 ms" in text
    assert "failed" not in text


def test_failures_are_shown_with_their_kinds_from_the_beginning_on() -> None:
    assert "5 failed: 5 reset" in drawn(busy(0, failed=2), busy(1, failed=3))


def test_a_narrow_terminal_breaks_between_figures_only() -> None:
    text = drawn(busy(3), width=60)
    assert "2.0 s  1,000 sessions/s  1,500 messages/s  20 open" in text.splitlines()[0]
    assert text.splitlines()[1].startswith("late p99 2.0 ms")


def test_steps_stand_in_the_order_of_a_session_whichever_came_first() -> None:
    text = drawn(interval(0, session=9, QUIT=3, RSET=1, connect=1))
    places = [text.index(f"\n{step} ") for step in ("connect", "RSET", "QUIT", "session")]
    assert places == sorted(places)


def test_idle_connections_are_counted_as_they_open() -> None:
    assert "opening idle connections: 8,000" in drawn(held=8000)


def test_nothing_is_left_at_the_end() -> None:
    text = drawn(busy(0))
    last_line = "\x1b[2K"
    assert text.rindex(last_line) > text.rindex("sessions/s")
