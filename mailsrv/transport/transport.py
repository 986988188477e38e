"""One connection's socket: octets in, octets out, and what the poll watches it for.

What the kernel does not take at once is kept here, and nothing more is written before it is gone.
With TLS a ``TlsStream`` stands between the socket and the connection; it looks like the socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mailsrv.runtime.poll import READ, WRITE, Poll

if TYPE_CHECKING:
    import ssl

    from mailsrv.transport.tls_stream import TlsStream


class TransportOwner(Protocol):
    """The connection that a transport belongs to: the poll's handler."""

    number: int

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""

    def lost(self, how: str) -> None:
        """The connection broke: ``how`` says what the system said."""

    def laborious(self) -> None:
        """The last read held many TLS records: more work than its octets tell."""


class TransportTap(Protocol):
    """An observer of the octets that pass: a recorder, a test's book-keeping.

    ``connection`` is the transport's owner.  Under TLS a tap sees the octets on the wire; a tap for
    ``plaintext`` sees what they mean instead, and nothing of the handshake.
    """

    plaintext: bool

    def opened(self, connection: TransportOwner, sock: socket.socket) -> None:
        """A connection was accepted at ``sock``, or one of ours has been."""

    def received(self, connection: TransportOwner, octets: bytes) -> None:
        """These octets were read from the socket; none is the peer's FIN."""

    def sent(self, connection: TransportOwner, octets: bytes) -> None:
        """These octets were written to the socket; none is our FIN."""

    def secured(self, connection: TransportOwner, tls: str) -> None:
        """A TLS handshake is complete; ``tls`` is its version and cipher.  For plaintext only."""

    def lost(self, connection: TransportOwner, how: str) -> None:
        """The connection broke; it is closed next."""

    def closed(self, connection: TransportOwner) -> None:
        """The socket is closed."""


class Transport:
    """See the module.  ``unsent_octets`` is what the kernel has not taken yet; ``events`` what the
    poll watches for."""

    __slots__ = (
        "_channel",
        "_octet_tap",
        "_owner",
        "_poll",
        "_tap",
        "_tls_stream",
        "_unsent",
        "events",
        "sock",
        "unsent_octets",
    )

    def __init__(
        self, sock: socket.socket, poll: Poll, owner: TransportOwner, tap: TransportTap | None
    ) -> None:
        self.sock = sock
        self._poll = poll
        self._owner: TransportOwner | None = owner
        self._tap = tap
        self._octet_tap = tap  # under TLS the stream reports the octets on the wire
        self._channel: socket.socket | TlsStream = sock
        self._tls_stream: TlsStream | None = None
        self._unsent = b""
        self.events = READ
        self.unsent_octets = 0
        poll.watch(sock, READ, owner)

    # -- reading ----------------------------------------------------------------------------------

    def receive(self, octets_max: int) -> bytes | None:
        """One read: octets, none at the peer's FIN, or None for nothing yet."""
        try:
            chunk = self._channel.recv(octets_max)
        except BlockingIOError:
            chunk = None
        except OSError as error:
            self._lose(error)
            return None
        if self._tls_stream is not None:
            self.unsent_octets = self._tls_stream.unsent_octets
            if self._tls_stream.laborious and self._owner is not None:
                self._owner.laborious()
        if self._octet_tap is not None and chunk is not None and self._owner is not None:
            self._octet_tap.received(self._owner, chunk)
        return chunk

    # -- writing ----------------------------------------------------------------------------------

    def send(self, output: list[bytes]) -> bool:
        """Write ``output``, an item a call, and empty it; False unless the kernel took it all."""
        if self._unsent:
            output.insert(0, self._unsent)
            self._unsent = b""
            self.unsent_octets = 0
        channel = self._channel
        while output:
            flight = output.pop(0)
            try:
                written = channel.send(flight)
            except BlockingIOError:
                written = 0
            except OSError as error:
                output.clear()
                self._lose(error)
                return False
            if self._octet_tap is not None and written:
                self._octet_tap.sent(self._owner_now, flight[:written])
            if written != len(flight):
                self._unsent = flight[written:] + b"".join(output)
                self.unsent_octets = len(self._unsent)
                output.clear()
                return False
        if self._tls_stream is not None:
            self.unsent_octets = self._tls_stream.unsent_octets
            return not self.unsent_octets
        return True

    def resume(self) -> bool:
        """The socket takes octets again: write what was kept; False unless all of it went."""
        if self._tls_stream is None:
            return self.send([])
        try:
            self._tls_stream.flush()
        except OSError as error:
            self._lose(error)
            return False
        self.unsent_octets = self._tls_stream.unsent_octets
        return not self.unsent_octets

    def watch(self, reading: bool) -> None:
        """Watch the socket for input if ``reading``, and for room if there is anything unsent."""
        events = (WRITE if self.unsent_octets else 0) | (READ if reading else 0)
        if events == self.events or self._owner is None:
            return
        if not events:
            self._poll.forget(self.sock)
        elif self.events:
            self._poll.change(self.sock, events, self._owner)
        else:
            self._poll.watch(self.sock, events, self._owner)
        self.events = events

    # -- TLS --------------------------------------------------------------------------------------

    def start_tls(
        self, context: ssl.SSLContext, rest: bytes, secured: Callable[[str], None]
    ) -> None:
        """Begin the handshake as a server, to which ``rest`` belongs, whatever it is; ``secured``
        is called at its end, from within ``receive``."""
        self._put_under_tls(context, rest, secured, server_side=True, server_name=None)

    def start_tls_as_client(
        self, context: ssl.SSLContext, server_name: str, secured: Callable[[str], None]
    ) -> None:
        """Begin the handshake as a client of ``server_name``; ``secured`` is called at its end,
        from within ``receive``."""
        stream = self._put_under_tls(
            context, b"", secured, server_side=False, server_name=server_name
        )
        try:
            stream.begin()
        except OSError as error:
            self._lose(error)
            return
        self.unsent_octets = stream.unsent_octets

    def _put_under_tls(
        self,
        context: ssl.SSLContext,
        rest: bytes,
        secured: Callable[[str], None],
        *,
        server_side: bool,
        server_name: str | None,
    ) -> TlsStream:
        from mailsrv.transport.tls_stream import (
            TlsStream,  # with OpenSSL, which a plain server can spare
        )

        tap, owner = self._tap, self._owner_now
        if tap is not None and tap.plaintext:
            secured, tap = partial(self._secured, tap, secured), None
        else:
            self._octet_tap = None
        stream = self._channel = self._tls_stream = TlsStream(
            self.sock,
            context,
            rest,
            server_side=server_side,
            server_name=server_name,
            received=partial(tap.received, owner) if tap is not None else _untapped,
            sent=partial(tap.sent, owner) if tap is not None else _untapped,
            secured=secured,
        )
        return stream

    def _secured(self, tap: TransportTap, secured: Callable[[str], None], tls: str) -> None:
        tap.secured(self._owner_now, tls)
        secured(tls)

    @property
    def under_tls(self) -> bool:
        """True from the begin of a handshake on."""
        return self._tls_stream is not None

    # -- the end ----------------------------------------------------------------------------------

    def half_close(self) -> bool:
        """Send our FIN; False if the connection is lost."""
        try:
            self._channel.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)
            return False
        if self._tap is not None:
            self._tap.sent(self._owner_now, b"")
        return True

    def close(self) -> None:
        """Close; harmless when closed."""
        owner, self._owner = self._owner, None
        if owner is None:
            return
        if self.events:
            self._poll.forget(self.sock)
            self.events = 0
        self._unsent = b""
        self.unsent_octets = 0
        try:  # noqa: SIM105 - ``suppress`` costs more than all else here
            self._channel.close()
        except OSError:
            pass  # a close that fails has closed all the same
        self._tls_stream = None
        self._channel = self.sock  # which fails from here on
        if self._tap is not None:
            self._tap.closed(owner)

    @property
    def _owner_now(self) -> TransportOwner:
        assert self._owner is not None, "a closed transport carries nothing"
        return self._owner

    def _lose(self, error: OSError) -> None:
        if self._owner is not None:
            how = error.strerror or str(error) or "lost"
            if self._tap is not None:
                self._tap.lost(self._owner, how)
            self._owner.lost(how)


def _untapped(octets: bytes) -> None:
    """There is no tap."""
