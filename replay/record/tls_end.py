"""TLS that a proxy terminates: one end of it without a socket, and where in a session it begins."""

from __future__ import annotations

import contextlib
import re
import ssl
from functools import cache

from replay.smtp.replies import ReplyReader

RECORD_MAX_OCTETS = 16 * 1024
"""The plaintext of one record (RFC 8446 section 5.1)."""
_STARTTLS = re.compile(rb"(?i)(?:\A|\n)STARTTLS[ \t]*\r?\n\Z")
_TAIL_OCTETS = 64
_READY = 220


class TlsEnd:
    """One end of TLS: octets in and out.  ``done`` once the handshake is.

    ``feed`` raises ssl.SSLError where the other end breaks the protocol or refuses us; behind
    records that were whole, ``failure`` is that error instead.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls", "done", "failure")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self.done = False
        self.failure: ssl.SSLError | None = None
        self._shake_hands()

    def feed(self, octets: bytes) -> list[bytes]:
        """Take octets from the wire; returns the plaintext of each record that they complete, and
        none for the end of the other end's stream (close_notify)."""
        self._incoming.write(octets)
        if not self.done:
            self._shake_hands()
        records: list[bytes] = []
        try:
            while self.done and (not records or records[-1]):
                records.append(self._read())
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if not records:
                raise
            self.failure = error
        return records

    def _read(self) -> bytes:
        try:
            return self._tls.read(RECORD_MAX_OCTETS)
        except ssl.SSLZeroReturnError:  # the other end's close_notify, behind ours
            return b""

    def encrypt(self, octets: bytes) -> None:
        """Make records of ``octets``, for ``take``."""
        self._tls.write(octets)

    def end(self) -> None:
        """Make a close_notify, for ``take``."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()

    def take(self) -> bytes:
        """What is to be written to the wire."""
        return self._outgoing.read()

    def _shake_hands(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self.done = True


class StarttlsWatch:
    """Where TLS begins in a session: behind the 220 to a STARTTLS (RFC 3207 section 4)."""

    __slots__ = ("_asked", "_greeted", "_reader", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._asked = self._greeted = False
        self._reader = ReplyReader()

    def client_sent(self, octets: bytes) -> None:
        self._tail = (self._tail + octets)[-_TAIL_OCTETS:]
        self._asked = self._greeted and bool(_STARTTLS.search(self._tail))

    def server_sent(self, octets: bytes) -> bool:
        """Whether TLS begins behind these octets."""
        replies = self._reader.feed(octets, 0)
        self._greeted = self._greeted or bool(replies)
        ready = bool(replies) and replies[-1].code == _READY and not self._reader.rest
        return self._asked and ready


@cache
def trusting_context() -> ssl.SSLContext:
    """For the way on to the server: whatever its certificate, for its mail is what is recorded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
