"""A load run by several processes: together they are one run, and none of them is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket

import pytest
from loading import GENEROUS_NS, HELLO, MESSAGE, planned, rude_server, saying

from mailsrv.runtime.clock import SystemClock
from replay.load import workers
from replay.load.arrivals import parse
from replay.load.interval import Interval
from replay.load.job import LoadJob, LoadOptions
from replay.load.plan import LoadError
from replay.load.result import LoadResult
from replay.load.tally import Intervals, Row, Tally
from replay.play.target import resolve


class Watcher(workers.LoadWatcher):
    """Notes what it sees, and can do something about it."""

    def __init__(self) -> None:
        self.held: list[int] = []
        self.rows: list[Row] = []

    def opening(self, held: int) -> None:
        self.held.append(held)

    def row(self, row: Row, tally: Tally) -> None:
        self.rows.append(row)


def run(
    steps: str, port: int, processes: int, watcher: workers.LoadWatcher | None = None, **how: int
) -> LoadResult:
    plans, _ = planned(steps)
    rate = parse("50") if how.pop("paced", 0) else None
    amounts = {"concurrency": 4, "duration_ns": GENEROUS_NS, "timeout_ns": GENEROUS_NS, **how}
    options = LoadOptions(rate=rate, **amounts)  # type: ignore[arg-type]
    job = LoadJob(plans, resolve(f"127.0.0.1:{port}"), options)
    try:
        return workers.play(job, SystemClock(), processes, watcher or Watcher())
    finally:
        assert not multiprocessing.active_children()


def test_processes_share_sessions_idle_connections_and_figures(mailsrv_port: int) -> None:
    outcome = run(MESSAGE, mailsrv_port, 2, sessions=7, idle=5)
    tally = outcome.tally
    assert (tally.begun, tally.good, tally.messages) == (7, 7, 7)
    assert tally.replies == {220: 7, 250: 28, 354: 7, 221: 7}
    assert (outcome.idle.asked, outcome.idle.held) == (5, 5)
    assert (outcome.good_counted, outcome.messages_counted, outcome.processes) == (7, 7, 2)
    assert tally.of("dot").count == tally.service["dot"].count == 7
    assert outcome.all_well


def test_processes_follow_one_schedule(mailsrv_port: int) -> None:
    outcome = run(HELLO, mailsrv_port, 2, paced=1, duration_ns=GENEROUS_NS // 50)
    assert outcome.tally.begun == 10
    assert outcome.tally.late.count == 10


def test_no_more_processes_than_sessions_are_made(mailsrv_port: int) -> None:
    assert run(HELLO, mailsrv_port, 60, sessions=1).processes == 1
    assert run(HELLO, mailsrv_port, 60, concurrency=2, sessions=50).processes == 2


def test_what_goes_wrong_is_told_with_its_reply() -> None:
    with rude_server(saying(b"554 5.3.2 no\r\n")) as port:
        outcome = run(HELLO, port, 2, sessions=4)
    assert outcome.tally.complaints == {"x.smtp: reply 1: 554 instead of 220": 4}
    assert list(outcome.tally.examples.values()) == ["554 5.3.2 no"]


def test_a_target_that_cannot_be_reached_ends_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LoadError, match="cannot connect to"):
        run(HELLO, port, 2, sessions=10)


def test_ctrl_c_ends_all_with_what_there_is_so_far(mailsrv_port: int) -> None:
    class Impatient(Watcher):
        def row(self, row: Row, tally: Tally) -> None:
            super().row(row, tally)
            if len(self.rows) == 1:
                raise KeyboardInterrupt

    outcome = run(HELLO, mailsrv_port, 2, Impatient())
    assert outcome.interrupted
    assert outcome.tally.good > 0
    assert not outcome.tally.failed


def test_a_process_that_is_killed_ends_the_run_with_a_word(mailsrv_port: int) -> None:
    class Killer(Watcher):
        def row(self, row: Row, tally: Tally) -> None:
            for process in multiprocessing.active_children()[:1]:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(LoadError, match="has ended before its time"):
        run(HELLO, mailsrv_port, 2, Killer())


def test_a_row_is_told_when_all_processes_have_sent_their_part() -> None:
    tally = Tally()
    intervals = Intervals(tally, 2)
    first, second, late = Interval(0, good=2), Interval(0, good=3), Interval(1, good=5)
    assert intervals.add(first) is None
    assert intervals.add(late) is None
    row = intervals.add(second)
    assert row is not None
    assert (row.number, row.good, tally.good) == (0, 5, 5)
    intervals.finish()
    assert (tally.good, [row.number for row in tally.rows]) == (10, [0, 1])
