"""Plays transcripts at a server, from one thread with one selector.

In a closed loop so many sessions are in progress at all times, one after another.  In an open loop
sessions begin at instants that stand fixed from the beginning (``arrivals``), whether the server
has answered the others or not.  Beside the sessions the run can hold many idle connections, opened
before it begins and looked at when it ends.  The target is any SMTP server; what it answers is set
beside the codes of the transcripts.
"""

from __future__ import annotations

import itertools
import resource
import select
import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load.interval import Interval, Recorder
from replay.load.job import LoadJob, LoadOptions
from replay.load.plan import LoadError, Plan, idle_plan
from replay.load.result import Idle, LoadResult, ProcessEnd
from replay.load.session import LoadSession
from replay.load.tally import Intervals, Tally
from replay.play import sockets
from replay.play.target import bind_client

OPENING_AT_ONCE_MAX = 100
"""Idle connections in the opening at one time: fewer than most servers' backlog."""
DESCRIPTOR_RESERVE = 64
"""Descriptors for everything that is no connection."""
CHECK_EVERY_NS = 20 * NS_PER_MS
"""How often timeouts are looked for: so late one may be noticed."""
PROGRESS_EVERY_NS = 500 * NS_PER_MS
RETRY_PAUSE_NS = 100 * NS_PER_MS
"""In a closed loop there is a pause between tries while the target cannot be connected to."""
SESSIONS_MAX = 10**12
"""Begun in one run that has no smaller number: some years' worth."""
UNBEGUN_MAX = 1_000_000
"""Sessions that never began are counted up to here."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """What a run has come to: ``phase`` in a word or two, then numbers so far."""

    phase: str
    elapsed_ns: int
    sessions: int
    failed: int
    held: int


Watch = Callable[[LoadProgress], None]


def play(job: LoadJob, clock: Clock, progress: Watch | None = None) -> LoadResult:
    """Run the load in this process.  Raises LoadError; Ctrl-C gives what there is so far."""
    tally = Tally()
    intervals = Intervals(tally, 1)
    began_ns = clock.realtime_ns()
    run = LoadRun(job, clock, intervals.add, progress)
    try:
        try:
            run.open_idle()
            run.load(clock.monotonic_ns())
        except KeyboardInterrupt:
            run.interrupt()
        return result_of(job, tally, run.end(), 1, began_ns)
    finally:
        run.close()


def result_of(
    job: LoadJob, tally: Tally, end: ProcessEnd, processes: int, began_ns: int
) -> LoadResult:
    """What a run of so many processes has come to that began at ``began_ns`` since 1970."""
    options = job.options
    return LoadResult(
        target=job.target.name,
        concurrency=0 if options.rate else options.concurrency,
        tally=tally,
        idle=end.idle,
        window_ns=end.window_ns,
        counted_ns=end.counted_ns,
        good_counted=end.good_counted,
        messages_counted=end.messages_counted,
        cpu_ns=end.cpu_ns,
        interrupted=end.interrupted,
        rate=options.rate.text if options.rate else "",
        tls=options.tls,
        processes=processes,
        unbegun=end.unbegun,
        interval_ns=job.interval_ns,
        lateness_max_ns=options.lateness_max_ns,
        began_ns=began_ns,
    )


def raise_descriptor_limit(connections: int) -> None:
    """Allow so many connections, and some descriptors more.  Raises LoadError."""
    needed = connections + DESCRIPTOR_RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise LoadError(
            f"{connections} connections need {needed} descriptors and the limit is {hard}; "
            "ask for fewer, or raise the limit (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def connections_allowed(idle: int, at_most: int) -> int:
    """How many may be open beside so many idle ones, by the limit on descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return at_most
    return max(min(at_most, hard - DESCRIPTOR_RESERVE - idle), 1)


class LoadRun:
    """One process's part of a job.

    Each interval of the run goes to ``sink`` when it is over.  After ``open_idle`` and ``load``,
    ``end`` says what there is to say beside the intervals.  ``interrupt`` ends the run early.
    """

    def __init__(
        self,
        job: LoadJob,
        clock: Clock,
        sink: Callable[[Interval], object],
        progress: Watch | None = None,
    ) -> None:
        options = job.options
        raise_descriptor_limit(options.open_max + options.idle)
        self._job = job
        self._options: LoadOptions = options
        self._clock = clock
        self._sink = sink
        self._progress = progress or (lambda _: None)
        self._plans = job.plans_of_share()
        self._addresses = job.client_addresses()
        self._selector = selectors.EpollSelector()
        self._active: dict[LoadSession, None] = {}  # in the order in which they began
        self._held: set[LoadSession] = set()
        self._recorder = Recorder()
        self._idle = Recorder()
        self._opened = self._lost = self._unbegun = 0
        self._ever_connected = self._interrupted = False
        self._paused_until_ns = 0
        self._check_at_ns = self._progress_at_ns = 0
        self._phase = ""
        self._phase_began_ns = 0
        self._interval_ends_ns = 0
        self._window: _Window | None = None
        self._arrivals: Iterator[int] = iter(())
        self._next_arrival_ns: int | None = None

    # -- the two phases ---------------------------------------------------------------------------

    def open_idle(self) -> None:
        """Open all idle connections, a bounded number at a time; each is tried once."""
        self._begin_phase("opening idle connections")
        plan = idle_plan(self._options.tls)
        tried = 0
        while (tried < self._options.idle or self._active) and not self._interrupted:
            while tried < self._options.idle and self._may_start(OPENING_AT_ONCE_MAX):
                self._start(plan, self._idle)
                tried += 1
            self._turn()

    def load(self, begins_ns: int) -> None:
        """Keep the sessions going for as long as asked; then let those in progress end."""
        while not self._interrupted and self._clock.monotonic_ns() < begins_ns:
            self._turn(begins_ns)
        self._begin_phase("running", begins_ns)
        self._window = _Window(self._clock, begins_ns)
        ends_ns = begins_ns + self._options.duration_ns
        self._interval_ends_ns = begins_ns + self._job.interval_ns
        if self._options.rate:
            self._follow_schedule(begins_ns, ends_ns)
        else:
            self._keep_busy(ends_ns)
        self._begin_phase("finishing")
        while self._active and not self._interrupted:
            self._turn()
        self._close_window()

    def _keep_busy(self, ends_ns: int) -> None:
        """The closed loop."""
        to_start = self._options.sessions or SESSIONS_MAX
        while to_start and not self._interrupted and self._clock.monotonic_ns() < ends_ns:
            while to_start and self._may_start(self._options.concurrency):
                self._start(next(self._plans), self._recorder)
                to_start -= 1
            self._turn(ends_ns)
        if to_start:
            self._close_window()  # with a number of sessions to play, the last of them closes it

    def _follow_schedule(self, begins_ns: int, ends_ns: int) -> None:
        """The open loop."""
        limit = self._options.sessions or SESSIONS_MAX
        due = itertools.islice(self._job.arrivals_of_share(), limit)
        self._arrivals = (begins_ns + at_ns for at_ns in due)
        self._next_arrival_ns = next(self._arrivals, None)
        while not self._interrupted:
            now_ns = self._clock.monotonic_ns()
            self._begin_what_is_due(now_ns)  # late rather than never, if the end was slept through
            if now_ns >= ends_ns:
                break
            if self._options.sessions and self._next_arrival_ns is None:
                return  # the last of them closes the window
            self._turn(ends_ns)
        if not self._interrupted and self._next_arrival_ns is not None:
            rest = sum(1 for _ in itertools.islice(self._arrivals, UNBEGUN_MAX))
            self._unbegun = rest + 1
        self._next_arrival_ns = None
        self._close_window()

    def _begin_what_is_due(self, now_ns: int) -> None:
        """Begin the sessions whose instant has come, as far as connections may be open."""
        while (due_ns := self._next_arrival_ns) is not None and due_ns <= now_ns:
            if len(self._active) >= self._options.open_max:
                return
            self._next_arrival_ns = next(self._arrivals, None)
            self._start(next(self._plans), self._recorder, due_ns)
            now_ns = self._clock.monotonic_ns()

    def _begin_phase(self, name: str, at_ns: int | None = None) -> None:
        self._phase = name
        self._phase_began_ns = self._clock.monotonic_ns() if at_ns is None else at_ns

    def interrupt(self) -> None:
        """End here: what there is so far is the result."""
        self._interrupted = True

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable`` when ``descriptor`` can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def forget(self, descriptor: int) -> None:
        """Watch it no more."""
        self._selector.unregister(descriptor)

    def wait_until(self, come: Callable[[], bool]) -> None:
        """Hold the idle connections until ``come`` returns True, or the run is interrupted."""
        while not (self._interrupted or come()):
            self._turn()

    # -- the loop ---------------------------------------------------------------------------------

    def _may_start(self, at_once_max: int) -> bool:
        return len(self._active) < at_once_max and (
            not self._paused_until_ns or self._clock.monotonic_ns() >= self._paused_until_ns
        )

    def _start(self, plan: Plan, recorder: Recorder, due_ns: int | None = None) -> None:
        try:
            sock = self._socket()
        except OSError as error:
            raise LoadError(f"cannot open a socket: {error.strerror}") from None
        timeout_ns = self._options.timeout_ns
        session = LoadSession(plan, sock, self._clock, recorder, timeout_ns, due_ns)
        self._active[session] = None
        late_ns = None if due_ns is None else max(session.began_ns - due_ns, 0)
        recorder.begun(late_ns, len(self._active))
        session.connect(self._job.target.address)
        if session.over:
            self._retire(session)
        else:
            self._selector.register(sock, session.events, session)

    def _socket(self) -> socket.socket:
        sock = sockets.sender_socket(self._job.target.family)
        sock.setblocking(False)
        address = next(self._addresses)
        if address:
            try:
                bind_client(sock, address)
            except OSError:  # a kernel on which only 127.0.0.1 is the machine's own
                self._addresses = itertools.repeat("")
        return sock

    def _turn(self, until_ns: int | None = None) -> None:
        """Wait for something to happen, but no longer than to ``until_ns``, and handle it."""
        for key, events in self._select(until_ns):
            session = key.data
            if not isinstance(session, LoadSession):
                session()
                continue
            if not session.over:  # else Ctrl-C came just before it could be retired
                session.ready(events)
            if session.over:
                self._selector.unregister(session.sock)
                self._retire(session)
            else:
                if session.holding and session in self._active:
                    self._hold(session)
                if (wanted := session.events) != key.events:
                    self._selector.modify(session.sock, wanted, session)
            if self._next_arrival_ns is not None:
                self._begin_what_is_due(self._clock.monotonic_ns())
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._check_at_ns:
            self._check_at_ns = now_ns + CHECK_EVERY_NS
            self._check(now_ns)

    def _select(self, until_ns: int | None) -> list[tuple[selectors.SelectorKey, int]]:
        now_ns = self._clock.monotonic_ns()
        wake_ns = self._check_at_ns if until_ns is None else min(self._check_at_ns, until_ns)
        due_ns = self._next_arrival_ns
        if due_ns is None or len(self._active) >= self._options.open_max:
            return self._selector.select(max(0, wake_ns - now_ns) / NS_PER_S)
        # epoll waits for whole milliseconds, select to the microsecond.
        if (wait_ns := min(wake_ns, due_ns) - now_ns) > 0:
            select.select((self._selector.fileno(),), (), (), wait_ns / NS_PER_S)
            self._begin_what_is_due(self._clock.monotonic_ns())
        return self._selector.select(0)

    def _hold(self, session: LoadSession) -> None:
        self._active.pop(session, None)
        self._held.add(session)
        self._opened += 1
        self._ever_connected = True

    def _retire(self, session: LoadSession) -> None:
        """A session is over, and its socket is watched no more."""
        connected = session.connected
        session.release()
        if self._window and self._options.rate and not session.failure:
            self._window.extend(self._recorder)
        self._lost += session in self._held
        self._active.pop(session, None)
        self._held.discard(session)
        if connected:
            self._ever_connected = True
        elif not self._ever_connected:
            raise LoadError(f"cannot connect to {self._job.target.name}: {session.failure}")
        else:
            self._paused_until_ns = self._clock.monotonic_ns() + RETRY_PAUSE_NS

    def _check(self, now_ns: int) -> None:
        """Look for timeouts, close intervals, and tell how it goes."""
        expired = itertools.takewhile(lambda one: one.deadline_ns < now_ns, self._active)
        for session in list(expired):
            session.time_out()
            self._selector.unregister(session.sock)
            self._retire(session)
        if self._window and now_ns >= self._interval_ends_ns:
            self._close_interval(now_ns)
        if now_ns >= self._progress_at_ns:
            self._progress_at_ns = now_ns + PROGRESS_EVERY_NS
            elapsed_ns = now_ns - self._phase_began_ns
            good, failed, held = self._recorder.good, self._recorder.failed, len(self._held)
            self._progress(LoadProgress(self._phase, elapsed_ns, good, failed, held))

    # -- the end ----------------------------------------------------------------------------------

    def _close_interval(self, now_ns: int) -> None:
        """Hand over what was counted; an interval in which the loop did not get to do so is part
        of the one before."""
        passed = 1 + (now_ns - self._interval_ends_ns) // self._job.interval_ns
        self._interval_ends_ns += passed * self._job.interval_ns
        self._sink(self._recorder.next_interval(passed))
        self._recorder.part.open = len(self._active)

    def _close_window(self) -> None:
        if self._window:
            self._window.close(self._recorder)

    def end(self) -> ProcessEnd:
        """Look at the idle connections once more, and sum up."""
        self._close_window()
        self._next_arrival_ns = None
        self._turn(0)
        if self._window:
            self._sink(self._recorder.next_interval())
        window = self._window or _Window(self._clock, 0)
        complaints = dict(self._idle.part.complaints)
        return ProcessEnd(
            Idle(self._options.idle, self._opened, self._lost, complaints),
            window.ns,
            window.counted_ns,
            window.good,
            window.messages,
            window.cpu_ns,
            self._unbegun,
            self._interrupted,
        )

    def close(self) -> None:
        """Close everything; nothing of this counts."""
        for session in (*self._active, *self._held):
            session.release()
        self._selector.close()


class _Window:
    """The time in which sessions are begun, and what was done in it and, where rates are made of
    more, behind it."""

    def __init__(self, clock: Clock, began_ns: int) -> None:
        self._clock = clock
        self._began_ns = began_ns
        self._cpu_began_ns = _cpu_ns()
        self.closed = False
        self.ns = self.cpu_ns = self.counted_ns = self.good = self.messages = 0

    def close(self, recorder: Recorder) -> None:
        """No more sessions are begun; harmless when closed."""
        if not self.closed:
            self.closed = True
            self.ns = self._clock.monotonic_ns() - self._began_ns
            self.cpu_ns = _cpu_ns() - self._cpu_began_ns
            self._count(recorder)

    def extend(self, recorder: Recorder) -> None:
        """A session has ended well; behind the window it counts, with the time until now."""
        if self.closed:
            self._count(recorder)

    def _count(self, recorder: Recorder) -> None:
        self.counted_ns = self._clock.monotonic_ns() - self._began_ns
        self.good, self.messages = recorder.good, recorder.messages


def _cpu_ns() -> int:
    """What this process has used, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round((usage.ru_utime + usage.ru_stime) * NS_PER_S)
