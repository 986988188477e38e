"""The wiring: where settings, clock, poll, seams and sockets meet to be a server."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from typing import Protocol

from mailsrv import reply
from mailsrv.clock import Clock
from mailsrv.connection import Connection, Premises, Tap
from mailsrv.deliberation import Panel
from mailsrv.greylist import Greylist
from mailsrv.house import House
from mailsrv.journal import Journal
from mailsrv.limits import Admission
from mailsrv.listener import Listener
from mailsrv.loop import Loop
from mailsrv.policy import Policy
from mailsrv.poll import Handler, Poll
from mailsrv.seams import Courier, Reputation, Resolver
from mailsrv.settings import Settings
from mailsrv.timers import Timer
from mailsrv.units import seconds_to_ns

DESCRIPTOR_RESERVE = 256
"""Descriptors kept for listeners, files and refusals; at most half of what there is."""
REFUSALS_MAX = 64
"""Refused connections that get time to read why; a further one is closed as soon as it is told.
They take nobody's place, only the reserve's."""
ID_BITS = 60

PeerName = Callable[[tuple[str, int]], str]
"""Gives the client's address for a socket's peer: the address itself, or what stands for it."""


class RandomBits(Protocol):
    """The part of ``random.Random`` that is needed."""

    def getrandbits(self, bits: int, /) -> int:
        """Give ``bits`` random bits."""


class Server:
    """A receiving SMTP server.

    Everything that touches the world beyond the listening sockets comes in: ``clock``, ``poll``,
    ``random``, the seams, the journal.  ``peer_name`` maps a socket's peer to the client's
    address; ``tap`` watches raw octets pass.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        poll: Poll,
        random: RandomBits,
        resolver: Resolver,
        reputation: Reputation,
        courier: Courier,
        journal: Journal,
        greylist: Greylist | None = None,
        peer_name: PeerName | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._settings = settings
        self._random = random
        self._journal = journal
        self._peer_name = peer_name or (lambda address: address[0])
        self.loop = Loop(clock, poll, self._on_fault)
        self.loop.at_end_of_pass(journal.flush)
        if greylist is None and settings.greylist:
            greylist = Greylist(clock=clock, delay=settings.greylist_delay_s)
        policy = Policy(settings, greylist=greylist)
        self._premises = Premises(
            house=House.of(settings, courier, policy.stages, self._new_id),
            policy=policy,
            panel=Panel(resolver, reputation),
            loop=self.loop,
            journal=journal,
            tap=tap,
            closed=self._connection_closed,
        )
        self._admission = Admission(settings, settings.connections or _connections_max())
        self._accepted = 0
        self._refused: set[int] = set()
        self._grace: Timer | None = None
        self._stopping = False
        self.connections: dict[int, Connection] = {}
        self.listeners: list[Listener] = []

    def listen(self, sock: socket.socket) -> Listener:
        """Accept connections on a listening socket, which the server closes when it stops."""
        listener = Listener(self.loop, sock, self._connected, self._exhausted)
        self.listeners.append(listener)
        return listener

    def run(self) -> None:
        """Serve until ``stop`` was called and the last connection is closed."""
        while not self.done:
            self.loop.run_once()
        self._journal.flush()

    @property
    def done(self) -> bool:
        """True once the server has stopped and nobody is left."""
        return self._stopping and not self.connections

    def stop(self) -> None:
        """Accept no more, say 421 to the idle, give transactions their grace time."""
        if self._stopping:
            return
        self._stopping = True
        for listener in self.listeners:
            listener.close()
        self.loop.at_end_of_pass(self._end_idle)
        self._end_idle()
        if self.connections:
            grace_ns = seconds_to_ns(self._settings.grace_s)
            self._grace = self.loop.timers.schedule(self.loop.now_ns + grace_ns, self.end_all)

    def end_all(self) -> None:
        """Say 421 to everybody, in a transaction or not; who does not read cannot be told."""
        for connection in list(self.connections.values()):
            connection.end(self._premises.house.shutting_down)
            if connection.pending_octets:
                connection.drop()

    def _end_idle(self) -> None:
        for connection in list(self.connections.values()):
            if not connection.in_transaction:
                connection.end(self._premises.house.shutting_down)

    def _connected(self, sock: socket.socket, address: tuple[str, int]) -> None:
        client = self._peer_name(address)
        broken = self._admission.enter(client)
        self._accepted += 1
        connection = Connection(self._premises, sock, client, self._accepted)
        self.connections[connection.number] = connection
        if broken is None:
            connection.begin()
        else:
            self._journal.note("refused", client=client, limit=broken)
            self._refused.add(connection.number)
            connection.refuse(reply.too_many_connections(self._settings.hostname, broken))
            if len(self._refused) > REFUSALS_MAX:
                connection.drop()

    def _connection_closed(self, connection: Connection) -> None:
        del self.connections[connection.number]
        if connection.number in self._refused:
            self._refused.remove(connection.number)
        else:
            self._admission.leave(connection.client)
        if self._grace is not None and not self.connections:
            self.loop.timers.cancel(self._grace)

    def _exhausted(self, error: OSError) -> None:
        self._journal.note("exhausted", error=error.strerror, connections=len(self.connections))

    def _on_fault(self, handler: Handler | None, fault: Exception) -> None:
        """A defect of ours: the connection it struck is dropped, the others go on."""
        self._note_fault(fault)
        if isinstance(handler, Connection):
            try:
                handler.drop()
            except Exception as another:
                self._note_fault(another)

    def _note_fault(self, fault: Exception) -> None:
        where = fault.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_qualname}:{where.tb_lineno}" if where else None
        self._journal.note("fault", error=repr(fault), place=place)

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(ID_BITS):015X}"


def _connections_max() -> int:
    """What the descriptor limit allows, less the reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - DESCRIPTOR_RESERVE, soft // 2)
