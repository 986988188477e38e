"""Look-alikes of IP addresses: as long when written, in ranges that no host has.

A public IPv4 address goes to class E (240.0.0.0/4, RFC 1112 section 4), or to 0.0.0.0/8 where it
is too short for that; an IPv6 one to 3fff::/20 (RFC 9637).  Private addresses stay in their range
(RFC 1918, RFC 4193).  What says nothing about anybody stays as it is: loopback, unspecified, the
link-local prefix alone, documentation (RFC 5737, RFC 3849).  Addresses of one /24, or one /64,
stay together in one.
"""

from __future__ import annotations

import ipaddress

from replay.sanitize.lookalikes import PROBES_MAX, Lookalikes

_NOBODYS = tuple(
    ipaddress.ip_network(one)
    for one in (
        "127.0.0.0/8", "0.0.0.0/32", "255.255.255.255/32", "192.0.2.0/24", "198.51.100.0/24",
        "203.0.113.0/24", "::1/128", "::/128", "fe80::/128", "2001:db8::/32",
    )
)  # fmt: skip
_PRIVATE = tuple(
    (ipaddress.ip_network(network), octets_kept)
    for network, octets_kept in (
        ("10.0.0.0/8", 1), ("172.16.0.0/12", 1), ("192.168.0.0/16", 2), ("169.254.0.0/16", 2),
    )
)  # fmt: skip
_OCTETS_BY_DIGITS = {1: (0, 9), 2: (10, 99), 3: (100, 255)}


def is_unassigned(text: str) -> bool:
    """Whether the address ``text`` says nothing about anybody."""
    address = ipaddress.ip_address(text)
    return any(address in network for network in _NOBODYS)


def like_address(looks: Lookalikes, text: str) -> str | None:
    """The look-alike of the address ``text``; None if it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if "%" in text:
        return None
    if is_unassigned(text):
        return text
    looks.counts["IP address"] += 1
    if address.version == 4:
        return _like_v4(looks, text)
    if "." in text:
        head, _, tail = text.rpartition(":")
        return f"{head}:{like_address(looks, tail)}" if address.ipv4_mapped else None
    return _like_v6(looks, text, address)


def _like_v4(looks: Lookalikes, text: str) -> str:
    prefix, _, last = text.rpartition(".")
    prefixes = (_v4_prefix(looks, prefix, again) for again in range(PROBES_MAX))
    new_prefix = looks.one("network", prefix, prefixes, "network")

    attempts = (
        f"{new_prefix}.{_octet(len(last), looks.stream('host', text, 1, again)[0])}"
        for again in range(PROBES_MAX)
    )
    return looks.one("IP address", text, attempts, "address")


def _v4_prefix(looks: Lookalikes, prefix: str, again: int) -> str:
    stream = looks.stream("network", prefix, 8, again)
    first, second, third = prefix.split(".")
    address = ipaddress.ip_address(f"{prefix}.0")
    for network, octets_kept in _PRIVATE:
        if address in network:
            if octets_kept == 2:
                return f"{first}.{second}.{_octet(len(third), stream[0])}"
            new = 16 + stream[1] % 16 if first == "172" else _octet(len(second), stream[1])
            return f"{first}.{new}.{_octet(len(third), stream[0])}"
    digits = len(prefix) - 2
    head = str(240 + stream[0] % 15) if digits >= 5 else "0"
    digits -= len(head)
    splits = [(one, digits - one) for one in (1, 2, 3) if 1 <= digits - one <= 3]
    lengths = splits[stream[1] % len(splits)]
    return f"{head}.{_octet(lengths[0], stream[2])}.{_octet(lengths[1], stream[3])}"


def _octet(digits: int, random: int) -> int:
    least, most = _OCTETS_BY_DIGITS[digits]
    return least + random % (most - least + 1)


def _like_v6(looks: Lookalikes, text: str, address: ipaddress.IPv6Address) -> str:
    groups = [int(group, 16) for group in address.exploded.split(":")]
    network = ":".join(f"{group:x}" for group in groups[:4])
    networks = (_v6_groups(looks, groups, network, 0, again) for again in range(PROBES_MAX))
    new_network = looks.one("network", network, networks, "network")
    attempts = (
        f"{new_network}:{_v6_groups(looks, groups, address.exploded, 4, again)}"
        for again in range(PROBES_MAX)
    )
    given = looks.one("IP address", ":".join(f"{group:x}" for group in groups), attempts, "address")
    values = [int(group, 16) for group in given.split(":")]
    before, double, after = text.partition("::")
    left = [one for one in before.split(":") if one]
    right = [one for one in after.split(":") if one]
    written = [f"{value:0{len(one)}x}" for one, value in zip(left, values, strict=False)]
    tail = values[8 - len(right) :]
    written_after = [f"{value:0{len(one)}x}" for one, value in zip(right, tail, strict=True)]
    new_text = ":".join(written) + double + ":".join(written_after)
    return new_text.upper() if text.upper() == text else new_text


def _v6_groups(looks: Lookalikes, groups: list[int], key: str, first: int, again: int) -> str:
    """Four new groups, from place ``first`` on, for what ``key`` names."""
    stream = looks.stream("groups", key, 8, again)
    return ":".join(
        f"{_group(first + at, groups[first + at], stream[2 * at : 2 * at + 2], groups[0]):x}"
        for at in range(4)
    )


def _group(place: int, group: int, random: bytes, first: int) -> int:
    """Another group that takes no more digits, and no fewer but where the range demands it."""
    number = int.from_bytes(random, "big")
    is_local = first >> 9 == 0xFC00 >> 9 or first == 0xFE80
    if place == 0:
        if is_local:
            return group if first >> 8 == 0xFE else (group & 0xFF00) + number % 256
        if first >= 0x1000:
            return 0x3FFF
        if first >= 0x100:
            return 0x100 + number % 256  # 0100::/8 and 0000::/8 are the IETF's own
    if group == 0:
        return 0
    digits = len(f"{group:x}")
    if place == 1 and first >= 0x1000 and not is_local:
        digits = min(digits, 3)
    least, most = 1 << 4 * (digits - 1), (1 << 4 * digits) - 1
    return least + number % (most - least + 1)
