"""The real-time driver: plays a scenario against any SMTP server, over real sockets.

One thread, one selector.  Departures keep the schedule of the transcript, counted from absolute
instants, and how late each was is measured.  A selector rounds its timeout up to milliseconds and
the kernel wakes late, so ``wait`` sleeps short of the instant and polls for the rest.  What is
observed stands in real time since the run began.
"""

from __future__ import annotations

import contextlib
import heapq
import selectors
from dataclasses import dataclass
from itertools import count
from selectors import SelectorKey
from types import TracebackType
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play import sockets
from replay.play.observed import ObservedConnection, ReplyListener
from replay.play.real_link import RealLink
from replay.play.schedule import Schedule, server_delay_max_ns
from replay.play.target import Target, bind_client, loopback_address
from replay.play.tls_client import Verify
from replay.smtp.proxy_header import proxy_header
from replay.transcript import script
from replay.transcript.script import Scenario, ScriptedConnection

POLL_NS = 3 * NS_PER_MS
"""The last part of a wait, spent polling: one millisecond for the selector's rounding, two for
the kernel to wake us.  It costs so much of a core a departure, and no more."""
SLEEP_MAX_NS = 60 * NS_PER_S
"""One sleep; epoll takes no timeout of days."""
PATIENCE_NS = 30 * NS_PER_S
"""How much longer than the transcript says the server may take for what is waited for."""
SPEED_MIN, SPEED_MAX = 0.001, 1_000_000.0
RECEIVED_OCTETS_MAX = 8 * 1024 * 1024
"""From one server to one sender: the sender of more is disconnected from."""

Ready = list[tuple[SelectorKey, int]]


class Selector(Protocol):
    """The part of ``selectors`` that waits."""

    def select(self, timeout: float | None = None) -> Ready:
        """Return what is ready within ``timeout`` seconds."""


@dataclass(frozen=True, slots=True)
class RealtimeOptions:
    """How to play.

    ``speed`` divides every wait of the senders'; where nothing happens for ``wait_max_ns`` but a
    sender's waiting, its next departure leaves.  ``proxy`` is a version of the PROXY protocol, 0
    for none.  ``verify`` says which certificates are good; left out: all.
    """

    speed: float = 1
    wait_max_ns: int | None = None
    patience_ns: int = PATIENCE_NS
    proxy: int = 0
    verify: Verify | None = None


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
    with _Run(scenario, target, options, clock) as run:
        run.play()
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


class _Run:
    """One scenario's players on one selector.

    Script time is real time and what has been skipped of it; the agenda is in script time.
    """

    def __init__(
        self, scenario: Scenario, target: Target, options: RealtimeOptions, clock: Clock
    ) -> None:
        self.target = target
        self.options = options
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._agenda: list[tuple[int, int, RealtimePlayer]] = []
        self._order = count()
        self._patience_ns = options.patience_ns + server_delay_max_ns(scenario)
        self.skipped_ns = 0
        self._lateness_ns: list[int] = []
        self._capped: list[CappedWait] = []
        self._players = [RealtimePlayer(self, one) for one in scenario.connections]
        self._playing = set(self._players)
        self._began_ns = clock.monotonic_ns()
        self._progress_ns = 0
        """When something was last said or done that the script is about, in real time."""

    def __enter__(self) -> _Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for player in self._players:
            player.release()
        self._selector.close()

    @property
    def now_ns(self) -> int:
        """Real nanoseconds since the run began."""
        return self._clock.monotonic_ns() - self._began_ns

    # -- the loop ---------------------------------------------------------------------------------

    def play(self) -> None:
        """Until every player is done, or nothing comes any more."""
        for player in self._players:
            player.schedule()
        while self._playing:
            until_ns = self._began_ns + self._quiet_until_ns()
            for key, events in wait(self._selector, self._clock, until_ns):
                key.data.ready(events)
                self._look_at(key.data)
            now_ns, due_ns = self.now_ns, self._due_ns()
            if due_ns is not None and now_ns >= due_ns:
                self._depart(now_ns)
            elif now_ns >= self._quiet_until_ns():
                if due_ns is None:
                    break
                self._skip(due_ns - now_ns)

    def _due_ns(self) -> int | None:
        """When the next departure leaves, in real time; None if none is known."""
        return self._agenda[0][0] - self.skipped_ns if self._agenda else None

    def _quiet_until_ns(self) -> int:
        """Until when to wait if nothing happens."""
        due_ns, wait_max_ns = self._due_ns(), self.options.wait_max_ns
        if due_ns is None:
            return self._progress_ns + self._patience_ns
        return due_ns if wait_max_ns is None else min(due_ns, self._progress_ns + wait_max_ns)

    def _depart(self, now_ns: int) -> None:
        _, _, player = heapq.heappop(self._agenda)
        self._progress_ns = now_ns
        late_ns = player.depart(now_ns)
        if late_ns is not None:
            self._lateness_ns.append(late_ns)
        self._look_at(player)

    def _skip(self, ns: int) -> None:
        """A sender's wait is over before its time."""
        player = self._agenda[0][2]
        self.skipped_ns += ns
        self._capped.append(CappedWait(player.observed.name, player.next_line, ns))

    def _look_at(self, player: RealtimePlayer) -> None:
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

    def came(self, now_ns: int) -> None:
        """Something has come that the script waits for."""
        self._progress_ns = now_ns

    def result(self) -> RealRun:
        for player in self._players:
            player.conclude()
        failures = [player.failure for player in self._players]
        return RealRun(
            tuple(player.observed for player in self._players),
            self.now_ns,
            tuple(self._lateness_ns),
            tuple(self._capped),
            failures[0] if all(failures) else "",
        )


class RealtimePlayer:
    """Plays one connection's departures and listens to what comes back.

    ``watched`` is what the run waits for on the link; ``failure`` says why there is none.
    """

    def __init__(self, run: _Run, connection: ScriptedConnection) -> None:
        self._run = run
        self._schedule = Schedule(connection, run.options.speed)
        self._replies = sum(
            isinstance(one.outcome, script.UTTERANCES) for one in connection.expectations()
        )
        self._scheduled = False
        self._ending: script.Action | None = None
        self._given_up = False
        self._receivedd_octets = 0
        self.link: RealLink | None = None
        self.watched = 0
        self.failure = ""
        self.observed = ObservedConnection(connection.name, [None] * len(self._schedule))
        self._listener = ReplyListener(self.observed)

    @property
    def done(self) -> bool:
        """True when there is nothing left to do or to wait for."""
        if self._given_up:
            return True
        match self._ending:
            case script.Close():
                return self.link is None or self.link.gone
            case script.Abandon():  # it goes when the record ended; here replies may take longer
                return bool(self.observed.end) or len(self.observed.replies) >= self._replies
            case script.UntilClosed():
                return bool(self.observed.end)
        return self._ending is not None

    @property
    def next_line(self) -> int:
        """Where the next departure stands."""
        return 0 if self._schedule.next is None else self._schedule.next.line

    def schedule(self) -> None:
        """Put the next departure on the agenda, if it is known when it goes."""
        if self._given_up or self._scheduled or self._schedule.over:
            return
        due_ns = self._schedule.due_ns()
        if due_ns is not None:
            self._scheduled = True
            self._run.at(due_ns, self)
        elif self.observed.end:  # the reply that is waited for will never come
            self._give_up(self._schedule.waits_for)

    def conclude(self) -> None:
        """The run is over: say what a script that is not finished was waiting for."""
        if not self.done:
            ending = isinstance(self._ending, script.Close)
            self._give_up("the server to read" if ending else self._schedule.waits_for)

    def release(self) -> None:
        """Close the socket, whatever the script says."""
        if self.link is not None:
            self.link.release()

    def _give_up(self, waits_for: str) -> None:
        self._given_up = True
        self.observed.waits_for = waits_for
        self.release()

    # -- departures -------------------------------------------------------------------------------

    def depart(self, now_ns: int) -> int | None:
        """Let what is due leave; returns by how much it was late, None if it did not leave."""
        due_ns = self._schedule.due_ns()
        self._scheduled = False
        if self._given_up or due_ns is None:
            return None
        late_ns = now_ns + self._run.skipped_ns - due_ns
        self.observed.departed_ns[self._schedule.gone] = now_ns
        action = self._schedule.depart().action
        if isinstance(action, script.Open):
            self._open(action.client)
        elif self.link is not None:
            self._act(action, self.link)
        if isinstance(action, script.ENDINGS):
            self._ending = action
        if isinstance(action, script.UntilClosed) and self.observed.end:
            self.release()
        self.schedule()
        return late_ns

    def _open(self, client: str) -> None:
        target, options = self._run.target, self._run.options
        try:
            sock = sockets.sender_socket(target.family)
            sock.setblocking(False)
        except OSError as error:
            self.failed(error)
            return
        self.link = RealLink(sock, self, options.verify)
        if target.on_loopback and not options.proxy:
            with contextlib.suppress(OSError):  # a kernel that has 127.0.0.1 and no other
                bind_client(sock, loopback_address(client))
        self.link.connect(target.address)
        if options.proxy and not self.link.gone:
            port = sock.getsockname()[1]
            self.link.send(proxy_header(options.proxy, client, port, target.address))

    def _act(self, action: script.Action, link: RealLink) -> None:
        match action:
            case script.SendOctets(octets):
                link.send(octets)
            case script.StartTls():
                link.start_tls()
            case script.HalfClose():
                link.half_close()
            case script.Close():
                link.close()
            case script.Reset():
                link.reset()
            case script.StopReading():
                link.read(False)
            case script.ResumeReading():
                link.read(True)

    # -- what comes -------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """The link's socket is ready."""
        if self.link is not None:
            self.link.ready(events)

    def received(self, octets: bytes) -> None:
        now_ns = self._run.now_ns
        self._receivedd_octets += len(octets)
        came = self._listener.received(octets, now_ns)
        if came and len(self.observed.replies) - came < self._replies:
            self._run.came(now_ns)
        self._schedule.came(came, now_ns + self._run.skipped_ns)
        self.schedule()
        if self._receivedd_octets > RECEIVED_OCTETS_MAX:
            self._give_up(f"an end of what the server says, for {RECEIVED_OCTETS_MAX} octets")

    def shook_hands(self, outcome: str) -> None:
        now_ns = self._run.now_ns
        self._run.came(now_ns)
        self._listener.shook_hands(outcome, now_ns)

    def ended(self, how: str) -> None:
        now_ns = self._run.now_ns
        self._run.came(now_ns)
        self._listener.ended(how, now_ns)
        if self._schedule.over:
            self.release()
        else:
            self.schedule()

    def failed(self, error: OSError) -> None:
        self.failure = error.strerror or str(error)
        self._give_up(f"a connection: {self.failure}")
