"""When departures are due, and how long the server is expected to take."""

from __future__ import annotations

import pytest

from replay.play.schedule import Schedule, server_delay_max_ns, server_delays_ns
from replay.transcript import transcript
from replay.transcript.script import ScriptedConnection

MS = 1_000_000

SCRIPT = r"""+++
story = "s"
+++
@10ms      open from 192.0.2.1
@12ms      S: 220 mx\r\n
reply+1ms  C: NOOP\r\n
+5ms       C: NOOP\r\n
*          S? 250
@40ms      S? 250
reply+2ms  C: QUIT\r\n
@50ms      S? 221
@60ms      S eof
+1s        until-closed
"""


def connection(text: str = SCRIPT) -> ScriptedConnection:
    (one,) = transcript.parse(text, "x.smtp").connections
    return one


def test_each_departure_is_due_at_what_it_hangs_on() -> None:
    table = Schedule(connection())
    assert (table.due_ns(), len(table)) == (10 * MS, 5)
    table.depart()
    assert table.due_ns() is None
    table.came(1, 100 * MS)
    assert table.due_ns() == 101 * MS
    table.depart()
    assert table.due_ns() == 106 * MS
    table.depart()
    table.came(1, 107 * MS)
    assert table.due_ns() is None
    assert table.waits_for == "reply 3, to go on at line 10"
    table.came(1, 120 * MS)
    assert table.due_ns() == 122 * MS
    table.depart()
    assert table.due_ns() == 1122 * MS
    table.depart()
    assert table.over
    assert table.due_ns() is None
    assert table.waits_for == "the server to close"


def test_a_departure_never_leaves_before_the_one_above_it() -> None:
    table = Schedule(connection(SCRIPT.replace("+5ms", "@1ms")))
    table.depart()
    table.came(1, 100 * MS)
    table.depart()
    assert table.due_ns() == 101 * MS


def test_replies_that_came_before_they_were_expected_count() -> None:
    table = Schedule(connection())
    table.depart()
    table.came(3, 20 * MS)
    for due_ms in (21, 26, 26):
        assert table.due_ns() == due_ms * MS
        table.depart()


def test_speed_divides_every_wait() -> None:
    table = Schedule(connection(), speed=10)
    assert table.due_ns() == MS
    table.depart()
    table.came(1, 100 * MS)
    assert table.due_ns() == 100_100_000


def test_what_is_not_due_cannot_depart() -> None:
    table = Schedule(connection())
    table.depart()
    with pytest.raises(IndexError):
        table.depart()


def test_the_server_is_timed_from_the_last_departure_whose_instant_is_expected() -> None:
    assert server_delays_ns(connection()) == [
        (0, 2 * MS),  # the greeting, after the open
        (2, None),
        (2, 22 * MS),  # after the second NOOP, 18 ms in
        (3, 8 * MS),  # QUIT goes 2 ms after the reply above
        (3, 18 * MS),
    ]


def test_a_departure_that_hangs_on_a_reply_at_any_time_is_not_counted_from() -> None:
    text = SCRIPT.replace("@40ms      S?", "*          S?")
    assert server_delays_ns(connection(text))[-1] == (2, 42 * MS)


def test_the_longest_that_the_server_takes_is_known() -> None:
    assert server_delay_max_ns(transcript.parse(SCRIPT, "x.smtp")) == 22 * MS
    without = SCRIPT.replace("@40ms", "*").replace("@12ms", "*").replace("@50ms", "*")
    assert server_delay_max_ns(transcript.parse(without.replace("@60ms", "*"), "x.smtp")) == 0
