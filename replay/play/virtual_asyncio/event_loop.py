"""An asyncio event loop in virtual time: its timers stand on a clock that others move.

``run_forever`` runs until nothing is left to do at the present instant, and returns.  asyncio waits
in its selector alone, and with a timeout other than 0 only if nothing is ready: there the loop is
stopped instead.  Timers never reach asyncio's own queue, so the timeout says nothing of them; they
fire when they are told to, in the order of their deadlines and then of their making.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from mailsrv.units import NS_PER_S
from replay.play.virtual_time import Stalled

PASSES_MAX = 100_000
"""Passes of the loop in which a server comes to rest: more is a task that never waits."""
START_S = 1_009
"""What ``time`` returns at first: no instant can be mistaken for a duration, and it is small, since
seconds in a float tell nanoseconds apart up to 97 days."""
CANCELLED_MIN = 64
"""Fewer cancelled timers than this are left where they are."""
GUARD_WAIT_S = 0.02

Events = list[tuple[selectors.SelectorKey, int]]
Accept = Callable[[socket.socket, Any], tuple[socket.socket, Any]]
"""Takes a connection and its peer's address; returns what the server shall take for them."""


class VirtualSelector(selectors.BaseSelector):
    """Says what is ready now, in the order of registration; never waits.

    ``on_idle`` is called in place of waiting.  ``events`` holds what is watched for, by descriptor,
    and ``found`` counts what was ready.
    """

    def __init__(self, on_idle: Callable[[], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._on_idle = on_idle
        self._order = count()
        self._place: dict[int, int] = {}
        self._passes = 0
        self.events: dict[int, int] = {}
        self.found = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._selector.register(fileobj, events, data)
        self._place[key.fd] = next(self._order)
        self.events[key.fd] = events
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._selector.modify(fileobj, events, data)
        self.events[key.fd] = events
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._selector.unregister(fileobj)
        del self._place[key.fd], self.events[key.fd]
        return key

    def select(self, timeout: float | None = None) -> Events:
        ready = self._selector.select(0)
        self._passes += 1
        if ready:
            self.found += len(ready)
            if len(ready) > 1:
                ready.sort(key=lambda one: self._place[one[0].fd])
        elif timeout != 0:
            self._passes = 0
            self._on_idle()
        if self._passes > PASSES_MAX:
            self._passes = 0
            raise Stalled(
                f"the server's event loop does not come to rest in {PASSES_MAX} passes: "
                "something in it never waits, such as a loop around asyncio.sleep(0)"
            )
        return ready

    def wait_really(self) -> None:
        """Leave the kernel a moment of real time; only on the way to ``Stalled``."""
        self._selector.select(GUARD_WAIT_S)

    def close(self) -> None:
        self._selector.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)


class Listener(socket.socket):
    """A listening socket on loopback; ``on_accept`` sees each connection before the server does."""

    on_accept: Accept

    def accept(self) -> tuple[socket.socket, Any]:
        return self.on_accept(*super().accept())


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of one run.

    ``now_ns`` tells nanoseconds since the run began; ``accept`` is asked about each connection that
    a server of this loop takes; ``not_virtual`` is told of what cannot be done in virtual time.
    """

    def __init__(
        self, now_ns: Callable[[], int], accept: Accept, not_virtual: Callable[[str], None]
    ) -> None:
        self.virtual_selector = VirtualSelector(self.stop)
        super().__init__(self.virtual_selector)
        self._now_ns = now_ns
        self._accept = accept
        self._not_virtual = not_virtual
        self._thread = threading.get_ident()
        self._in_executor = 0
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._timer_order = count()
        self._cancelled_timers = 0

    # -- time -------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds of virtual time."""
        return START_S + self._now_ns() / NS_PER_S

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Put a timer on the grid of nanoseconds, in our own queue; one at infinity never fires.

        Raises ValueError for what is no number.
        """
        self._check_open()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if when == math.inf:
            return handle
        due_ns = max(round((when - START_S) * NS_PER_S), self._now_ns())
        heapq.heappush(self._timers, (due_ns, next(self._timer_order), handle))
        return handle

    def next_timer_ns(self) -> int | None:
        """When the next timer is due, in nanoseconds since the run began; None without any."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
            self._cancelled_timers -= 1
        return timers[0][0] if timers else None

    def fire_timers(self) -> None:
        """Let the timers that are due fire, in the next pass."""
        now_ns = self._now_ns()
        while (due_ns := self.next_timer_ns()) is not None and due_ns <= now_ns:
            self.call_soon(_fire, heapq.heappop(self._timers)[2])

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio tells each loop of timers that are cancelled: drop them once they are many."""
        self._cancelled_timers += 1
        if CANCELLED_MIN < self._cancelled_timers > len(self._timers) // 2:
            self._timers = [one for one in self._timers if not one[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    # -- the world around -------------------------------------------------------------------------

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> asyncio.Server:
        """Listen on loopback, at a port of the kernel's choice, wherever the server wants to."""
        for name in ("family", "flags", "reuse_address", "reuse_port", "keep_alive"):
            options.pop(name, None)
        if sock is not None:
            sock.close()
        listener = Listener(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.on_accept = self._accept
        try:
            listener.bind(("127.0.0.1", 0))
            return await super().create_server(protocol_factory, sock=listener, **options)
        except BaseException:
            listener.close()
            raise

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call ``func`` here and now: what another thread does takes no virtual time."""
        self._check_open()
        future: asyncio.Future[Any] = self.create_future()
        self._in_executor += 1
        try:
            future.set_result(func(*args))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._in_executor -= 1
        return future

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Take calls of other threads, whose instant is the machine's, with a complaint."""
        if threading.get_ident() != self._thread:
            self._not_virtual("another thread calls into the event loop")
        elif self._in_executor:
            self._not_virtual("what runs in an executor calls back into the event loop")
            raise RuntimeError("in virtual time an executor cannot call into the event loop")
        return super().call_soon_threadsafe(callback, *args, context=context)


def _fire(handle: asyncio.TimerHandle) -> None:
    """Run a timer, unless it was cancelled since it was due."""
    if not handle.cancelled():
        handle._run()
