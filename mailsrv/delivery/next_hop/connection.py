"""One connection to a next hop: its socket, its timer and the session that says what to send.

Theory of operation.  A connection goes through three stages.  *Connecting*: the socket is watched
until it can be written to.  *Session*: octets go to the ``SendingSession``; after whatever happens
``_settle`` does as the session wants, until it wants something that has yet to come.  *Closed*.
The user of a connection, an attempt or the destination that keeps it, is told when it is ready for
a message, when the outcomes of a message are known, and when it has ended.

Backpressure: the content is read piece by piece, each one when the kernel has taken all that was
sent before it.  So a message of any size costs memory for a piece or two.

Fairness: a piece of content is a turn; the connection waits in the loop's backlog for the next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mailsrv.delivery.next_hop.addresses import Address
from mailsrv.delivery.next_hop.dial import Dial
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.runtime.descriptor_budget import DescriptorBudget
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.memory_budget import MemoryBudget
from mailsrv.runtime.poll import READ, WRITE
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import SendingOptions
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.sending.session import SendingSession, Trouble, Want
from mailsrv.smtp.sending.timeouts import SENDING_TIMEOUTS_NS, SendingTimeout
from mailsrv.transport.transport import Transport, TransportTap

if TYPE_CHECKING:
    import ssl

FIRST_NUMBER = 1 << 59
"""Connections to next hops are handled after those of clients that are ready in the same pass."""
TLS_OCTETS = 48 * 1024
"""What TLS costs a connection in memory, about."""
_NEVER_NS = 1 << 63

# Attributes of an Enum class are slow to look up; these are used for every message.
_WANT_HANDSHAKE, _WANT_MESSAGE = Want.HANDSHAKE, Want.MESSAGE
_WANT_CONTENT, _WANT_CLOSE = Want.CONTENT, Want.CLOSE


@dataclass(slots=True)
class OutgoingContext:
    """What all connections to next hops share.  ``descriptors`` and ``tap`` may be missing."""

    loop: Loop
    dial: Dial
    memory: MemoryBudget
    descriptors: DescriptorBudget | None = None
    tap: TransportTap | None = None


class Content(NamedTuple):
    """What is sent of a message: ``octets`` in all, in pieces that are read when there is room."""

    octets: int
    pieces: Callable[[], Iterator[bytes]]


class ConnectionUser(Protocol):
    """The attempt that a connection works for, or the destination that keeps it."""

    def ready_for_message(self, connection: OutgoingConnection) -> None:
        """Greeting, EHLO and TLS are done, or the message before is."""

    def concluded(self, connection: OutgoingConnection, outcomes: Sequence[Outcome]) -> None:
        """These are the outcomes of the message."""

    def unused(self, connection: OutgoingConnection) -> None:
        """It was kept for as long as it was to be, and no message came."""

    def ended(self, connection: OutgoingConnection, trouble: Trouble | None) -> None:
        """It is closed, and why; after QUIT for no reason.  Outcomes were told before."""


class OutgoingConnection:
    """See the module.  ``number`` orders handlers; ``messages`` counts what was started on it."""

    __slots__ = (
        *("_content", "_content_octets_left", "_context", "_deadline_ns", "_due_ns"),
        *("_fed", "_held_octets", "_in_backlog", "_pieces", "_session", "_settling", "_sock"),
        *("_timer", "_tls", "_tls_context", "_told_ready", "_transport", "_waits"),
        *("address", "messages", "number", "user"),
    )

    def __init__(
        self,
        context: OutgoingContext,
        address: Address,
        options: SendingOptions,
        tls_context: ssl.SSLContext | None,
        number: int,
        user: ConnectionUser,
    ) -> None:
        """Begin to connect.  Raises OSError."""
        self.address = address
        self.messages = 0
        self.number = FIRST_NUMBER + number
        self.user = user
        self._context = context
        self._tls_context = tls_context
        self._tls = ""
        self._session = SendingSession(options, address.remote)
        self._waits = -1
        self._transport: Transport | None = None
        self._content: Content | None = None
        self._content_octets_left = 0
        self._pieces: Iterator[bytes] | None = None
        self._fed = self._told_ready = self._settling = self._in_backlog = False
        self._held_octets = 0
        loop = context.loop
        self._sock: socket.socket | None = context.dial(address.ip, address.port)
        try:
            _count(self._sock, context.descriptors)
            loop.poll.watch(self._sock, WRITE, self)
        except OSError:
            self._sock.close()
            raise
        self._deadline_ns = _NEVER_NS
        self._due_ns = loop.now_ns + SENDING_TIMEOUTS_NS[SendingTimeout.CONNECT]
        self._timer = loop.timers.schedule(self._due_ns, self._expired)

    # -- what its user calls ----------------------------------------------------------------------

    @property
    def sock(self) -> socket.socket:
        """Its socket, while it is open."""
        assert self._sock is not None
        return self._sock

    @property
    def reading(self) -> bool:
        """Whether it reads now: always, once it is connected."""
        return self._transport is not None

    @property
    def pending_octets(self) -> int:
        """Octets that it has to send and that the kernel has not taken."""
        return 0 if self._transport is None else self._transport.unsent_octets

    @property
    def free(self) -> bool:
        """True while it waits for a message."""
        return self._transport is not None and self._session.want is _WANT_MESSAGE

    @property
    def usable(self) -> bool:
        """False once it is closed or cannot go on."""
        return self._sock is not None and self._session.want is not _WANT_CLOSE

    @property
    def trouble(self) -> Trouble | None:
        """Why it cannot go on, if so."""
        return self._session.trouble

    @property
    def recipients_max(self) -> int:
        """How many recipients a message may have, once it is ready for one."""
        return self._session.recipients_max

    @property
    def transactions_max(self) -> int | None:
        """How many messages the next hop takes on one connection, None if that is unsaid."""
        return self._session.transactions_max

    def send(self, message: OutgoingMessage, content: Content, deadline_ns: int) -> None:
        """Send ``message``; it must be ``free``, and is cut off at ``deadline_ns``."""
        self.messages += 1
        self._content = content
        self._deadline_ns = deadline_ns
        self._told_ready = False
        self._session.start(message)
        self._guarded(self._settle)

    def keep(self, for_ns: int) -> None:
        """Tell the user that it is unused if no message comes within ``for_ns``."""
        self._deadline_ns = self._context.loop.now_ns + for_ns
        self._arm()

    def quit(self) -> None:
        """Send QUIT and close; a connection that is not there yet, without a word."""
        if self._transport is None:
            self._close(None)
        else:
            self._deadline_ns = _NEVER_NS
            self._told_ready = True
            self._session.quit()
            self._guarded(self._settle)

    def abort(self, why: str) -> None:
        """Close at once; what is under way is deferred."""
        if self._transport is None:
            self._close(_not_connected(self.address, why))
        else:
            self._session.lost(why)
            self._guarded(self._settle)

    # -- what the loop calls ----------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """The poll found the socket ready."""
        if self._transport is None:
            self._guarded(self._connected)
            return
        if events & WRITE:
            self._transport.resume()
        if events & READ and self.usable:
            self._guarded(self._read)
        self._guarded(self._settle)

    def take_turn(self) -> None:
        """The loop's backlog has come to this connection."""
        self._in_backlog = False
        self._guarded(self._settle)

    def lost(self, how: str) -> None:
        """The socket failed, or TLS on it."""
        if self._session.want is _WANT_HANDSHAKE:
            self._session.handshake_failed(how)
        else:
            self._session.lost(how)

    def laborious(self) -> None:
        """The last read held many TLS records: a next hop's replies are few all the same."""

    def _expired(self) -> None:
        self._guarded(self._time_is_up)

    def _time_is_up(self) -> None:
        """The timer went off, perhaps for a deadline that has moved since."""
        now_ns, session = self._context.loop.now_ns, self._session
        if now_ns >= self._due_ns:
            if self._transport is None:
                self._close(_not_connected(self.address, "no answer"))
                return
            session.timed_out()
        elif now_ns >= self._deadline_ns:
            self._deadline_ns = _NEVER_NS
            if session.want is _WANT_MESSAGE:
                self.user.unused(self)
            else:
                session.lost("the message takes too long in all")
        self._settle()
        self._arm()

    def _guarded(self, act: Callable[[], None]) -> None:
        """A defect of ours must neither keep a message under way for ever nor a socket open."""
        try:
            act()
        except Exception:
            self._settling = False
            self._close(Trouble(OutcomeKind.DEFERRED, "4.3.0", "internal error", elsewhere=False))
            raise

    # -- connecting -------------------------------------------------------------------------------

    def _connected(self) -> None:
        """The connect has ended, in one way or the other."""
        sock, context = self._sock, self._context
        if sock is None:
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._close(_not_connected(self.address, os.strerror(error)))
            return
        context.loop.poll.forget(sock)
        self._transport = Transport(sock, context.loop.poll, self, context.tap)
        if context.tap is not None:
            context.tap.opened(self, sock)
        self._settle()

    def _start_tls(self) -> None:
        assert self._transport is not None
        if self._tls_context is None:
            self._session.handshake_failed("no TLS context is configured")
        else:
            self._transport.start_tls_as_client(self._tls_context, self.address.name, self._secured)

    def _secured(self, tls: str) -> None:
        self._tls = tls

    # -- reading ----------------------------------------------------------------------------------

    def _read(self) -> None:
        transport, session = self._transport, self._session
        assert transport is not None
        chunk = transport.receive(self._context.memory.read_octets)
        if session.want is _WANT_HANDSHAKE and transport.under_tls:
            if not self._tls:
                return  # it goes on, or ``lost`` has been called
            session.secured(self._tls)
        if chunk:
            session.receive(chunk)
        elif chunk is not None:
            session.lost("the next hop closed the connection")

    # -- after anything happened ------------------------------------------------------------------

    def _settle(self) -> None:
        """Do as the session wants, until it waits."""
        transport = self._transport
        if self._settling or transport is None or self._sock is None:
            return
        self._settling, self._fed = True, False
        while self._step(transport):
            pass
        self._settling = False
        if self._sock is None:
            return
        self._account(transport)
        transport.watch(reading=True)
        session = self._session
        if session.waits != self._waits:
            self._waits = session.waits
            timeout = session.timeout
            self._due_ns = _NEVER_NS
            if timeout is not None:
                self._due_ns = self._context.loop.now_ns + SENDING_TIMEOUTS_NS[timeout]
            self._arm()

    def _step(self, transport: Transport) -> bool:
        """Do one thing that the session wants; False if it waits, or is over."""
        session = self._session
        outcomes = session.take_outcomes()
        if outcomes is not None:
            self._pieces = self._content = None
            self._deadline_ns = _NEVER_NS
            self.user.concluded(self, outcomes)
            return True
        if session.output:
            transport.send(session.output)
        want = session.want
        if want is _WANT_CLOSE:
            self._close(session.trouble)
            return False
        if transport.unsent_octets:
            return False
        if want is _WANT_CONTENT:
            return self._feed()
        if want is _WANT_MESSAGE and not self._told_ready:
            self._told_ready = True
            self.user.ready_for_message(self)
            return True
        if want is _WANT_HANDSHAKE and not transport.under_tls:
            self._start_tls()
            return True
        return False

    def _feed(self) -> bool:
        """Read a piece of the content for the session, if it is this connection's turn."""
        if self._in_backlog:
            return False
        if self._fed:
            self._in_backlog = True
            self._context.loop.put_off(self)
            return False
        self._fed = True
        session, content = self._session, self._content
        assert content is not None, "content is wanted for a message that was started"
        try:
            if self._pieces is None:
                self._pieces = content.pieces()
                self._content_octets_left = content.octets
            piece = next(self._pieces, b"")
            self._content_octets_left -= len(piece)
            if self._content_octets_left <= 0 or not piece:
                self._check_end(self._pieces, content)
            if piece:
                session.feed(piece)
            if self._content_octets_left <= 0 and session.want is _WANT_CONTENT:
                session.end_content()
        except (SpoolError, ValueError, OSError) as error:
            session.fail_content(str(error))
        return True

    def _check_end(self, pieces: Iterator[bytes], content: Content) -> None:
        """Raises ValueError if the content is shorter or longer than it was said to be."""
        octets = content.octets - self._content_octets_left + len(next(pieces, b""))
        if octets != content.octets:
            raise ValueError(f"content has {octets} octets, not {content.octets}")

    def _account(self, transport: Transport) -> None:
        """Tell the memory budget what is held."""
        held = transport.unsent_octets + (TLS_OCTETS if transport.under_tls else 0)
        if held != self._held_octets:
            self._context.memory.hold(held - self._held_octets)
            self._held_octets = held

    def _arm(self) -> None:
        """See to it that the timer goes off no later than the next deadline."""
        if self._sock is None:
            return
        due_ns, timer = min(self._due_ns, self._deadline_ns), self._timer
        if due_ns < _NEVER_NS and (not timer.pending or timer.deadline_ns > due_ns):
            self._context.loop.timers.reschedule(timer, due_ns)

    def _close(self, trouble: Trouble | None) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        context = self._context
        if self._transport is not None:
            self._transport.close()
        else:
            with contextlib.suppress(KeyError):  # it may have failed between two watches
                context.loop.poll.forget(sock)
            sock.close()
        context.loop.timers.cancel(self._timer)
        del self._timer  # which refers to this
        context.memory.hold(-self._held_octets)
        self._held_octets = 0
        self._pieces = self._content = None
        outcomes = self._session.take_outcomes()
        if outcomes is not None:
            self.user.concluded(self, outcomes)
        self.user.ended(self, trouble)


def _count(sock: socket.socket, descriptors: DescriptorBudget | None) -> None:
    """Raises OSError where nothing but the reserve is left, which is kept for other things."""
    if descriptors is not None:
        descriptors.opened(sock.fileno())
        if descriptors.spent:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _not_connected(address: Address, how: str) -> Trouble:
    return Trouble(OutcomeKind.DEFERRED, "4.4.1", f"connect to {address}: {how}")
