"""A load run by processes of its own, so that nothing but the load keeps them busy.

Each opens its share of the idle connections and says so; then all begin at one instant.  A process
sends each interval as soon as it is over, and what else it knows at its end.  It receives the
instant to begin, and once more something when it is to stop; that the pipe is closed means the
same.  Ctrl-C goes to the parent alone.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from mailsrv.runtime.clock import Clock, SystemClock
from mailsrv.units import NS_PER_MS
from replay.load.interval import Interval
from replay.load.job import LoadJob
from replay.load.plan import LoadError
from replay.load.result import LoadResult, ProcessEnd, sum_of_ends
from replay.load.runner import LoadProgress, LoadRun, result_of
from replay.load.tally import Intervals, Row, Tally

WORKERS_MAX = 64
BEGINS_AFTER_NS = 20 * NS_PER_MS
"""From the word to begin to the beginning: each process has read it by then."""
STOP_WAIT_S = 5
"""What a process may take to end that was told to."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A process has opened its idle connections."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A process cannot go on; ``complaint`` says why."""

    complaint: str


Message = Ready | Failed | Interval | ProcessEnd | LoadProgress


class LoadWatcher:
    """Sees a run of several processes as it goes; this one looks away."""

    def opening(self, held: int) -> None:
        """So many idle connections are open."""

    def row(self, row: Row, tally: Tally) -> None:
        """An interval is over; ``tally`` has it already."""


def play(job: LoadJob, clock: Clock, workers: int, watcher: LoadWatcher) -> LoadResult:
    """Run the load in ``workers`` processes, or in fewer where there is not work for so many.

    Raises LoadError; Ctrl-C gives what there is so far.
    """
    options = job.options
    shares = min(workers, WORKERS_MAX, options.open_max, options.sessions or WORKERS_MAX)
    run = _Parent(job, clock, watcher)
    with _processes(job.split(shares)) as crew:
        try:
            run.follow(crew)
        except KeyboardInterrupt:
            run.interrupt(crew)
        return run.result(shares)


class _Parent:
    """Puts together what the processes send."""

    def __init__(self, job: LoadJob, clock: Clock, watcher: LoadWatcher) -> None:
        self._job = job
        self._clock = clock
        self._watcher = watcher
        self._tally = Tally()
        self._ends: dict[Connection, ProcessEnd] = {}
        self._ready: set[Connection] = set()
        self._held: dict[Connection, int] = {}
        self._intervals = Intervals(self._tally, 0)
        self._interrupted = False
        self._began_ns = clock.realtime_ns()

    def follow(self, crew: Sequence[Connection], timeout_s: float | None = None) -> None:
        """Take what is sent until all have ended.  Raises LoadError."""
        self._intervals.processes = len(crew)
        while pending := [pipe for pipe in crew if pipe not in self._ends]:
            readable = wait(pending, timeout_s)
            if not readable:
                raise LoadError("a process of the load did not end")
            for pipe in pending:
                if pipe in readable:
                    self._take(pipe, crew)

    def interrupt(self, crew: Sequence[Connection]) -> None:
        """Tell all to stop, and take what they have."""
        self._interrupted = True
        for pipe in crew:
            _send(pipe, None)
        with suppress(LoadError):
            self.follow(crew, STOP_WAIT_S)

    def result(self, processes: int) -> LoadResult:
        self._intervals.finish()
        end = sum_of_ends(list(self._ends.values()), interrupted=self._interrupted)
        return result_of(self._job, self._tally, end, processes, self._began_ns)

    def _take(self, pipe: Connection, crew: Sequence[Connection]) -> None:
        try:
            message: Message = pipe.recv()
        except (EOFError, OSError):
            raise LoadError("a process of the load has ended before its time") from None
        match message:
            case Failed(complaint):
                raise LoadError(complaint)
            case Ready():
                self._ready.add(pipe)
                if len(self._ready) == len(crew):
                    begins_ns = self._clock.monotonic_ns() + BEGINS_AFTER_NS
                    for one in crew:
                        _send(one, begins_ns)
            case LoadProgress():
                self._held[pipe] = message.held
                if len(self._ready) < len(crew):
                    self._watcher.opening(sum(self._held.values()))
            case Interval():
                if row := self._intervals.add(message):
                    self._watcher.row(row, self._tally)
            case ProcessEnd():
                self._ends[pipe] = message


def _send(pipe: Connection, message: int | Message | None) -> None:
    with suppress(OSError):  # a process that has ended says why by itself
        pipe.send(message)


@contextmanager
def _processes(jobs: Sequence[LoadJob]) -> Iterator[list[Connection]]:
    """Pipes to processes that play ``jobs``.  Behind this none is left."""
    context = multiprocessing.get_context("spawn")
    crew: list[tuple[SpawnProcess, Connection]] = []
    try:
        with _without_ctrl_c():
            for job in jobs:
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(theirs, job), daemon=True)
                process.start()
                theirs.close()
                crew.append((process, ours))
        yield [pipe for _, pipe in crew]
    finally:
        for _, pipe in crew:
            pipe.close()
        for process, _ in crew:
            process.join(STOP_WAIT_S)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that are started here never receive it; this one does so behind this."""
    # Starting this helper of its own, multiprocessing would let the signal through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(pipe: Connection, job: LoadJob) -> None:
    """One process: plays its share of the load and sends what comes of it."""
    run: LoadRun | None = None
    try:
        run = LoadRun(job, SystemClock(), pipe.send, pipe.send)
        begins_ns: list[int] = []
        run.watch(pipe.fileno(), lambda: _obey(pipe, run, begins_ns))
        run.open_idle()
        pipe.send(Ready())
        run.wait_until(lambda: bool(begins_ns))
        # What lives until the end is looked through no more by the collector: its pauses would
        # be the sessions' lateness.
        gc.collect()
        gc.freeze()
        if begins_ns:
            run.load(begins_ns[0])
        pipe.send(run.end())
    except LoadError as error:
        _send(pipe, Failed(str(error)))
    except OSError:
        pass  # nobody is there any more who would read it
    finally:
        if run is not None:
            run.close()


def _obey(pipe: Connection, run: LoadRun | None, begins_ns: list[int]) -> None:
    """Take the word to begin, or to stop."""
    assert run is not None
    try:
        message = pipe.recv()
    except (EOFError, OSError):
        message = None
    if message is None:
        run.forget(pipe.fileno())
        run.interrupt()
    else:
        begins_ns.append(message)
