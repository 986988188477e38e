"""The wiring: a server made of settings, clock, poll, backends and listening sockets."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mailsrv.inbound.connection import Connection
from mailsrv.inbound.connection_context import AdmittedClient, ConnectionContext
from mailsrv.policy.connection_limits import RELIEF_PERCENT, Admission, stress_settings
from mailsrv.policy.greylist import Greylist
from mailsrv.policy.lookups import Callout, NoCallout, NoReputation, Reputation, Resolver
from mailsrv.policy.networks import networks_of
from mailsrv.policy.policy import Policy
from mailsrv.policy.rate_limits import Rates
from mailsrv.policy.recipients import Directory
from mailsrv.policy.runner import PolicyContext
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.descriptor_budget import DescriptorBudget
from mailsrv.runtime.listener import Listener
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.memory_budget import SCARCE_PERCENT, MemoryBudget
from mailsrv.runtime.poll import Handler, Poll
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.courier import Courier
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.state import SessionContext, SessionReplies
from mailsrv.smtp.timeouts import Timeouts
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.transport import TransportTap
from mailsrv.units import NS_PER_MS, NS_PER_S, seconds_to_ns

if TYPE_CHECKING:
    import ssl

EVICTION_IDLE_NS = NS_PER_S
"""A connection that has been idle for so long may be ended to make room for others."""
EVICTION_PAUSE_NS = 10 * NS_PER_MS
"""Between two looks for it, which cost a microsecond a connection."""
DESCRIPTOR_RESERVE = 256
"""Descriptors kept for listeners, files and refusals; at most half of what there is."""
REFUSALS_MAX = 64
"""Refused connections that get time to read why; beyond it the oldest of them is closed.
They count towards the reserve, not towards the connections."""
ID_BITS = 60

PeerName = Callable[[tuple[str, int]], str]
"""Returns the client's address for a socket's peer: the address itself, or what stands for it."""


class RandomBits(Protocol):
    """The part of ``random.Random`` that a server uses."""

    def getrandbits(self, bits: int, /) -> int:
        """Return ``bits`` random bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBackends:
    """What a server asks, and where its mail goes; a reload exchanges them.

    Left out, ``greylist`` is kept in memory if the settings want one, ``directory`` knows the
    domains of the settings, and without ``tls`` no STARTTLS is offered.  ``dsn``: the courier sees
    to it that senders get the notices that they ask for.
    """

    resolver: Resolver
    courier: Courier
    reputation: Reputation = NoReputation()  # noqa: RUF009 - immutable
    callout: Callout = NoCallout()  # noqa: RUF009 - immutable
    greylist: Greylist | None = None
    directory: Directory | None = None
    tls: ssl.SSLContext | None = None
    dsn: bool = False


class ServerParts(NamedTuple):
    """What follows from settings alone and never changes: servers of equal ones may share it."""

    timeouts: Timeouts
    replies: SessionReplies


PartsOf = Callable[[Settings, bool, bool], ServerParts]
"""Returns the parts for settings, whether STARTTLS is offered, and whether DSN is."""


def parts_of(settings: Settings, tls: bool, dsn: bool) -> ServerParts:
    """Make the parts."""
    return ServerParts(Timeouts(settings), SessionReplies.of(settings, tls, dsn))


class Server:
    """A receiving SMTP server.

    Everything that touches the world beyond the listening sockets comes in: ``clock``, ``poll``,
    ``random``, the backends, the event log.  ``peer_name`` maps a socket's peer to the client's
    address; ``tap`` watches octets pass.  ``memory`` is the budget that the courier counts its
    content in, ``descriptors`` that of the process; None: they are not looked at.  A caller that
    makes many servers may hand in a ``parts_of`` that remembers.
    """

    def __init__(
        self,
        settings: Settings,
        backends: ServerBackends,
        *,
        clock: Clock,
        poll: Poll,
        random: RandomBits,
        event_log: EventLog,
        peer_name: PeerName | None = None,
        tap: TransportTap | None = None,
        memory: MemoryBudget | None = None,
        descriptors: DescriptorBudget | None = None,
        parts_of: PartsOf = parts_of,
    ) -> None:
        self._clock = clock
        self._random = random
        self._event_log = event_log
        self._peer_name = peer_name or (lambda address: address[0])
        self._tap = tap
        self.memory = memory or MemoryBudget(settings.memory_octets)
        self._descriptors = descriptors
        self._parts_of = parts_of
        self._evicted_ns = 0
        self.loop = Loop(clock, poll, self._on_fault)
        self.loop.at_end_of_pass(event_log.flush, event_log.lines)
        self._admission = Admission(settings, settings.connections or _connections_max())
        self._rates = Rates(settings, clock)
        self.accepted = 0
        """Connections, since the server began."""
        self._refused: dict[int, None] = {}
        self._grace: Timer | None = None
        self._stopping = False
        self.connections: dict[int, Connection] = {}
        self.listeners: list[Listener] = []
        self._configure(settings, backends)

    def _configure(self, settings: Settings, backends: ServerBackends) -> None:
        """Make the context of new connections."""
        self._settings = settings
        self.memory.max_octets = settings.memory_octets
        greylist = backends.greylist
        if greylist is None and settings.greylist:
            greylist = Greylist.of(settings, self._clock)
        directory = backends.directory or Directory.of(settings)
        rates = self._rates if self._rates.limits_mail else None
        calling_out = settings.recipient_callout != "off"
        policy = Policy(
            settings,
            greylist=greylist,
            directory=None if directory.takes_all and not calling_out else directory,
            rates=rates,
        )
        self._session_context = partial(
            SessionContext.of,
            courier=backends.courier,
            stages=policy.stages,
            new_id=self._new_id,
            tls=backends.tls is not None,
            dsn=backends.dsn,
            tolerates=policy.tolerates if settings.exceptions else None,
        )
        parts = self._parts_of(settings, backends.tls is not None, backends.dsn)
        self._calm = ConnectionContext(
            session_context=self._session_context(settings, replies=parts.replies),
            policy=policy,
            policy_context=PolicyContext(backends.resolver, backends.reputation, backends.callout),
            timeouts=parts.timeouts,
            loop=self.loop,
            memory=self.memory,
            event_log=self._event_log,
            tap=self._tap,
            tls=backends.tls,
            rates=self._rates,
            proxies=networks_of(settings.proxy_networks),
            health_checks=networks_of((*settings.proxy_networks, *settings.health_check_networks)),
            admit=self._admit,
            closed=self._connection_closed,
        )
        self._under_stress: ConnectionContext | None = None
        self._context = self._stressed_context() if self._admission.stressed else self._calm

    def _stressed_context(self) -> ConnectionContext:
        """The context of connections under stress, made when stress begins for the first time."""
        if self._under_stress is None:
            settings = stress_settings(self._settings)
            self._under_stress = replace(
                self._calm,
                session_context=self._session_context(settings),
                timeouts=Timeouts(settings),
            )
        return self._under_stress

    def reload(self, settings: Settings, backends: ServerBackends) -> None:
        """Serve new connections by other rules; open connections keep theirs."""
        self._admission.reload(settings, settings.connections or _connections_max())
        self._rates.reload(settings)
        self._configure(settings, backends)

    def listen(self, sock: socket.socket, *, implicit_tls: bool = False) -> Listener:
        """Accept connections on a listening socket, which the server closes when it stops.

        With ``implicit_tls`` they begin with a TLS handshake (RFC 8314 section 3.3).
        """
        accepted = partial(self._connected, implicit_tls)
        self.listeners = [one for one in self.listeners if one.open]
        listener = Listener(self.loop, sock, accepted, self._exhausted)
        self.listeners.append(listener)
        return listener

    def run(self) -> None:
        """Serve until ``stop`` was called and the last connection is closed."""
        run_once = self.loop.run_once
        while not self._stopping or self.connections:  # as in ``done``, a call less for each pass
            run_once()
        self._event_log.flush()

    @property
    def done(self) -> bool:
        """True once the server has stopped and no connection is left."""
        return self._stopping and not self.connections

    def stop(self) -> None:
        """Accept no more, send 421 to idle connections, leave transactions their grace time."""
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
        """Send 421 to every client, in a transaction or not; one that does not read is dropped."""
        for connection in list(self.connections.values()):
            connection.end(self._context.session_context.shutting_down)
            if connection.pending_octets:
                connection.drop()

    def _end_idle(self) -> None:
        for connection in list(self.connections.values()):
            if not connection.in_transaction:
                connection.end(self._context.session_context.shutting_down)

    # -- accepting and admitting -------------------------------------------------------------------

    def _connected(self, implicit_tls: bool, sock: socket.socket, address: tuple[str, int]) -> None:
        self.accepted += 1
        if self._descriptors is not None:
            self._descriptors.opened(sock.fileno())
        connection = Connection(
            self._context,
            sock,
            self._peer_name(address),
            self.accepted,
            implicit_tls=implicit_tls,
        )
        self.connections[connection.number] = connection
        try:
            connection.begin()
        except Exception:
            connection.drop()  # the loop knows the listener alone; it logs what is raised
            raise

    def _admit(self, connection: AdmittedClient) -> Reply | None:
        """Count a client in, or return the reply that turns it away."""
        rates, client = self._rates, connection.client
        flooded = rates.refusals(client)
        too_fast = flooded or rates.connection(client)
        shortage = self._shortage()
        broken = too_fast or shortage or self._admission.enter(client)
        if broken is None:
            rates.charge_connection(client)
            if self._context is not self._calm or self._is_stressed(0):
                self._follow_stress()
            return None
        if shortage or self._admission.full:
            self._make_room()
        hostname = self._settings.hostname
        if flooded:
            refusal = reply.too_many_refusals_a_minute(hostname, broken)
        else:
            check = "rate" if too_fast else "connections"
            refusal = reply.too_many_connections(hostname, broken, check)
        self._event_log.note(
            "refused",
            connection=connection.number,
            client=connection.client,
            limit=broken,
            check=refusal.check,
        )
        if len(self._refused) >= REFUSALS_MAX:
            self.connections[next(iter(self._refused))].drop()
        self._refused[connection.number] = None
        return refusal

    def _connection_closed(self, client: AdmittedClient) -> None:
        connection = self.connections.pop(client.number)
        self._refused.pop(client.number, None)
        if connection.admitted:
            self._admission.leave(connection.client)
            if self._context is not self._calm:
                self._follow_stress()
        if self._grace is not None and not self.connections:
            self.loop.timers.cancel(self._grace)

    def _shortage(self) -> str | None:
        """What is missing to serve another client, in words."""
        if self.memory.spent:
            return "no memory is left"
        if self._descriptors is not None and self._descriptors.spent:
            return "no descriptor is left"
        return None

    def _make_room(self) -> None:
        """End the connection that has been idle for longest: there is none for new clients."""
        now_ns = self.loop.now_ns
        if now_ns < self._evicted_ns + EVICTION_PAUSE_NS:
            return
        self._evicted_ns = now_ns
        since_ns, oldest = now_ns - EVICTION_IDLE_NS, None
        for connection in self.connections.values():
            idle_ns = connection.idle_since_ns
            if idle_ns is not None and idle_ns <= since_ns:
                since_ns, oldest = idle_ns, connection
        if oldest is not None:
            oldest.end(reply.too_many_connections(self._settings.hostname, "others need the place"))

    def _follow_stress(self) -> None:
        """See whether stress has begun or ended."""
        was_stressed = self._context is not self._calm
        stressed = self._is_stressed(RELIEF_PERCENT if was_stressed else 0)
        if stressed is not was_stressed:
            self._change_stress(stressed)

    def _is_stressed(self, relief_percent: int) -> bool:
        """True while connections, memory or descriptors are scarce; of the last two, so much less
        than scarce is enough."""
        percent = self._settings.stress_percent
        if self._admission.stressed or not percent:
            return self._admission.stressed
        if self.memory.held_octets and self.memory.filled(SCARCE_PERCENT - relief_percent):
            return True
        descriptors = self._descriptors
        return descriptors is not None and descriptors.filled(percent - relief_percent)

    def _change_stress(self, stressed: bool) -> None:
        """Stress begins or ends, for open connections as well."""
        self._context = self._stressed_context() if stressed else self._calm
        self._event_log.note("stress", on=int(stressed), connections=len(self.connections))
        for connection in self.connections.values():
            connection.change_timeouts(self._context)

    def _exhausted(self, error: OSError) -> None:
        self._event_log.note("exhausted", error=error.strerror, connections=len(self.connections))

    # -- defects -----------------------------------------------------------------------------------

    def _on_fault(self, handler: Handler | None, fault: Exception) -> None:
        """A defect of ours: the connection in which it occurred is dropped, the others go on."""
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
        self._event_log.note("fault", error=repr(fault), place=place)

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(ID_BITS):015X}"


def _connections_max() -> int:
    """What the descriptor limit allows, less the reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - DESCRIPTOR_RESERVE, soft // 2)
