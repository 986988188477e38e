"""Accepts connections, within bounds."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import READ
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_S

BACKLOG = 256
"""Clients that wait in the kernel to be accepted.  A new one waits behind all of them, so this is
how long a storm of connections can make others wait (some 30 ms); beyond it the kernel drops the
SYN, and TCP tries again after a second."""
ACCEPTS_MAX = 8
"""Connections taken in one pass, so that open connections are served between them."""
EXHAUSTED_PAUSE_NS = NS_PER_S
"""How long nothing is accepted after the process or the machine ran out of descriptors."""
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """One listening socket.  ``accepted`` is called with each new socket and its address."""

    __slots__ = (
        "_accepted",
        "_loop",
        "_on_exhausted",
        "_paused",
        "_retry_timer",
        "_sock",
        "number",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        accepted: Callable[[socket.socket, tuple[str, int]], None],
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._on_exhausted = on_exhausted
        self._retry_timer: Timer | None = None  # pending after the machine ran out of something
        self._paused = False
        self.number = 0  # before every connection
        loop.poll.watch(sock, READ, self)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        host, port = self._sock.getsockname()[:2]
        return str(host), int(port)

    def ready(self, events: int) -> None:
        """The listening socket is readable: accept."""
        self._accept(ACCEPTS_MAX)

    def _accept(self, at_most: int) -> None:
        for _ in range(at_most):
            if self._paused:
                return
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that client has gone again (ECONNABORTED and its kin)
                self._on_exhausted(error)
                self._retry_later()
                return
            sock.setblocking(False)
            self._accepted(sock, (str(address[0]), int(address[1])))

    def _retry_later(self) -> None:
        """Without descriptors accept would fail again at once, and again: wait for a moment."""
        self._loop.poll.forget(self._sock)
        wake_ns = self._loop.now_ns + EXHAUSTED_PAUSE_NS
        self._retry_timer = self._loop.timers.schedule(wake_ns, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        if not self._paused:
            self._loop.poll.watch(self._sock, READ, self)

    def pause(self) -> None:
        """Accept no more, and leave clients in the kernel's queue; harmless when paused."""
        if not self._paused and self.open:
            self._paused = True
            if self._retry_timer is None:
                self._loop.poll.forget(self._sock)

    def resume(self) -> None:
        """Accept again; harmless when not paused."""
        if self._paused and self.open:
            self._paused = False
            if self._retry_timer is None:
                self._loop.poll.watch(self._sock, READ, self)

    @property
    def open(self) -> bool:
        """False once it is closed."""
        return self._sock.fileno() >= 0

    def close(self) -> None:
        """Accept what waits already, which a reset would meet otherwise, and then no more; when
        paused, not even that.  Harmless when closed."""
        if not self.open:
            return
        if self._retry_timer is None:
            self._accept(BACKLOG)
        if self._retry_timer is not None:
            self._loop.timers.cancel(self._retry_timer)
            self._retry_timer = None
        elif not self._paused:
            self._loop.poll.forget(self._sock)
        self._sock.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket at ``host`` (an address) and ``port`` (0: any free one).

    TCP_NODELAY is inherited by what it accepts: some replies may not be held back (RFC 2920),
    so two writes in one instant are normal, and Nagle would delay the second by 40 ms.
    Raises OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
