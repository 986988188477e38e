"""The configuration file: TOML, every key checked, every complaint with its place.

The keys are the fields of ``Settings`` and those of ``Config``; docs/run/ explains them.
A relative path in a file is relative to that file's folder, wherever the server was started; a
default is relative to the working directory, like what the command line says.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mailsrv.config.aliases import alias_complaints, parse_aliases
from mailsrv.config.deliveries import DOMAIN_PART, Delivery, Discard, NextHop, ToMaildir
from mailsrv.config.endpoints import LISTENERS_MAX, Endpoint, first_duplicate, parse_endpoint
from mailsrv.config.routes import Entries, Routes, delivery_at, parse_routes
from mailsrv.config.validation import ConfigError, choice, each, settings_from, text, texts
from mailsrv.policy.aliases import Table
from mailsrv.policy.recipients import EVERY_DOMAIN, Directory, domain_key
from mailsrv.resolver.resolv_conf import NAMESERVERS_MAX, read_nameservers
from mailsrv.settings import Settings

FILE_MAX_OCTETS = 1024 * 1024
LISTEN_DEFAULT = (Endpoint("127.0.0.1", 2525),)
DELIVERY_DEFAULT = ToMaildir(Path("mail"))
SPOOL_SUFFIX = ".spool"
SPOOL_DEFAULT = Path(f"mailsrv{SPOOL_SUFFIX}")
"""Where there is no Maildir that it could stand beside."""
LOG_FORMATS = ("text", "json")


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """Everything that ``mailsrv serve`` is told, parsed; None and "" stand for what is not set."""

    settings: Settings = dataclasses.field(default_factory=Settings)
    listen: tuple[Endpoint, ...] = LISTEN_DEFAULT
    delivery: Delivery = DELIVERY_DEFAULT
    resolvers: tuple[Endpoint, ...] = ()
    """The name servers to ask; none means those of /etc/resolv.conf."""
    listen_tls: tuple[Endpoint, ...] = ()
    """Where TLS is spoken from the first octet on."""
    tls_certificate: Path | None = None
    """PEM: the certificate and its chain up to a root; without it STARTTLS is not offered."""
    tls_key: Path | None = None
    """PEM: its private key; None if it is in the certificate's file."""
    recipient_table: Path | None = None
    """The addresses that exist; without it every address in our domains is taken."""
    greylist_database: Path | None = None
    """Where the greylist outlives the process; without it the greylist is kept in memory."""
    metrics_listen: Endpoint | None = None
    """Where Prometheus reads metrics."""
    log_file: Path | None = None
    """None logs to standard error."""
    log_format: str = LOG_FORMATS[0]
    user: str = ""
    """The account to run as once the ports are bound; "" stays with the one that started us."""
    group: str = ""
    """"" is the user's own."""
    spool: Path | None = None
    """Where accepted mail waits for its delivery; None is beside the Maildir."""
    routes: Entries = dataclasses.field(default_factory=dict)
    """Recipients whose mail goes another way than ``delivery``."""
    elsewhere: Delivery | None = None
    """Where mail for addresses in none of our domains goes: notices, and members of aliases."""
    aliases: Table = dataclasses.field(default_factory=dict)
    """Addresses that stand for others."""
    named: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)
    """The keys that the file or the command line names; the others have their defaults."""

    @property
    def routing(self) -> Routes:
        """The way of each recipient's mail."""
        return Routes(self.delivery, self.elsewhere, self.routes, self.settings)

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Every delivery that mail may take, the usual one first."""
        routed = (one.delivery for one in self.routes.values())
        others = () if self.elsewhere is None else (self.elsewhere,)
        return tuple(dict.fromkeys((self.delivery, *routed, *others)))

    @property
    def keeps_dsn_promises(self) -> bool:
        """Whether every sender can be told what became of its message: none is thrown away, and a
        notice to any domain finds a way."""
        is_discarding = any(isinstance(one, Discard) for one in self.deliveries)
        return not is_discarding and self.routing.elsewhere is not None

    @property
    def spool_folder(self) -> Path | None:
        """Where accepted mail waits; None if all of it is thrown away."""
        if all(isinstance(one, Discard) for one in self.deliveries):
            return None
        beside = self.delivery.root if isinstance(self.delivery, ToMaildir) else None
        default = SPOOL_DEFAULT if beside is None else Path(os.path.abspath(beside) + SPOOL_SUFFIX)
        return self.spool or default

    @property
    def listeners(self) -> tuple[Endpoint, ...]:
        """Every address where mail is received."""
        return (*self.listen, *self.listen_tls)

    def nameservers(self) -> tuple[tuple[str, int], ...]:
        """Address and port of each name server to ask: the system's where none is set."""
        return tuple((one.host, one.port) for one in self.resolvers) or read_nameservers()

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """Certificate and key, or None without TLS."""
        if self.tls_certificate is None:
            return None
        return self.tls_certificate, self.tls_key or self.tls_certificate


# -- reading --------------------------------------------------------------------------------------


def load(path: Path) -> Config:
    """Read and check a configuration file.  Raises ConfigError."""
    loaded = read(path)
    if found := complaints(loaded):
        raise ConfigError(*(f"{path}: {complaint}" for complaint in found))
    return loaded


def read(path: Path) -> Config:
    """Read a configuration file of which each value is possible by itself.  Raises ConfigError
    with every complaint."""
    table = _parsed(path)
    named = frozenset(table)
    own = {key: table.pop(key) for key in _OWN if key in table}
    found: list[str] = []
    values: dict[str, Any] = {}
    try:
        values["settings"] = settings_from(table, str(path), _OWN)
    except ConfigError as error:
        found += error.complaints
    try:
        values |= _own(own, f"{path}: ", path.absolute().parent)
    except ConfigError as error:
        found += error.complaints
    if found:
        raise ConfigError(*found)
    return Config(**values, named=named)


def with_options(loaded: Config, options: Mapping[str, object]) -> Config:
    """``loaded`` with what the command line says instead.  Raises ConfigError."""
    named = loaded.named | options.keys()
    return dataclasses.replace(loaded, **_own(options, "", Path()), named=named)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_MAX_OCTETS + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(octets) > FILE_MAX_OCTETS:
        raise ConfigError(f"{path}: larger than {FILE_MAX_OCTETS} octets")
    try:
        return tomllib.loads(octets.decode())
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, a number beyond int()
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is not TOML: nested too deep") from None


# -- the keys that are no settings: each takes value, place and the file's folder -----------------


def _own(table: Mapping[str, object], place: str, folder: Path) -> dict[str, Any]:
    return each(table, lambda key, value: _OWN[key](value, f"{place}{key}", folder))


def _endpoints(value: object, place: str, _: Path) -> tuple[Endpoint, ...]:
    listed = texts(value, place, "127.0.0.1:2525")
    if len(listed) > LISTENERS_MAX:
        raise ConfigError(f"{place}: takes {LISTENERS_MAX} addresses at most")
    return tuple(_endpoint_at(place, one) for one in listed)


def _endpoint(value: object, place: str, _: Path) -> Endpoint | None:
    written = text(value, place, "127.0.0.1:2525")
    return _endpoint_at(place, written) if written else None


def _endpoint_at(place: str, written: str) -> Endpoint:
    try:
        return parse_endpoint(written)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _resolvers(value: object, place: str, _: Path) -> tuple[Endpoint, ...]:
    servers = _endpoints(value, place, _)
    if len(servers) > NAMESERVERS_MAX:
        raise ConfigError(f"{place}: takes {NAMESERVERS_MAX} name servers at most")
    for server in servers:
        if not server.port:
            raise ConfigError(f"{place}: {server}: a name server has a port, usually 53")
    return servers


def _elsewhere(value: object, place: str, folder: Path) -> Delivery | None:
    return delivery_at(value, place, folder) if text(value, place, "mx") else None


def _aliases(value: object, place: str, _: Path) -> Table:
    return parse_aliases(value, place)


def _file(value: object, place: str, folder: Path) -> Path | None:
    written = text(value, place, "/etc/mailsrv/file")
    return folder / written if written else None


def _name(value: object, place: str, _: Path) -> str:
    return text(value, place, "mailsrv")


def _log_format(value: object, place: str, _: Path) -> str:
    return choice(value, LOG_FORMATS, place)


_OWN: dict[str, Callable[[object, str, Path], object]] = {
    "listen": _endpoints,
    "delivery": delivery_at,
    "elsewhere": _elsewhere,
    "routes": parse_routes,
    "aliases": _aliases,
    "spool": _file,
    "resolvers": _resolvers,
    "listen_tls": _endpoints,
    "tls_certificate": _file,
    "tls_key": _file,
    "recipient_table": _file,
    "greylist_database": _file,
    "metrics_listen": _endpoint,
    "log_file": _file,
    "log_format": _log_format,
    "user": _name,
    "group": _name,
}


# -- what fits together ---------------------------------------------------------------------------


def check(loaded: Config) -> None:
    """Raises ConfigError if the parts do not fit together."""
    if found := complaints(loaded):
        raise ConfigError(*found)


def complaints(loaded: Config) -> list[str]:
    """What is wrong with the parts' going together; each begins with a key."""
    return [
        *_of_listeners(loaded),
        *domain_complaints(loaded.settings, loaded.listeners),
        *_of_tls(loaded),
        *_of_limits(loaded.settings),
        *_of_scores(loaded.settings),
        *_of_companions(loaded),
        *_of_recipients(loaded),
    ]


def _of_listeners(loaded: Config) -> list[str]:
    if not loaded.listeners:
        return ['listen: takes one address at least, such as "127.0.0.1:2525"']
    metrics = [loaded.metrics_listen] if loaded.metrics_listen else []
    twice = first_duplicate([*loaded.listeners, *metrics])
    return [f"listen: {twice}: stands there twice"] if twice else []


def domain_complaints(settings: Settings, endpoints: Iterable[Endpoint]) -> list[str]:
    """A server that other machines reach takes mail for domains that it names, or says that it
    takes all; a proxy makes a loopback address reachable."""
    if settings.domains:
        return []
    exposed = next((one for one in endpoints if one.is_public), None)
    if exposed is None and not settings.proxy_networks:
        return []
    why = f"who listens on {exposed}" if exposed else "who is behind a proxy"
    return [
        f"domains: {why} must say whose mail is taken, such as domains = "
        '["example.org"], or ["*"] to take the mail of every domain into its own delivery'
    ]


def _of_tls(loaded: Config) -> list[str]:
    if loaded.tls_certificate is not None:
        return []
    return [
        f"{key}: needs tls_certificate, a file in PEM"
        for key, value in (("listen_tls", loaded.listen_tls), ("tls_key", loaded.tls_key))
        if value
    ]


def _of_limits(settings: Settings) -> list[str]:
    found = []
    if settings.errors_soft > settings.errors_hard:
        found.append(
            f"errors_soft: takes {settings.errors_hard} at most, which is errors_hard; "
            f"it is {settings.errors_soft}"
        )
    delay_s, within_s = settings.greylist_delay_s, settings.greylist_retry_within_s
    if within_s <= delay_s:  # every retry would come too early or too late, and no mail ever pass
        found.append(
            f"greylist_retry_within_s: takes more than {delay_s:g}, which is greylist_delay_s; "
            f"it is {within_s:g}"
        )
    return found


def _of_scores(settings: Settings) -> list[str]:
    modes = ("sender_domain_check", "helo_check", "reverse_name_check")
    scoring = [key for key in modes if getattr(settings, key) == "score"]
    if settings.dns_lists:
        scoring.append("dns_lists")
    if scoring and not settings.reputation_threshold:
        return [
            f"reputation_threshold: {scoring[0]} adds to a score that nobody looks at; "
            "takes the score at which a client is refused, such as 10"
        ]
    if settings.reputation_threshold and not scoring:
        return [
            "reputation_threshold: nothing adds to the score; needs dns_lists, "
            'or a check that is set to "score"'
        ]
    return []


def _of_companions(loaded: Config) -> list[str]:
    """What does nothing by itself is a mistake."""
    found = []
    if loaded.greylist_database and not loaded.settings.greylist:
        found.append("greylist_database: is not used; needs greylist = true")
    if loaded.spool is not None and loaded.spool_folder is None:
        found.append("spool: is not used; needs a delivery that is not discard")
    if loaded.group and not loaded.user:
        found.append("group: needs user, the name to change to")
    if loaded.settings.recipient_callout != "off":
        if not any(isinstance(one, NextHop) for one in loaded.deliveries):
            found.append(
                "recipient_callout: there is nobody to ask; needs a delivery or a route to a next "
                "hop, such as relay=192.0.2.25"
            )
        if loaded.recipient_table is not None:
            found.append("recipient_callout: recipient_table says who exists; takes one of them")
    return found


def _of_recipients(loaded: Config) -> list[str]:
    """Whether each recipient, alias or not, has a way that is meant for it."""
    settings = loaded.settings
    found = alias_complaints(loaded.aliases, settings)
    if not found and settings.domains:
        found = _of_strangers(loaded)
    many = [one for one in loaded.deliveries if isinstance(one, ToMaildir) and not one.is_shared]
    if many:
        found += [f"delivery: {many[0]}: {why}" for why in _of_mailboxes(loaded, many)]
    return found


def _of_mailboxes(loaded: Config, deliveries: Iterable[ToMaildir]) -> Iterator[str]:
    """What is missing where each recipient has a Maildir: whoever may write to a new name must not
    make a new folder by that."""
    domains = loaded.settings.domains
    if not domains or EVERY_DOMAIN in domains:
        yield "needs domains that are named"
    elif len(domains) > 1 and any(DOMAIN_PART not in one.path.parts for one in deliveries):
        yield f"needs {DOMAIN_PART} as well: the same name in two domains is not the same person"
    if loaded.recipient_table is None:
        yield "needs recipient_table: folders are made for those who exist, and for nobody else"


def _of_strangers(loaded: Config) -> list[str]:
    """A member of an alias that is not ours must not end in a mailbox of ours."""
    routing, directory = loaded.routing, Directory.of(loaded.settings)
    for key, members in loaded.aliases.items():
        for member in members:
            route = routing.of(member)
            is_ours = directory.is_ours(domain_key(member.domain))
            if route is None or (not is_ours and isinstance(route.delivery, ToMaildir)):
                return [
                    f"aliases: {key!r}: {member} is in none of domains; needs elsewhere, such as "
                    f'elsewhere = "mx", or a route that leads to it'
                ]
    return []
