"""One virtual-time connection with both of its ends, and whether the network between is empty.

The *played* end is a sender's or a receiver's, as a script has it; the other is the server's under
test, which accepted the connection or opened it.

Quiescence is conservation, not a pause: what one end wrote, the other end has read; a FIN or a
reset sent by one end was seen by the other.  Where an end is not reading, what was written must
be found in the kernel's queues instead.  Octets are counted at the socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from replay.play import sockets
from replay.play.tls_client import TlsClient, TlsServer, TlsSide

PIECE_OCTETS = 32 * 1024
"""A departure goes out in pieces of this size, each settled: more was seen to arrive in parts."""
_READ_OCTETS = 256 * 1024


class ServerEnd(Protocol):
    """The server's end of a link, as any server can show it."""

    @property
    def sock(self) -> socket.socket:
        """Its socket, while it is open."""

    @property
    def reading(self) -> bool:
        """Whether the server reads from it now."""

    @property
    def pending_octets(self) -> int:
        """Octets that it has to write and that its kernel has not taken."""


class VirtualLink:
    """The played end's socket and the server's connection at its other end.

    ``on_octets`` is told of what arrives at the played end, ``on_end`` of the server's "eof" or
    "reset", ``on_handshake`` of the outcome of a TLS handshake.  ``server`` is its end: None
    until it has accepted or begun to serve it, and it stays when it is closed.  Octets are counted
    as they are on the wire; ``unsent`` are those that the kernel has not taken.
    """

    __slots__ = (
        "_sock",
        "_tls",
        "number",
        "on_end",
        "on_handshake",
        "on_octets",
        "played_eof",
        "played_fin",
        "played_gone",
        "played_received",
        "played_sent",
        "reading",
        "server",
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
        self.on_handshake: Callable[[str], None] = _ignore
        self._tls: TlsSide | None = None
        self.server: ServerEnd | None = None
        self.reading = True
        self.unsent = b""
        self.played_sent = self.played_received = 0
        self.server_sent = self.server_received = 0
        self.played_eof = self.played_fin = self.played_gone = False
        self.server_eof = self.server_fin = self.server_gone = False

    # -- what the played end does -----------------------------------------------------------------

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
        if self.played_gone or not octets:
            return
        if self.unsent:
            self.unsent += octets
            return
        try:
            written = self._sock.send(octets)
        except BlockingIOError:
            written = 0
        except OSError:
            self.played_fin = True  # the server has reset: these octets go nowhere
            self.server_gone = True
            return
        self.played_sent += written
        self.unsent = octets[written:]

    def start_tls(self) -> None:
        """Begin a TLS handshake; ``send`` waits for its end."""
        self._begin_tls(TlsClient(self._write, self.on_handshake))

    def serve_tls(self, octets: bytes) -> None:
        """Wait for a TLS handshake, of which ``octets`` have arrived already."""
        tls = TlsServer(self._write, self.on_handshake)
        self._begin_tls(tls)
        if plain := tls.feed(octets):
            self.on_octets(plain)

    def _begin_tls(self, tls: TlsSide) -> None:
        self._tls = tls
        tls.begin()
        if self.played_eof:
            tls.ended()

    def half_close(self) -> None:
        """Send a FIN and go on reading."""
        if self._tls is not None:
            self._tls.send_close_notify()
        sockets.half_close(self._sock)
        self.played_fin = True

    def close(self) -> None:
        """Close; harmless when closed."""
        if self._tls is not None and not self.played_fin:
            self._tls.send_close_notify()
        self._release()

    def _release(self) -> None:
        self.played_gone = self.played_fin = True
        self.unsent = b""
        self._tls = None
        self._sock.close()

    def reset(self) -> None:
        """Abort with a reset segment."""
        sockets.reset_on_close(self._sock)
        self._release()

    # -- bringing both ends together --------------------------------------------------------------

    def take_in(self) -> bool:
        """Read what has arrived at the played end; True if there was something."""
        if self.played_gone or not self.reading:
            return False
        took = False
        while self.played_received < self.server_sent or (
            (self.server_fin or self.server_gone) and not self.played_eof
        ):
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
            self.played_received += len(octets)
            if self._tls is None and sockets.holds_alert(octets):
                self._tls = TlsClient(self._write, self.on_handshake)
            if self._tls is not None:
                octets = self._tls.feed(octets)
            if octets:
                self.on_octets(octets)
        return took

    def _ended(self, how: str) -> None:
        self.played_eof = True
        self.played_received = self.server_sent
        if self._tls is not None:
            self._tls.ended()
        self.on_end(how)

    @property
    def server_has_work(self) -> bool:
        """True while the server has something to accept, to read, to see or to write."""
        server = self.server
        if self.server_gone:
            return False
        if server is None:
            return True
        if server.pending_octets and (self.reading or self.played_gone):
            return True
        if not server.reading:
            return False
        return self.server_received < self.played_sent or (self.played_fin and not self.server_eof)

    @property
    def balanced(self) -> bool:
        """True when nothing is on its way."""
        if self.unsent and self.server is not None and self.server.reading:
            return False
        return self._upward_balanced() and self._downward_balanced()

    @property
    def is_calm(self) -> bool:
        """The plain case of ``balanced``: no end has ended anything, and all octets have arrived.
        Such a link does not move again until something is done with it."""
        return (
            self.server_received == self.played_sent
            and self.played_received == self.server_sent
            and self.server is not None
            and not self.server.pending_octets
            and not (self.unsent or self.played_fin or self.server_fin or self.server_gone)
        )

    def _upward_balanced(self) -> bool:
        """From the played end to the server."""
        if self.server_gone:
            return True
        if self.server is None or self.server_has_work:
            return False
        if self.server.reading or self.server_received == self.played_sent:
            return True
        if self.played_gone:
            return True  # its queue cannot be asked any more
        waiting = sockets.unread_octets(self.server.sock)
        waiting += sockets.unsent_octets(self._sock, self.played_fin)
        return self.server_received + waiting == self.played_sent

    def _downward_balanced(self) -> bool:
        """From the server to the played end."""
        if self.played_gone:
            return True
        if self.reading:
            is_end_due = not self.played_eof and (self.server_fin or self.server_gone)
            return self.played_received >= self.server_sent and not is_end_due
        waiting = sockets.unread_octets(self._sock)
        if self.server is not None and not self.server_gone:
            waiting += sockets.unsent_octets(self.server.sock, self.server_fin)
            return self.played_received + waiting == self.server_sent
        return self.played_received + waiting <= self.server_sent

    def __str__(self) -> str:
        played = f"sent {self.played_sent}, received {self.played_received}"
        server = f"sent {self.server_sent}, received {self.server_received}"
        return f"connection {self.number} (played: {played}; server: {server} octets)"


def _ignore(outcome: str) -> None:
    """The outcome of a handshake that nothing waits for."""
