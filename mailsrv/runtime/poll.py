"""Waiting for sockets, on the standard library's ``selectors``."""

from __future__ import annotations

import os
import select
import selectors
import socket
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_S

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
EPOLLIN, EPOLLOUT = getattr(select, "EPOLLIN", 1), getattr(select, "EPOLLOUT", 4)
READY_MAX = 1024
"""Sockets that are handled in one pass; the kernel tells of the others in the next."""


class Handler(Protocol):
    """Is called when its socket is ready.  ``number`` orders handlers that are ready at once."""

    number: int

    def ready(self, events: int) -> None:
        """``events`` is a mask of ``READ`` and ``WRITE``."""


Ready = list[tuple[selectors.SelectorKey, int]]
"""What ``selectors`` returns: keys, whose ``data`` is the handler, and events."""


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
    """The production poll.

    The selector's own ``select`` is some ninety steps of the interpreter.  Where it stands on
    epoll, that is asked directly, which is a third of them: a wait comes with every pass.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._selector = selectors.DefaultSelector()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._epoll: select.epoll | None = None
        if isinstance(self._selector, selectors.EpollSelector):
            self._epoll = select.epoll.fromfd(os.dup(self._selector.fileno()))

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._keys[sock.fileno()] = self._selector.register(sock, events, handler)

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        self._keys[sock.fileno()] = self._selector.modify(sock, events, handler)

    def forget(self, sock: socket.socket) -> None:
        del self._keys[self._selector.unregister(sock).fd]

    def wait(self, until_ns: int | None) -> Ready:
        timeout_s = None
        if until_ns is not None:
            timeout_s = (until_ns - self._monotonic_ns()) / NS_PER_S
            if timeout_s < 0:
                timeout_s = 0
        epoll, keys = self._epoll, self._keys
        if epoll is None:
            return self._selector.select(timeout_s)
        ready = []
        for fd, event in epoll.poll(timeout_s, READY_MAX):
            key = keys[fd]
            ready.append((key, READ if event == EPOLLIN else _events(event) & key.events))
        return ready

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
        self._selector.close()


def _events(event: int) -> int:
    """epoll's event as a mask; trouble is for whoever reads or writes to find."""
    return (READ if event & ~EPOLLOUT else 0) | (WRITE if event & ~EPOLLIN else 0)
