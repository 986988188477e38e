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

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
READY_MAX = 1024
"""Sockets that are handled in one pass; the kernel tells of the others in the next."""


class Handler(Protocol):
    """Is called when its socket is ready.  ``number`` orders handlers that are ready at once."""

    number: int

    def ready(self, events: int) -> None:
        """``events`` is a mask of ``READ`` and ``WRITE``."""


Ready = list[tuple[Handler, int]]
"""Handlers, and the events that they are to be called with."""


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


class SelectorPoll:
    """A poll for every system."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._selector.register(sock, events, handler)

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._selector.modify(sock, events, handler)

    def forget(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)

    def wait(self, until_ns: int | None) -> Ready:
        timeout_s = None
        if until_ns is not None:
            timeout_s = max(0, until_ns - self._clock.monotonic_ns()) / NS_PER_S
        return [(key.data, events) for key, events in self._selector.select(timeout_s)]

    def close(self) -> None:
        self._selector.close()


class EpollPoll:
    """A poll on epoll itself: a third of the interpreter's steps of a selector's ``select``, and
    less memory for each socket.  A wait comes with every pass of the loop."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Handler, int]] = {}
        """By descriptor."""

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        fd = sock.fileno()
        self._epoll.register(fd, _MASKS[events])
        self._watched[fd] = handler, events

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        fd = sock.fileno()
        self._epoll.modify(fd, _MASKS[events])
        self._watched[fd] = handler, events

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
            handler, events = watched[fd]
            ready.append((handler, READ if event == _IN else _events(event) & events))
        return ready

    def close(self) -> None:
        self._epoll.close()


if sys.platform == "linux":
    SystemPoll = EpollPoll
else:
    SystemPoll = SelectorPoll

_IN, _OUT = getattr(select, "EPOLLIN", 1), getattr(select, "EPOLLOUT", 4)
_MASKS = {READ: _IN, WRITE: _OUT, READ | WRITE: _IN | _OUT}


def _events(event: int) -> int:
    """epoll's event as a mask; trouble is for whoever reads or writes to find."""
    return (READ if event & ~_OUT else 0) | (WRITE if event & ~_IN else 0)
