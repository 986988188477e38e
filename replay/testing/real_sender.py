"""The scripted sender over a real socket, against any server: ``session(host, port, script)``."""

from __future__ import annotations

import contextlib
import selectors
import socket
from types import TracebackType
from typing import Self

from mailsrv.runtime.clock import Clock, SystemClock
from mailsrv.units import NS_PER_S, seconds_to_ns
from replay.play.real_link import RealLink
from replay.play.target import loopback_address
from replay.smtp.replies import ReceivedReply
from replay.testing.sender import CLIENT, Script, Sender, Unexpected, check_address

TIMEOUT_S = 30.0
"""How long a sender waits for a connection, a reply, or room to write."""
LINGER_MAX_OCTETS = 1024 * 1024
"""How much is read after the last step, for the server's end, before closing all the same."""


def session(
    host: str,
    port: int,
    script: Script,
    *,
    timeout_s: float = TIMEOUT_S,
    clock: Clock | None = None,
) -> list[ReceivedReply]:
    """Play ``script`` against the server at ``host`` and ``port``; returns all of its replies.

    Nothing waits longer than ``timeout_s`` seconds, pauses aside.  A pause ends early when the
    server ends the connection.  Raises Unexpected, and OSError if there is no connection.
    """
    __tracebackhide__ = True
    with RealSender(host, port, timeout_s=timeout_s, clock=clock) as sender:
        sender.play(script)
        sender.finish()
    return sender.replies


class RealSender(Sender):
    """A sender on a socket of its own.  Use it as a context manager: leaving it closes that.

    A server on this machine's 127/8 sees ``client`` as one of these addresses, always the same.
    Raises OSError if there is no connection.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        client: str = "",
        timeout_s: float = TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(f"sender to {host}:{port}")
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        sock = _connect(host, port, client, timeout_s)
        self._began_ns = self._clock.monotonic_ns()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector = selectors.DefaultSelector()
        self._watched = 0
        self._link = RealLink(sock, self._inbox)
        self._link.connected = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._selector.close()
        self._link.release()

    @property
    def elapsed_ns(self) -> int:
        return self._clock.monotonic_ns() - self._began_ns

    def half_close(self) -> None:
        self._link.half_close()

    def close(self) -> None:
        self._link.close()

    def reset(self) -> None:
        self._link.reset()

    def stop_reading(self) -> None:
        self._link.reading = False

    def resume_reading(self) -> None:
        self._link.reading = True

    def finish(self) -> None:
        """Send our FIN and read to the server's, so that closing sends no reset."""
        if self._link.gone:
            return
        self._link.half_close()
        self._link.reading = True
        until_ns = self._deadline_ns(self.elapsed_ns)
        enough = self._inbox.octets + LINGER_MAX_OCTETS
        while not self._inbox.end and self._inbox.octets < enough and self._look(until_ns):
            pass

    # -- time and octets --------------------------------------------------------------------------

    def _send(self, octets: bytes) -> None:
        __tracebackhide__ = True
        self._link.send(octets)
        until_ns = self._deadline_ns(self.elapsed_ns)
        while self._link.unsent and not self._inbox.end:
            if not self._look(until_ns):
                raise Unexpected(f"{self}: the server took no octets for {self._timeout_s:g} s")

    def _start_tls(self) -> None:
        self._link.start_tls()

    def _pass(self, ns: int) -> None:
        until_ns = self.elapsed_ns + ns
        while not self._inbox.end and self._look(until_ns):
            pass

    def _await(self, what: str, since_ns: int) -> None:
        __tracebackhide__ = True
        if self._link.gone:
            raise Unexpected(f"{self} waits for {what}, but has itself closed the connection")
        if not self._look(self._deadline_ns(since_ns)):
            raise Unexpected(
                f"{self} waits for {what}, but nothing came within {self._timeout_s:g} s"
            )

    def _deadline_ns(self, since_ns: int) -> int:
        return since_ns + seconds_to_ns(self._timeout_s)

    def _look(self, until_ns: int) -> bool:
        """Wait for the socket and take what has come; False once ``until_ns`` has passed."""
        left_ns = until_ns - self.elapsed_ns
        if left_ns <= 0:
            return False
        self._watch(self._link.events)
        for _, events in self._selector.select(left_ns / NS_PER_S):
            self._link.ready(events)
        return True

    def _watch(self, events: int) -> None:
        sock = self._link.sock
        if self._watched and not events:
            with contextlib.suppress(KeyError):  # closed, and looked up as an object
                self._selector.unregister(sock)
        elif self._watched and events != self._watched:
            self._selector.modify(sock, events)
        elif events and not self._watched:
            self._selector.register(sock, events)
        self._watched = events


def _connect(host: str, port: int, client: str, timeout_s: float) -> socket.socket:
    """A connection; to a server on loopback, from the address there that stands for ``client``.

    Raises OSError.
    """
    if client and host.startswith("127."):
        with contextlib.suppress(OSError):  # a kernel that has 127.0.0.1 and no other
            source = loopback_address(client), 0
            return socket.create_connection((host, port), timeout_s, source_address=source)
    return socket.create_connection((host, port), timeout_s)


class RealServer:
    """A server that is there, at ``host`` and ``port``, and senders that talk to it: in real time,
    what ``VirtualServer`` is in virtual time.  Use it as a context manager: leaving it closes the
    senders' connections."""

    def __init__(self, host: str, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self._address = host, port
        self._timeout_s = timeout_s
        self._senders = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._senders.close()

    def sender(self, client: str = CLIENT) -> RealSender:
        """Open a connection, as of ``client`` where that can be shown.  Raises OSError."""
        __tracebackhide__ = True
        check_address(client)
        sender = RealSender(*self._address, client=client, timeout_s=self._timeout_s)
        return self._senders.enter_context(sender)

    def session(self, script: Script, client: str = CLIENT) -> list[ReceivedReply]:
        """Play ``script`` from a connection of its own; returns all of its replies.

        Raises Unexpected, and OSError if there is no connection.
        """
        __tracebackhide__ = True
        sender = self.sender(client)
        sender.play(script)
        return sender.replies
