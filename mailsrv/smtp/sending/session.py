"""The sending side of one SMTP or LMTP conversation, without I/O and without a clock.

How a connection drives it.  The socket is connected (and, for TLS from the first octet, the
handshake done): make a ``SendingSession``.  Then do as ``want`` says, again and again:

- ``Want.REPLY``: read, and ``receive`` what came.
- ``Want.HANDSHAKE``: once the output has gone, begin the TLS handshake; then ``secured`` or
  ``handshake_failed``.
- ``Want.MESSAGE``: nothing is under way.  ``start`` a message, or ``quit``, or keep the connection.
- ``Want.CONTENT``: once the output has gone, ``feed`` the next piece of the message's content,
  or ``end_content``, or ``fail_content`` if it cannot be read.
- ``Want.CLOSE``: send the output, as far as it goes at once, and close.

Whatever ``want`` is:

- ``output`` is what is to be sent, in order; the connection empties it.
- Reading never stops: what comes is handed to ``receive`` at any time (never while a handshake is
  under way), a FIN or a broken connection to ``lost``.
- ``timeout`` is what is waited for, None in ``Want.MESSAGE``.  ``waits`` counts the waits: whenever
  it has changed, the timer is set anew to now + the nanoseconds for ``timeout``
  (``SENDING_TIMEOUTS_NS``).  When it comes up: ``timed_out``.
- ``take_outcomes`` returns the outcomes of the message once all are known, one for each place, and
  None otherwise; ask after each call.  They may come before ``want`` is MESSAGE again (RSET may be
  under way).
- ``trouble`` is set once when the connection cannot go on, together with ``Want.CLOSE`` and the
  outcomes of a message that was under way: every recipient that had no outcome yet is DEFERRED.

No method raises, whatever the next hop sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import SendingOptions
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.sending.timeouts import SendingTimeout


class Want(Enum):
    """What the session waits for."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    REPLY = "a reply"
    HANDSHAKE = "a TLS handshake"
    MESSAGE = "a message, or the end"
    CONTENT = "a piece of the content, once the output has gone"
    CLOSE = "the connection to be closed"


class Trouble(NamedTuple):
    """Why a connection cannot go on.

    ``kind`` (DEFERRED, or FAILED where the next hop says that it never takes mail), ``status``
    and ``diagnostic`` are as in ``Outcome``.  ``elsewhere``: no recipient's message can have been
    taken, so those that were deferred may be tried at once at another address of the destination.
    ``in_the_clear``: opportunistic TLS failed; the same address is to be tried once more with
    ``TlsPolicy.NEVER``.
    """

    kind: OutcomeKind
    status: str
    diagnostic: str
    elsewhere: bool = True
    in_the_clear: bool = False


class SendingSession:
    """See the module.  ``tls`` is the version and cipher suite in use, "" in the clear."""

    def __init__(self, options: SendingOptions, remote: str, tls: str = "") -> None:
        """``remote`` names the next hop in outcomes; ``tls`` is set if the handshake came first."""
        self.options = options
        self.remote = remote
        self.tls = tls
        self.output: list[bytes] = []
        self.want = Want.REPLY
        self.timeout: SendingTimeout | None = SendingTimeout.GREETING
        self.waits = 0
        self.trouble: Trouble | None = None

    @property
    def busy(self) -> bool:
        """A message is under way: ``start`` may not be called."""
        raise NotImplementedError

    @property
    def recipients_max(self) -> int:
        """How many recipients of one message may be sent in a transaction (RFC 9422, or 100)."""
        raise NotImplementedError

    @property
    def transactions_max(self) -> int | None:
        """How many messages the next hop takes on a connection (RFC 9422), None if unsaid."""
        raise NotImplementedError

    def start(self, message: OutgoingMessage) -> None:
        """Send ``message`` as soon as the next hop is ready: at once in ``Want.MESSAGE``, or after
        greeting, EHLO and TLS.  It has at least one place and at most ``recipients_max``."""
        raise NotImplementedError

    def receive(self, octets: bytes) -> None:
        """Take octets of the next hop."""
        raise NotImplementedError

    def lost(self, how: str) -> None:
        """The next hop has closed, or the connection broke: ``how`` says what the system said."""
        raise NotImplementedError

    def timed_out(self) -> None:
        """What ``timeout`` names took too long."""
        raise NotImplementedError

    def secured(self, tls: str) -> None:
        """The TLS handshake is done, with this version and cipher suite."""
        raise NotImplementedError

    def handshake_failed(self, how: str) -> None:
        """The TLS handshake failed, or the certificate is not the one that is asked for."""
        raise NotImplementedError

    def feed(self, piece: bytes) -> None:
        """The next octets of the content, trace fields first; at most 256 KiB."""
        raise NotImplementedError

    def end_content(self) -> None:
        """There is no more content."""
        raise NotImplementedError

    def fail_content(self, why: str) -> None:
        """The content cannot be read: the message is deferred and the connection closed."""
        raise NotImplementedError

    def take_outcomes(self) -> Sequence[Outcome] | None:
        """The outcomes of the message, once: when all are known."""
        raise NotImplementedError

    def quit(self) -> None:
        """Send QUIT; a message under way is deferred, and its connection closed without a word."""
        raise NotImplementedError
