"""Single values of a configuration, each checked by itself.

A value comes from TOML.  A complaint says where the value stands and what is allowed there;
``settings_from`` gathers the complaints about all of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mailsrv.policy.recipients import EVERY_DOMAIN, table_key
from mailsrv.settings import (
    CHECKS_OF_CLIENTS,
    CHECKS_OF_PROTOCOL,
    CheckException,
    DnsList,
    Settings,
)
from mailsrv.smtp.path import is_address_literal, is_domain

SECONDS_MAX = 10**9
"""Some 30 years; the timer wheel ends at 8,900."""
NUMBER_MAX = 10**12
"""A terabyte."""
PERCENT_MAX = 100
SCORE_MAX = 1000
DNS_LISTS_MAX = 32
EXCEPTIONS_MAX = 1000
SHOWN_MAX_CHARACTERS = 40
SHOWN_MAX_BITS = 128
"""Of a value in a complaint."""

_ZERO_ALLOWED = """
greet_wait_s error_pause_s connections grace_s reputation_threshold connections_per_network
client_connections_per_min client_messages_per_min client_recipients_per_min
network_connections_per_min network_messages_per_min network_recipients_per_min
client_refusals_per_min network_refusals_per_min
relay_messages_per_min delay_notice_s notice_content_octets
stress_percent sender_domain_score helo_score reverse_name_score
"""
_POSITIVE = {field.name for field in dataclasses.fields(Settings)} - {*_ZERO_ALLOWED.split()}
"""Numbers for which 0 makes no sense."""
_TYPES = get_type_hints(Settings)
_LISTED = ipaddress.IPv4Network("127.0.0.0/8")  # RFC 5782 section 2.1


class ConfigError(Exception):
    """A configuration that cannot be: ``complaints``, of which each is a line that names place,
    key and what is allowed."""

    def __init__(self, *complaints: str) -> None:
        super().__init__("\n".join(complaints))
        self.complaints = complaints


def settings_from(table: Mapping[str, Any], place: str, others: Iterable[str] = ()) -> Settings:
    """Make settings of a table; raises ConfigError, with ``place`` before each complaint.

    ``others`` are keys that may stand in the same place, but not in this table.
    """

    def setting(key: str, value: object) -> object:
        if key not in _TYPES:
            raise _unknown(key, [*others, *_TYPES], place, value)
        return check_setting(key, value, f"{place}: {key}")

    return Settings(**each(table, setting))


def each(table: Mapping[str, Any], checked: Callable[[str, object], object]) -> dict[str, Any]:
    """The values of ``table`` as ``checked`` gives them.  Raises ConfigError with the complaints
    about all of them."""
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for key, value in table.items():
        try:
            values[key] = checked(key, value)
        except ConfigError as error:
            complaints += error.complaints
    if complaints:
        raise ConfigError(*complaints)
    return values


def text(value: object, place: str, example: str) -> str:
    """A text without control characters.  Raises ConfigError."""
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError(f'{place}: takes a text such as "{example}"')
    return value


def texts(value: object, place: str, example: str, kind: str = "texts") -> tuple[str, ...]:
    """A list of texts without control characters.  Raises ConfigError."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(one, str) and one.isprintable() for one in value
    ):
        raise ConfigError(f'{place}: takes a list of {kind} such as "{example}"')
    return tuple(value)


def choice(value: object, choices: Iterable[str], place: str) -> str:
    """One of ``choices``.  Raises ConfigError."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        allowed = ", ".join(f'"{one}"' for one in known)
        raise ConfigError(f"{place}: takes one of {allowed}")
    return value


def check_setting(key: str, value: object, here: str) -> object:
    """The value of the setting ``key``, with ``here`` before what is wrong with it.  Raises
    ConfigError."""
    wanted = _TYPES[key]
    if wanted is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{here}: takes true or false{_instead(value)}")
        return value
    if wanted is str:
        if not isinstance(value, str) or not value.isascii() or not is_domain(value):
            raise ConfigError(f"{here}: takes a name in ASCII, such as mx.example.org")
        return value
    if wanted is int or wanted is float:
        return _number(value, key, wanted is int, here)
    if get_origin(wanted) is Literal:
        return _mode(value, get_args(wanted), here)
    if key == "dns_lists":
        return _dns_lists(value, here)
    if key == "exceptions":
        return _exceptions(value, here)
    if key == "domains":
        return _domains(value, here)
    if key.endswith("networks"):
        return _networks(value, here, everybody=not key.startswith("proxy"))
    if key.endswith("recipients"):
        return _addresses(value, here)
    return _names(value, here)


def _unknown(key: str, known: list[str], place: str, value: object) -> ConfigError:
    near = difflib.get_close_matches(key[:80], known, 1)
    if isinstance(value, Mapping) and not near:
        return ConfigError(
            f"{place}: [{key[:80]}]: there is no section of that name; settings need none"
        )
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return ConfigError(f"{place}: {key[:80]}: no such setting; {hint}")


def _mode(value: object, choices: tuple[str, ...], place: str) -> str:
    if isinstance(value, bool) and "reject" in choices:
        return "reject" if value else "off"
    return choice(value, choices, place)


def _number(value: object, key: str, whole: bool, place: str) -> int | float:
    kind = "whole number" if whole else "number"
    least = "above 0" if key in _POSITIVE else "not below 0"
    allowed = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ConfigError(f"{place}: takes a {kind} {least}{_instead(value)}")
    most = NUMBER_MAX
    if key.endswith("_s") and not key.endswith("_octets_s"):
        most = SECONDS_MAX
    elif key.endswith("_percent"):
        most = PERCENT_MAX
    elif key.endswith("_score"):
        most = SCORE_MAX
    if not 0 <= value <= most or (key in _POSITIVE and value == 0):
        raise ConfigError(
            f"{place}: {_shown(value)} is out of range; takes a {kind} {least}, at most {most}"
        )
    return value


def _shown(number: float) -> str:
    """A number for a complaint; of a whole one the beginning, however many digits it has."""
    if isinstance(number, int) and number.bit_length() > SHOWN_MAX_BITS:
        return f"{hex(number)[:SHOWN_MAX_CHARACTERS]}…"
    return str(number)


def _instead(value: object) -> str:
    """What stands where a number, true or false should, behind a semicolon; "" for what is no
    single value."""
    if isinstance(value, str):
        return f"; {json.dumps(value[:SHOWN_MAX_CHARACTERS])} is text in quotes"
    if isinstance(value, bool | int | float):
        return f"; it is {_shown(value).lower()}"
    return ""


def _networks(value: object, place: str, *, everybody: bool) -> tuple[str, ...]:
    """A list of networks; one that holds everybody only if ``everybody`` makes sense."""
    networks = texts(value, place, "192.0.2.0/24", "networks")
    for item in networks:
        try:
            network = ipaddress.ip_network(item)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from None
        if network.prefixlen == 0 and not everybody:
            raise ConfigError(
                f"{place}: {item} is everybody, who could then claim any address; takes the "
                "networks of your proxies"
            )
    return networks


def _domains(value: object, place: str) -> tuple[str, ...]:
    domains = texts(value, place, "example.org", "domains")
    if EVERY_DOMAIN in domains and len(domains) > 1:
        raise ConfigError(f'{place}: "{EVERY_DOMAIN}" takes every domain and stands alone')
    for domain in domains:
        if not (domain == EVERY_DOMAIN or is_domain(domain) or is_address_literal(domain)):
            raise ConfigError(f'{place}: {domain!r} is no domain name such as "example.org"')
    return domains


def _names(value: object, place: str) -> tuple[str, ...]:
    """Domain names; a dot before one changes nothing."""
    names = texts(value, place, "example.org", "domains")
    for name in names:
        if not is_domain(name.removeprefix(".")):
            raise ConfigError(f'{place}: {name!r} is no domain name such as "example.org"')
    return names


def _addresses(value: object, place: str) -> tuple[str, ...]:
    """Addresses and domains, these with or without an "@" before them."""
    addresses = texts(value, place, "ann@example.org", "addresses and domains")
    for address in addresses:
        try:
            if not is_domain(address):
                table_key(address)
        except ValueError:
            raise ConfigError(
                f'{place}: {address!r} is neither an address nor a domain such as "example.org"'
            ) from None
    return addresses


def _exceptions(value: object, place: str) -> tuple[CheckException, ...]:
    """A list of tables; each names checks, and networks, names or recipients."""
    if not isinstance(value, list | tuple) or len(value) > EXCEPTIONS_MAX:
        raise ConfigError(f"{place}: takes a list of at most {EXCEPTIONS_MAX} tables")
    return tuple(_exception(one, f"{place}[{number}]") for number, one in enumerate(value))


def _exception(value: object, place: str) -> CheckException:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: takes a table with checks, and networks, names or recipients")
    kinds: dict[str, Callable[[object, str], tuple[str, ...]]] = {
        "checks": _checks,
        "networks": lambda networks, here: _networks(networks, here, everybody=True),
        "names": _names,
        "recipients": _addresses,
    }

    def part(key: str, given: object) -> tuple[str, ...]:
        if key not in kinds:
            raise _unknown(key, [*kinds], place, given)
        return kinds[key](given, f"{place}: {key}")

    exception = CheckException(**{"checks": (), **each(value, part)})
    if not exception.checks:
        raise ConfigError(f'{place}: checks: takes one check at least, such as "greylist"')
    if not any(exception[1:]):
        raise ConfigError(
            f"{place}: needs networks, names or recipients; else switch the check off"
        )
    protocol = [check for check in exception.checks if check in CHECKS_OF_PROTOCOL]
    if protocol and exception.names:
        raise ConfigError(f"{place}: names: {protocol[0]} is decided before names are known")
    early = [check for check in protocol if check != "bare_lf"]
    if early and exception.recipients:
        raise ConfigError(f"{place}: recipients: {early[0]} is decided before recipients are known")
    return exception


def _checks(value: object, place: str) -> tuple[str, ...]:
    known = (*CHECKS_OF_CLIENTS, *CHECKS_OF_PROTOCOL)
    return tuple(choice(one, known, place) for one in texts(value, place, "greylist"))


def _dns_lists(value: object, place: str) -> tuple[DnsList, ...]:
    """A table: zone = score, or zone = a table of answers, each an address or a network."""
    if not isinstance(value, Mapping) or len(value) > DNS_LISTS_MAX:
        raise ConfigError(f"{place}: takes a table of at most {DNS_LISTS_MAX} lists")
    lists = []
    for zone, scores in value.items():
        if not zone.isascii() or not is_domain(zone):
            raise ConfigError(f"{place}: {zone!r} is no domain name")
        answers = scores if isinstance(scores, Mapping) else {str(_LISTED): scores}
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
