"""Random lives of a queue: whatever happens, each recipient of each message has one end, and more
than one only where a process was killed before it could write the first down."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from queueing import DEFERRED, FAILED, RELAYED, NextHop, QueueRun, WaysByDomain
from spooling import Trouble, failing, kept

from mailsrv.delivery.job import Done, Job
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_MS, NS_PER_S

DOMAINS = ("x", "y", "z")
LOCAL = "z"
STEPS = 150
STATEMENTS = ("COMMIT", "BEGIN", "INSERT OR REPLACE", "DELETE", "UPDATE total", "SELECT", "")
"""What fails at times: statements with this in them."""


class Unreliable(NextHop):
    """Answers now or later, each recipient as chance will have it; ``ends`` counts final answers
    by message and recipient."""

    def __init__(self, dice: random.Random, ends: Counter[tuple[str, str]]) -> None:
        super().__init__()
        self._dice = dice
        self.ends = ends
        self.tame = False

    def deliver(self, job: Job, done: Done) -> None:
        self.jobs.append((job, done))
        if self.tame or self._dice.random() < 0.5:
            self.end_one()

    def end_one(self) -> None:
        if not self.jobs:
            return
        job, done = self.jobs.pop(self._dice.randrange(len(self.jobs)))
        outcomes = [self._outcome(job, place) for place in job.places]
        done(outcomes)

    def _outcome(self, job: Job, place: int) -> Outcome:
        chosen = self._dice.choice((RELAYED, RELAYED, DEFERRED, FAILED))
        answer = RELAYED if self.tame else chosen
        if answer[0] is not OutcomeKind.DEFERRED:
            self.ends[job.message.id, str(job.envelope.forward_paths[place])] += 1
        return Outcome(place, *answer, remote="next.example")


class Life:
    """A queue and what happens to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.ends: Counter[tuple[str, str]] = Counter()
        self.expected: set[tuple[str, str]] = set()
        self.dropped: set[str] = set()
        self.trouble = Trouble(sqlite3.SQLITE_FULL)
        self.kills = self.number = 0
        self.start()

    def start(self) -> None:
        hops = self.new_hops()
        self.run = QueueRun(self.folder, factory=failing(self.trouble), **hops)

    def new_hops(self) -> dict[str, NextHop]:
        self.hops = {name: Unreliable(self.dice, self.ends) for name in DOMAINS}
        self.hops[LOCAL].local = True
        return {**self.hops}

    def step(self) -> None:
        acts = [self.receive] * 4 + [self.answer] * 4 + [self.wait] * 3
        self.dice.choice([*acts, self.change_room, self.ask, self.reload, self.kill, self.fail])()

    def receive(self) -> None:
        self.number += 1
        count = self.dice.randrange(1, 6)
        to = [f"u{n}@{self.dice.choice(DOMAINS)}" for n in range(count)]
        replies = self.run.receive(self.number, *to)
        self.run.go_on(5 * NS_PER_MS)
        if [reply.code for reply in replies] == [250]:
            self.expected |= {(f"ID{self.number}", one) for one in to}

    def answer(self) -> None:
        self.dice.choice(list(self.hops.values())).end_one()

    def wait(self) -> None:
        self.run.go_on(self.dice.choice((NS_PER_MS, NS_PER_S, 400 * NS_PER_S, 4000 * NS_PER_S)))

    def change_room(self) -> None:
        self.dice.choice(list(self.hops.values())).rooms = self.dice.choice((0, 1, 3, 100))

    def ask(self) -> None:
        verb = self.dice.choice(("hold", "release", "retry"))
        numbers = [one.number for one in self.run.spool.after(0, 1000)]
        if numbers:
            self.run.command(verb, self.dice.sample(numbers, self.dice.randint(1, len(numbers))))

    def reload(self) -> None:
        old, hops = self.hops, self.new_hops()
        for name in DOMAINS:  # what is under way to next hops is finished
            if name != LOCAL:
                self.hops[name].jobs = old[name].jobs
        self.run.queue.use(WaysByDomain(**hops))

    def kill(self) -> None:
        self.kills += 1
        killed_ns = self.run.clock.monotonic_ns()
        self.run.kill()
        self.start()
        self.run.clock.advance_to_ns(killed_ns)

    def fail(self) -> None:
        self.trouble.only = self.dice.choice(STATEMENTS)
        self.trouble.armed = self.trouble.lasting = True
        self.run.go_on(self.dice.choice((NS_PER_MS, 10 * NS_PER_S)))
        self.trouble.armed = False

    def finish(self) -> None:
        for hop in self.hops.values():
            hop.tame, hop.rooms = True, 100
            while hop.jobs:
                hop.end_one()
        self.run.go_on(2 * NS_PER_S)
        held = [number for number, row in self.run.rows().items() if row is not None and row.held]
        self.run.command("release", held)  # and nothing else needs anybody
        self.run.go_on(2 * 3600 * NS_PER_S)


@pytest.mark.parametrize("seed", [*range(11), 656])
def test_each_recipient_has_one_end_whatever_happens(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path, seed)
    for _ in range(STEPS):
        life.step()
    life.finish()
    assert kept(life.run.spool) == {}
    assert set(life.ends) == life.expected
    assert len(life.expected) > 50
    if not life.kills:
        assert set(life.ends.values()) == {1}
    assert life.run.loop.timers.next_wake_ns is None, "nothing is left to do"
    assert life.run.queue.active == 0
