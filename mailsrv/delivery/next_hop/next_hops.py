"""The ways out to next hops: all destinations, and what they share.

Theory of operation.  A ``NextHopWay`` leads to one destination: the hosts of a route, or the mail
exchangers of a domain.  What happens on connections changes only the state of attempts and
destinations; to begin the next attempt, and to call ``done``, is work for the loop's backlog.  So
nothing is called from within itself, however fast a next hop is or a job fails.

Fairness among destinations: an attempt takes one of ``ATTEMPTS_MAX`` slots.  A destination may
take another only while it has fewer than are free: so a single one never takes more than half, a
second never more than half of the rest, and a new one finds a slot.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from mailsrv.config.deliveries import Delivery, ToExchangers, ToHosts
from mailsrv.config.routes import Route
from mailsrv.delivery.job import Done, Job
from mailsrv.delivery.next_hop.addresses import Address
from mailsrv.delivery.next_hop.attempt import Attempt
from mailsrv.delivery.next_hop.bounded_resolver import BoundedResolver
from mailsrv.delivery.next_hop.connection import OutgoingConnection, OutgoingContext
from mailsrv.delivery.next_hop.connection_pool import ConnectionPool
from mailsrv.delivery.next_hop.destination import Destination
from mailsrv.delivery.next_hop.lookup import Found, LookupRules, find_domain, find_hosts
from mailsrv.policy.lookups import Resolver
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.options import Dialect, SendingOptions, TlsPolicy
from mailsrv.smtp.sending.outcome import OutcomeKind
from mailsrv.smtp.sending.session import Trouble
from mailsrv.units import NS_PER_S

ATTEMPTS_MAX = 64
WAITING_MAX = 1024
"""Jobs that wait for a slot or for their destination; what is beyond comes back deferred."""
DESTINATIONS_MAX = 2048
"""Destinations that something is remembered of, beside those in use."""
TURN_EVENTS = 8
"""Outcomes told, or attempts begun, in one turn of the backlog."""
GRACE_NS = 30 * NS_PER_S
"""How long ``close`` leaves what is under way, where nothing else is said."""

_CLOSING = "the server is shutting down"

TlsContexts = Callable[[TlsPolicy], ssl.SSLContext]
"""Returns the context of handshakes under a policy other than NEVER."""


class DestinationKey(NamedTuple):
    """What tells destinations apart: the bounds of their routes do not."""

    delivery: Delivery
    tls: TlsPolicy
    domain: str


class NextHops:
    """See the module.  ``hostname`` is what we call ourselves, ``rules`` say where a domain's MX
    may lead; these and the resolver are exchanged by ``configure``.  ``note`` is called with events
    for the log and their values."""

    number = 0

    def __init__(
        self,
        context: OutgoingContext,
        resolver: Resolver,
        random: Random,
        *,
        hostname: str,
        tls_contexts: TlsContexts,
        rules: LookupRules | None = None,
        note: Callable[..., object] = lambda event, **values: None,
    ) -> None:
        self.loop = context.loop
        self.pool = ConnectionPool(context, ATTEMPTS_MAX)
        self._resolver = BoundedResolver(resolver, context.loop)
        self._random = random
        self._hostname = hostname
        self._tls_contexts = tls_contexts
        self._rules = rules or LookupRules()
        self._note = note
        self._destinations: OrderedDict[DestinationKey, Destination] = OrderedDict()
        self._awake: dict[Destination, None] = {}
        self._starved: dict[Destination, None] = {}
        self._over: deque[Attempt] = deque()
        self._in_backlog = False
        self._closing = False
        self._grace: Timer | None = None
        self.active = 0
        """Attempts under way."""
        self.waiting = 0
        """Jobs whose outcomes were not told yet, less those under way."""

    def configure(self, resolver: Resolver, hostname: str, rules: LookupRules) -> None:
        """Use these from now on."""
        self._resolver.resolver = resolver
        self._hostname = hostname
        self._rules = rules

    def way(self, route: Route, recipient: MailPath) -> NextHopWay:
        """The way out of the mail for ``recipient`` by ``route``, whose delivery is a next hop."""
        delivery = route.delivery
        if isinstance(delivery, ToExchangers):
            return NextHopWay(self, route, delivery.domain or recipient.domain.lower())
        return NextHopWay(self, route, "")

    @property
    def done(self) -> bool:
        """True after ``close`` once nothing is left: no job, no connection."""
        return self._closing and not (self.active or self.waiting or len(self.pool))

    @property
    def free_slots(self) -> int:
        """How many jobs may begin now, for whatever destinations."""
        return max(0, ATTEMPTS_MAX - self.active - self.waiting)

    def begin(self, job: Job, done: Done, route: Route, domain: str) -> None:
        """Take a job for one destination."""
        destination = self.destination(route, domain)
        attempt = Attempt(job, done, destination)
        self.waiting += 1
        if self._closing:
            attempt.end(Trouble(OutcomeKind.DEFERRED, "4.3.2", _CLOSING))
        elif self.waiting > WAITING_MAX:
            attempt.end(Trouble(OutcomeKind.DEFERRED, "4.3.2", "too many messages wait"))
        else:
            destination.add(attempt)

    def destination(self, route: Route, domain: str) -> Destination:
        """The destination of ``domain``, "" for the hosts of ``route``."""
        key = DestinationKey(route.delivery, route.tls, domain)
        destination = self._destinations.get(key)
        if destination is None:
            destination = self._destinations[key] = Destination(self, key, route, domain)
            self._forget_one()
        else:
            self._destinations.move_to_end(key)
            destination.route = route
        return destination

    def resume(self) -> None:
        """Leave no destination alone any longer: an operator wants mail to be tried."""
        for destination in self._destinations.values():
            destination.resume()

    def close(self, grace_ns: int = GRACE_NS) -> None:
        """Begin nothing more, and end what is under way after ``grace_ns``; what has no outcome
        then is deferred.  Harmless when closed."""
        if self._closing:
            return
        self._closing = True
        for destination in self._destinations.values():
            destination.close(_CLOSING)
        self.pool.close_kept()
        if self.active:
            self._grace = self.loop.timers.schedule(self.loop.now_ns + grace_ns, self.cut)

    def cut(self) -> None:
        """End everything at once."""
        self.close(0)
        for destination in list(self._destinations.values()):
            destination.cut(_CLOSING)
        self.pool.drop()
        self._resolver.close()

    def _forget_one(self) -> None:
        """Forget a destination that is not in use, where many are known."""
        for _ in range(len(self._destinations) - DESTINATIONS_MAX):
            key, destination = next(iter(self._destinations.items()))
            if destination.active or destination.waiting:
                self._destinations.move_to_end(key)
            else:
                del self._destinations[key]

    # -- the loop's backlog ------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """It has no socket."""

    def take_turn(self) -> None:
        """Tell outcomes, begin attempts: some of them."""
        self._in_backlog = False
        try:
            for _ in range(TURN_EVENTS):
                if self._over:
                    attempt = self._over.popleft()
                    self.waiting -= 1
                    attempt.done(attempt.outcomes)
                elif self._awake:
                    destination = next(iter(self._awake))
                    del self._awake[destination]
                    destination.proceed()
                    self._feed()
                else:
                    break
        finally:
            if self._over or self._awake:
                self._put_off()

    def _put_off(self) -> None:
        if not self._in_backlog:
            self._in_backlog = True
            self.loop.put_off(self)

    def _feed(self) -> None:
        """Wake the first destination that waits for a slot and may have one now."""
        free = ATTEMPTS_MAX - self.active
        for destination in self._starved:
            if destination.active < free:
                del self._starved[destination]
                self.wake(destination)
                return

    # -- for the destinations ----------------------------------------------------------------------

    def find_addresses(self, route: Route, domain: str, answer: Callable[[Found], None]) -> None:
        """Look the destination's addresses up."""
        delivery = route.delivery
        if isinstance(delivery, ToHosts):
            find_hosts(delivery.hosts, self._resolver, self._random, answer)
        else:
            find_domain(domain, self._resolver, self._random, self._rules, answer)

    def connect(
        self, route: Route, address: Address, attempt: Attempt, *, in_clear: bool
    ) -> OutgoingConnection:
        """Open a connection.  Raises OSError."""
        delivery = route.delivery
        is_lmtp = isinstance(delivery, ToHosts) and delivery.protocol == "lmtp"
        policy = TlsPolicy.NEVER if in_clear else route.tls
        options = SendingOptions(self._hostname, Dialect.LMTP if is_lmtp else Dialect.SMTP, policy)
        context = None if policy is TlsPolicy.NEVER else self._tls_contexts(policy)
        return self.pool.connect(address, options, context, attempt)

    def take_slot(self, destination: Destination) -> bool:
        """Whether it may begin another attempt; if not, it is woken when it may."""
        if destination.active < ATTEMPTS_MAX - self.active:
            self.active += 1
            self.waiting -= 1
            return True
        self._starved[destination] = None
        return False

    def leave_slot(self) -> None:
        """An attempt is over, or waits again."""
        self.active -= 1
        self.waiting += 1
        self._feed()
        if self._grace is not None and not self.active:
            self.loop.timers.cancel(self._grace)

    def wake(self, destination: Destination) -> None:
        """Call its ``proceed`` soon."""
        self._awake[destination] = None
        self._put_off()

    def over(self, attempt: Attempt) -> None:
        """Pass its outcomes on soon."""
        self._over.append(attempt)
        self._put_off()

    def note(self, event: str, **values: object) -> None:
        """Write to the log."""
        self._note(event, **values)


@dataclass(frozen=True, slots=True)
class NextHopWay:
    """The way out to one destination by one route; equal ones are the same."""

    next_hops: NextHops
    route: Route
    domain: str
    """"" for the hosts of the route."""

    @property
    def name(self) -> str:
        """As the configuration writes it, or the domain whose mail goes to its own exchangers."""
        return self.domain or str(self.route.delivery)

    def deliver(self, job: Job, done: Done) -> None:
        """Begin an attempt; ``done`` is called once, later."""
        self.next_hops.begin(job, done, self.route, self.domain)

    def room(self) -> int:
        """How many jobs it takes now without keeping them waiting."""
        destination = self.next_hops.destination(self.route, self.domain)
        share = (self.next_hops.free_slots - destination.active + 1) // 2
        return max(0, min(share, destination.room))

    def close(self) -> None:
        """End what is under way, of all ways to next hops."""
        self.next_hops.close()
