"""What a server needs besides its sockets, made from a configuration and kept over a reload:
resolver, courier, greylist, directory and certificate.

What has state stays as long as it can: the resolver with its cache while the name servers are the
same, the greylist's memory for the life of the process.
"""

from __future__ import annotations

import importlib
import random
import ssl
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from mailsrv.config.aliases import aliases_of
from mailsrv.config.deliveries import delivery_needs_dns
from mailsrv.config.file import Config
from mailsrv.config.validation import ConfigError
from mailsrv.delivery.aliasing import AliasCourier
from mailsrv.delivery.discard import DiscardCourier
from mailsrv.policy.greylist import Greylist, MemoryStore, Store
from mailsrv.policy.lookups import NoCallout, NoResolver, Resolver
from mailsrv.policy.policy import needs_dns
from mailsrv.policy.recipients import Directory
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.descriptor_budget import DescriptorBudget
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.memory_budget import MemoryBudget
from mailsrv.server import ServerBackends
from mailsrv.settings import Settings
from mailsrv.smtp.courier import Courier
from mailsrv.stores.recipient_file import RecipientFileError, reading
from mailsrv.telemetry.event_log import EventLog
from mailsrv.telemetry.metrics import PREFIX, Metrics
from mailsrv.transport.tls_context import TlsError, server_context
from mailsrv.units import NS_PER_S

if TYPE_CHECKING:
    from mailsrv.daemon.outgoing import Outgoing, Prepared
    from mailsrv.delivery.next_hop.connection_pool import ConnectionPool
    from mailsrv.resolver.stub import StubResolver
    from mailsrv.stores.greylist_sqlite import SqliteStore

RESOLVER_KEPT_NS = 60 * NS_PER_S
"""How long a resolver is kept after its successor took over: longer than any lookup takes."""

Steps = Generator[None, None, ServerBackends]


class Backends:
    """Makes the ``ServerBackends`` of each configuration in turn.

    ``steps`` may be taken before ``attach``, since the loop comes with the server.
    """

    def __init__(
        self,
        clock: Clock,
        journal: EventLog,
        metrics: Metrics,
        descriptors: DescriptorBudget | None = None,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._loop: Loop | None = None
        self._resolver: StubResolver | None = None
        self._nameservers: tuple[tuple[str, int], ...] = ()
        self._outgoing: Outgoing | None = None
        self._store: Store | None = None
        self._database: SqliteStore | None = None
        self.memory = MemoryBudget(Settings().memory_octets)
        """For the content on its way and for the server, which sets its size by the settings."""
        self.descriptors = descriptors
        """Those of the process, for the server and for connections to next hops."""
        self._read_gauges(metrics)

    def steps(self, config: Config, tls: ssl.SSLContext | None) -> Steps:
        """The backends that ``config`` describes; a long table is read step by step.

        Raises ConfigError, and then leaves everything as it was.
        """
        table = None
        if config.recipient_table:
            try:
                table = yield from reading(config.recipient_table)
            except RecipientFileError as error:
                complaints = [f"recipient_table: {one}" for one in error.complaints]
                raise ConfigError(*complaints) from None
            table.update(config.aliases)  # whoever has an alias exists
        directory = Directory.of(config.settings, table)
        outgoing, prepared = self._prepared(config, directory)
        backends = ServerBackends(
            courier=DiscardCourier() if outgoing is None else behind_aliases(outgoing, config),
            callout=NoCallout() if outgoing is None else outgoing.callouts,
            greylist=self._greylist_of(config),
            directory=directory,
            tls=tls,
            dsn=config.keeps_dsn_promises,
            resolver=self._resolver_of(config),  # last: it replaces what is in use
        )
        if outgoing is not None and prepared is not None:
            outgoing.use(prepared, backends.resolver)
        return backends

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._loop = loop
        for one in (self._resolver, self._database):
            if one is not None:
                one.attach(loop)
        if self._outgoing is not None:  # last: it looks next hops up
            self._attach_outgoing(loop, self._outgoing)

    def hurry(self) -> None:
        """Have ``close`` wait for no delivery."""
        if self._outgoing is not None:
            self._outgoing.hurry()

    def close(self) -> None:
        """Close sockets and files; the greylist writes what it has learnt, and what is in the
        spool is delivered, for a while."""
        if self._outgoing is not None:
            self._outgoing.close()
        for one in (self._resolver, self._database):
            if one is not None:
                one.close()

    def _prepared(
        self, config: Config, directory: Directory
    ) -> tuple[Outgoing | None, Prepared | None]:
        """Have what delivery needs; nothing if all mail is thrown away: then what is in the spool
        goes where it was to go.  Raises ConfigError."""
        if config.spool_folder is None:
            return None, None
        if self._outgoing is None:
            from mailsrv.daemon.outgoing import Outgoing  # with SQLite, which discard does without

            self._outgoing = Outgoing(
                config, self._clock, self._journal, self.memory, self.descriptors
            )
            if self._loop is not None:
                self._attach_outgoing(self._loop, self._outgoing)
        return self._outgoing, self._outgoing.prepare(config, directory)

    def _attach_outgoing(self, loop: Loop, outgoing: Outgoing) -> None:
        outgoing.attach(loop)
        loop.at_end_of_pass(self._journal.flush)  # the log lines of what the spool answered

    def _greylist_of(self, config: Config) -> Greylist | None:
        if not config.settings.greylist:
            return None
        if self._store is None:
            self._store = self._store_of(config.greylist_database)
        return Greylist.of(config.settings, self._clock, self._store)

    def _store_of(self, path: Path | None) -> Store:
        if path is None:
            return MemoryStore()
        from mailsrv.stores.greylist_sqlite import SqliteStore  # with SQLite

        journal = self._journal
        database = SqliteStore(str(path), lambda event, error: journal.note(event, error=error))
        if self._loop is not None:
            database.attach(self._loop)
        self._database = database
        return database

    def _resolver_of(self, config: Config) -> Resolver:
        """The resolver, if a check needs one."""
        if not _asks_dns(config):
            return self._resolver or NoResolver()
        nameservers = config.nameservers()
        if self._resolver is not None and nameservers == self._nameservers:
            return self._resolver
        from mailsrv.resolver.stub import StubResolver

        journal = self._journal
        resolver = StubResolver(
            nameservers,
            random.SystemRandom(),
            lambda name, rtype, why: journal.note("lookup failed", name=name, type=rtype, why=why),
        )
        if self._loop is not None:
            resolver.attach(self._loop)
            if self._resolver is not None:
                timers, now_ns = self._loop.timers, self._loop.now_ns
                timers.schedule(now_ns + RESOLVER_KEPT_NS, self._resolver.close)
        self._resolver, self._nameservers = resolver, nameservers
        return resolver

    def _read_gauges(self, metrics: Metrics) -> None:
        metrics.read(
            PREFIX + "lookups_under_way",
            "Questions to DNS that wait for an answer.",
            lambda: self._resolver.under_way if self._resolver else None,
        )
        metrics.read(
            PREFIX + "greylist_backlog",
            "Records of the greylist that are not in its file yet.",
            lambda: self._database.backlog if self._database else None,
        )
        metrics.read(
            PREFIX + "spool_messages",
            "Accepted messages that are not delivered yet.",
            lambda: self._outgoing.spool.messages if self._outgoing else None,
        )
        metrics.read(
            PREFIX + "spool_octets",
            "Content of the messages in the spool.",
            lambda: self._outgoing.spool.octets if self._outgoing else None,
        )
        metrics.read(
            PREFIX + "queue_active",
            "Messages in the spool that are being delivered.",
            lambda: self._outgoing.queue.active if self._outgoing else None,
        )
        metrics.read(
            PREFIX + "queue_oldest_seconds",
            "Age of the oldest message in the spool.",
            lambda: self._outgoing.queue.oldest_s() if self._outgoing else None,
        )
        metrics.read(
            PREFIX + "next_hop_connections",
            "Connections to next hops that are open.",
            self._of_pool(len),
        )
        metrics.read(
            PREFIX + "next_hop_connections_kept",
            "Of these, connections that wait for another message.",
            self._of_pool(lambda pool: pool.kept),
        )
        metrics.read(
            PREFIX + "next_hop_connections_opened_total",
            "Connections to next hops since the process began.",
            self._of_pool(lambda pool: pool.opened),
            kind="counter",
        )
        metrics.read(
            PREFIX + "next_hop_connections_reused_total",
            "Messages for which a connection was there already.",
            self._of_pool(lambda pool: pool.reused),
            kind="counter",
        )
        metrics.read(
            PREFIX + "next_hop_connections_failed_total",
            "Connections to next hops that ended before a message could be sent.",
            self._of_pool(lambda pool: pool.unreached),
            kind="counter",
        )

    def _of_pool(self, read: Callable[[ConnectionPool], int]) -> Callable[[], int | None]:
        """What ``read`` says of the connections to next hops, None where there are none."""

        def reading() -> int | None:
            pool = self._outgoing.pool if self._outgoing else None
            return None if pool is None else read(pool)

        return reading


def behind_aliases(outgoing: Outgoing, config: Config) -> Courier:
    """The spool, behind the aliases if there are any."""
    if not config.aliases:
        return outgoing.spool
    settings = config.settings
    return AliasCourier(outgoing.spool, aliases_of(config.aliases, settings), settings.hostname)


def import_what_is_needed(config: Config) -> None:
    """Load the modules that most configurations do without: dnspython takes 7 MB."""
    if config.spool_folder is not None:
        importlib.import_module("mailsrv.daemon.outgoing")
    if config.settings.greylist:
        importlib.import_module("mailsrv.stores.greylist_sqlite")
    if _asks_dns(config):
        importlib.import_module("mailsrv.resolver.stub")


def _asks_dns(config: Config) -> bool:
    return needs_dns(config.settings) or any(map(delivery_needs_dns, config.deliveries))


def certificate_of(config: Config) -> ssl.SSLContext | None:
    """What TLS handshakes need, read anew; None without TLS.  Raises ConfigError."""
    files = config.tls_files
    if files is None:
        return None
    try:
        return server_context(*files)
    except TlsError as error:
        key = "tls_certificate" if error.path == files[0] else "tls_key"
        raise ConfigError(f"{key}: {error}") from None
