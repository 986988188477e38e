"""The mail exchangers of a domain: what its MX records say, and in which order they are tried.

RFC 5321 section 5.1; a null MX is RFC 7505.  The records are the domain owner's choice: names that
can be none are left out, and only the best ``HOSTS_MAX`` of them are used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random
from typing import NamedTuple

from mailsrv.smtp.path import is_domain

HOSTS_MAX = 5
"""Hosts of one domain: the largest providers name five."""
PREFERENCE_MAX = 65_535


class MailExchanger(NamedTuple):
    """One MX record; a lower preference is tried first."""

    preference: int
    name: str


def read_mx(records: Iterable[str]) -> list[MailExchanger]:
    """The records that name a host, each host once, at its best preference."""
    best: dict[str, int] = {}
    for record in records:
        preference, _, name = record.partition(" ")
        name = name.strip().lower().removesuffix(".")
        if preference.isascii() and preference.isdigit() and name.isascii() and is_domain(name):
            number = min(int(preference[:6]), PREFERENCE_MAX)
            best[name] = min(number, best.get(name, number))
    return [MailExchanger(preference, name) for name, preference in best.items()]


def is_null(records: Iterable[str]) -> bool:
    """Whether the domain takes no mail at all: a single MX that names the root (RFC 7505 3)."""
    return [record.split()[1:] for record in records] == [["."]]


def in_order(exchangers: Iterable[MailExchanger], generator: Random) -> list[MailExchanger]:
    """By preference; equal ones in random order, which spreads the load (RFC 5321 section 5.1)."""
    shuffled = list(exchangers)
    generator.shuffle(shuffled)
    shuffled.sort(key=lambda one: one.preference)
    return shuffled


def better_than_ours(
    exchangers: Iterable[MailExchanger], ours: Collection[str]
) -> list[MailExchanger]:
    """Those that are preferred to ours: mail for the others would come back to us (RFC 5321 5.1).
    ``ours`` are the names that are this server; without any among them, all."""
    kept = list(exchangers)
    own = min((one.preference for one in kept if one.name in ours), default=None)
    return kept if own is None else [one for one in kept if one.preference < own]
