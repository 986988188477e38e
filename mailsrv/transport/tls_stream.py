"""TLS over a non-blocking socket, behind the few methods of a socket that a connection uses.

Theory of operation.  One ``recv`` is one raw ``recv``: what came is decrypted until the engine
wants more, so that no octet which was read already hides from the poll (as it would in an
``SSLSocket``), and no plaintext waits here.  ``send`` encrypts everything at once and keeps what
the kernel does not take.  Until the handshake is complete nothing can be sent, and after a failed
one neither: there is no way back to plaintext.  ``received`` and ``sent`` are called with raw
octets.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import NoReturn

RECORD_OCTETS = 16 * 1024
"""The most plaintext in one record (RFC 8446 section 5.1)."""
RECORDS_MANY = 16
"""Records in one read from which on reading is laborious: each costs what a full one costs."""
LABORIOUS_READ_OCTETS = 2 * 1024
"""One read of a peer that sends many small records: some ninety of one octet each."""
UNSENT_MAX_OCTETS = 512 * 1024
"""Ciphertext that the kernel has not taken.  It holds a piece of content for a next hop, 256 KiB
with each of its dots doubled; a connection writes no more before that is gone.  The bound is for
peers that make the TLS engine itself write, with key updates for example."""


class TlsFault(OSError):
    """The handshake, or the stream, cannot go on; ``strerror`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPROTO, reason)


class TlsStream:
    """See the module.

    ``server_name``, for a client, is what it calls the server (RFC 6066 section 3) and what the
    certificate must bear where ``context`` verifies.  ``rest`` was received before the handshake
    began; the first ``recv`` takes it instead of reading, and needs no readiness of the socket.
    ``secured`` is called from inside ``recv`` as soon as the handshake is complete, with version
    and cipher as text.  ``handshaking`` is True until then.  ``raw`` is the socket.  ``laborious``
    says that the last read held many records: the reads that follow are short, until one holds few.
    """

    __slots__ = (
        "_closed",
        "_failed",
        "_incoming",
        "_outgoing",
        "_received",
        "_rest",
        "_secured",
        "_sent",
        "_shut",
        "_tls",
        "_unsent",
        "ended",
        "handshaking",
        "laborious",
        "raw",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        rest: bytes,
        *,
        server_side: bool = True,
        server_name: str | None = None,
        received: Callable[[bytes], None],
        sent: Callable[[bytes], None],
        secured: Callable[[str], None],
    ) -> None:
        self.raw = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        self._rest = rest
        self._received = received
        self._sent = sent
        self._secured = secured
        self._unsent = b""
        self._failed = self._shut = self._closed = False
        self.handshaking = True
        self.laborious = False
        self.ended = False
        """The peer has ended its direction."""

    # -- reading ----------------------------------------------------------------------------------

    def recv(self, octets_max: int) -> bytes:
        """Read at most ``octets_max`` raw octets, once, and return all plaintext that they hold.

        b"" is the peer's end: its close_notify, or a FIN without one.  After ``shutdown`` raw
        octets are returned as they are, to be counted and thrown away.  Raises BlockingIOError
        where there is no plaintext yet, TlsFault where TLS fails, and what the socket raises.
        """
        if self.ended:
            return b""
        octets, self._rest = self._rest, b""
        if not octets:
            octets = self.raw.recv(LABORIOUS_READ_OCTETS if self.laborious else octets_max)
            self._received(octets)
        if self._shut:
            return octets
        if not octets:
            if self.handshaking:
                self._fail("the connection ended in the handshake")
            self.ended = True
            return b""
        self._incoming.write(octets)
        if self.handshaking:
            self._handshake()
        plaintext = b"" if self._closed else self._decrypt()
        if plaintext and self.ended:
            # The next call gives b"".  No octet may ever come to make the socket ready for it:
            # shutting down the direction that is over does.
            with contextlib.suppress(OSError):
                self.raw.shutdown(socket.SHUT_RD)
        elif not plaintext and not self.ended:
            raise BlockingIOError(errno.EAGAIN, "no plaintext yet")
        return plaintext

    def begin(self) -> None:
        """Begin the handshake as a client; a server waits for the client's first octets."""
        with contextlib.suppress(BlockingIOError):
            self._handshake()

    def _handshake(self) -> None:
        """Go on with the handshake.  Raises BlockingIOError while it is not complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            raise BlockingIOError(errno.EAGAIN, "the handshake goes on") from None
        except ssl.SSLError as error:
            self._fail(_reason(error), error)
        self.handshaking = False
        self.flush()
        cipher = self._tls.cipher()
        self._secured(f"{self._tls.version()} {cipher[0] if cipher else ''}".rstrip())

    def _decrypt(self) -> bytes:
        pieces = []
        try:
            while piece := self._tls.read(RECORD_OCTETS):
                pieces.append(piece)
            self.ended = True  # by close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self._fail(_reason(error), error)
        self.laborious = len(pieces) >= RECORDS_MANY
        if self._outgoing.pending:
            self.flush()
        return b"".join(pieces)

    def _fail(self, reason: str, cause: ssl.SSLError | None = None) -> NoReturn:
        """Send TLS's alert, if there is one, and raise TlsFault."""
        self._failed = True
        with contextlib.suppress(OSError):
            self.flush()
        raise TlsFault(reason) from cause

    # -- writing ----------------------------------------------------------------------------------

    @property
    def unsent_octets(self) -> int:
        """Ciphertext that the kernel has not taken yet."""
        return len(self._unsent)

    def send(self, octets: bytes) -> int:
        """Encrypt and take all of ``octets``; what the kernel does not take is kept.

        Raises TlsFault before the handshake is complete and after TLS has failed or ended, and
        what the socket raises.
        """
        if self.handshaking or self._failed or self._shut:
            raise TlsFault("nothing can be said here under TLS")
        view = memoryview(octets)
        while view:
            try:
                view = view[self._tls.write(view) :]
            except ssl.SSLError as error:
                self._fail(_reason(error), error)
        self.flush()
        return len(octets)

    def flush(self) -> bool:
        """Write what is kept; True if nothing is left.  Raises TlsFault where far too much is
        kept, and what the socket raises."""
        octets = self._unsent + self._outgoing.read()
        if octets:
            try:
                written = self.raw.send(octets)
            except BlockingIOError:
                written = 0
            if written:
                self._sent(octets[:written])
            self._unsent = octets[written:]
            if len(self._unsent) > UNSENT_MAX_OCTETS:
                self._failed = True
                raise TlsFault("the peer makes TLS talk, and does not read")
        return not self._unsent

    # -- the end ----------------------------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        """Send close_notify and shut the socket down; ``sent`` is not called for the FIN."""
        self._send_close_notify()
        self.raw.shutdown(how)

    def close(self) -> None:
        """Close; with a close_notify where one is due and nothing lies before it."""
        self._send_close_notify()
        self._closed = True
        self.raw.close()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.raw.fileno()

    def _send_close_notify(self) -> None:
        if self.handshaking or self._failed or self._shut or self._unsent:
            return
        self._shut = True
        with contextlib.suppress(OSError):  # it wants to read the peer's, which is not waited for
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self.flush()


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words: "http request", "wrong version number"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    return error.reason.lower().replace("_", " ") if error.reason else "TLS failed"
