"""A socket in the spool's folder, by which another process tells the server to read the database.

What is asked for stands in the database; a datagram says no more than that there is something, and
one that is lost is made good by the next, or by a start.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from mailsrv.runtime.poll import READ, Poll

NAME = "wake"
DATAGRAMS_MAX = 64
"""Taken in one pass."""


class WakeSocket:
    """Calls ``woken`` on the loop when another process called ``wake``.  Raises OSError."""

    def __init__(self, folder: Path, poll: Poll, woken: Callable[[], object]) -> None:
        self.number = -1  # before all connections
        self._poll = poll
        self._woken = woken
        self.folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(FileNotFoundError):
                (folder / NAME).unlink()  # of a process that was killed: the spool is ours
            with _address(folder) as address:
                self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        poll.watch(self._socket, READ, self)

    def ready(self, events: int) -> None:
        """There are datagrams."""
        with contextlib.suppress(OSError):
            for _ in range(DATAGRAMS_MAX):
                self._socket.recv(1)
        self._woken()

    def close(self) -> None:
        """Watch it no more."""
        self._poll.forget(self._socket)
        self._socket.close()
        with contextlib.suppress(OSError):
            (self.folder / NAME).unlink()


def wake(folder: Path) -> None:
    """Wake the server that owns the spool in ``folder``, if there is one."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
        _address(folder) as address,
    ):
        sock.sendto(b"x", address)


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    """The socket's address; by itself the folder's path may be longer than the 107 octets that an
    address can have."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)
