"""What becomes of accepted mail: the spool, its queue and the ways out, made from a configuration
and kept over a reload."""

from __future__ import annotations

import random

from mailsrv.config.deliveries import ToMaildir
from mailsrv.config.file import Config
from mailsrv.config.validation import ConfigError
from mailsrv.delivery.mailbox.maildir import Maildir
from mailsrv.delivery.mailbox.maildir_delivery import MaildirDelivery
from mailsrv.delivery.queue.notifier import Notifier
from mailsrv.delivery.queue.queue import Queue
from mailsrv.delivery.queue.retries import Retries
from mailsrv.delivery.queue.wake_socket import WakeSocket
from mailsrv.delivery.queue.ways import OneWay, Way, Ways
from mailsrv.delivery.spool.disk_room import Limits
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.delivery.spool.sink import Memory
from mailsrv.delivery.spool.spool import Spool
from mailsrv.runtime.clock import Clock
from mailsrv.runtime.loop import Loop
from mailsrv.telemetry.event_log import EventLog
from mailsrv.units import NS_PER_S

FINISH_NS = 10 * NS_PER_S
"""How long the end of the process waits for what is being delivered."""


class Outgoing:
    """The spool and the queue of one process.  ``memory`` counts the content on its way in."""

    def __init__(self, config: Config, clock: Clock, journal: EventLog, memory: Memory) -> None:
        """Raises ConfigError."""
        self._clock = clock
        self._journal = journal
        self._loop: Loop | None = None
        self._wake: WakeSocket | None = None
        self._left_over_before = 0
        self._maildirs: list[MaildirDelivery] = []
        maildir = self._maildir_of(config)
        folder = config.spool_folder
        assert folder is not None, "what is thrown away is not spooled"
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
        self._left_over_before = self.spool.next_number if self.spool.messages else 0
        self._dice = random.SystemRandom()
        self.queue = Queue(self.spool, clock, self._dice, journal.note)
        self._use(config, maildir)

    def use(self, config: Config) -> None:
        """Deliver as ``config`` says from now on.  Raises ConfigError, and then leaves everything
        as it was."""
        self._use(config, self._maildir_of(config))

    def _use(self, config: Config, maildir: Maildir) -> None:
        settings = config.settings
        self.spool.configure(settings.hostname, _limits(config), settings.received_fields)
        self.queue.retries = retries = Retries(
            settings.retry_first_s,
            settings.retry_longest_s,
            settings.queue_lifetime_s,
            settings.delay_notice_s,
        )
        self.queue.make_notices = Notifier(
            self._clock, self._dice, settings.hostname, retries, settings.notice_content_octets
        )
        self.queue.use(self._ways_into(maildir))

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._loop = loop
        self.spool.attach(loop)
        for one in self._maildirs:
            one.attach(loop)
        self.queue.attach(loop)
        try:
            self._wake = WakeSocket(self.spool.folder, loop.poll, self.queue.look_for_commands)
        except OSError as error:  # commands are then seen after the next start
            self._journal.note("queue commands wait", error=error.strerror)

    def close(self) -> None:
        """Deliver what is being delivered, for a while; the rest waits for the next start."""
        loop = self._loop
        self.queue.stop()
        until_ns = self._clock.monotonic_ns() + FINISH_NS
        while loop is not None and self.queue.busy and self._clock.monotonic_ns() < until_ns:
            loop.run_once()
        if self._wake is not None:
            self._wake.close()
        self.spool.close()

    def _maildir_of(self, config: Config) -> Maildir:
        delivery = config.delivery
        others = config.routes or config.aliases
        if others or not isinstance(delivery, ToMaildir) or not delivery.is_shared:
            raise ConfigError(f"delivery: {delivery}, routes and aliases are not carried out yet")
        try:
            return Maildir(delivery.path, self._clock)
        except OSError as error:
            raise ConfigError(f"delivery {delivery}: {error.strerror}") from None

    def _ways_into(self, maildir: Maildir) -> Ways:
        out = MaildirDelivery(
            maildir,
            self._clock,
            self._journal.note,
            is_receiving=lambda: self.spool.is_receiving,
            left_over_before=self._left_over_before,
        )
        if self._loop is not None:
            out.attach(self._loop)
        self._maildirs = [out]
        return OneWay(Way("maildir", out, local=True, failing=lambda: out.failing))


def _limits(config: Config) -> Limits:
    return Limits(config.settings.spool_octets, config.settings.spool_free_octets)
