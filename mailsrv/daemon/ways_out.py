"""The ways out of the queue that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping

from mailsrv.config.deliveries import NextHop, ToExchangers, ToMaildir
from mailsrv.config.routes import Route, Routes
from mailsrv.delivery.next_hop.next_hops import NextHops
from mailsrv.delivery.queue.ways import Way
from mailsrv.policy.recipients import Directory, domain_key
from mailsrv.smtp.path import MailPath


class RoutedWays:
    """Chooses the way of each recipient by ``routing``: one of ``local``, which leads to a disk of
    this machine, or one of ``next_hops``, which outlive this configuration."""

    def __init__(
        self,
        routing: Routes,
        local: Mapping[Route, Way],
        next_hops: NextHops,
        directory: Directory,
    ) -> None:
        self._routing = routing
        self._local = local
        self._next_hops = next_hops
        self._directory = directory
        self.only: Way | None = None
        default = routing.default
        if not routing.by_key and not isinstance(default.delivery, ToExchangers):
            self.only = self._way(default, MailPath("", ""))

    def way(self, recipient: MailPath) -> Way:
        return self._way(self._routing.of(recipient), recipient)

    def close(self) -> None:
        for way in self._local.values():
            way.out.close()

    def reaches(self, sender: MailPath) -> bool:
        """Whether a notice can get to the sender of a message.  One Maildir for all is read by
        somebody else."""
        delivery = self._routing.of(sender).delivery
        if isinstance(delivery, ToMaildir):
            return not delivery.is_shared and self._directory.is_ours(domain_key(sender.domain))
        return isinstance(delivery, NextHop)

    def _way(self, route: Route, recipient: MailPath) -> Way:
        found = self._local.get(route)
        if found is not None:
            return found
        out = self._next_hops.way(route, recipient)
        return Way(out.name, out)
