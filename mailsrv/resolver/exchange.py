"""One question put to one server: over UDP, and over TCP where that does not suffice.

Each exchange has a socket of its own, so a source port of its own: with the id, some 31 bits that
a forger has to guess (RFC 5452).  The port is the kernel's choice, which is random for UDP and
heeds the ranges and reservations of the machine.  The socket is connected: datagrams from
elsewhere do not arrive, and a closed port is reported at once.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from mailsrv.resolver.message import DnsQuery, DnsResponse, InvalidResponse
from mailsrv.runtime.poll import READ, WRITE, Poll

MESSAGE_OCTETS_MAX = 4096
"""The longest answer; few domains need a quarter of it."""
DATAGRAMS_PER_PASS_MAX = 8
STRAYS_MAX = 16
"""Answers to another question, that count as an attempt to guess ids: then TCP, which cannot be
guessed."""

_LENGTH_OCTETS = 2  # before each message over TCP (RFC 1035 section 4.2.2)

ServerAddress = tuple[str, int]


class DnsExchange:
    """A question on its way.  ``done`` is called once, with the answer, or with how the server
    failed, in words; silence is for the caller to judge, who then calls ``close``.
    """

    __slots__ = (
        "_done",
        "_poll",
        "_query",
        "_received",
        "_server",
        "_sock",
        "_strays",
        "_unsent",
        "number",
    )

    def __init__(
        self,
        poll: Poll,
        number: int,
        server: ServerAddress,
        query: DnsQuery,
        done: Callable[[DnsResponse | str], None],
    ) -> None:
        self._poll = poll
        self._server = server
        self._query = query
        self._done = done
        self._sock: socket.socket | None = None
        self._strays = 0
        self._unsent = b""
        self._received = bytearray()
        self.number = number

    def begin(self) -> None:
        """Send the question in a datagram.  Raises OSError if that cannot be."""
        sock = self._open(socket.SOCK_DGRAM, READ)
        try:
            sock.send(self._query.octets)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Wait no more; harmless when closed."""
        if self._sock is not None:
            self._poll.forget(self._sock)
            self._sock.close()
            self._sock = None

    def ready(self, events: int) -> None:
        """The socket has something for us, or takes something."""
        sock = self._sock
        if sock is None:
            return
        outcome: DnsResponse | str | None
        try:
            if sock.type == socket.SOCK_DGRAM:
                outcome = self._take_datagrams(sock)
            elif self._unsent:
                self._send_rest(sock)
                outcome = None
            else:
                outcome = self._take_stream(sock)
        except BlockingIOError:
            return
        except OSError as error:
            outcome = failure(error)
        if outcome is not None:
            self.close()
            self._done(outcome)

    def _open(self, kind: socket.SocketKind, events: int) -> socket.socket:
        sock = self._connect(kind)
        try:
            self._poll.watch(sock, events, self)
        except OSError:
            sock.close()
            raise
        self._sock = sock
        return sock

    def _connect(self, kind: socket.SocketKind) -> socket.socket:
        """A socket to the server: all that this has to do with the network itself."""
        family = socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET
        sock = socket.socket(family, kind)
        try:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # over TCP it goes on by itself
                sock.connect(self._server)
        except OSError:
            sock.close()
            raise
        return sock

    # -- UDP --------------------------------------------------------------------------------------

    def _take_datagrams(self, sock: socket.socket) -> DnsResponse | str | None:
        for _ in range(DATAGRAMS_PER_PASS_MAX):
            octets, source = sock.recvfrom(MESSAGE_OCTETS_MAX)
            # One from elsewhere may have come in the instant before the socket was connected.
            outcome = (
                self._query.read(octets) if source == sock.getpeername() else InvalidResponse.STRAY
            )
            if outcome is InvalidResponse.STRAY:
                self._strays += 1
                if self._strays < STRAYS_MAX:
                    continue
            elif outcome is InvalidResponse.BAD:
                return self._query.failure(octets)
            elif isinstance(outcome, DnsResponse):
                return outcome
            self._turn_to_tcp()
            break
        return None

    # -- TCP --------------------------------------------------------------------------------------

    def _turn_to_tcp(self) -> None:
        self.close()
        octets = self._query.octets
        self._unsent = len(octets).to_bytes(_LENGTH_OCTETS, "big") + octets
        self._open(socket.SOCK_STREAM, WRITE)

    def _send_rest(self, sock: socket.socket) -> None:
        self._unsent = self._unsent[sock.send(self._unsent) :]
        if not self._unsent:
            self._poll.change(sock, READ, self)

    def _take_stream(self, sock: socket.socket) -> DnsResponse | str | None:
        octets = sock.recv(_LENGTH_OCTETS + MESSAGE_OCTETS_MAX - len(self._received))
        self._received += octets
        length = int.from_bytes(self._received[:_LENGTH_OCTETS], "big")
        if not octets:
            return "connection closed"
        if length > MESSAGE_OCTETS_MAX:
            return f"answer longer than {MESSAGE_OCTETS_MAX} octets"
        end = _LENGTH_OCTETS + length
        if len(self._received) < end:
            return None
        message = bytes(self._received[_LENGTH_OCTETS:end])
        outcome = self._query.read(message)
        return outcome if isinstance(outcome, DnsResponse) else self._query.failure(message)


def failure(error: OSError) -> str:
    """How the network failed, in words."""
    refused = isinstance(error, ConnectionRefusedError)
    return "refused" if refused else error.strerror or str(error)
