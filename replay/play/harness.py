"""The shipped server in virtual time, with everything around it that a run needs.

Server, listener, loop and senders run in one thread on real loopback sockets; only the clock and
the poll are ours.  Whatever can happen at the present instant is done (``settle``) before time
moves, and it moves straight to the next thing that will happen.  At one instant the order is:
departures that are due, one at a time and each with the arrivals it causes, then timers.
"""

from __future__ import annotations

import heapq
import os
import random
import selectors
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count

from mailsrv.inbound.connection import Connection
from mailsrv.policy.greylist import Greylist
from mailsrv.policy.recipients import Directory
from mailsrv.runtime.clock import FakeClock, SystemClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import READ, Handler, Ready
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.smtp.trace import trace_fields
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.tls_context import server_context
from mailsrv.transport.transport import TransportOwner
from mailsrv.units import NS_PER_S
from replay.play.fakes.world import World, world_from
from replay.play.tls_client import CERTIFICATE, KEY
from replay.play.virtual_link import PIECE_OCTETS, VirtualLink

GUARD_NS = 5 * NS_PER_S
"""Real time after which a connection that does not come to rest is given up."""
_GUARD_WAIT_S = 0.02
STEPS_MAX = 100_000_000
"""Things that may happen in one run."""
LOG_LINES_MAX = 100_000
START_S = 1_000_003
"""The clock starts at an odd number, so that nobody mistakes an instant for a duration."""
REALTIME_OFFSET_NS = 1_767_225_600 * NS_PER_S
CLIENT_NETWORKS = 64
"""Senders take turns at this many loopback addresses, so that ports never run out."""


class Stalled(Exception):
    """The network did not come to rest: this kernel, or a defect, broke an assumption."""


class Leaked(AssertionError):
    """Something was left after the server's own shutdown."""


class ServerFault(AssertionError):
    """The server met a defect of its own."""


class VirtualPoll:
    """Says what is ready now; never waits, since time does not pass by itself."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.answers: list[Handler] = []
        self.watched = 0
        self.found = 0

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._selector.register(sock, events, handler)
        self.watched += 1

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._selector.modify(sock, events, handler)

    def forget(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        self.watched -= 1

    def wait(self, until_ns: int | None) -> Ready:
        ready = self._selector.select(0)
        if self.answers:
            keys = [selectors.SelectorKey(-1, -1, READ, answer) for answer in self.answers]
            self.answers.clear()
            ready = [(key, READ) for key in keys] + ready
        self.found = len(ready)
        return ready

    def wait_really(self) -> None:
        """Give the kernel a moment of real time; only on the way to ``Stalled``."""
        self._selector.select(_GUARD_WAIT_S)

    def close(self) -> None:
        self._selector.close()


class _Answer:
    """What a fake has to say.  It reaches the server as a real answer would: through the loop,
    in a pass of its own, with the clock read and faults caught."""

    number = 0

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def ready(self, events: int) -> None:
        self._act()


class Harness:
    """One run.  Use it as a context manager: leaving it shuts the server down and checks that
    nothing is left.

    ``settings`` and ``world`` are a scenario's; ``log`` keeps the server's log lines; ``stub`` is
    the server's own resolver where the world has name servers for it.
    """

    def __init__(
        self,
        settings: Settings,
        world: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        greylist: Callable[[FakeClock], Greylist] | None = None,
    ) -> None:
        self._descriptors = _open_descriptors()
        self.clock = FakeClock(START_S, realtime_offset_ns=REALTIME_OFFSET_NS)
        self._start_ns = self.clock.monotonic_ns()
        self._poll = VirtualPoll()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._by_port: dict[tuple[str, int], tuple[VirtualLink, str]] = {}
        self._arriving: VirtualLink
        self._links: dict[int, VirtualLink] = {}
        self._unsettled: set[VirtualLink] = set()
        self._opened = 0
        self._steps = 0
        self.log: list[str] = []
        self.world: World = world_from(
            world or {},
            self._call_later,
            lambda envelope: trace_fields(envelope, settings.hostname, self.clock.realtime_ns()),
        )
        journal = EventLog(self.clock, self._keep_log)
        nameserver = self.world.nameserver
        self.stub = nameserver.resolver(seed, journal.note) if nameserver else None
        self.server = Server(
            settings,
            ServerBackends(
                resolver=self.stub or self.world.resolver,
                reputation=self.world.reputation,
                courier=self.world.courier,
                greylist=greylist(self.clock) if greylist else None,
                directory=Directory.of(settings, self.world.recipients),
                tls=_server_tls() if self.world.tls else None,
            ),
            clock=self.clock,
            poll=self._poll,
            random=random.Random(seed),
            event_log=journal,
            peer_name=self._client_of,
            tap=self,
        )
        if self.stub is not None:
            self.stub.attach(self.server.loop)
        implicit_tls = self.world.tls == "implicit"
        listener = self.server.listen(bind("127.0.0.1", 0), implicit_tls=implicit_tls)
        self.address = listener.address

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.finish(check=kind is None)
        finally:
            self._poll.close()

    # -- time -------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the run began."""
        return self.clock.monotonic_ns() - self._start_ns

    def at(self, instant_ns: int, act: Callable[[], None]) -> None:
        """Do ``act`` at ``instant_ns`` since the run began."""
        heapq.heappush(self._events, (instant_ns, next(self._order), act))

    def next_ns(self) -> int | None:
        """When something will happen next, or None if nothing ever can."""
        wake_ns = self.server.loop.timers.next_wake_ns()
        timer_ns = None if wake_ns is None else wake_ns - self._start_ns
        if not self._events:
            return timer_ns
        event_ns = self._events[0][0]
        return event_ns if timer_ns is None else min(event_ns, timer_ns)

    def step(self) -> None:
        """Let the next thing happen, and all that it causes at the same instant."""
        instant_ns = self.next_ns()
        if instant_ns is None:
            raise Stalled("nothing can ever happen again")
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise Stalled(f"{STEPS_MAX} things have happened, and there is no end")
        self._advance_to(instant_ns)
        if self._events and self._events[0][0] <= instant_ns:
            heapq.heappop(self._events)[2]()
        else:
            self.server.loop.expire()
            self._work_off()
        self.settle()

    def run_until(self, instant_ns: int) -> None:
        """Let everything before ``instant_ns`` happen, and departures at it; not its timers."""
        self.settle()
        while (next_ns := self.next_ns()) is not None and (
            next_ns < instant_ns or (self._events and self._events[0][0] <= instant_ns)
        ):
            self.step()
        self._advance_to(instant_ns)

    def _advance_to(self, instant_ns: int) -> None:
        if instant_ns > self.now_ns:
            self.clock.advance_to_ns(self._start_ns + instant_ns)

    def _call_later(self, delay_ns: int, act: Callable[[], None]) -> None:
        self.at(self.now_ns + delay_ns, lambda: self._answer(act))

    def _answer(self, act: Callable[[], None]) -> None:
        self._poll.answers.append(_Answer(act))
        self.server.loop.dispatch(None)
        self._work_off()

    def _work_off(self) -> None:
        """Let the server do all that it has put off; nothing of it belongs to a later instant."""
        while self.server.loop.has_backlog:
            self.server.loop.dispatch(None)

    # -- connections ------------------------------------------------------------------------------

    def connect(
        self, client: str, on_octets: Callable[[bytes], None], on_end: Callable[[str], None]
    ) -> VirtualLink:
        """Open a connection that the server sees coming from ``client``; not yet settled."""
        self._opened += 1
        sock = socket.socket()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((f"127.0.1.{1 + self._opened % CLIENT_NETWORKS}", 0))
            link = VirtualLink(self._opened, sock, on_octets, on_end)
            self._by_port[sock.getsockname()] = link, client
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        self._unsettled.add(link)
        return link

    def send(self, link: VirtualLink, octets: bytes) -> None:
        """Write ``octets`` on a link, piece by piece, each settled."""
        for at in range(0, len(octets), PIECE_OCTETS):
            piece = octets[at : at + PIECE_OCTETS]
            link.send(piece)
            self.touch(link)
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
            progress, links = False, self._in_order()
            for link in links:
                if link.unsent and link.connection is not None and link.connection.reading:
                    sent = link.client_sent
                    link.push()
                    progress |= link.client_sent > sent
            for link in links:
                if link.server_has_work:
                    self.server.loop.dispatch(None)
                    progress |= self._poll.found > 0
                    self._work_off()
                    break
            for link in self._in_order():
                progress |= link.take_in()
            unbalanced = [link for link in self._in_order() if not link.balanced]
            if not unbalanced:
                self._unsettled = {link for link in self._unsettled if _needs_care(link)}
                return
            if progress:
                continue
            now_ns = SystemClock.monotonic_ns()
            guard_ns = guard_ns or now_ns + GUARD_NS
            if now_ns > guard_ns:
                raise Stalled(f"{unbalanced[0]} does not come to rest")
            self._poll.wait_really()

    def _in_order(self) -> list[VirtualLink]:
        links = list(self._unsettled)
        if len(links) > 1:
            links.sort(key=_number)
        return links

    # -- the server's side: its peers' names, its tap, its log ------------------------------------

    def _client_of(self, address: tuple[str, int]) -> str:
        self._arriving, client = self._by_port.pop(address)
        return client

    plaintext = False

    def opened(self, connection: TransportOwner, sock: socket.socket) -> None:
        assert isinstance(connection, Connection)
        link = self._arriving  # the socket itself may have been reset, and know its peer no more
        link.connection = connection
        self._links[connection.number] = link

    def received(self, connection: TransportOwner, octets: bytes) -> None:
        link = self._links[connection.number]
        link.server_received += len(octets)
        if not octets:
            link.server_eof = True

    def sent(self, connection: TransportOwner, octets: bytes) -> None:
        link = self._links[connection.number]
        link.server_sent += len(octets)
        if not octets:
            link.server_fin = True
        self._unsettled.add(link)

    def secured(self, connection: TransportOwner, tls: str) -> None:
        """Nothing: octets are counted as they are on the wire."""

    def lost(self, connection: TransportOwner, how: str) -> None:
        """Nothing: it is closed next."""

    def closed(self, connection: TransportOwner) -> None:
        link = self._links.pop(connection.number)
        link.server_gone = True
        self._unsettled.add(link)

    def _keep_log(self, text: str) -> None:
        if len(self.log) < LOG_LINES_MAX:
            self.log.extend(text.splitlines())

    # -- the end ----------------------------------------------------------------------------------

    def finish(self, *, check: bool = True) -> None:
        """Shut the server down and, with ``check``, see that nothing is left.

        Raises Leaked or ServerFault.
        """
        self._events.clear()
        for link in list(self._links.values()):
            if not link.client_gone:
                link.close()
                self.touch(link)
        try:
            self.settle()
        finally:
            self.server.stop()
        self.settle()
        while not self.server.done and self.next_ns() is not None:
            self.step()
        self.server.loop.dispatch(None)
        if self.stub is not None:
            self.stub.close()
        if check:
            self._check_faults()
            self._check_leaks()

    def _check_faults(self) -> None:
        faults = [line for line in self.log if " event=fault " in line]
        if faults:
            raise ServerFault("the server met a defect of its own: " + "; ".join(faults[:3]))

    def _check_leaks(self) -> None:
        left = []
        if timers := len(self.server.loop.timers):
            left.append(f"{timers} timers")
        if self._poll.watched:
            left.append(f"{self._poll.watched} watched sockets")
        if self.server.connections:
            left.append(f"{len(self.server.connections)} connections")
        courier = self.world.courier
        if open_sinks := courier.begun - courier.aborted - len(courier.messages):
            left.append(f"{open_sinks} messages neither finished nor aborted")
        self._poll.close()
        descriptors = _open_descriptors() - self._descriptors
        if descriptors > 0:
            left.append(f"{descriptors} descriptors")
        if left:
            raise Leaked("left after the server's shutdown: " + ", ".join(left))


@cache
def _server_tls() -> ssl.SSLContext:
    """What every server under test that has a certificate shakes hands with."""
    return server_context(CERTIFICATE, KEY)


def _number(link: VirtualLink) -> int:
    return link.number


def _needs_care(link: VirtualLink) -> bool:
    """True for a link that may move again without being touched: one with octets held back."""
    if link.unsent:
        return True
    return link.connection is not None and link.connection.pending_octets > 0


def _open_descriptors() -> int:
    """How many descriptors this process holds; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
