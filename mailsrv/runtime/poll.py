"""Waiting for sockets: on epoll where the system has it, else on the standard library's
``selectors``."""

from __future__ import annotations

import select
import selectors
import socket
import sys
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_S

READ, WRITE = 1, 4
"""EPOLLIN and EPOLLOUT, see epoll_ctl(2)."""
READY_MAX = 1024
"""Sockets that are handled in one pass; the kernel tells of the others in the next."""


class Handler(Protocol):
    """Is called when its socket is ready.  ``number`` orders handlers that are ready at once; it
    stays the same while a socket is watched."""

    number: int

    def ready(self, events: int) -> None:
        """``events`` is a mask of ``READ`` and ``WRITE``."""


Watched = tuple[int, Handler, int]
"""A handler's number, the handler, and the events that it wants or is to be called with."""
Ready = list[Watched]


class Poll(Protocol):
    """What the loop waits with."""

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        """Call ``handler`` at ``events`` on ``sock`` from now on."""

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        """Call it at other events on a watched socket."""

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no more; to be called before it is closed."""

    def wait(self, until_ns: int | None) -> Ready:
        """Return what is ready, or nothing once the clock reads ``until_ns`` (None: never)."""

    def close(self) -> None:
        """Release the descriptor."""


_FOR_SELECTOR = {
    READ: selectors.EVENT_READ,
    WRITE: selectors.EVENT_WRITE,
    READ | WRITE: selectors.EVENT_READ | selectors.EVENT_WRITE,
}
_FROM_SELECTOR = {selector: events for events, selector in _FOR_SELECTOR.items()}


class SelectorPoll:
    """A poll for every system."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._selector.register(sock, _FOR_SELECTOR[events], handler)

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._selector.modify(sock, _FOR_SELECTOR[events], handler)

    def forget(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)

    def wait(self, until_ns: int | None) -> Ready:
        timeout_s = None
        if until_ns is not None:
            timeout_s = max(0, until_ns - self._clock.monotonic_ns()) / NS_PER_S
        return [
            (key.data.number, key.data, _FROM_SELECTOR[events])
            for key, events in self._selector.select(timeout_s)
        ]

    def close(self) -> None:
        self._selector.close()


class EpollPoll:
    """A poll on epoll itself: a third of the interpreter's steps of a selector's ``select``, and
    less memory for each socket.  A wait comes with every pass of the loop."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}
        """By descriptor."""

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        fd = sock.fileno()
        self._epoll.register(fd, events)
        self._watched[fd] = handler.number, handler, events

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        fd = sock.fileno()
        self._epoll.modify(fd, events)
        self._watched[fd] = handler.number, handler, events

    def forget(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        del self._watched[fd]
        self._epoll.unregister(fd)

    def wait(self, until_ns: int | None) -> Ready:
        timeout_s = None
        if until_ns is not None:
            timeout_s = (until_ns - self._monotonic_ns()) / NS_PER_S
            if timeout_s < 0:
                timeout_s = 0
        watched, ready = self._watched, []
        for fd, event in self._epoll.poll(timeout_s, READY_MAX):
            wanted = watched[fd]
            ready.append(wanted if event == wanted[2] else _part(wanted, event))
        return ready

    def close(self) -> None:
        self._epoll.close()


def _part(wanted: Watched, event: int) -> Watched:
    """What came of ``wanted``; trouble is for whoever reads or writes to find."""
    number, handler, events = wanted
    came = (READ if event & ~WRITE else 0) | (WRITE if event & ~READ else 0)
    return number, handler, came & events


if sys.platform == "linux":
    SystemPoll = EpollPoll
else:
    SystemPoll = SelectorPoll
