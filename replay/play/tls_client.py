"""A played end's side of TLS, without a socket: octets in and out, and how the handshake went.

It is the standard library's engine, so what the server's own TLS stream does is judged by another.
The sender trusts whatever certificate it is shown, unless it is told what to verify; the server
under test shows the one here, made for tests alone: its key is public.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("for-tests-only.crt.pem")
KEY = Path(__file__).with_name("for-tests-only.key.pem")

DONE = "done"
REFUSED = "refused"

_READ_OCTETS = 16 * 1024
_ALERT = re.compile(rb"\x15\x03[\x00-\x04]\x00\x02..", re.DOTALL)
"""An alert record that is not encrypted (RFC 8446 section 6); no reply holds such octets."""
_RECORD = re.compile(rb"[\x14-\x17]\x03")


Verify = tuple[ssl.SSLContext, str]
"""What a certificate must be good for: a context that verifies, and the server's name."""


def verify_by(authorities: Path, name: str) -> Verify:
    """Trust a server called ``name`` whose certificate ``authorities`` (a PEM file) vouch for.

    Raises OSError, ssl.SSLError among them, for a file that cannot be used.
    """
    return ssl.create_default_context(cafile=str(authorities)), name


class TlsSide:
    """One end's TLS, which its subclasses begin as the client or as the server.

    ``write`` puts raw octets on the wire; ``on_outcome`` is called once, with ``DONE`` or
    ``REFUSED``.  After a handshake that was refused, or without any, octets pass as they are, so
    that a peer which goes on in plaintext is caught at it.
    """

    def __init__(self, write: Callable[[bytes], None], on_outcome: Callable[[str], None]) -> None:
        self._write = write
        self._on_outcome = on_outcome
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._waiting: list[bytes] = []
        self._has_ended = False
        self.outcome = ""
        """"" until the handshake's outcome is known."""

    def begin(self) -> None:
        """Begin the handshake."""
        self._tls = self._engine(self._incoming, self._outgoing)
        self._shake()

    def _engine(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        raise NotImplementedError

    def send(self, octets: bytes) -> None:
        """Send ``octets`` under TLS, in a record of their own (up to 16 KiB), as soon as the
        handshake is done; before any, as they are; behind close_notify, not at all."""
        if self._tls is None:
            self._write(octets)
        elif not self.outcome:
            self._waiting.append(octets)
        elif self.outcome is DONE and not self._has_ended:
            self._tls.write(octets)
            self._write(self._outgoing.read())

    def feed(self, octets: bytes) -> bytes:
        """Take raw octets; returns their plaintext."""
        if self._tls is None or self.outcome is REFUSED:
            return self._plain(octets)
        self._incoming.write(octets)
        if not self.outcome:
            self._shake()
            if self.outcome is REFUSED:
                return self._plain(octets)
            if not self.outcome:
                return b""
        return self._decrypt()

    def ended(self) -> None:
        """The peer has ended the connection: there will be no handshake any more."""
        if self._tls is not None:
            self._report(REFUSED)

    def send_close_notify(self) -> None:
        """Send close_notify, where there is a stream to end."""
        if self._tls is not None and self.outcome is DONE and not self._has_ended:
            self._has_ended = True
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._write(self._outgoing.read())

    # -- inside -----------------------------------------------------------------------------------

    def _shake(self) -> None:
        assert self._tls is not None
        outcome = ""
        try:
            self._tls.do_handshake()
            outcome = DONE
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            outcome = REFUSED
        if self._outgoing.pending:
            self._write(self._outgoing.read())
        if outcome:
            self._report(outcome)
        if outcome is DONE:
            waiting, self._waiting = self._waiting, []
            for octets in waiting:
                self.send(octets)

    def _decrypt(self) -> bytes:
        assert self._tls is not None
        pieces = []
        with contextlib.suppress(ssl.SSLError):  # it wants more, or the stream is broken or ended
            while piece := self._tls.read(_READ_OCTETS):
                pieces.append(piece)
            # The server has ended the stream, and waits for the answer (RFC 5246 section 7.2.1).
            self.send_close_notify()
        if self._outgoing.pending:
            self._write(self._outgoing.read())
        return b"".join(pieces)

    def _plain(self, octets: bytes) -> bytes:
        """What an end without TLS would take for words."""
        plain = _ALERT.sub(b"", octets)
        if plain != octets:
            self._report(REFUSED)
        if self._tls is not None and _RECORD.match(plain):
            return b""
        return plain

    def _report(self, outcome: str) -> None:
        if not self.outcome:
            self.outcome = outcome
            self._on_outcome(outcome)


class TlsClient(TlsSide):
    """A sender's TLS; ``verify`` is for one that does not trust every certificate."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        on_outcome: Callable[[str], None],
        verify: Verify | None = None,
    ) -> None:
        super().__init__(write, on_outcome)
        self._verify = verify

    def _engine(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        context, name = self._verify or (_context(), None)
        return context.wrap_bio(incoming, outgoing, server_hostname=name)


class TlsServer(TlsSide):
    """A receiver's TLS, with the certificate that is here."""

    def _engine(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return _server_context().wrap_bio(incoming, outgoing, server_side=True)


@cache
def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    return context


@cache
def _context() -> ssl.SSLContext:
    """What all senders shake hands with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
