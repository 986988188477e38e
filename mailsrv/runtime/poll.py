"""Waiting for sockets, on the standard library's ``selectors``."""

from __future__ import annotations

import selectors
import socket
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_S

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


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
    """The production poll."""

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
        return self._selector.select(timeout_s)

    def close(self) -> None:
        self._selector.close()
