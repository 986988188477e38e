"""The network beyond the server under test: the addresses that it may connect to, in virtual time.

Whatever address the server dials, its socket leads to one listener on loopback.  A scripted
receiver that listens at that address takes the connection; an address without one refuses it, is
silent, or has no route, as the scenario's world says.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from replay.play import sockets
from replay.play.fakes.tables import SILENCE, WorldError, table_of

REFUSED = "refused"
NO_ROUTE = "no route"
KINDS = (SILENCE, REFUSED, NO_ROUTE)
"""What an address without a scripted receiver may be."""
SOURCES = 64
"""Loopback addresses at which the server's connections take turns, so that ports never run out."""
IN_VAIN_MAX = 2_000
"""Connections that come to nothing and still count as something that happens."""
UNEXPECTED_MAX = 1_000
"""Connections without a receiver that are kept for the report."""


class Dialled(NamedTuple):
    """A connection that the server began where no receiver was scripted."""

    at_ns: int
    address: str
    port: int


Accepted = Callable[[socket.socket, socket.socket], None]
"""Called with a receiver's socket and the server's, which are connected."""


class Receivers:
    """``hosts`` is the scenario's [world.hosts]; ``now_ns`` the virtual clock.  ``moved`` is called
    when something happens that a test may wait for.

    Raises WorldError for hosts that cannot be.
    """

    def __init__(self, hosts: object, now_ns: Callable[[], int], moved: Callable[[], None]) -> None:
        self._moved = moved
        self._hosts = {
            _host_key(address): _kind(address, kind)
            for address, kind in table_of("world.hosts", hosts).items()
        }
        self._now_ns = now_ns
        self._waiting: dict[tuple[str, int], deque[Accepted]] = {}
        self._listener: socket.socket | None = None
        self._silent: list[socket.socket] = []
        self._dialled = self._in_vain = 0
        self.unexpected: list[Dialled] = []
        """Connections to addresses of which the scenario says nothing; the first of them."""

    def listen(self, address: str, port: int, accepted: Accepted) -> None:
        """Let ``accepted`` have the next connection to ``address`` that none before it takes."""
        self._waiting.setdefault((_canonical(address), port), deque()).append(accepted)

    def dial(self, address: str, port: int) -> socket.socket:
        """A non-blocking socket whose connect to ``address`` has begun.  Raises OSError."""
        key = _canonical(address)
        waiting = self._waiting.get((key, port))
        if waiting:
            return self._connect(waiting.popleft())
        self._in_vain += 1
        if self._in_vain <= IN_VAIN_MAX:
            self._moved()
        kind = self._hosts.get(key)
        if kind is None and len(self.unexpected) < UNEXPECTED_MAX:
            self.unexpected.append(Dialled(self._now_ns(), key, port))
        if kind == SILENCE:
            return self._never_answered()
        code = errno.EHOSTUNREACH if kind == NO_ROUTE else errno.ECONNREFUSED
        raise OSError(code, os.strerror(code))

    def _connect(self, accepted: Accepted) -> socket.socket:
        if self._listener is None:
            self._listener = socket.create_server((sockets.LISTEN_HOST, 0))
        ours = self._socket()
        try:
            ours.connect_ex(self._listener.getsockname())  # done at once, on loopback
            theirs, _ = self._listener.accept()
        except OSError:
            ours.close()
            raise
        theirs.setblocking(False)
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted(theirs, ours)
        return ours

    def _never_answered(self) -> socket.socket:
        """A connect whose first segment is dropped: the backlog that it meets is full."""
        if not self._silent:
            full = socket.create_server((sockets.LISTEN_HOST, 0), backlog=0)
            self._silent.append(full)
            for _ in range(2):  # Linux takes one more than the backlog says
                self._silent.append(self._socket())
                self._silent[-1].connect_ex(full.getsockname())
        sock = self._socket()
        sock.connect_ex(self._silent[0].getsockname())
        return sock

    def _socket(self) -> socket.socket:
        sock = sockets.sender_socket()
        sock.setblocking(False)
        self._dialled += 1
        sock.bind((f"127.0.2.{1 + self._dialled % SOURCES}", 0))
        return sock

    def close(self) -> None:
        """Close the listener; harmless when closed."""
        for sock in (self._listener, *self._silent):
            if sock is not None:
                sock.close()
        self._listener = None
        self._silent.clear()


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _host_key(address: str) -> str:
    try:
        return _canonical(address)
    except ValueError:
        raise WorldError(
            f'world.hosts."{address}"', "a host is an IPv4 or IPv6 address, as in 192.0.2.25"
        ) from None


def _kind(address: str, kind: object) -> str:
    if kind not in KINDS:
        raise WorldError(f'world.hosts."{address}"', f"one of {', '.join(KINDS)}")
    return str(kind)
