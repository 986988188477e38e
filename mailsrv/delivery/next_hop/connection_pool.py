"""All connections to next hops: how many are open, and those that are kept for another message.

A connection that has done its work is kept for a while for its destination.  Where no more
may be open, the one that was kept for longest makes room.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from mailsrv.delivery.next_hop.addresses import Address
from mailsrv.delivery.next_hop.connection import (
    ConnectionUser,
    OutgoingConnection,
    OutgoingContext,
)
from mailsrv.smtp.sending.options import SendingOptions
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.smtp.sending.session import Trouble

if TYPE_CHECKING:
    import ssl

CONNECTIONS_MAX = 64
"""Open connections in all, those that are kept or about to be closed among them."""
MESSAGES_PER_CONNECTION_MAX = 100
"""After so many a new connection is made, so that a next hop with several addresses or processes
can spread the load."""


class ConnectionPool:
    """See the module.  ``opened``, ``reused`` and ``unreached`` count connections that were begun,
    taken again for another message, and that ended before a message could be sent."""

    def __init__(self, context: OutgoingContext, connections_max: int = CONNECTIONS_MAX) -> None:
        self.context = context
        self.connections_max = connections_max
        self._connections: dict[int, OutgoingConnection] = {}
        self._kept: dict[
            int, Hashable
        ] = {}  # numbers, the longest kept first, and their destinations
        self._kept_of: dict[Hashable, list[int]] = {}
        self._leaving: dict[int, None] = {}
        self.opened = self.reused = self.unreached = 0

    def __len__(self) -> int:
        """How many are open."""
        return len(self._connections)

    @property
    def kept(self) -> int:
        """How many of them wait for a message."""
        return len(self._kept)

    def connect(
        self,
        address: Address,
        options: SendingOptions,
        tls_context: ssl.SSLContext | None,
        user: ConnectionUser,
    ) -> OutgoingConnection:
        """Open a connection; one that is kept may be closed for it.  Raises OSError."""
        while len(self._connections) >= self.connections_max and (self._leaving or self._kept):
            self._make_room()
        self.opened += 1
        connection = OutgoingConnection(
            self.context, address, options, tls_context, self.opened, user
        )
        self._connections[connection.number] = connection
        return connection

    def keep(self, connection: OutgoingConnection, destination: Hashable, for_ns: int) -> None:
        """Its user has done with ``connection``: keep it for another message to the same
        destination, or close it where it has done enough."""
        messages_max = min(
            connection.transactions_max or MESSAGES_PER_CONNECTION_MAX,
            MESSAGES_PER_CONNECTION_MAX,
        )
        connection.user = self
        if not connection.usable:
            return  # it is about to end by itself
        if connection.messages >= messages_max or not for_ns:
            self._leave(connection)
            return
        self._kept[connection.number] = destination
        self._kept_of.setdefault(destination, []).append(connection.number)
        connection.keep(for_ns)

    def take(self, destination: Hashable) -> OutgoingConnection | None:
        """The connection to ``destination`` that was used last of those that are kept."""
        numbers = self._kept_of.get(destination)
        if not numbers:
            return None
        connection = self._connections[numbers[-1]]
        self._forget(connection)
        self.reused += 1
        return connection

    def kept_for(self, destination: Hashable) -> int:
        """How many connections to ``destination`` are kept."""
        return len(self._kept_of.get(destination, ()))

    def closed(self, connection: OutgoingConnection) -> None:
        """A connection has ended, whoever used it."""
        self._forget(connection)
        self._leaving.pop(connection.number, None)
        if self._connections.pop(connection.number, None) is not None and not connection.messages:
            self.unreached += 1

    def close_kept(self) -> None:
        """Close all that wait for a message."""
        for number in list(self._kept):
            self._leave(self._connections[number])

    def drop(self) -> None:
        """Close all that are not in use, at once."""
        while self._leaving or self._kept:
            self._make_room()

    def _make_room(self) -> None:
        """Close one that is not in use, at once."""
        numbers = self._leaving or self._kept
        connection = self._connections[next(iter(numbers))]
        if connection.number in self._kept:
            self._leave(connection)
        connection.abort("not needed any more")

    def _leave(self, connection: OutgoingConnection) -> None:
        self._forget(connection)
        self._leaving[connection.number] = None
        connection.quit()

    def _forget(self, connection: OutgoingConnection) -> None:
        """It is not kept any more."""
        destination = self._kept.pop(connection.number, None)
        if destination is not None:
            numbers = self._kept_of[destination]
            numbers.remove(connection.number)
            if not numbers:
                del self._kept_of[destination]

    # -- as the user of those that are kept or leave ----------------------------------------------

    def ready_for_message(self, connection: OutgoingConnection) -> None:
        """There is none."""

    def concluded(self, connection: OutgoingConnection, outcomes: Sequence[Outcome]) -> None:
        """They were told to the user before."""

    def unused(self, connection: OutgoingConnection) -> None:
        """It was kept long enough."""
        self._leave(connection)

    def ended(self, connection: OutgoingConnection, trouble: Trouble | None) -> None:
        """The next hop closed it, or we did."""
        self.closed(connection)
