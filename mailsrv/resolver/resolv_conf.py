"""Which name servers the machine uses: the ``nameserver`` lines of /etc/resolv.conf."""

from __future__ import annotations

import ipaddress
from pathlib import Path

SYSTEM_FILE = Path("/etc/resolv.conf")
FILE_MAX_OCTETS = 64 * 1024
NAMESERVERS_MAX = 4
"""Servers asked in turn; more would not be reached in the time that a question has."""
PORT = 53
DEFAULT = (("127.0.0.1", PORT),)
"""What the file means when it names no server, or is missing (resolv.conf(5))."""


def read_nameservers(path: Path = SYSTEM_FILE) -> tuple[tuple[str, int], ...]:
    """The first name servers that ``path`` names, as host and port; never none."""
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_MAX_OCTETS)
    except OSError:
        return DEFAULT
    return parse_nameservers(octets.decode(errors="replace")) or DEFAULT


def parse_nameservers(text: str) -> tuple[tuple[str, int], ...]:
    """The name servers in ``text``, without doubles; what is no address is passed over."""
    found: dict[tuple[str, int], None] = {}
    for line in text.splitlines():
        match line.split()[:2]:
            case ["nameserver", host] if _is_address(host):
                found[host, PORT] = None
    return tuple(found)[:NAMESERVERS_MAX]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
