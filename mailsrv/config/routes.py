"""Routes: which recipients' mail goes which way, by address, domain or the domains below one.

The most exact key wins: an address, then its domain, then ``*.DOMAIN`` from the longest to the
shortest.  Without one, an address in our domains takes the configured ``delivery``, any other one
``elsewhere``.  An address with a subaddress is its user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mailsrv.config.deliveries import Delivery, NextHop, ToMaildir, parse_delivery
from mailsrv.config.validation import ConfigError, check_setting, each, text
from mailsrv.policy.recipients import Directory, address_keys, domain_key, table_key
from mailsrv.settings import Settings
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.options import TlsPolicy

ROUTES_MAX = 10_000
_WILDCARD = "*."
_SETTINGS = {
    "tls": "relay_tls",
    "connections": "relay_connections",
    "messages_per_min": "relay_messages_per_min",
}
"""What a route may say of its next hop, and the setting that says it of all."""


@dataclass(frozen=True, slots=True)
class Route:
    """How mail goes on; all but ``delivery`` is for next hops."""

    delivery: Delivery
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    connections: int = 20
    """Open at once to the destination."""
    messages_per_min: int = 0
    """To the destination; 0: as many as there are."""

    @classmethod
    def of(cls, settings: Settings, delivery: Delivery) -> Route:
        """The route by ``delivery``, with what the settings say of all next hops."""
        return cls(
            delivery,
            TlsPolicy(settings.relay_tls),
            settings.relay_connections,
            settings.relay_messages_per_min,
        )


class RouteEntry(NamedTuple):
    """One entry of ``[routes]``: the delivery, and what is different for its next hop."""

    delivery: Delivery
    settings: Mapping[str, Any] = MappingProxyType({})


Entries = Mapping[str, RouteEntry]
"""By key: ``user@domain``, ``domain`` or ``*.domain``."""


class Routes:
    """Finds the route of each recipient: one of ``by_key``, or else ``default`` for our domains and
    ``elsewhere`` for others.  Without a delivery for those, they take the default, unless that is a
    mailbox of ours."""

    def __init__(
        self, delivery: Delivery, elsewhere: Delivery | None, entries: Entries, settings: Settings
    ) -> None:
        self.default = Route.of(settings, delivery)
        self._directory = Directory.of(settings)
        self.elsewhere: Route | None = None
        if elsewhere is not None:
            self.elsewhere = Route.of(settings, elsewhere)
        elif self._directory.takes_all or not isinstance(delivery, ToMaildir):
            self.elsewhere = self.default
        self.by_key = {
            key: replace(Route.of(settings, one.delivery), **one.settings)
            for key, one in entries.items()
        }
        self._delimiter = settings.recipient_delimiter
        self._hostname = settings.hostname

    @property
    def all(self) -> frozenset[Route]:
        """Every route that mail may take."""
        others = [] if self.elsewhere is None else [self.elsewhere]
        return frozenset((self.default, *others, *self.by_key.values()))

    def of(self, path: MailPath) -> Route | None:
        """The route of the recipient ``path``; None: no way leads there."""
        domain = domain_key(path.domain or self._hostname)
        found = self._entry_for(path, domain)
        if found is not None:
            return found
        is_ours = not path.domain or self._directory.is_ours(domain)
        return self.default if is_ours else self.elsewhere

    def _entry_for(self, path: MailPath, domain: str) -> Route | None:
        routes = self.by_key
        if not routes:
            return None
        for local in address_keys(path.local, self._delimiter):
            if (found := routes.get(f"{local}@{domain}")) is not None:
                return found
        if (found := routes.get(domain)) is not None:
            return found
        while "." in domain and not domain.startswith("["):
            domain = domain.partition(".")[2]
            if (found := routes.get(_WILDCARD + domain)) is not None:
                return found
        return None


# -- reading --------------------------------------------------------------------------------------


def parse_routes(value: object, place: str, folder: Path) -> Entries:
    """The table ``[routes]``.  Raises ConfigError with every complaint."""
    if not isinstance(value, Mapping) or len(value) > ROUTES_MAX:
        raise ConfigError(
            f'{place}: takes a table of at most {ROUTES_MAX:,} routes, such as "example.org" = '
            '"relay=192.0.2.25"'
        )
    entries: dict[str, RouteEntry] = {}

    def entry(written: str, route: object) -> None:
        here = f"{place}: {written[:80]!r}"
        key = _key(written, here)
        if key in entries:
            raise ConfigError(f"{here}: stands there twice")
        entries[key] = _entry(route, here, folder)

    each(value, entry)
    return entries


def _key(written: str, here: str) -> str:
    wildcard = _WILDCARD if written.startswith(_WILDCARD) else ""
    try:
        if "@" in written and not written.startswith("@"):
            return table_key(written)
        domain = table_key(f"@{written.removeprefix(wildcard)}")[1:]
        if wildcard and domain.startswith("["):
            raise ValueError
        return wildcard + domain
    except ValueError:
        raise ConfigError(
            f'{here}: takes "user@domain", "domain" or "*.domain" before the route'
        ) from None


def _entry(value: object, here: str, folder: Path) -> RouteEntry:
    if not isinstance(value, Mapping):
        return RouteEntry(delivery_at(value, here, folder))
    if "delivery" not in value:
        raise ConfigError(f'{here}: needs delivery, such as "relay=192.0.2.25"')
    given = dict(value)
    delivery = delivery_at(given.pop("delivery"), f"{here}: delivery", folder)

    def setting(key: str, value: object) -> object:
        if key not in _SETTINGS:
            known = ", ".join(("delivery", *_SETTINGS))
            raise ConfigError(f"{here}: {key[:80]}: no such setting; there are {known}")
        checked = check_setting(_SETTINGS[key], value, f"{here}: {key}")
        return TlsPolicy(checked) if key == "tls" else checked

    settings = each(given, setting)
    if settings and not isinstance(delivery, NextHop):
        raise ConfigError(f"{here}: {next(iter(settings))}: is for next hops, not for {delivery}")
    return RouteEntry(delivery, settings)


def delivery_at(value: object, place: str, folder: Path) -> Delivery:
    """A delivery, with ``place`` before what is wrong with it.  Raises ConfigError."""
    written = text(value, place, "maildir=mail")
    try:
        return parse_delivery(written, folder)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
