"""A power cut at any point of a queue's work loses no recipient of a message that was acknowledged:
the next hop has it, or it is tried again; of each who failed, the sender is told once.

The next hop of the record keeps a synced file for each recipient that it decided about;
``python tests/mailsrv/delivery/queue/test_queue_power_cut.py`` tries all points.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from powercut import cut, recording
from queueing import DEFERRED, FAILED, RELAYED, NextHop, QueueRun
from spooling import kept

from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.queue.notifier import Notifier
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_MS, NS_PER_S

MESSAGES = 25

_PROGRAM = """
import sys
from pathlib import Path
from test_queue_power_cut import work
work(Path(sys.argv[1]))
"""


class SyncedHop(NextHop):
    """Keeps a file for each recipient that it has decided about; ``tame``: it takes all."""

    def __init__(self, folder: Path, seed: int, *, tame: bool) -> None:
        super().__init__()
        self._dice = random.Random(seed)
        self._folder = folder
        self._tame = tame
        folder.mkdir(exist_ok=True)

    def deliver(self, job: Job, done: Done) -> None:
        content = b"".join(job.content())
        done([self._outcome(job, place, content) for place in job.places])

    def _outcome(self, job: Job, place: int, content: bytes) -> Outcome:
        is_notice = b"multipart/report" in content
        kinds = (RELAYED,) if self._tame or is_notice else (RELAYED, DEFERRED, DEFERRED, FAILED)
        answer = self._dice.choice(kinds)
        if answer[0] is not OutcomeKind.DEFERRED:
            path = self._folder / f"{job.message.id}:{job.envelope.forward_paths[place]}"
            self._keep(path, content if is_notice else answer[0].value.encode())
        return Outcome(place, *answer)

    def _keep(self, path: Path, octets: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        folder = os.open(self._folder, os.O_RDONLY)
        os.write(descriptor, octets)
        for one in (descriptor, folder):
            os.fsync(one)
            os.close(one)


def begun(folder: Path, *, tame: bool) -> QueueRun:
    run = QueueRun(folder, SyncedHop(folder / "hop", 1, tame=tame))
    run.queue.make_notices = Notifier(
        run.clock, random.Random(2), "mx.example.test", run.queue.retries, 1000
    )
    return run


def work(folder: Path) -> None:
    """What is recorded."""
    run = begun(folder, tame=False)
    for number in range(MESSAGES):
        to = [f"u{number}.{n}@x" for n in range(1 + number % 3)]
        if [one.code for one in run.receive_and_commit(number, *to)] == [250]:
            for one in to:
                os.write(1, f"250 ID{number}:{one}".encode())
        run.go_on((NS_PER_MS, NS_PER_S, 500 * NS_PER_S)[number % 3])
    run.go_on(3600 * NS_PER_S)
    run.spool.close()


def start(folder: Path, promised: list[str]) -> str:
    """Start on ``folder``, have everything delivered, and look for what was promised."""
    try:
        run = begun(folder, tame=True)
        run.go_on(4 * 3600 * NS_PER_S)
    except Exception as error:  # whatever it is, it is wrong
        return f"no start: {error!r}"
    left = kept(run.spool)
    run.spool.close()
    if left:
        return f"still there: {list(left)}"
    taken = {path.name: path.read_bytes() for path in (folder / "hop").iterdir()}
    notices = [octets for octets in taken.values() if b"multipart/report" in octets]
    lost = sorted(set(promised) - set(taken))
    failed = [name for name, octets in taken.items() if octets == b"failed"]
    told = {name: sum(_field(name) in one for one in notices) for name in taken}
    untold = [name for name in failed if told[name] != 1]
    twice = [name for name in taken if told[name] > 1]
    return f"lost: {lost}, untold: {untold}, twice: {twice}" if lost or untold or twice else ""


def _field(name: str) -> bytes:
    """How a notice names the recipient of a file."""
    return f"; {name.partition(':')[2]}\r\n".encode()


def test_no_recipient_is_lost(tmp_path: Path) -> None:
    root, operations = recording(_PROGRAM, tmp_path, __file__)
    starts, wrong = cut(operations, root, start, every=61)
    assert starts > 100
    assert wrong == []


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        where, done = recording(_PROGRAM, Path(place), __file__)
        number, complaints = cut(done, where, start)
        print("\n".join(complaints))
        print(f"{len(done)} operations, {number} starts, {len(complaints)} wrong")
        sys.exit(bool(complaints))
