"""Plays transcripts at a server in a closed loop: always so many sessions, one after another.

One thread, one selector.  Beside the sessions it can hold many idle connections, opened before
the run begins and looked at when it ends.  The target is any SMTP server; what it answers is set
beside the codes of the transcripts.
"""

from __future__ import annotations

import itertools
import resource
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.load.plan import LoadError, Plan, idle_plan
from replay.load.session import LoadSession
from replay.load.tally import Idle, LoadResult, Tally
from replay.play import sockets
from replay.play.target import Target, bind_client

OPENING_AT_ONCE_MAX = 100
"""Idle connections in the opening at one time: fewer than most servers' backlog."""
DESCRIPTOR_RESERVE = 64
"""Descriptors for everything that is no connection."""
CHECK_EVERY_NS = 20 * NS_PER_MS
"""How often timeouts are looked for: so late one may be noticed."""
PROGRESS_EVERY_NS = 500 * NS_PER_MS
RETRY_PAUSE_NS = 100 * NS_PER_MS
"""While the target cannot be connected to, there is a pause between tries."""
SESSIONS_MAX = 10**12
"""Begun in one run that has no smaller number: some years' worth."""
CLIENT_ADDRESSES = 1000
"""Each gives as many ports as the kernel has ephemeral ones (28,000), some in TIME_WAIT."""
_ADDRESSES_IN_A_NET = 250


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How much of it.  ``sessions`` ends a run early; 0 does not."""

    concurrency: int = 10
    idle: int = 0
    duration_ns: int = 10 * NS_PER_S
    timeout_ns: int = 30 * NS_PER_S
    sessions: int = 0


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """What a run has come to: ``phase`` in a word or two, then numbers so far."""

    phase: str
    elapsed_ns: int
    sessions: int
    failed: int
    held: int


def play(
    plans: Sequence[Plan],
    target: Target,
    options: LoadOptions,
    clock: Clock,
    progress: Callable[[LoadProgress], None] | None = None,
) -> LoadResult:
    """Run the load.  Raises LoadError; Ctrl-C gives what there is so far."""
    if not plans:
        raise LoadError("nothing to play: every session of these transcripts was left out")
    _raise_descriptor_limit(options.concurrency + options.idle)
    run = _Run(plans, target, options, clock, progress or (lambda _: None))
    try:
        try:
            run.open_idle()
            run.load()
        except KeyboardInterrupt:
            run.interrupted = True
        return run.outcome()
    finally:
        run.close()


def _raise_descriptor_limit(connections: int) -> None:
    needed = connections + DESCRIPTOR_RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise LoadError(
            f"{connections} connections need {needed} descriptors and the limit is {hard}; "
            "ask for fewer, or raise the limit (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _client_addresses(target: Target) -> Iterator[str]:
    """Where clients bind: ports of one address run out, and 127/8 has many; else anywhere."""
    if not target.on_loopback:
        return itertools.repeat("")
    return itertools.cycle(
        f"127.0.{1 + number // _ADDRESSES_IN_A_NET}.{1 + number % _ADDRESSES_IN_A_NET}"
        for number in range(CLIENT_ADDRESSES)
    )


class _Run:
    def __init__(
        self,
        plans: Sequence[Plan],
        target: Target,
        options: LoadOptions,
        clock: Clock,
        progress: Callable[[LoadProgress], None],
    ) -> None:
        self.interrupted = False
        self._plans = itertools.cycle(plans)
        self._target = target
        self._options = options
        self._clock = clock
        self._progress = progress
        self._addresses = _client_addresses(target)
        self._selector = selectors.DefaultSelector()
        self._active: set[LoadSession] = set()
        self._held: set[LoadSession] = set()
        self._tally = Tally()
        self._idle_tally = Tally()
        self._opened = self._lost = 0
        self._ever_connected = False
        self._paused_until_ns = 0
        self._check_at_ns = self._progress_at_ns = 0
        self._phase = ""
        self._phase_began_ns = 0
        self._window: _Window | None = None

    # -- the two phases ---------------------------------------------------------------------------

    def open_idle(self) -> None:
        """Open all idle connections, a bounded number at a time; each is tried once."""
        self._begin_phase("opening idle connections")
        plan = idle_plan()
        tried = 0
        while tried < self._options.idle or self._active:
            while tried < self._options.idle and self._may_start(OPENING_AT_ONCE_MAX):
                self._start(plan, self._idle_tally)
                tried += 1
            self._turn()

    def load(self) -> None:
        """Keep the sessions going for as long as asked; then let those in progress end."""
        self._begin_phase("running")
        window = self._window = _Window(self._clock, self._tally)
        ends_ns = self._phase_began_ns + self._options.duration_ns
        to_start = self._options.sessions or SESSIONS_MAX
        while to_start and self._clock.monotonic_ns() < ends_ns:
            while to_start and self._may_start(self._options.concurrency):
                self._start(next(self._plans), self._tally)
                to_start -= 1
            self._turn(ends_ns)
        if to_start:
            window.close()  # with a number of sessions to play, the last of them closes it
        self._begin_phase("finishing")
        while self._active:
            self._turn()
        window.close()

    def _begin_phase(self, name: str) -> None:
        self._phase = name
        self._phase_began_ns = self._clock.monotonic_ns()

    # -- the loop ---------------------------------------------------------------------------------

    def _may_start(self, at_once_max: int) -> bool:
        return len(self._active) < at_once_max and (
            not self._paused_until_ns or self._clock.monotonic_ns() >= self._paused_until_ns
        )

    def _start(self, plan: Plan, tally: Tally) -> None:
        try:
            sock = self._socket()
        except OSError as error:
            raise LoadError(f"cannot open a socket: {error.strerror}") from None
        session = LoadSession(plan, sock, self._clock, tally)
        self._active.add(session)
        session.connect(self._target.address)
        if session.over:
            self._retire(session)
        else:
            self._selector.register(sock, session.events, session)

    def _socket(self) -> socket.socket:
        sock = sockets.sender_socket(self._target.family)
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
        now_ns = self._clock.monotonic_ns()
        wake_ns = self._check_at_ns if until_ns is None else min(self._check_at_ns, until_ns)
        ready = self._selector.select(max(0, wake_ns - now_ns) / NS_PER_S)
        for key, events in ready:
            session: LoadSession = key.data
            if not session.over:  # else Ctrl-C came just before it could be retired
                session.ready(events)
            if session.over:
                self._selector.unregister(session.sock)
                self._retire(session)
                continue
            if session.holding and session in self._active:
                self._hold(session)
            if (wanted := session.events) != key.events:
                self._selector.modify(session.sock, wanted, session)
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._check_at_ns:
            self._check_at_ns = now_ns + CHECK_EVERY_NS
            self._check(now_ns)

    def _hold(self, session: LoadSession) -> None:
        self._active.discard(session)
        self._held.add(session)
        self._opened += 1
        self._ever_connected = True

    def _retire(self, session: LoadSession) -> None:
        """A session is over, and its socket is watched no more."""
        connected = session.connected
        session.release()
        self._lost += session in self._held
        self._active.discard(session)
        self._held.discard(session)
        if connected:
            self._ever_connected = True
        elif not self._ever_connected:
            raise LoadError(f"cannot connect to {self._target.name}: {session.failure}")
        else:
            self._paused_until_ns = self._clock.monotonic_ns() + RETRY_PAUSE_NS

    def _check(self, now_ns: int) -> None:
        """Look for timeouts, and tell how it goes."""
        oldest_ns = now_ns - self._options.timeout_ns
        for session in [one for one in self._active if one.began_ns < oldest_ns]:
            session.time_out()
            self._selector.unregister(session.sock)
            self._retire(session)
        if now_ns >= self._progress_at_ns:
            self._progress_at_ns = now_ns + PROGRESS_EVERY_NS
            elapsed_ns = now_ns - self._phase_began_ns
            good, failed = self._tally.good, self._tally.failed
            self._progress(LoadProgress(self._phase, elapsed_ns, good, failed, len(self._held)))

    # -- the end ----------------------------------------------------------------------------------

    def outcome(self) -> LoadResult:
        """Look at the idle connections once more, and sum up."""
        window = self._window or _Window(self._clock, self._tally)
        window.close()
        self._turn(0)
        return LoadResult(
            target=self._target.name,
            concurrency=self._options.concurrency,
            tally=self._tally,
            idle=Idle(self._options.idle, self._opened, self._lost, self._idle_tally.complaints),
            window_ns=window.ns,
            in_window=window.good,
            messages_in_window=window.messages,
            cpu_ns=window.cpu_ns,
            interrupted=self.interrupted,
        )

    def close(self) -> None:
        """Close everything; nothing of this counts."""
        for session in self._active | self._held:
            session.release()
        self._selector.close()


class _Window:
    """The time that counts for the rates, and what was done in it."""

    def __init__(self, clock: Clock, tally: Tally) -> None:
        self._clock = clock
        self._tally = tally
        self._began_ns = clock.monotonic_ns()
        self._cpu_began_ns = _cpu_ns()
        self.closed = False
        self.ns = self.cpu_ns = self.good = self.messages = 0

    def close(self) -> None:
        """From here on nothing counts any more; harmless when closed."""
        if not self.closed:
            self.closed = True
            self.ns = self._clock.monotonic_ns() - self._began_ns
            self.cpu_ns = _cpu_ns() - self._cpu_began_ns
            self.good, self.messages = self._tally.good, self._tally.messages


def _cpu_ns() -> int:
    """What this process has used, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round((usage.ru_utime + usage.ru_stime) * NS_PER_S)
