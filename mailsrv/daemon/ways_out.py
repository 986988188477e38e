"""The ways out of the queue that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping

from mailsrv.config.deliveries import Discard, NextHop, ToExchangers
from mailsrv.config.routes import Route, Routes
from mailsrv.delivery.next_hop.next_hops import NextHops
from mailsrv.delivery.queue.ways import NOWHERE, Way
from mailsrv.smtp.path import MailPath


class RoutedWays:
    """Chooses the way of each recipient by ``routing``: one of ``local``, which leads to a disk of
    this machine, or one of ``next_hops``, which outlive this configuration."""

    def __init__(
        self,
        routing: Routes,
        local: Mapping[Route, Way],
        next_hops: NextHops,
    ) -> None:
        self._routing = routing
        self._local = local
        self._next_hops = next_hops
        self.only: Way | None = None
        default = routing.default
        has_one = not routing.by_key and routing.elsewhere in (None, default)
        if has_one and not isinstance(default.delivery, ToExchangers):
            self.only = self._way(default, MailPath("", ""))

    def way(self, recipient: MailPath) -> Way:
        route = self._routing.of(recipient)
        return NOWHERE if route is None else self._way(route, recipient)

    def next_hop(self, recipient: MailPath) -> Way | None:
        """The way to the next hop that mail for ``recipient`` goes to; None if it goes to none."""
        route = self._routing.of(recipient)
        if route is None or not isinstance(route.delivery, NextHop):
            return None
        return self._way(route, recipient)

    def close(self) -> None:
        for way in self._local.values():
            way.out.close()

    def reaches(self, sender: MailPath) -> bool:
        """Whether a notice can get to the sender of a message."""
        route = self._routing.of(sender)
        return route is not None and not isinstance(route.delivery, Discard)

    def _way(self, route: Route, recipient: MailPath) -> Way:
        found = self._local.get(route)
        if found is not None:
            return found
        out = self._next_hops.way(route, recipient)
        return Way(out.name, out)
