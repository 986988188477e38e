"""A server in virtual time, whichever it is: the agenda, the links to it, and how they settle.

Server, listener, loop and senders run in one thread on real loopback sockets; only the clock and
the poll are ours.  Whatever can happen at the present instant is done (``settle``) before time
moves, and it moves straight to the next thing that will happen.  At one instant the order is:
departures that are due, one at a time and each with the arrivals it causes, then timers.
"""

from __future__ import annotations

import heapq
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from typing import Self

from mailsrv.runtime.clock import FakeClock, SystemClock
from mailsrv.units import NS_PER_S
from replay.play import sockets
from replay.play.fakes.world import DeliveredMessage
from replay.play.receivers import Receivers
from replay.play.target import SocketAddress
from replay.play.virtual_link import PIECE_OCTETS, VirtualLink

GUARD_NS = 5 * NS_PER_S
"""Real time after which a connection that does not come to rest is given up."""
STEPS_MAX = 100_000_000
"""Things that may happen in one run."""
LOG_LINES_MAX = 100_000
"""Of one run; lines beyond it are left out."""
QUIET_NS, QUIET_STEPS = 3600 * NS_PER_S, 1_000
"""A server whose timers alone go on, for so long and so often with nothing departing or arriving,
has a heartbeat: nothing will come of it.  No timeout of SMTP is longer (RFC 5321 section 4.5.3.2
has half an hour at most)."""
QUIET_STEPS_MAX = 20_000
"""So often is enough by itself: a queue that tries each millisecond takes very long for an hour."""
START_S = 1_000_003
"""The clock starts at an odd number, so that no instant can be mistaken for a duration."""
REALTIME_OFFSET_NS = 1_767_225_600 * NS_PER_S
SENDER_ADDRESSES = 64
"""Senders take turns at this many loopback addresses, so that ports never run out."""


class Stalled(Exception):
    """The network did not come to rest: this kernel, or a defect, broke an assumption."""


class Leaked(AssertionError):
    """Something was left after the server's own shutdown."""


class ServerFault(AssertionError):
    """The server met a defect of its own."""


class NotVirtual(AssertionError):
    """The server did what virtual time cannot hold; its run says nothing that would hold again."""


class TargetFault(Exception):
    """A target that starts no server; the message says what it did."""


class Harness(ABC):
    """One run against one server.  Use it as a context manager: leaving it shuts the server down
    and checks that nothing is left.

    A kind of server is a subclass: it says where its server listens (``address``), calls
    ``_arrived`` and keeps ``_links`` as the server accepts and closes connections, lets it dial
    ``receivers``, counts octets on each link, and has the methods at the end.  ``log`` keeps the
    server's log lines; all instants are nanoseconds since the run began.  ``runs_before`` is how
    many runs there were at the same address, whose senders' ports may not be free yet.
    """

    address: SocketAddress
    receivers: Receivers | None = None
    """Where the server's own connections lead; None for a server that begins none."""
    knows_client_hello = True
    """Whether the server tells a TLS handshake from commands where it wants none.  Others take its
    random octets for lines: how many there are, nothing decides, and the trace leaves them out."""

    owns_descriptors = True
    """Whether all that is opened during a run is closed by its end: an application may well keep a
    store that it has opened."""

    def __init__(self, runs_before: int = 0) -> None:
        self._descriptors = _open_descriptors()
        self.clock = FakeClock(START_S, realtime_offset_ns=REALTIME_OFFSET_NS)
        self._start_ns = self.clock.monotonic_ns()
        self.now_ns = 0
        """Nanoseconds since the run began."""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._by_port: dict[SocketAddress, tuple[VirtualLink, str]] = {}
        self._links: dict[object, VirtualLink] = {}
        """Connections that the server has accepted or begun and not closed, by its own object."""
        self._unsettled: set[VirtualLink] = set()
        self._dialled: dict[socket.socket, VirtualLink] = {}
        """Connections that the server has begun and not yet shown to its tap, by its socket."""
        self._opened = 0
        self._addresses = count(runs_before)
        self._steps = 0
        self._quiet_steps = 0
        self.moved_ns = 0
        """When something departed or arrived last."""
        self.log: Sequence[str] = ()
        self.page: Callable[[], str] = str
        """Returns the page of what the server has counted, "" where it counts nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.finish(check=kind is None)
        finally:
            self._close()

    # -- time -------------------------------------------------------------------------------------

    def at(self, instant_ns: int, act: Callable[[], None]) -> None:
        """Do ``act`` at ``instant_ns`` since the run began."""
        heapq.heappush(self._events, (instant_ns, next(self._order), act))

    def next_ns(self) -> int | None:
        """When something will happen next, or None if nothing ever can."""
        timer_ns = self._timer_ns()
        if not self._events:
            return timer_ns
        event_ns = self._events[0][0]
        return event_ns if timer_ns is None else min(event_ns, timer_ns)

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more, but perhaps the server's own heartbeats."""
        if self._events:
            return False
        if self._timer_ns() is None:
            return True
        if self._quiet_steps < QUIET_STEPS:
            return False
        is_long = self.now_ns - self.moved_ns >= QUIET_NS
        return is_long or self._quiet_steps >= QUIET_STEPS_MAX

    def step(self) -> None:
        """Let the next thing happen, and all that it causes at the same instant."""
        events, timer_ns = self._events, self._timer_ns()
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise Stalled(f"{STEPS_MAX} things have happened, and there is no end")
        if events and (timer_ns is None or events[0][0] <= timer_ns):
            instant_ns, _, act = heapq.heappop(events)
            if instant_ns > self.now_ns:
                self._advance_to(instant_ns)
            self._moved()
            act()
        elif timer_ns is not None:
            self._advance_to(timer_ns)
            self._quiet_steps += 1
            self._expire()
        else:
            raise Stalled("nothing can ever happen again")
        self.settle()

    def run_until(self, instant_ns: int) -> None:
        """Let everything before ``instant_ns`` happen, and departures at it; not its timers."""
        self.settle()
        while (next_ns := self.next_ns()) is not None and (
            next_ns < instant_ns or (self._events and self._events[0][0] <= instant_ns)
        ):
            self.step()
        self._advance_to(instant_ns)

    @property
    def departs(self) -> bool:
        """Whether it is known when something departs next."""
        return bool(self._events)

    def _moved(self) -> None:
        """Something departs or arrives."""
        self.moved_ns, self._quiet_steps = self.now_ns, 0

    def _advance_to(self, instant_ns: int) -> None:
        if instant_ns > self.now_ns:
            self.clock.advance_to_ns(self._start_ns + instant_ns)
            self.now_ns = instant_ns

    # -- connections ------------------------------------------------------------------------------

    def connect(
        self, client: str, on_octets: Callable[[bytes], None], on_end: Callable[[str], None]
    ) -> VirtualLink:
        """Open a connection that the server sees coming from ``client``; not yet settled."""
        self._opened += 1
        sock = sockets.sender_socket()
        try:
            sock.bind((f"127.0.1.{1 + next(self._addresses) % SENDER_ADDRESSES}", 0))
            link = VirtualLink(self._opened, sock, on_octets, on_end)
            self._by_port[sock.getsockname()] = link, client
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        self._unsettled.add(link)
        return link

    def receive(self, address: str, port: int, opened: Callable[[VirtualLink], None]) -> None:
        """Take the next connection that the server begins to ``address``; ``opened`` is told of it
        and then listens to the link.  A server without ``receivers`` never begins one."""
        if self.receivers is None:
            return

        def accepted(sock: socket.socket, dialled: socket.socket) -> None:
            self._opened += 1
            link = VirtualLink(self._opened, sock, _ignore, _ignore)
            self._dialled[dialled] = link
            self._unsettled.add(link)
            opened(link)

        self.receivers.listen(address, port, accepted)

    def _forget_what_was_dropped(self) -> None:
        """Connections that the server has begun and closed without a word."""
        for sock in [sock for sock in self._dialled if sock.fileno() < 0]:
            self._dialled.pop(sock).server_gone = True

    def send(self, link: VirtualLink, octets: bytes, *, hold: bool = False) -> None:
        """Write ``octets`` on a link, piece by piece, each settled; but for the last where what
        comes next is in one flight with it (``hold``)."""
        for at in range(0, len(octets), PIECE_OCTETS):
            piece = octets[at : at + PIECE_OCTETS]
            link.send(piece)
            self.touch(link)
            if not hold or at + PIECE_OCTETS < len(octets):
                self.settle()

    def touch(self, link: VirtualLink) -> None:
        """Something was done with ``link``: the next ``settle`` looks at it."""
        self._unsettled.add(link)

    def settle(self) -> None:
        """Let the server and the senders do all they can at the present instant."""
        if not self._unsettled:
            return
        guard_ns = 0
        while True:
            progress = is_awaited = False
            if self._dialled:
                self._forget_what_was_dropped()
            for link in self._in_order():
                if link.unsent and link.server is not None and link.server.reading:
                    sent = link.played_sent
                    link.push()
                    progress |= link.played_sent > sent
                is_awaited = is_awaited or link.server_has_work
            if is_awaited:
                progress |= self._serve()
            for link in self._in_order():
                if link.take_in():
                    progress = True
                    self._moved()
            restless = [link for link in self._unsettled if not link.is_calm]
            if not restless:
                self._unsettled.clear()
                return
            unbalanced = [link for link in restless if not link.balanced]
            if not unbalanced:
                self._unsettled = {link for link in restless if _needs_care(link)}
                return
            if progress:
                continue
            now_ns = SystemClock.monotonic_ns()
            guard_ns = guard_ns or now_ns + GUARD_NS
            if now_ns > guard_ns:
                raise Stalled(f"{min(unbalanced, key=_number)} does not come to rest")
            self._wait_really()

    def _in_order(self) -> list[VirtualLink]:
        links = list(self._unsettled)
        if len(links) > 1:
            links.sort(key=_number)
        return links

    def _arrived(self, peer: SocketAddress) -> tuple[VirtualLink, str]:
        """The link of the connection that the server has accepted from ``peer``, and the client
        for which the server shall take it."""
        return self._by_port.pop(peer)

    # -- the end ----------------------------------------------------------------------------------

    def finish(self, *, check: bool = True) -> None:
        """Shut the server down and, with ``check``, see that nothing is left.

        Raises Leaked or ServerFault.
        """
        self._events.clear()
        for link in list(self._links.values()):
            if not link.played_gone:
                link.close()
                self.touch(link)
        try:
            self.settle()
        finally:
            self._stop()
        self.settle()
        while not self._stopped() and not self.is_over:
            self.step()
        self._release()
        if check:
            self._check_faults()
            self._check_leaks()

    def _check_faults(self) -> None:
        if faults := self._faults():
            raise ServerFault("the server met a defect of its own: " + "; ".join(faults[:3]))

    def _check_leaks(self) -> None:
        left = self._left()
        self._close()
        descriptors = _open_descriptors() - self._descriptors
        if descriptors > 0 and self.owns_descriptors:
            left.append(f"{descriptors} descriptors")
        if left:
            raise Leaked("left after the server's shutdown: " + ", ".join(left))

    # -- what a kind of server has to offer -------------------------------------------------------

    @property
    @abstractmethod
    def accepted(self) -> Sequence[DeliveredMessage] | None:
        """The messages that got their 250, in order; None where that cannot be seen."""

    @abstractmethod
    def _timer_ns(self) -> int | None:
        """When the server's next timer is due, in nanoseconds since the run began."""

    @abstractmethod
    def _expire(self) -> None:
        """Let the timers that are due expire."""

    @abstractmethod
    def _serve(self) -> bool:
        """One pass over all that is ready, without waiting; True if anything was."""

    @abstractmethod
    def _wait_really(self) -> None:
        """Leave the kernel a moment of real time; only on the way to ``Stalled``."""

    @abstractmethod
    def _stop(self) -> None:
        """Begin the server's own shutdown."""

    @abstractmethod
    def _stopped(self) -> bool:
        """Whether the shutdown is complete."""

    @abstractmethod
    def _release(self) -> None:
        """Release what is around the server; it has stopped."""

    @abstractmethod
    def _faults(self) -> list[str]:
        """Defects of its own that the server met, in words."""

    @abstractmethod
    def _left(self) -> list[str]:
        """What is left after the shutdown, in words; descriptors are counted beside it."""

    @abstractmethod
    def _close(self) -> None:
        """Close the poll; harmless when closed."""


def _ignore(what: object) -> None:
    """What arrives before anything listens: nothing does."""


def _number(link: VirtualLink) -> int:
    return link.number


def _needs_care(link: VirtualLink) -> bool:
    """True for a link that may move again without being touched: one with octets held back."""
    if link.unsent:
        return True
    return link.server is not None and link.server.pending_octets > 0


def _open_descriptors() -> int:
    """How many descriptors this process holds; 0 where the system does not tell.

    From version 6.2 on Linux says it as the size of the folder, which costs a quarter of a listing.
    """
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
