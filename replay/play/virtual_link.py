"""One virtual-time connection with both of its ends, and whether the network between is empty.

Quiescence is conservation, not a pause: what one end wrote, the other end has read; a FIN or a
reset sent by one end was seen by the other.  Where an end is not reading, what was written must
be found in the kernel's queues instead.  Octets are counted at the socket.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable

from mailsrv.inbound.connection import Connection
from replay.play.tls_client import TlsClient

PIECE_OCTETS = 32 * 1024
"""A departure goes out in pieces of this size, each settled: more was seen to arrive in parts."""
_READ_OCTETS = 256 * 1024
_SIOCOUTQNSD = 0x894B
"""linux/sockios.h: octets written and not yet sent.  (FIONREAD shows no FIN.)"""
_ALERT = b"\x15\x03"
"""How a TLS alert begins, and no reply."""
_LINGER_RESET = struct.pack("ii", 1, 0)


class VirtualLink:
    """A sender's socket and the server's connection at its other end.

    ``on_octets`` is told of what arrives at the sender, ``on_end`` of the server's "eof" or
    "reset", ``on_handshake`` of what became of a TLS handshake.  ``connection`` is None until the
    server has accepted, and stays when it is closed.  Octets are counted as they are on the wire;
    ``unsent`` are those that the kernel has not taken.
    """

    __slots__ = (
        "_sock",
        "_tls",
        "client_eof",
        "client_fin",
        "client_gone",
        "client_received",
        "client_sent",
        "connection",
        "number",
        "on_end",
        "on_handshake",
        "on_octets",
        "reading",
        "server_eof",
        "server_fin",
        "server_gone",
        "server_received",
        "server_sent",
        "unsent",
    )

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        on_octets: Callable[[bytes], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.number = number
        self._sock = sock
        self.on_octets = on_octets
        self.on_end = on_end
        self.on_handshake: Callable[[str], None] = _unheard
        self._tls: TlsClient | None = None
        self.connection: Connection | None = None
        self.reading = True
        self.unsent = b""
        self.client_sent = self.client_received = 0
        self.server_sent = self.server_received = 0
        self.client_eof = self.client_fin = self.client_gone = False
        self.server_eof = self.server_fin = self.server_gone = False

    # -- what the sender does ---------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        """Write a piece, under TLS where that has begun."""
        if self._tls is None:
            self._write(octets)
        else:
            self._tls.send(octets)

    def push(self) -> None:
        """Write what is ``unsent``, as far as the kernel takes it."""
        octets, self.unsent = self.unsent, b""
        self._write(octets)

    def _write(self, octets: bytes) -> None:
        if self.client_gone or not octets:
            return
        if self.unsent:
            self.unsent += octets
            return
        try:
            written = self._sock.send(octets)
        except BlockingIOError:
            written = 0
        except OSError:
            self.client_fin = True  # the server has reset: these octets go nowhere
            self.server_gone = True
            return
        self.client_sent += written
        self.unsent = octets[written:]

    def start_tls(self) -> None:
        """Begin a TLS handshake; ``send`` waits for its end."""
        self._tls = TlsClient(self._write, self.on_handshake)
        self._tls.begin()
        if self.client_eof:
            self._tls.ended()

    def half_close(self) -> None:
        """Send a FIN and go on reading."""
        if self._tls is not None:
            self._tls.say_goodbye()
        with contextlib.suppress(OSError):  # the server has reset already
            self._sock.shutdown(socket.SHUT_WR)
        self.client_fin = True

    def close(self) -> None:
        """Close; harmless when closed."""
        if self._tls is not None and not self.client_fin:
            self._tls.say_goodbye()
        self._release()

    def _release(self) -> None:
        self.client_gone = self.client_fin = True
        self.unsent = b""
        self._sock.close()

    def reset(self) -> None:
        """Abort with a reset segment."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._release()

    # -- bringing both ends together --------------------------------------------------------------

    def take_in(self) -> bool:
        """Read what has arrived at the sender; True if there was something."""
        if self.client_gone or not self.reading or self._is_calm():
            return False
        took = False
        while self.client_received < self.server_sent or self._end_is_due():
            try:
                octets = self._sock.recv(_READ_OCTETS)
            except BlockingIOError:
                break
            except OSError:
                self._ended("reset")
                return True
            took = True
            if not octets:
                self._ended("eof")
                break
            self.client_received += len(octets)
            if self._tls is None and _ALERT in octets:
                self._tls = TlsClient(self._write, self.on_handshake)
            if self._tls is not None:
                octets = self._tls.feed(octets)
            if octets:
                self.on_octets(octets)
        return took

    def _end_is_due(self) -> bool:
        return not self.client_eof and (self.server_fin or self.server_gone)

    def _ended(self, how: str) -> None:
        self.client_eof = True
        self.client_received = self.server_sent
        if self._tls is not None:
            self._tls.ended()
        self.on_end(how)

    @property
    def server_has_work(self) -> bool:
        """True while the server has something to accept, to read, to see or to write."""
        connection = self.connection
        if self.server_gone:
            return False
        if connection is None:
            return True
        if connection.pending_octets and (self.reading or self.client_gone):
            return True
        if not connection.reading:
            return False
        return self.server_received < self.client_sent or (self.client_fin and not self.server_eof)

    @property
    def balanced(self) -> bool:
        """True when nothing is on its way."""
        if self._is_calm():
            return True
        if self.unsent and self.connection is not None and self.connection.reading:
            return False
        return self._upward_balanced() and self._downward_balanced()

    def _is_calm(self) -> bool:
        """The plain case: nobody has ended anything, and all octets have arrived."""
        return (
            self.server_received == self.client_sent
            and self.client_received == self.server_sent
            and self.connection is not None
            and not self.connection.pending_octets
            and not (self.unsent or self.client_fin or self.server_fin or self.server_gone)
        )

    def _upward_balanced(self) -> bool:
        """From the sender to the server."""
        if self.server_gone:
            return True
        if self.connection is None or self.server_has_work:
            return False
        if self.connection.reading or self.server_received == self.client_sent:
            return True
        if self.client_gone:
            return True  # its queue cannot be asked any more
        waiting = _queued(self.connection.sock, termios.FIONREAD)
        waiting += _unsent_octets(self._sock, self.client_fin)
        return self.server_received + waiting == self.client_sent

    def _downward_balanced(self) -> bool:
        """From the server to the sender."""
        if self.client_gone:
            return True
        if self.reading:
            return self.client_received >= self.server_sent and not self._end_is_due()
        waiting = _queued(self._sock, termios.FIONREAD)
        if self.connection is not None and not self.server_gone:
            waiting += _unsent_octets(self.connection.sock, self.server_fin)
            return self.client_received + waiting == self.server_sent
        return self.client_received + waiting <= self.server_sent

    def __str__(self) -> str:
        client = f"sent {self.client_sent}, received {self.client_received}"
        server = f"sent {self.server_sent}, received {self.server_received}"
        return f"connection {self.number} (sender: {client}; server: {server} octets)"


def _unheard(outcome: str) -> None:
    """Nobody wants to know."""


def _unsent_octets(sock: socket.socket, fin: bool) -> int:
    """What the kernel has not sent yet.  A FIN behind it has a sequence number, and is counted."""
    queued = _queued(sock, _SIOCOUTQNSD)
    return queued - 1 if fin and queued else queued


def _queued(sock: socket.socket, what: int) -> int:
    """Octets in one of the kernel's queues of ``sock``."""
    number = array.array("i", (0,))
    fcntl.ioctl(sock.fileno(), what, number)
    return number[0]
