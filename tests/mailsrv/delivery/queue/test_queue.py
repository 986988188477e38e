"""The queue: what is tried when, what is written about it, and that no way out starves another."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from queueing import DEFERRED, FAILED, RELAYED, NextHop, QueueRun, WaysByDomain
from spooling import Trouble, failing, kept

from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.queue.notifier import Notifier
from mailsrv.delivery.queue.queue import EXPIRED_STATUS
from mailsrv.delivery.queue.retries import Retries
from mailsrv.delivery.queue.ways import OneWay, Way
from mailsrv.delivery.spool.stored_envelope import from_json
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.units import NS_PER_MS, NS_PER_S


def test_what_the_next_hop_takes_is_forgotten_at_once_and_told(tmp_path: Path) -> None:
    hop = NextHop()
    run = QueueRun(tmp_path, hop)
    run.receive(1)
    run.go_on(10 * NS_PER_MS)
    assert kept(run.spool) == {}
    assert run.notes == [
        {
            "event": "relayed",
            "id": "ID1",
            "to": "relay",
            "remote": "next.example",
            "status": "2.0.0",
            "reply": "250 2.0.0 Ok",
        }
    ]
    assert hop.contents[0].startswith(b"Received: from client.example")
    assert hop.contents[0].endswith(b"\r\nSubject: x\r\n\r\ntext\r\n")
    assert run.loop.timers.next_wake_ns is None, "nothing is left to do"


def test_a_message_is_tried_after_longer_and_longer_pauses_and_at_last_given_up(
    tmp_path: Path,
) -> None:
    run = QueueRun(tmp_path, NextHop(DEFERRED))
    run.receive(1)
    times: list[int] = []
    told = run.note
    run.queue._note = lambda event, **values: (
        times.append(run.clock.monotonic_ns()),
        told(event, **values),
    )
    run.go_on(6 * 24 * 3600 * NS_PER_S)
    pauses = [(after - before) / NS_PER_S for before, after in pairwise(times)]
    for pause, nominal in zip(pauses, (300, 600, 1200, 2400, 3600, 3600), strict=False):
        assert nominal <= pause < nominal * 1.25 + 1
    assert max(pauses) < 4501
    assert run.events == ["deferred"] * (len(times) - 1) + ["failed"]
    assert run.notes[-1]["status"] == EXPIRED_STATUS
    assert run.notes[-1]["reply"] == "450 4.2.0 greylisted"
    assert (times[-1] - times[0]) // NS_PER_S == 5 * 24 * 3600
    assert kept(run.spool) == {}


def test_messages_that_fail_together_do_not_come_back_together(tmp_path: Path) -> None:
    run = QueueRun(tmp_path, NextHop(DEFERRED))
    for number in range(20):
        run.receive(number)
    run.go_on(NS_PER_S)
    dues = {row.due_ns for row in run.rows().values()}
    assert len(dues) > 15
    assert max(dues) - min(dues) > 30 * NS_PER_S


def test_only_the_recipients_without_a_final_outcome_are_tried_again(tmp_path: Path) -> None:
    hop = NextHop()
    hop.by_local = {"b": DEFERRED, "c": FAILED}
    run = QueueRun(tmp_path, hop)
    run.receive(1, "a@x", "b@x", "c@x")
    run.go_on(NS_PER_S)
    assert [(one["event"], one["recipients"]) for one in run.notes] == [
        ("relayed", ["<a@x>"]),
        ("deferred", ["<b@x>"]),
        ("failed", ["<c@x>"]),
    ]
    hop.by_local = {}
    run.go_on(400 * NS_PER_S)
    assert hop.tried == [("ID1", (0, 1, 2)), ("ID1", (1,))]
    assert kept(run.spool) == {}


def test_what_was_deferred_is_known_after_a_kill(tmp_path: Path) -> None:
    hop = NextHop()
    hop.by_local = {"b": DEFERRED}
    killed = QueueRun(tmp_path, hop)
    killed.receive(1, "a@x", "b@x")
    killed.go_on(NS_PER_S)
    killed.kill()
    again = NextHop()
    run = QueueRun(tmp_path, again)
    run.go_on(NS_PER_S)
    assert again.tried == [], "it is not due yet"
    run.go_on(400 * NS_PER_S)
    assert again.tried == [("ID1", (1,))]
    assert "may be sent twice" not in run.events
    assert kept(run.spool) == {}


def test_what_was_under_way_when_the_process_was_killed_is_sent_again(tmp_path: Path) -> None:
    slow, fast = NextHop(None), NextHop()
    killed = QueueRun(tmp_path, x=slow, y=fast)
    killed.receive(1, "a@x", "b@y")
    killed.receive(2, "c@x")
    killed.go_on(NS_PER_S)
    killed.kill()
    slow, fast = NextHop(), NextHop()
    run = QueueRun(tmp_path, x=slow, y=fast)
    run.go_on(NS_PER_S)
    assert sorted(slow.tried) == [("ID1", (0,)), ("ID2", (0,))]
    assert [one["id"] for one in run.notes if one["event"] == "may be sent twice"] == ["ID1", "ID2"]
    assert fast.tried == [], "what it took is known"
    assert kept(run.spool) == {}


def test_a_way_out_without_room_starves_no_other_and_is_served_in_order(tmp_path: Path) -> None:
    dead, good = NextHop(None, room=2), NextHop()
    run = QueueRun(tmp_path, x=dead, y=good)
    for number in range(700):
        run.receive(number, "a@x")
    run.receive(700, "b@y")
    run.go_on(NS_PER_S)
    assert good.tried == [("ID700", (0,))]
    assert len(dead.tried) == 2
    assert run.queue.active == 2, "the others wait in the database"
    for _ in range(699):
        dead.end()
        run.go_on(3 * NS_PER_MS)
    dead.end()
    run.go_on(NS_PER_S)
    assert [id_ for id_, _ in dead.tried] == [f"ID{number}" for number in range(700)]
    assert kept(run.spool) == {}


def test_what_waits_for_a_way_out_is_known_after_a_kill(tmp_path: Path) -> None:
    killed = QueueRun(tmp_path, x=NextHop(None, room=1), y=NextHop())
    for number in range(5):
        killed.receive(number, "a@x")
    killed.go_on(NS_PER_S)
    killed.kill()
    hop = NextHop()
    run = QueueRun(tmp_path, x=hop, y=NextHop())
    run.go_on(NS_PER_S)
    assert len(hop.tried) == 5
    assert kept(run.spool) == {}


def test_room_that_comes_back_by_itself_is_noticed(tmp_path: Path) -> None:
    full = NextHop(room=0)
    run = QueueRun(tmp_path, x=full, y=NextHop())
    run.receive(1, "a@x", "b@y")
    run.go_on(10 * NS_PER_S)
    assert full.tried == []
    full.rooms = 1
    run.go_on(2 * NS_PER_S)
    assert full.tried == [("ID1", (0,))]
    assert kept(run.spool) == {}


def test_who_was_deferred_elsewhere_is_not_tried_again_when_another_way_has_room(
    tmp_path: Path,
) -> None:
    full, grey = NextHop(room=0), NextHop(DEFERRED)
    run = QueueRun(tmp_path, x=full, y=grey)
    run.receive(1, "a@x", "b@y")
    run.go_on(5 * NS_PER_S)
    full.rooms = 1
    run.go_on(5 * NS_PER_S)
    assert full.tried == [("ID1", (0,))]
    assert len(grey.tried) == 1
    grey.answer = RELAYED
    run.go_on(400 * NS_PER_S)
    assert grey.tried == [("ID1", (1,))] * 2
    assert kept(run.spool) == {}


def test_other_ways_out_take_over_what_waits_and_what_was_under_way_is_finished(
    tmp_path: Path,
) -> None:
    old, new = NextHop(None, room=1), NextHop()
    run = QueueRun(tmp_path, old)
    for number in range(3):
        run.receive(number)
    run.go_on(NS_PER_S)
    run.queue.use(OneWay(Way("relay", new)))
    run.go_on(NS_PER_S)
    assert [id_ for id_, _ in new.tried] == ["ID1", "ID2"]
    assert old.closed
    old.end()
    run.go_on(NS_PER_S)
    assert kept(run.spool) == {}


@pytest.mark.parametrize("times", [0, 2])
def test_a_way_out_that_reports_nothing_or_twice_loses_nothing(tmp_path: Path, times: int) -> None:
    class Careless(NextHop):
        def deliver(self, job: Job, done: Done) -> None:
            outcomes = [Outcome(place, *RELAYED) for place in job.places[:times]]
            for _ in range(max(times, 1)):
                done(outcomes)

    run = QueueRun(tmp_path, Careless())
    run.receive(1, "a@x", "b@x", "c@x")
    run.go_on(NS_PER_S)
    assert list(kept(run.spool)) == ["ID1"]
    [row] = run.rows().values()
    assert row.due_ns > run.clock.realtime_ns()
    assert row.attempts == 1


@pytest.mark.parametrize("received_ns", [0, 10**18])
def test_the_last_attempt_is_made_at_the_end_of_the_lifetime(received_ns: int) -> None:
    class Most:
        def getrandbits(self, bits: int) -> int:
            return (1 << bits) - 1

    retries = Retries(first_s=300, longest_s=3600, lifetime_s=1000)
    now_ns, ends_ns = received_ns + 900 * NS_PER_S, received_ns + 1000 * NS_PER_S
    assert retries.next_due_ns(1, received_ns, now_ns, Most()) == ends_ns
    assert not retries.is_over(received_ns, now_ns)
    assert retries.is_over(received_ns, ends_ns)
    assert retries.next_due_ns(10**6, received_ns, received_ns, Most()) == ends_ns


def with_notices(run: QueueRun) -> QueueRun:
    run.queue.make_notices = Notifier(
        run.clock, random.Random(2), "mx.example.test", run.queue.retries, 50_000
    )
    return run


def test_the_sender_is_told_of_a_failure_with_the_transaction_that_records_it(
    tmp_path: Path,
) -> None:
    hop = NextHop()
    hop.by_local = {"c": FAILED, "a": DEFERRED}
    run = with_notices(QueueRun(tmp_path, hop))
    run.receive(1, "b@x", "c@x")
    run.go_on(1)
    assert run.spool.messages == 1 + 1 - 1, "the notice is there, and the message is done with"
    run.go_on(NS_PER_S)
    [notice] = [content for content in hop.contents if b"multipart/report" in content]
    assert b"To: <a@example.org>" in notice
    assert b"550 5.1.1 no such user" in notice and b"b@x" not in notice
    assert notice.startswith(b"From: Mail delivery"), "it was not received"
    [stored] = run.spool.after(0, 10)
    envelope_of = from_json(stored.envelope)
    assert str(envelope_of.reverse_path) == "" and stored.id != "ID1"
    run.go_on(6 * 24 * 3600 * NS_PER_S)
    assert kept(run.spool) == {}, "a notice is never answered"
    assert sum(b"multipart/report" in content for content in hop.contents[:2]) == 1


def test_the_sender_is_told_once_of_a_delay_and_then_of_the_end(tmp_path: Path) -> None:
    hop = NextHop()
    hop.by_local = {"b": DEFERRED}
    run = with_notices(QueueRun(tmp_path, hop))
    run.receive(1, "b@x")
    run.go_on(6 * 24 * 3600 * NS_PER_S)
    notices = [content for content in hop.contents if b"multipart/report" in content]
    assert [b"Action: delayed" in one for one in notices] == [True, False]
    assert b"Action: failed" in notices[1]
    assert kept(run.spool) == {}


def test_a_delay_is_told_once_although_the_process_was_killed(tmp_path: Path) -> None:
    hop = NextHop()
    hop.by_local = {"b": DEFERRED}
    run = with_notices(QueueRun(tmp_path, hop))
    run.receive(1, "b@x")
    run.go_on(6 * 3600 * NS_PER_S)
    run.kill()
    later = with_notices(QueueRun(tmp_path, hop))
    later.go_on(24 * 3600 * NS_PER_S)
    assert sum(b"Action: delayed" in content for content in hop.contents) == 1


def test_what_waits_after_an_orderly_end_is_not_said_to_be_sent_twice(tmp_path: Path) -> None:
    ended = QueueRun(tmp_path, NextHop(None))
    ended.receive(1)
    ended.go_on(NS_PER_S)
    ended.spool.close()
    run = QueueRun(tmp_path, NextHop())
    run.go_on(NS_PER_S)
    assert run.events == ["relayed"]


def test_two_reloads_in_a_row_begin_nothing_twice(tmp_path: Path) -> None:
    class Local(NextHop):
        def close(self) -> None:
            self.jobs.clear()

    old, between, new = Local(None), Local(None), NextHop()
    run = QueueRun(tmp_path, old)
    run.queue.use(OneWay(Way("maildir", old, local=True)))
    run.receive(1)
    run.go_on(NS_PER_S)
    run.queue.use(OneWay(Way("maildir", between, local=True)))
    run.queue.use(OneWay(Way("relay", new)))
    run.go_on(NS_PER_S)
    assert (len(old.tried), len(between.tried), len(new.tried)) == (1, 0, 1)
    assert kept(run.spool) == {}


def test_who_waits_for_two_ways_is_tried_where_room_comes_first(tmp_path: Path) -> None:
    dead, slow = NextHop(room=0), NextHop(room=0)
    for hops in ({"x": dead, "y": slow}, {"y": dead, "x": slow}):
        run = QueueRun(tmp_path / "".join(hops), **hops)
        run.receive(1, "a@x", "b@y")
        run.go_on(NS_PER_S)
        slow.rooms, slow.tried = 1, []
        run.go_on(70 * NS_PER_S)
        assert len(slow.tried) == 1 and dead.tried == []
        slow.rooms = 0


def test_nothing_is_delivered_that_could_not_be_forgotten(tmp_path: Path) -> None:
    trouble = Trouble(sqlite3.SQLITE_FULL, only="COMMIT")
    hop = NextHop(None, room=1)
    run = QueueRun(tmp_path, hop, factory=failing(trouble))
    for number in range(6):
        run.receive(number)
    run.spool.commit()
    run.go_on(NS_PER_S)
    trouble.armed = trouble.lasting = True
    for _ in range(5):
        if hop.jobs:
            hop.end()
        run.go_on(NS_PER_S)
    assert len(hop.tried) <= 2, "what is done with cannot be written down"
    trouble.armed, hop.answer = False, RELAYED
    if hop.jobs:
        hop.end()
    run.go_on(5 * NS_PER_S)
    assert kept(run.spool) == {}
    assert sorted(hop.tried) == [(f"ID{number}", (0,)) for number in range(6)]


def test_outcomes_that_another_process_keeps_from_being_written_are_written_soon(
    tmp_path: Path,
) -> None:
    hop = NextHop(None)
    run = QueueRun(tmp_path, hop)
    run.receive(1)
    run.go_on(NS_PER_S)
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        hop.end()
        run.go_on(NS_PER_S)
        assert run.spool.trouble == ""
        other.execute("ROLLBACK")
    run.go_on(20 * NS_PER_MS)
    assert kept(run.spool) == {}
    assert run.events == ["relayed"]


def test_many_ways_without_room_cost_one_look_at_some_of_them(tmp_path: Path) -> None:
    names = [f"d{number}" for number in range(600)]
    hops = {name: NextHop(room=0) for name in names}
    run = QueueRun(tmp_path, **hops)
    for number, name in enumerate(names):
        run.receive(number, f"a@{name}")
    run.go_on(2 * NS_PER_S)
    looked_at = 0

    def room() -> int:
        nonlocal looked_at
        looked_at += 1
        return 0

    for hop in hops.values():
        hop.room = room  # type: ignore[method-assign]
    run.queue._take_one()
    assert looked_at <= 256
    last = hops["d599"]
    del last.room  # type: ignore[method-assign]
    last.rooms = 1
    run.go_on(5 * NS_PER_S)
    assert len(last.tried) == 1


def test_what_waits_for_a_way_that_a_reload_replaced_is_tried_by_the_new_one(
    tmp_path: Path,
) -> None:
    full, slow = NextHop(room=0), NextHop(None)
    run = QueueRun(tmp_path, x=full, y=slow)
    run.receive(1, "a@x", "b@y")
    run.go_on(NS_PER_S)
    new = NextHop()
    run.queue.use(WaysByDomain(x=new, y=slow))
    slow.end()
    run.go_on(2 * NS_PER_S)
    assert new.tried == [("ID1", (0,))]
    assert kept(run.spool) == {}
    assert run.loop.timers.next_wake_ns is None, "nothing is left to do"


def test_room_that_comes_before_what_waits_for_it_is_written_is_used(tmp_path: Path) -> None:
    full, other = NextHop(room=0), NextHop()
    run = QueueRun(tmp_path, x=full, y=other)
    run.receive(1, "a@x")
    while run.spool.is_written(1):
        run.go_on(NS_PER_MS)
    full.rooms = 1
    run.queue._take_one()
    run.go_on(3 * NS_PER_S)
    assert full.tried == [("ID1", (0,))]
    assert kept(run.spool) == {}


def test_a_clock_that_is_set_back_hides_nothing_that_is_due(tmp_path: Path) -> None:
    hop = NextHop(DEFERRED)
    run = QueueRun(tmp_path, hop)
    run.receive(1)
    run.go_on(NS_PER_S)
    hop.answer = None
    run.go_on(400 * NS_PER_S)
    run.clock.step(-1000)
    hop.end(DEFERRED)
    hop.answer = RELAYED
    run.go_on(1000 * NS_PER_S)
    assert len(hop.tried) == 3
    assert kept(run.spool) == {}
