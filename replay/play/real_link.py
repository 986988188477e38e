"""A played end's socket in real time: it never blocks; what cannot be written yet waits for later.

It knows neither script nor selector.  Its driver asks ``events`` what to wait for, calls ``ready``
when the socket is, and looks at ``gone`` afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import Protocol

from replay.play import sockets
from replay.play.target import SocketAddress
from replay.play.tls_client import TlsClient, TlsServer, TlsSide, Verify

_READ_OCTETS = 64 * 1024
_RESETS = (errno.ECONNRESET, errno.EPIPE)


class LinkListener(Protocol):
    """Receives what happens on a link."""

    def received(self, octets: bytes) -> None:
        """Octets have come, decrypted."""

    def ended(self, how: str) -> None:
        """The peer has ended the connection: "eof" or "reset"."""

    def shook_hands(self, outcome: str) -> None:
        """A TLS handshake is over: ``tls_client.DONE`` or ``REFUSED``."""

    def failed(self, error: OSError) -> None:
        """There is no connection, and there will be none."""


class RealLink:
    """One connection.  Octets and ends leave in the order in which they were asked for.

    ``connected`` is True once the connection is known to be made, ``gone`` once the socket is
    closed.  ``lost`` is the error that ended a connection which was made: what was to be written
    goes nowhere any more.  While not ``reading``, what comes is left in the kernel.
    """

    __slots__ = (
        "_ended",
        "_listener",
        "_sock",
        "_tls",
        "_unsent",
        "_verify",
        "connected",
        "gone",
        "lost",
        "reading",
    )

    def __init__(
        self, sock: socket.socket, listener: LinkListener, verify: Verify | None = None
    ) -> None:
        self._sock = sock
        self._listener = listener
        self._verify = verify
        self._tls: TlsSide | None = None
        self._unsent: deque[memoryview | Callable[[], None]] = deque()
        self.reading = True
        self._ended = False
        self.connected = self.gone = False
        self.lost: OSError | None = None

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def unsent(self) -> bool:
        """True while octets or an end wait for the kernel."""
        return bool(self._unsent)

    @property
    def events(self) -> int:
        """What to wait for; 0: nothing, and the socket is best not looked at."""
        if self.gone:
            return 0
        if not self.connected:
            return EVENT_WRITE
        read = EVENT_READ if self.reading and not self._ended else 0
        return read | (EVENT_WRITE if self._unsent else 0)

    # -- what the played end does ------------------------------------------------------------------

    def connect(self, address: SocketAddress) -> None:
        """Begin to connect."""
        number = self._sock.connect_ex(address)
        if number in (0, errno.EINPROGRESS):
            self.connected = number == 0
        else:
            self._fail(number)

    def send(self, octets: bytes) -> None:
        """Write ``octets`` with one call, if the kernel takes them all; under TLS if that is on."""
        if self._tls is None:
            self._write(octets)
        else:
            self._tls.send(octets)

    def hold_back(self) -> None:
        """What is sent from here on leaves in one flight with the half-close behind it."""
        sockets.hold_back(self._sock)

    def start_tls(self) -> None:
        """Begin a TLS handshake; ``send`` waits for its end."""
        self._begin_tls(TlsClient(self._write, self._listener.shook_hands, self._verify))

    def serve_tls(self, octets: bytes) -> None:
        """Wait for a TLS handshake, of which ``octets`` have arrived already."""
        tls = TlsServer(self._write, self._listener.shook_hands)
        self._begin_tls(tls)
        if plain := tls.feed(octets):
            self._listener.received(plain)

    def _begin_tls(self, tls: TlsSide) -> None:
        self._tls = tls
        tls.begin()
        if self._ended:
            tls.ended()

    def half_close(self) -> None:
        """Send a FIN behind all that is unsent, and go on reading."""
        if self._tls is not None:
            self._tls.send_close_notify()
        self._then(lambda: sockets.half_close(self._sock))

    def close(self) -> None:
        """Close behind all that is unsent; harmless when closed."""
        if self.gone:
            return
        if self._tls is not None:
            self._tls.send_close_notify()
        self.reading = False
        self._then(self.release)

    def reset(self) -> None:
        """Abort with a reset segment; what is unsent is lost."""
        sockets.reset_on_close(self._sock)
        self.release()

    def release(self) -> None:
        """Close at once; harmless when closed."""
        self.gone = True
        self._unsent.clear()
        self._sock.close()

    def _write(self, octets: bytes) -> None:
        if octets and not (self.gone or self._is_reset):
            self._unsent.append(memoryview(octets))
            self._flush()

    @property
    def _is_reset(self) -> bool:
        return self.lost is not None and self.lost.errno in _RESETS

    def _then(self, act: Callable[[], None]) -> None:
        self._unsent.append(act)
        self._flush()

    def _flush(self) -> None:
        while self._unsent and self.connected and not self.gone:
            first = self._unsent[0]
            if not isinstance(first, memoryview):
                self._unsent.popleft()
                first()
                continue
            try:
                written = self._sock.send(first)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error)
                continue
            if written < len(first):
                self._unsent[0] = first[written:]
                return
            self._unsent.popleft()

    def _lose(self, error: OSError) -> None:
        """Octets go nowhere any more; what the server sent before is still to be read."""
        self.lost = error
        while self._unsent and isinstance(self._unsent[0], memoryview):
            self._unsent.popleft()

    # -- what comes -------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """The socket is ready for ``events``."""
        if not self.connected:
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number and number not in _RESETS:
                self._fail(number)
                return
            self.connected = True
            if number:  # it was there, and is gone again: a refusal has another number
                self._unsent.clear()
                self.lost = OSError(number, os.strerror(number))
                self._end("reset")
                return
        if events & EVENT_READ and self.reading and not self._ended:
            self._take_in()
        self._flush()

    def _take_in(self) -> None:
        try:
            octets = self._sock.recv(_READ_OCTETS)
        except BlockingIOError:
            return
        except OSError as error:
            self.lost = error
            self._end("reset")
            return
        if not octets:
            self._end("reset" if self._is_reset else "eof")
            return
        if self._tls is None and sockets.holds_alert(octets):
            self._tls = TlsClient(self._write, self._listener.shook_hands, self._verify)
        if self._tls is not None:
            octets = self._tls.feed(octets)
        if octets:
            self._listener.received(octets)

    def _end(self, how: str) -> None:
        self._ended = True
        if self._tls is not None:
            self._tls.ended()
        self._listener.ended(how)

    def _fail(self, number: int) -> None:
        self.release()
        self._listener.failed(OSError(number, os.strerror(number)))
