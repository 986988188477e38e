"""The configuration file: TOML, every key checked, every complaint with its place.

The keys are the fields of ``Settings``, and ``listen``, ``delivery`` and ``resolvers``.
docs/configuration.md lists them.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mailsrv.address import is_domain
from mailsrv.resolvconf import NAMESERVERS_MAX
from mailsrv.settings import DnsList, Settings

FILE_MAX_OCTETS = 1024 * 1024
LISTEN_DEFAULT = ("127.0.0.1:2525",)
DELIVERY_DEFAULT = "maildir=mail"

SECONDS_MAX = 10**9
"""Some 30 years; the timer wheel ends at 8,900."""
NUMBER_MAX = 10**12
"""A terabyte."""

_ZERO_ALLOWED = """
greet_wait_s error_pause_s connections grace_s reputation_threshold connections_per_network
client_connections_per_min client_messages_per_min client_recipients_per_min
network_connections_per_min network_messages_per_min network_recipients_per_min
stress_percent sender_domain_score helo_score reverse_name_score
"""
_POSITIVE = {field.name for field in dataclasses.fields(Settings)} - {*_ZERO_ALLOWED.split()}
"""Numbers for which 0 makes no sense."""
SCORE_MAX = 1000
DNS_LISTS_MAX = 32
_TYPES = get_type_hints(Settings)
_LISTED = ipaddress.IPv4Network("127.0.0.0/8")  # RFC 5782 section 2.1


class ConfigError(Exception):
    """A configuration that cannot be; the message names place, key and what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """Everything ``mailsrv serve`` is told."""

    settings: Settings = dataclasses.field(default_factory=Settings)
    listen: tuple[str, ...] = LISTEN_DEFAULT
    delivery: str = DELIVERY_DEFAULT
    resolvers: tuple[str, ...] = ()
    """The name servers to ask; none means those of /etc/resolv.conf."""


def load(path: Path) -> Config:
    """Read a configuration file.  Raises ConfigError."""
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_MAX_OCTETS + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(octets) > FILE_MAX_OCTETS:
        raise ConfigError(f"{path}: larger than {FILE_MAX_OCTETS} octets")
    try:
        table = tomllib.loads(octets.decode())
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, a number beyond int()
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is not TOML: nested too deep") from None
    listen = _texts(table, "listen", LISTEN_DEFAULT, '"127.0.0.1:2525"', path)
    resolvers = _texts(table, "resolvers", (), '"127.0.0.1:53"', path)
    delivery = table.pop("delivery", DELIVERY_DEFAULT)
    if not isinstance(delivery, str):
        raise ConfigError(f'{path}: delivery: takes a text such as "maildir=mail"')
    loaded = Config(settings_from(table, str(path)), listen, delivery, resolvers)
    try:
        check(loaded)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return loaded


def check(loaded: Config) -> None:
    """See that the parts are possible and fit together.  Raises ConfigError."""
    if not loaded.listen:
        raise ConfigError('listen: takes one address at least, such as "127.0.0.1:2525"')
    for address in loaded.listen:
        parse_address(address)
    parse_delivery(loaded.delivery)
    parse_resolvers(loaded.resolvers)
    if loaded.settings.reputation_threshold:
        raise ConfigError("reputation_threshold: needs a source of reputation; none is built in")


def _texts(
    table: dict[str, Any], key: str, default: tuple[str, ...], example: str, path: Path
) -> tuple[str, ...]:
    """Take a list of texts out of ``table``."""
    value = table.pop(key, list(default))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{path}: {key}: takes a list of texts such as {example}")
    return tuple(value)


def settings_from(table: Mapping[str, Any], place: str) -> Settings:
    """Make settings of a table; raises ConfigError, which begins with ``place``."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _TYPES:
            near = difflib.get_close_matches(key, _TYPES, 1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(_TYPES)}"
            raise ConfigError(f"{place}: {key}: no such setting; {known}")
        values[key] = _checked(value, key, _TYPES[key], f"{place}: {key}")
    return Settings(**values)


def _checked(value: object, key: str, wanted: object, place: str) -> object:
    if wanted is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{place}: takes true or false")
        return value
    if wanted is str:
        if not isinstance(value, str) or not value.isascii() or not is_domain(value):
            raise ConfigError(f"{place}: takes a name in ASCII, such as mx.example.org")
        return value
    if wanted is int or wanted is float:
        return _checked_number(value, key, wanted is int, place)
    if get_origin(wanted) is Literal:
        return _checked_choice(value, get_args(wanted), place)
    if key == "dns_lists":
        return _checked_lists(value, place)
    if key.endswith("networks"):
        return _checked_networks(value, place)
    return _checked_texts(value, place)


def _checked_choice(value: object, choices: tuple[str, ...], place: str) -> str:
    if isinstance(value, bool) and "reject" in choices:
        return "reject" if value else "off"
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{place}: takes one of {', '.join(map(repr, choices))}")
    return value


def _checked_texts(value: object, place: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f'{place}: takes a list of texts such as "example.org"')
    return tuple(value)


def _checked_lists(value: object, place: str) -> tuple[DnsList, ...]:
    """A table: zone = score, or zone = a table of answers, each an address or a network."""
    if not isinstance(value, Mapping) or len(value) > DNS_LISTS_MAX:
        raise ConfigError(f"{place}: takes a table of at most {DNS_LISTS_MAX} lists")
    lists = []
    for zone, scores in value.items():
        if not zone.isascii() or not is_domain(zone):
            raise ConfigError(f"{place}: {zone!r} is no domain name")
        answers = scores if isinstance(scores, Mapping) else {"127.0.0.0/8": scores}
        for network, score in answers.items():
            if isinstance(score, bool) or not isinstance(score, int) or abs(score) > SCORE_MAX:
                raise ConfigError(
                    f"{place}.{zone}: takes a score from -{SCORE_MAX} to {SCORE_MAX}, or a table "
                    'of them such as { "127.0.0.2" = 5 }'
                )
            try:
                inside = ipaddress.IPv4Network(network).subnet_of(_LISTED)
            except (ValueError, TypeError):
                inside = False
            if not inside:
                raise ConfigError(f"{place}.{zone}: {network!r} is no network in {_LISTED}")
            lists.append(DnsList(zone.lower(), network, score))
    return tuple(lists)


def _checked_number(value: object, key: str, whole: bool, place: str) -> int | float:
    kind = "whole number" if whole else "number"
    least = "above 0" if key in _POSITIVE else "not below 0"
    allowed = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ConfigError(f"{place}: takes a {kind} {least}")
    most = SECONDS_MAX if key.endswith("_s") else NUMBER_MAX
    if not 0 <= value <= most or (key in _POSITIVE and value == 0):
        raise ConfigError(f"{place}: out of range; takes a {kind} {least}, at most {most}")
    return value


def _checked_networks(value: object, place: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f'{place}: takes a list of networks such as "192.0.2.0/24"')
    for item in value:
        try:
            ipaddress.ip_network(item)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from None
    return tuple(value)


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, where HOST is an IPv4 address or an IPv6 address in brackets.

    Raises ConfigError.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        number = int(port) if port.isascii() and port.isdigit() else -1
    except ValueError:
        number = -1
    if not colon or not 0 <= number <= 65535:
        raise ConfigError(
            f"{text}: takes ADDRESS:PORT, such as 127.0.0.1:2525 or [::1]:2525, "
            "with a port from 0 to 65535"
        )
    return ("127.0.0.1" if host == "localhost" else host), number


def parse_delivery(text: str) -> tuple[str, str]:
    """``maildir=DIR`` or ``discard``: how, and where.  Raises ConfigError."""
    how, _, where = text.partition("=")
    if (how, bool(where)) not in (("maildir", True), ("discard", False)):
        raise ConfigError(f"delivery: {text}: takes maildir=DIR or discard")
    return how, where


def parse_resolvers(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """The name servers that ``texts`` name, as host and port.  Raises ConfigError."""
    if len(texts) > NAMESERVERS_MAX:
        raise ConfigError(f"resolvers: takes {NAMESERVERS_MAX} name servers at most")
    servers = tuple(map(parse_address, texts))
    for text, (_, port) in zip(texts, servers, strict=True):
        if port == 0:
            raise ConfigError(f"resolvers: {text}: a name server has a port, usually 53")
    return servers
