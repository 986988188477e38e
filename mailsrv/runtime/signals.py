"""Signals, brought into the loop: a handler runs between two events like any other."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterable

from mailsrv.runtime.poll import READ, Poll

SIGNALS_MAX = 64
"""Signals taken in one pass."""


class SignalReader:
    """Calls ``received`` on the loop with the number of each signal of ``numbers``, in order."""

    def __init__(
        self, poll: Poll, numbers: Iterable[signal.Signals], received: Callable[[int], None]
    ) -> None:
        self.number = -1  # before all other handlers
        self._poll = poll
        self._received = received
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        poll.watch(self._reader, READ, self)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _leave_to_loop) for number in numbers}

    def ready(self, events: int) -> None:
        """Signals have been delivered."""
        with contextlib.suppress(BlockingIOError):
            for number in self._reader.recv(SIGNALS_MAX):
                if number in self._before:
                    self._received(number)

    def close(self) -> None:
        """Restore what the signals did before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._poll.forget(self._reader)
        self._reader.close()
        self._writer.close()


def _leave_to_loop(number: int, frame: object) -> None:
    """Do nothing: the interpreter has written the number to the wakeup descriptor."""
