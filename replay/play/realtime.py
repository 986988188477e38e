"""The real-time driver: plays senders against any SMTP server, receivers for any client.

One thread, one selector, for one scenario or many side by side.  Departures keep the schedule of
the transcript, counted from absolute instants, and how late each was is measured.  A selector
rounds its timeout up to milliseconds and the kernel wakes late, so ``wait`` sleeps short of the
instant and polls for the rest.  What is observed stands in real time since the run began.
"""

from __future__ import annotations

import heapq
import selectors
import socket
from collections import deque
from dataclasses import dataclass
from itertools import count
from selectors import SelectorKey
from types import TracebackType
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play.observed import ObservedConnection
from replay.play.realtime_player import RealtimeOptions, RealtimePlayer
from replay.play.schedule import server_delay_max_ns
from replay.play.target import Target
from replay.transcript.script import Scenario

POLL_NS = 3 * NS_PER_MS
"""The last part of a wait, spent polling: one millisecond for the selector's rounding, two for
the kernel to wake us.  It costs so much of a core a departure, and no more."""
SLEEP_MAX_NS = 60 * NS_PER_S
"""One sleep; epoll takes no timeout of days."""
SPEED_MIN, SPEED_MAX = 0.001, 1_000_000.0

Ready = list[tuple[SelectorKey, int]]


class Selector(Protocol):
    """The part of ``selectors`` that waits."""

    def select(self, timeout: float | None = None) -> Ready:
        """Return what is ready within ``timeout`` seconds."""


@dataclass(frozen=True, slots=True)
class CappedWait:
    """A wait that was cut short: before which departure, and by how much."""

    connection: str
    line: int
    skipped_ns: int


@dataclass(frozen=True, slots=True)
class RealRun:
    """What a run gave.

    Instants of ``connections`` are real nanoseconds since the run began.  ``lateness_ns`` has,
    for each departure in the order in which they left, by how much it missed the instant for which
    it was scheduled.  ``unreachable`` says why there was no connection at all.
    """

    connections: tuple[ObservedConnection, ...]
    real_ns: int
    lateness_ns: tuple[int, ...] = ()
    capped: tuple[CappedWait, ...] = ()
    unreachable: str = ""


def play(scenario: Scenario, target: Target, options: RealtimeOptions, clock: Clock) -> RealRun:
    """Play ``scenario`` against the server at ``target``.

    Never hangs: what the server does not do within its expected time and ``patience_ns`` is not
    waited for any longer.  A server that does something else, or cannot be reached, is no
    exception but a result.
    """
    with SideBySide(target, options, clock) as loop:
        run = loop.begin(scenario)
        while not loop.turn():
            pass
        return run.result()


def serve(
    scenario: Scenario, listener: socket.socket, options: RealtimeOptions, clock: Clock
) -> RealRun:
    """Play the receivers that ``scenario`` is made of, for whatever client connects to
    ``listener``: each takes one connection, in the order in which they begin to listen.

    As ``play`` it never hangs.  The caller closes ``listener``.
    """
    with SideBySide(None, options, clock, listener) as loop:
        run = loop.begin(scenario)
        while not loop.turn():
            pass
        return run.result()


def wait(selector: Selector, clock: Clock, until_ns: int) -> Ready:
    """Return what is ready, or nothing once ``clock`` reads ``until_ns``, never later than need be.

    What is ready already is returned even where the instant has passed.
    """
    while True:
        left_ns = until_ns - clock.monotonic_ns()
        # Whole milliseconds, rounded down: the selector has nothing to round up.
        sleep_ms = min(max(left_ns - POLL_NS, 0), SLEEP_MAX_NS) // NS_PER_MS
        ready = selector.select(sleep_ms / 1000)
        if ready or left_ns <= 0:
            return ready


class Reception:
    """Takes connections at ``listener`` as long as receivers wait for one; others stay in the
    kernel's queue."""

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        self._listener = listener
        self._selector = selector
        self._waiting: deque[RealtimePlayer] = deque()

    def add(self, player: RealtimePlayer) -> None:
        """``player`` takes the next connection that none before it takes."""
        if not self._waiting:
            self._selector.register(self._listener, selectors.EVENT_READ, self)
        self._waiting.append(player)

    def ready(self, events: int) -> None:
        """A client connects."""
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        player = self._waiting.popleft()
        if not self._waiting:
            self._selector.unregister(self._listener)
        player.accepted(sock)
        player.run.look_at(player)


class SideBySide:
    """Plays scenarios at one server, as many at a time as are begun, in one loop; each has a
    schedule of its own.  With a ``listener`` they are receivers, and there is no ``target``."""

    def __init__(
        self,
        target: Target | None,
        options: RealtimeOptions,
        clock: Clock,
        listener: socket.socket | None = None,
    ) -> None:
        self._target = target
        self._options = options
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._runs: list[RealtimeRun] = []
        self._reception = Reception(listener, self._selector) if listener else None

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for run in self._runs:
            run.release()
        self._selector.close()

    def begin(self, scenario: Scenario) -> RealtimeRun:
        """Begin to play ``scenario``: its time 0 is now."""
        run = RealtimeRun(
            scenario, self._target, self._options, self._clock, self._selector, self._reception
        )
        self._runs.append(run)
        return run

    def turn(self, until_ns: int | None = None) -> list[RealtimeRun]:
        """Wait until something happens to some run, but not beyond ``until_ns`` of the clock; let
        it happen, and return the runs that are over."""
        wakes_ns = [run.wakes_ns for run in self._runs]
        wakes_ns += [] if until_ns is None else [until_ns]
        if not wakes_ns:
            return []
        for key, events in wait(self._selector, self._clock, min(wakes_ns)):
            handler: RealtimePlayer | Reception = key.data
            handler.ready(events)
            if isinstance(handler, RealtimePlayer):
                handler.run.look_at(handler)
        over = [run for run in self._runs if not run.goes_on()]
        for run in over:
            run.release()
            self._runs.remove(run)
        return over


class RealtimeRun:
    """One scenario's players on a selector.

    Script time is real time and what has been skipped of it; the agenda is in script time.
    """

    def __init__(
        self,
        scenario: Scenario,
        target: Target | None,
        options: RealtimeOptions,
        clock: Clock,
        selector: selectors.BaseSelector,
        reception: Reception | None = None,
    ) -> None:
        self._reception = reception
        self.target = target
        self.options = options
        self._clock = clock
        self._selector = selector
        self._agenda: list[tuple[int, int, RealtimePlayer]] = []
        self._order = count()
        self._patience_ns = options.patience_ns + server_delay_max_ns(scenario)
        self._result: RealRun | None = None
        self.skipped_ns = 0
        self._lateness_ns: list[int] = []
        self._capped: list[CappedWait] = []
        self._players = [RealtimePlayer(self, one) for one in scenario.connections]
        self._playing = set(self._players)
        self._began_ns = clock.monotonic_ns()
        self._progress_ns = 0
        """When something was last said or done that the script is about, in real time."""
        for player in self._players:
            player.schedule()

    @property
    def now_ns(self) -> int:
        """Real nanoseconds since the run began."""
        return self._clock.monotonic_ns() - self._began_ns

    # -- the loop ---------------------------------------------------------------------------------

    @property
    def wakes_ns(self) -> int:
        """The clock's reading at which there is something to do if nothing happens before."""
        return self._began_ns + self._quiet_until_ns()

    def goes_on(self) -> bool:
        """Let leave what is due; False once every player is done, or nothing comes any more."""
        now_ns, due_ns = self.now_ns, self._due_ns()
        if due_ns is not None and now_ns >= due_ns:
            self._depart(now_ns)
        elif self._playing and now_ns >= self._quiet_until_ns():
            if due_ns is None:
                return False
            self._skip(due_ns - now_ns)
        return bool(self._playing)

    def release(self) -> None:
        """Take the sockets out of the loop and close them; the result stays."""
        self.result()
        for player in self._players:
            player.release()
            self.look_at(player)

    def _due_ns(self) -> int | None:
        """When the next departure leaves, in real time; None if none is known."""
        return self._agenda[0][0] - self.skipped_ns if self._agenda else None

    def _quiet_until_ns(self) -> int:
        """Until when to wait if nothing happens."""
        due_ns, wait_max_ns = self._due_ns(), self.options.wait_max_ns
        if due_ns is None:
            return self._progress_ns + self._wait_ns()
        return due_ns if wait_max_ns is None else min(due_ns, self._progress_ns + wait_max_ns)

    def _wait_ns(self) -> int:
        """How long to wait for what the server should do."""
        if self.options.by_claims is None:
            return self._patience_ns
        return max((player.wait_ns for player in self._playing), default=0)

    def _depart(self, now_ns: int) -> None:
        _, _, player = heapq.heappop(self._agenda)
        self._progress_ns = now_ns
        late_ns = player.depart(now_ns)
        if late_ns is not None:
            self._lateness_ns.append(late_ns)
        self.look_at(player)

    def _skip(self, ns: int) -> None:
        """A sender's wait is over before its time."""
        player = self._agenda[0][2]
        self.skipped_ns += ns
        self._capped.append(CappedWait(player.observed.name, player.next_line, ns))

    def look_at(self, player: RealtimePlayer) -> None:
        """Something happened to ``player``: wait for what its link wants from here on."""
        if player.done:
            self._playing.discard(player)
        link = player.link
        if link is None or link.events == player.watched:
            return
        if not player.watched:
            self._selector.register(link.sock, link.events, player)
        elif link.events:
            self._selector.modify(link.sock, link.events, player)
        else:
            self._selector.unregister(link.sock)  # it may be closed: looked up as an object
        player.watched = link.events

    # -- what players tell ------------------------------------------------------------------------

    def at(self, due_ns: int, player: RealtimePlayer) -> None:
        """Let ``player`` depart at ``due_ns`` of script time."""
        heapq.heappush(self._agenda, (due_ns, next(self._order), player))

    def listen(self, player: RealtimePlayer) -> None:
        """``player`` takes a connection; where there is no place for one, it waits in vain."""
        if self._reception is not None:
            self._reception.add(player)

    def came(self, now_ns: int) -> None:
        """Something has come that the script waits for."""
        self._progress_ns = now_ns

    def result(self) -> RealRun:
        """What the run gave; nothing comes to it any more."""
        if self._result is None:
            for player in self._players:
                player.conclude()
            failures = [player.failure for player in self._players]
            self._result = RealRun(
                tuple(player.observed for player in self._players),
                self.now_ns,
                tuple(self._lateness_ns),
                tuple(self._capped),
                failures[0] if all(failures) else "",
            )
        return self._result
