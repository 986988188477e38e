"""Where accepted mail goes, as the configuration writes it, parsed once.

``maildir=DIR``, ``relay=HOST[:PORT]`` and ``lmtp=HOST:PORT`` (of these several, with commas
between them, in the order in which they are tried), ``mx``, ``mx=DOMAIN``, or ``discard``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from mailsrv.config.validation import ConfigError
from mailsrv.smtp.path import is_domain

HOSTS_MAX = 16
RELAY_PORT = 25
DOMAIN_PART = "{domain}"
LOCAL_PART = "{local}"
"""Folders of a Maildir's path that stand for the recipient's domain and local-part."""

_ALLOWED = (
    "takes maildir=DIR, relay=HOST[:PORT], lmtp=HOST:PORT, mx, mx=DOMAIN or discard; of HOST, "
    "several with commas between them"
)


class Host(NamedTuple):
    """A next hop: a domain name or an IP address, and its port."""

    name: str
    port: int

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the name is an IP address, and needs no look-up."""
        try:
            ipaddress.ip_address(self.name)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Discard:
    """Mail is thrown away."""

    def __str__(self) -> str:
        return "discard"


@dataclass(frozen=True, slots=True)
class ToMaildir:
    """Mail goes into a Maildir: one for all, or, where ``path`` has folders for domain and
    local-part, one for each recipient."""

    path: Path

    def __str__(self) -> str:
        return f"maildir={self.path}"

    @property
    def is_shared(self) -> bool:
        """Whether it is one for all."""
        return LOCAL_PART not in self.path.parts

    @property
    def root(self) -> Path:
        """The path down to where recipients' folders begin."""
        parts = self.path.parts
        ends = [parts.index(part) for part in (DOMAIN_PART, LOCAL_PART) if part in parts]
        return Path(*parts[: min(ends)]) if ends else self.path


@dataclass(frozen=True, slots=True)
class ToHosts:
    """Mail goes to a next hop, at one of ``hosts``, tried in order."""

    protocol: Literal["smtp", "lmtp"]
    hosts: tuple[Host, ...]

    def __str__(self) -> str:
        how = "relay" if self.protocol == "smtp" else "lmtp"
        return f"{how}={','.join(map(str, self.hosts))}"


@dataclass(frozen=True, slots=True)
class ToExchangers:
    """Mail goes to the mail exchangers of ``domain``; "" is the recipient's own domain."""

    domain: str = ""

    def __str__(self) -> str:
        return f"mx={self.domain}" if self.domain else "mx"


NextHop = ToHosts | ToExchangers
Delivery = Discard | ToMaildir | NextHop


def delivery_needs_dns(delivery: Delivery) -> bool:
    """Whether names are looked up to deliver."""
    if isinstance(delivery, ToHosts):
        return not all(host.is_address for host in delivery.hosts)
    return isinstance(delivery, ToExchangers)


def parse_delivery(text: str, folder: Path) -> Delivery:
    """The delivery that ``text`` describes; a Maildir is relative to ``folder``.  Raises
    ConfigError."""
    how, equals, where = text.partition("=")
    if not equals and how == "discard":
        return Discard()
    if not equals and how == "mx":
        return ToExchangers()
    parse = _KINDS.get(how)
    if parse is None or not where:
        raise ConfigError(f"{text}: {_ALLOWED}")
    try:
        return parse(where, folder)
    except ConfigError as error:
        raise ConfigError(f"{text}: {error}") from None


def _maildir(where: str, folder: Path) -> ToMaildir:
    parts = Path(where).parts
    placed = [part for part in parts if part in (DOMAIN_PART, LOCAL_PART)]
    if sorted(set(placed)) != sorted(placed):
        raise ConfigError("has a folder twice that stands for the recipient")
    for part in parts:
        if part not in placed and ("{" in part or "}" in part):
            raise ConfigError(
                f"{part} is no folder; {DOMAIN_PART} and {LOCAL_PART} stand for the recipient's, "
                "each as a whole name between two /"
            )
    if DOMAIN_PART in placed and LOCAL_PART not in placed:
        raise ConfigError(f"{DOMAIN_PART} needs {LOCAL_PART} as well: one folder a recipient")
    if placed and ".." in parts[parts.index(placed[0]) :]:
        raise ConfigError(f'".." cannot stand behind {placed[0]}')
    return ToMaildir(folder / where)


def _relay(where: str, _: Path) -> ToHosts:
    return ToHosts("smtp", _hosts(where, RELAY_PORT))


def _lmtp(where: str, _: Path) -> ToHosts:
    return ToHosts("lmtp", _hosts(where, None))


def _exchangers(where: str, _: Path) -> ToExchangers:
    if not (where.isascii() and is_domain(where)):
        raise ConfigError("takes a domain in ASCII, such as mx=example.org")
    return ToExchangers(where.lower())


_KINDS: dict[str, Callable[[str, Path], Delivery]] = {
    "maildir": _maildir,
    "relay": _relay,
    "lmtp": _lmtp,
    "mx": _exchangers,
}


def _hosts(where: str, port: int | None) -> tuple[Host, ...]:
    hosts = tuple(_host(one.strip(), port) for one in where.split(","))
    if len(hosts) > HOSTS_MAX:
        raise ConfigError(f"takes {HOSTS_MAX} hosts at most")
    if len(set(hosts)) < len(hosts):
        raise ConfigError("has a host twice")
    return hosts


def _host(text: str, port: int | None) -> Host:
    """``HOST``, ``HOST:PORT``, ``[IPv6]`` or ``[IPv6]:PORT``; ``port`` is the default."""
    example = "HOST:PORT" if port is None else "HOST or HOST:PORT"
    wrong = ConfigError(
        f"{text} is no {example}, such as mail.example.org:2525, 192.0.2.25:2525 or "
        "[2001:db8::25]:2525, with a port from 1 to 65535"
    )
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, number = text, "" if port is None else str(port)
    if not (number.isascii() and number.isdigit() and len(number) <= 5):
        raise wrong
    if not (1 <= int(number) <= 65535 and _is_host(name)):
        raise wrong
    return Host(name.removeprefix("[").removesuffix("]").lower(), int(number))


def _is_host(name: str) -> bool:
    try:
        if name.startswith("[") and name.endswith("]"):
            ipaddress.IPv6Address(name[1:-1])
            return "%" not in name
        ipaddress.IPv4Address(name)
    except ValueError:
        looks_like_an_address = name.replace(".", "").isdigit()
        return name.isascii() and is_domain(name) and not looks_like_an_address
    return True
