"""The configuration file: TOML, every key checked, every complaint with its place.

The keys are the fields of ``Settings`` and those of ``Config``; docs/configuration.md lists them.
A relative path in a file is relative to that file's folder, wherever the server was started; a
default is relative to the working directory, like what the command line says.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mailsrv.config.endpoints import (
    LISTENERS_MAX,
    is_public,
    parse_address,
    parse_delivery,
    parse_resolvers,
    taken_twice,
)
from mailsrv.config.validation import ConfigError, choice, each, settings_from, text, texts
from mailsrv.settings import Settings

FILE_MAX_OCTETS = 1024 * 1024
LISTEN_DEFAULT = ("127.0.0.1:2525",)
DELIVERY_DEFAULT = "maildir=mail"
LOG_FORMATS = ("text", "json")


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """Everything ``mailsrv serve`` is told."""

    settings: Settings = dataclasses.field(default_factory=Settings)
    listen: tuple[str, ...] = LISTEN_DEFAULT
    delivery: str = DELIVERY_DEFAULT
    resolvers: tuple[str, ...] = ()
    """The name servers to ask; none means those of /etc/resolv.conf."""
    listen_tls: tuple[str, ...] = ()
    """Where TLS is spoken from the first octet on."""
    tls_certificate: str = ""
    """PEM: the certificate and what leads from it to a root; "" offers no STARTTLS."""
    tls_key: str = ""
    """PEM: its private key; "" if it lies in the certificate's file."""
    recipient_table: str = ""
    """The addresses that exist; "" takes all of our domains."""
    greylist_database: str = ""
    """Where the greylist outlives the process; "" keeps it in memory."""
    metrics_listen: str = ""
    """Where Prometheus reads metrics; "" for nowhere."""
    log_file: str = ""
    """"" logs to standard error."""
    log_format: str = LOG_FORMATS[0]
    user: str = ""
    """Who the server is after binding; "" stays who started it."""
    group: str = ""
    """"" is the user's own."""

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """Certificate and key, or None without TLS."""
        if not self.tls_certificate:
            return None
        return Path(self.tls_certificate), Path(self.tls_key or self.tls_certificate)


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
    folder = path.absolute().parent
    own = {key: table.pop(key) for key in _OWN if key in table}
    found: list[str] = []
    values: dict[str, Any] = {}
    try:
        values["settings"] = settings_from(table, str(path), _OWN)
    except ConfigError as error:
        found += error.complaints
    try:
        values |= each(own, lambda key, value: _OWN[key](value, f"{path}: {key}", folder))
    except ConfigError as error:
        found += error.complaints
    if found:
        raise ConfigError(*found)
    return Config(**values)


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


def _addresses(value: object, place: str, _: Path) -> tuple[str, ...]:
    listed = texts(value, place, "127.0.0.1:2525")
    if len(listed) > LISTENERS_MAX:
        raise ConfigError(f"{place}: takes {LISTENERS_MAX} addresses at most")
    for one in listed:
        _address(one, place, _)
    return listed


def _address(value: object, place: str, _: Path) -> str:
    written = text(value, place, "127.0.0.1:2525")
    try:
        if written:
            parse_address(written)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return written


def _resolvers(value: object, place: str, _: Path) -> tuple[str, ...]:
    listed = _addresses(value, place, _)
    try:
        parse_resolvers(listed)
    except ConfigError as error:
        raise ConfigError(f"{place.removesuffix('resolvers')}{error}") from None
    return listed


def _delivery(value: object, place: str, folder: Path) -> str:
    written = text(value, place, "maildir=mail")
    try:
        how, where = parse_delivery(written)
    except ConfigError as error:
        raise ConfigError(f"{place.removesuffix('delivery')}{error}") from None
    return f"{how}={folder / where}" if where else how


def _file(value: object, place: str, folder: Path) -> str:
    written = text(value, place, "/etc/mailsrv/file")
    return str(folder / written) if written else ""


def _name(value: object, place: str, _: Path) -> str:
    return text(value, place, "mailsrv")


def _log_format(value: object, place: str, _: Path) -> str:
    return choice(value, LOG_FORMATS, place)


_OWN: dict[str, Callable[[object, str, Path], object]] = {
    "listen": _addresses,
    "delivery": _delivery,
    "resolvers": _resolvers,
    "listen_tls": _addresses,
    "tls_certificate": _file,
    "tls_key": _file,
    "recipient_table": _file,
    "greylist_database": _file,
    "metrics_listen": _address,
    "log_file": _file,
    "log_format": _log_format,
    "user": _name,
    "group": _name,
}


# -- what fits together ---------------------------------------------------------------------------


def check(loaded: Config) -> None:
    """See that the parts are possible and fit together.  Raises ConfigError."""
    if found := complaints(loaded):
        raise ConfigError(*found)


def complaints(loaded: Config) -> list[str]:
    """What is wrong with the parts, or with their going together; each begins with a key."""
    settings = loaded.settings
    addresses = [*loaded.listen, *loaded.listen_tls]
    return [
        *_of_places(loaded, addresses),
        *_faults(lambda: parse_delivery(loaded.delivery)),
        *_faults(lambda: parse_resolvers(loaded.resolvers)),
        *domain_complaints(settings, addresses),
        *_of_tls(loaded),
        *_of_limits(settings),
        *_of_scores(settings),
        *_of_companions(loaded),
    ]


def _faults(parse: Callable[[], object]) -> tuple[str, ...]:
    try:
        parse()
    except ConfigError as error:
        return error.complaints
    return ()


def _of_places(loaded: Config, addresses: list[str]) -> list[str]:
    if not addresses:
        return ['listen: takes one address at least, such as "127.0.0.1:2525"']
    metrics = [loaded.metrics_listen] if loaded.metrics_listen else []
    try:
        twice = taken_twice([*addresses, *metrics])
    except ConfigError as error:
        return [f"listen: {error}"]
    return [f"listen: {twice}: stands there twice"] if twice else []


def domain_complaints(settings: Settings, addresses: Iterable[str]) -> list[str]:
    """Who listens on ``addresses`` takes nobody's mail by mistake; a proxy brings the world to a
    loopback address."""
    if settings.domains:
        return []
    exposed = next(filter(is_public, addresses), "")
    if not exposed and not settings.proxy_networks:
        return []
    why = f"who listens on {exposed}" if exposed else "who is behind a proxy"
    return [
        f"domains: {why} must say whose mail is taken, such as domains = "
        '["example.org"], or ["*"] to take the mail of every domain into its own delivery'
    ]


def _of_tls(loaded: Config) -> list[str]:
    if loaded.tls_certificate:
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
    if loaded.group and not loaded.user:
        found.append("group: needs user, the name to change to")
    return found
