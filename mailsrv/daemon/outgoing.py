"""What becomes of accepted mail: the spool, its queue and the ways out, made from a configuration
and kept over a reload."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from mailsrv.config.aliases import aliases_of
from mailsrv.config.deliveries import Discard, ToHosts, ToMaildir
from mailsrv.config.file import Config
from mailsrv.config.routes import Route
from mailsrv.config.validation import ConfigError
from mailsrv.daemon.ways_out import RoutedWays
from mailsrv.delivery.callouts import Callouts
from mailsrv.delivery.discard import DiscardWay
from mailsrv.delivery.mailbox.local_delivery import at_start
from mailsrv.delivery.mailbox.mailbox_delivery import MailboxDelivery
from mailsrv.delivery.mailbox.mailboxes import Mailboxes
from mailsrv.delivery.mailbox.maildir import Maildir
from mailsrv.delivery.mailbox.maildir_delivery import MaildirDelivery
from mailsrv.delivery.next_hop.addresses import Unroutable
from mailsrv.delivery.next_hop.connection import OutgoingContext
from mailsrv.delivery.next_hop.connection_pool import ConnectionPool
from mailsrv.delivery.next_hop.dial import Dial, dial
from mailsrv.delivery.next_hop.lookup import Found, LookupRules
from mailsrv.delivery.next_hop.next_hops import NextHops
from mailsrv.delivery.queue.notifier import Notifier
from mailsrv.delivery.queue.queue import Queue
from mailsrv.delivery.queue.retries import Retries
from mailsrv.delivery.queue.wake_socket import WakeSocket
from mailsrv.delivery.queue.ways import Way
from mailsrv.delivery.spool.disk_room import Limits
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.delivery.spool.spool import Spool
from mailsrv.policy.lookups import Resolver
from mailsrv.policy.networks import Networks
from mailsrv.policy.recipients import Directory
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.descriptor_budget import DescriptorBudget
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.memory_budget import MemoryBudget
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.options import TlsPolicy
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.tls_context import client_context
from mailsrv.transport.transport import TransportTap
from mailsrv.units import NS_PER_S, seconds_to_ns

FINISH_NS = 10 * NS_PER_S
"""How long the end of the process goes on delivering into local folders."""
LOOKED_UP_MAX = 16
"""Next hops that are looked up when a configuration comes into use."""
FAREWELL_NS = NS_PER_S
"""How long it waits for the replies to QUIT."""
TICK_NS = NS_PER_S // 10
"""How often it looks whether it has waited enough."""


class Prepared(NamedTuple):
    """What a configuration needs and could be had: nothing that follows fails."""

    config: Config
    directory: Directory
    maildirs: dict[Route, Maildir]
    mailboxes: dict[Route, Mailboxes]


class Network(NamedTuple):
    """How next hops are reached: by which connections, with ``authorities`` for certificates that
    are to be verified (None: those of the system), and with a ``tap`` on their octets."""

    dial: Dial = dial
    authorities: Path | None = None
    tap: TransportTap | None = None


class Outgoing:
    """The spool and the queue of one process.  ``memory`` counts the content on its way,
    ``descriptors`` the connections to next hops.

    Each configuration is to be ``prepare``d, and then put to ``use``; work begins with ``attach``.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        journal: EventLog,
        memory: MemoryBudget,
        descriptors: DescriptorBudget | None = None,
        *,
        dice: random.Random | None = None,
        network: Network = Network(),  # noqa: B008 - immutable
    ) -> None:
        """Open the spool.  Raises ConfigError."""
        self._network = network
        self._clock = clock
        self._journal = journal
        self._memory = memory
        self._descriptors = descriptors
        self._loop: Loop | None = None
        self._next_hops: NextHops | None = None
        self._in_use: tuple[Prepared, Resolver] | None = None
        self._wake: WakeSocket | None = None
        self._hurried = False
        self.callouts = Callouts(clock.monotonic_ns)
        """Asks the next hops about recipients."""
        folder = config.spool_folder
        assert folder is not None, "what is thrown away is not spooled"
        self.prepare(config, Directory(()))  # complains of the Maildir before there is a spool
        try:
            self.spool = Spool(
                folder,
                config.settings.hostname,
                clock,
                _limits(config),
                memory=memory,
                note=lambda event, error: journal.note(event, error=error),
            )
        except SpoolError as error:
            raise ConfigError(f"spool: {error}") from None
        # What an earlier process left may be delivered already, and even be read.
        self._spool_view = at_start(self.spool)
        self._dice = dice or random.SystemRandom()
        self.queue = Queue(self.spool, clock, self._dice, journal.note)

    @property
    def pool(self) -> ConnectionPool | None:
        """The connections to next hops, once it is attached."""
        return self._next_hops.pool if self._next_hops is not None else None

    def prepare(self, config: Config, directory: Directory) -> Prepared:
        """Have what ``config`` needs.  Raises ConfigError, and then leaves everything as it was."""
        prepared = Prepared(config, directory, {}, {})
        for route in config.routing.all:
            delivery = route.delivery
            if isinstance(delivery, ToMaildir):
                try:
                    if delivery.is_shared:
                        prepared.maildirs[route] = Maildir(delivery.path, self._clock)
                    else:
                        prepared.mailboxes[route] = Mailboxes(delivery, self._clock)
                except OSError as error:
                    raise ConfigError(f"delivery {delivery}: {error.strerror}") from None
        self._follow(config.spool_folder)
        return prepared

    def _follow(self, folder: Path | None) -> None:
        """Have the spool where ``folder`` says, or the next start would not find what waits in it.
        Raises ConfigError."""
        if folder is None or self._loop is None:
            return
        folder = Path(os.path.abspath(folder))
        if folder == Path(os.path.abspath(self.spool.folder)):
            return
        try:
            self.spool.move(folder)
        except SpoolError as error:
            raise ConfigError(f"spool: {error}") from None
        self._journal.note("spool moved", to=folder)
        if self._wake is not None:
            self._wake.folder = folder

    def use(self, prepared: Prepared, resolver: Resolver) -> None:
        """Deliver as the configuration says from now on."""
        self._in_use = prepared, resolver
        if self._loop is not None:
            self._begin(self._loop, prepared, resolver)

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._loop = loop
        self.spool.attach(loop)
        if self._in_use is not None:
            self._begin(loop, *self._in_use)
        self.queue.attach(loop)
        try:
            self._wake = WakeSocket(self.spool.folder, loop.poll, self.queue.look_for_commands)
        except OSError as error:  # commands are then seen after the next start
            self._journal.note("queue commands wait", error=error.strerror)

    def stop(self) -> None:
        """Begin nothing more, and finish what is being delivered within the grace time."""
        self.queue.stop()
        if self._next_hops is not None:
            self._next_hops.close(self._grace_ns)

    @property
    def done(self) -> bool:
        """Whether nothing is being delivered any more."""
        return not self.queue.busy and (self._next_hops is None or self._next_hops.done)

    @property
    def _grace_ns(self) -> int:
        assert self._in_use is not None
        return seconds_to_ns(self._in_use[0].config.settings.grace_s)

    def close(self) -> None:
        """Finish what is being delivered, for a while; the rest waits for the next start."""
        loop, next_hops = self._loop, self._next_hops
        self.stop()
        if loop is not None and next_hops is not None:
            self._finish(loop, next_hops, self._grace_ns)
            next_hops.cut()
            self._run_backlog(loop)
        self.queue.close()
        if self._wake is not None:
            self._wake.close()
        if self.spool.messages:
            self._journal.note(
                "left waiting", messages=self.spool.messages, spool=self.spool.folder
            )
        self.spool.close()

    def hurry(self) -> None:
        """Leave what is being delivered for the next start."""
        self._hurried = True

    # -- from a configuration ---------------------------------------------------------------------

    def _begin(self, loop: Loop, prepared: Prepared, resolver: Resolver) -> None:
        config, directory, maildirs, mailboxes = prepared
        settings = config.settings
        self.spool.configure(settings.hostname, _limits(config), settings.received_fields)
        next_hops = self._next_hops_on(loop, config, resolver)
        local = {route: self._into(maildir, loop) for route, maildir in maildirs.items()}
        for route, several in mailboxes.items():
            local[route] = self._into_each(several, directory, loop)
        for route in config.routing.all:
            if isinstance(route.delivery, Discard):
                local[route] = Way("discard", DiscardWay(), local=True)
        ways = RoutedWays(config.routing, local, next_hops)
        self.queue.retries = retries = Retries(
            settings.retry_first_s,
            settings.retry_longest_s,
            settings.queue_lifetime_s,
            settings.delay_notice_s,
        )
        self.queue.make_notices = Notifier(
            self._clock,
            self._dice,
            settings.hostname,
            retries,
            settings.notice_content_octets,
            ways.reaches,
            aliases_of(config.aliases, settings),
        )
        self.queue.use(ways)
        aliases = aliases_of(config.aliases, settings)

        def to_be_asked(recipient: MailPath) -> Way | None:
            is_alias = aliases.members(recipient) != (recipient,)
            return None if is_alias else ways.next_hop(recipient)

        self.callouts.configure(to_be_asked, settings.callout_taken_s, settings.callout_refused_s)
        self._look_up(config, next_hops)

    def _look_up(self, config: Config, next_hops: NextHops) -> None:
        """Have the log say at once which next hops are not found, some of many."""
        named = [one for one in config.routing.all if isinstance(one.delivery, ToHosts)]
        for route in named[:LOOKED_UP_MAX]:
            next_hops.find_addresses(route, "", partial(self._looked_up, route))

    def _looked_up(self, route: Route, found: Found) -> None:
        if isinstance(found, Unroutable):
            self._journal.note("next hop not found", to=route.delivery, why=found.diagnostic)

    def _next_hops_on(self, loop: Loop, config: Config, resolver: Resolver) -> NextHops:
        hostname = config.settings.hostname
        rules = LookupRules(
            own_names=frozenset((hostname.lower(),)),
            own_ips=frozenset(one.host for one in config.listeners),
            allowed=Networks(config.settings.mx_private_networks),
        )
        if self._next_hops is None:
            self._next_hops = NextHops(
                OutgoingContext(
                    loop, self._network.dial, self._memory, self._descriptors, self._network.tap
                ),
                resolver,
                self._dice,
                hostname=hostname,
                tls_contexts=_tls_contexts(self._network.authorities),
                rules=rules,
                note=self._journal.note,
            )
            self.queue.on_retry = self._next_hops.resume
        else:
            self._next_hops.configure(resolver, hostname, rules)
        return self._next_hops

    def _into(self, maildir: Maildir, loop: Loop) -> Way:
        out = MaildirDelivery(maildir, self._clock, self._journal.note, self._spool_view)
        out.attach(loop)
        return Way("maildir", out, local=True, failing=lambda: out.failing)

    def _into_each(self, mailboxes: Mailboxes, directory: Directory, loop: Loop) -> Way:
        out = MailboxDelivery(mailboxes, directory.mailbox, self._clock, self._spool_view)
        out.attach(loop)
        return Way("mailboxes", out, local=True)

    def _finish(self, loop: Loop, next_hops: NextHops, grace_ns: int) -> None:
        began_ns = self._clock.monotonic_ns()
        tick = loop.timers.schedule(loop.now_ns + TICK_NS, lambda: None)
        while not self._hurried:
            if self.queue.busy:
                at_most_ns = grace_ns if next_hops.active else FINISH_NS
            elif not next_hops.done:
                at_most_ns = FAREWELL_NS
            else:
                break
            if self._clock.monotonic_ns() - began_ns >= at_most_ns:
                break
            if not tick.pending:
                loop.timers.reschedule(tick, loop.now_ns + TICK_NS)
            loop.run_once()
        loop.timers.cancel(tick)

    def _run_backlog(self, loop: Loop) -> None:
        """Have outcomes reported that are known."""
        until_ns = self._clock.monotonic_ns() + NS_PER_S
        while loop.backlog and self._clock.monotonic_ns() < until_ns:
            loop.dispatch(loop.now_ns)


def _limits(config: Config) -> Limits:
    return Limits(config.settings.spool_octets, config.settings.spool_free_octets)


def _tls_contexts(authorities: Path | None) -> Callable[[TlsPolicy], ssl.SSLContext]:
    @cache
    def context(policy: TlsPolicy) -> ssl.SSLContext:
        return client_context(verified=policy is TlsPolicy.VERIFIED, authorities=authorities)

    return context
