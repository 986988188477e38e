"""Aliases: addresses that stand for one or several others, here or elsewhere, without I/O.

An address that stands for others may be named among those that it stands for: then its own copy
stays there.  Each of them may be an alias in turn, to a bounded depth; a circle is an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailsrv.policy.recipients import Directory, address_keys, domain_key, local_key
from mailsrv.smtp.path import MailPath

DEPTH_MAX = 10
"""Of aliases that stand for aliases."""
MEMBERS_MAX = 1000
"""Addresses that one alias stands for, at the end."""

Table = Mapping[str, tuple[MailPath, ...]]
"""By key: ``user@domain``, or ``user`` for that user in each of our domains."""


class AliasError(Exception):
    """A table of aliases that cannot be: ``key`` names the alias, the text what is wrong."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Aliases:
    """The aliases in ``table`` for the domains of ``directory``.

    A subaddress of an alias (``team+x`` with ``team``) is that alias.  ``hostname`` is the domain
    of ``<postmaster>``.
    """

    __slots__ = ("_delimiter", "_directory", "_expansions", "_hostname", "_table")

    def __init__(self, table: Table, directory: Directory, delimiter: str, hostname: str) -> None:
        self._table = table
        self._expansions: dict[str, dict[str, MailPath]] = {}  # of those that were asked for
        self._directory = directory
        self._delimiter = delimiter
        self._hostname = hostname

    def __bool__(self) -> bool:
        return bool(self._table)

    def members(self, path: MailPath) -> tuple[MailPath, ...]:
        """The addresses that ``path`` stands for, none of them twice: itself, if it is no alias.
        Raises AliasError."""
        found = self.expansion(path)
        return (path,) if found is None else tuple(found.values())

    def expansion(self, path: MailPath) -> Mapping[str, MailPath] | None:
        """The members of the alias ``path`` by their keys (``key_of``); None if it is no alias.
        Raises AliasError."""
        key = self._find(path) if self._table else None
        if key is None:
            return None
        found = self._expansions.get(key)
        if found is None:
            found = {}
            self._expand(path, (), found, set())
            self._expansions[key] = found
        return found

    def check(self) -> None:
        """Raises AliasError if an alias stands for itself by way of others, or for too many."""
        for key in self._table:
            local, at, domain = key.rpartition("@")
            self.members(MailPath(local, domain) if at else MailPath(key, ""))

    def key_of(self, path: MailPath) -> str:
        """``path`` as addresses are compared."""
        return f"{local_key(path.local)}@{domain_key(path.domain or self._hostname)}"

    def _expand(
        self, path: MailPath, above: tuple[str, ...], found: dict[str, MailPath], done: set[str]
    ) -> None:
        """Add to ``found`` what ``path``, a member of the aliases ``above``, stands for."""
        key = self._find(path)
        if key is None or above[-1:] == (key,):
            found.setdefault(self.key_of(path), path)
        elif key in above:
            raise AliasError(key, f"stands for itself, by way of {above[-1]}")
        elif len(above) >= DEPTH_MAX:
            raise AliasError(key, f"is an alias within {DEPTH_MAX} others; takes fewer")
        elif key not in done:
            for member in self._table[key]:
                self._expand(member, (*above, key), found, done)
            done.add(key)
        if len(found) > MEMBERS_MAX:
            raise AliasError(above[0], f"stands for more than {MEMBERS_MAX:,} addresses")

    def _find(self, path: MailPath) -> str | None:
        """The key under which ``path`` is an alias."""
        domain = domain_key(path.domain or self._hostname)
        is_ours = not path.domain or self._directory.is_ours(domain)
        for local in address_keys(path.local, self._delimiter):
            if (key := f"{local}@{domain}") in self._table:
                return key
            if is_ours and "@" not in local and local in self._table:
                return local
        return None
