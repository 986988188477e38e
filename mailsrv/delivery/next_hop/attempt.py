"""One attempt at one job: from a place at its destination to an outcome for each recipient.

Theory of operation.  A connection that is kept is used first.  It may have died unnoticed, so its
failure counts for nothing and a new one is opened.  A new connection goes to one address after the
other until one takes the message: as long as none can have taken it, the next one is tried.  More
recipients than the next hop takes at once go in several transactions.  What is final for a
recipient at one address (a refusal, for instance) is not asked again at the next.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.next_hop.addresses import Address, Unroutable
from mailsrv.delivery.next_hop.connection import Content, OutgoingConnection
from mailsrv.delivery.next_hop.lookup import Found
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.sending.session import Trouble
from mailsrv.units import NS_PER_S

ADDRESSES_TRIED_MAX = 5
"""Addresses of one destination that an attempt tries; RFC 5321 section 5.1 asks for two."""
ATTEMPT_NS = 3600 * NS_PER_S
RECIPIENT_NS = 10 * NS_PER_S
OCTETS_PER_S_MIN = 4096
"""An attempt may take an hour, ten seconds for each recipient, and as long as its content takes at
this rate.  Each wait has a limit of its own; this one is against those who use up every one."""
PIECE_OCTETS_MAX = 256 * 1024

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors that say that this machine has run out of something."""
NO_ROUTE = frozenset((errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
"""Errors that say that this machine does not reach addresses of this kind: most often IPv6."""

_DEFERRED = OutcomeKind.DEFERRED


class AttemptPlace(Protocol):
    """The place at a destination that an attempt takes up."""

    def now_ns(self) -> int:
        """The loop's instant."""

    def take_kept(self) -> OutgoingConnection | None:
        """A connection that waits for a message."""

    def find_addresses(self, answer: Callable[[Found], None]) -> None:
        """Call ``answer`` with the addresses of the destination in the order to be tried."""

    def connect(self, address: Address, attempt: Attempt) -> OutgoingConnection:
        """Open a connection.  Raises OSError."""

    def worked(self, address: Address) -> None:
        """A connection to ``address`` was ready for a message."""

    def broke(self, address: Address, why: str) -> None:
        """One was not, or could not go on."""

    def needs_no_tls(self, address: Address) -> None:
        """Opportunistic TLS fails there."""

    def release(self, connection: OutgoingConnection) -> None:
        """The attempt is done with ``connection``."""

    def closed(self, connection: OutgoingConnection) -> None:
        """``connection`` has ended."""

    def put_back(self, attempt: Attempt) -> bool:
        """Let it wait for a connection of others, where no new one is to be had; False if there is
        none."""

    def over(self, attempt: Attempt) -> None:
        """Its outcomes are known."""


class Attempt:
    """See the module.  ``reached`` is True once a next hop was ready for the message.  ``trouble``
    is what kept it from being sent, None if nothing did; ``ours``: it is this server's own."""

    __slots__ = (
        *("_addresses", "_connection", "_cut", "_deadline_ns", "_in_clear", "_kept", "_left"),
        *("_outcomes", "_over", "_place", "_tries_left", "_was_put_back"),
        *("done", "job", "ours", "reached", "trouble"),
    )

    def __init__(self, job: Job, done: Done, place: AttemptPlace) -> None:
        self.job = job
        self.done = done
        self.ours = self.reached = False
        self.trouble: Trouble | None = None
        self._place = place
        self._left = list(dict.fromkeys(job.places))
        self._outcomes: dict[int, Outcome] = {}
        self._addresses: deque[Address] = deque()
        self._connection: OutgoingConnection | None = None
        self._kept = self._in_clear = self._over = self._was_put_back = False
        self._cut = ""
        self._deadline_ns = 0
        self._tries_left = 0

    @property
    def outcomes(self) -> list[Outcome]:
        """One for each place of the job, once it is over."""
        return [self._outcomes[place] for place in self.job.places]

    def begin(self) -> None:
        """It is this attempt's turn."""
        seconds = self._octets // OCTETS_PER_S_MIN
        may_take_ns = ATTEMPT_NS + RECIPIENT_NS * len(self._left) + NS_PER_S * seconds
        self._deadline_ns = self._place.now_ns() + may_take_ns
        connection = self._place.take_kept()
        if connection is None:
            self._place.find_addresses(self._found)
            return
        self._kept = True
        connection.user = self
        self._connection = connection
        if connection.free:
            self.ready_for_message(connection)

    def cut(self, why: str) -> None:
        """End it at once: what has no outcome yet is deferred."""
        self._cut = why
        if self._connection is not None:
            self._connection.abort(why)
        else:
            self.end(Trouble(_DEFERRED, "4.3.2", why))

    def end(self, trouble: Trouble | Unroutable | None) -> None:
        """Every recipient that has no outcome yet gets that of ``trouble``.  Harmless when over."""
        if self._over:
            return
        self._over = True
        for place in self._left:
            if place not in self._outcomes:
                assert trouble is not None, "without trouble every recipient has an outcome"
                self._outcomes[place] = Outcome(
                    place, trouble.kind, trouble.status, trouble.diagnostic
                )
        connection, self._connection = self._connection, None
        if connection is not None:
            self._place.release(connection)
        self._place.over(self)

    @property
    def _octets(self) -> int:
        return len(self.job.head) + self.job.message.octets

    # -- from address to address ------------------------------------------------------------------

    def _found(self, found: Found) -> None:
        if isinstance(found, Unroutable):
            self.trouble = Trouble(*found)
            self.end(found)
        else:
            self._addresses.extend(found)
            self._tries_left = ADDRESSES_TRIED_MAX
            self._try_next()

    def _try_next(self) -> None:
        """Connect to the next address; without one, the attempt has failed."""
        is_late = self._place.now_ns() >= self._deadline_ns
        while self._addresses and self._tries_left and not (self._over or is_late):
            address = self._addresses.popleft()
            self._tries_left -= 1
            try:
                self._connection = self._place.connect(address, self)
                return
            except OSError as error:
                how = error.strerror or str(error)
                if error.errno in EXHAUSTED:  # which is not that address's fault
                    self.ours = True
                    self.trouble = Trouble(_DEFERRED, "4.3.1", f"cannot open a connection: {how}")
                    self.end(self.trouble)
                    return
                self._suffer(Trouble(_DEFERRED, "4.4.1", f"connect to {address}: {how}"))
                if error.errno in NO_ROUTE:
                    self._tries_left += 1
                else:
                    self._place.broke(address, how)
        if self._over:
            return
        if not self.reached and not self._was_put_back and self._place.put_back(self):
            self._was_put_back = True
            self.trouble = None
            return
        self.end(self.trouble or Trouble(_DEFERRED, "4.4.7", "there was no time left to try"))

    def _suffer(self, trouble: Trouble) -> None:
        """Remember the trouble that decides if no address works: one that may pass, if any."""
        if self.trouble is None or trouble.kind is _DEFERRED or self.trouble.kind is not _DEFERRED:
            self.trouble = trouble

    # -- as the user of a connection --------------------------------------------------------------

    def ready_for_message(self, connection: OutgoingConnection) -> None:
        """Send the message to those who are left, or as many of them as may be."""
        self.reached = True
        self._place.worked(connection.address)
        places = tuple(self._left[: connection.recipients_max])
        message = OutgoingMessage(self.job.envelope, places, self._octets, self.job.probe)
        connection.send(message, Content(self._octets, self._pieces), self._deadline_ns)

    def concluded(self, connection: OutgoingConnection, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of a transaction."""
        trouble = connection.trouble
        elsewhere = trouble is not None and trouble.elsewhere and not self._cut
        for outcome in outcomes:
            self._outcomes[outcome.place] = outcome
            if not (elsewhere and outcome.kind is _DEFERRED):
                self._left.remove(outcome.place)
        if trouble is None and not self._left:
            self.trouble = None
            self.end(None)

    def unused(self, connection: OutgoingConnection) -> None:
        """It is in use."""

    def ended(self, connection: OutgoingConnection, trouble: Trouble | None) -> None:
        """Try the next address if nothing can have been delivered, and there is any."""
        self._place.closed(connection)
        if self._connection is not connection:
            return
        self._connection = None
        if trouble is None:
            trouble = Trouble(_DEFERRED, "4.4.2", "the connection was closed")
        if self._kept and trouble.elsewhere and self._left and not self._cut:
            self._kept = False
            self._place.find_addresses(self._found)
            return
        self._suffer(trouble)
        if self._cut or not self._left or not trouble.elsewhere:
            self.end(trouble)
            return
        if trouble.in_the_clear and not self._in_clear:
            self._in_clear = True
            self._place.needs_no_tls(connection.address)
            self._addresses.appendleft(connection.address)
        else:
            self._place.broke(connection.address, trouble.diagnostic)
        self._try_next()

    def _pieces(self) -> Iterator[bytes]:
        """Head and content, so that a small message is one piece."""
        pieces = self.job.content()
        head, first = self.job.head, next(pieces, b"")
        if len(head) + len(first) <= PIECE_OCTETS_MAX:
            yield head + first
        else:
            yield head
            yield first
        yield from pieces
