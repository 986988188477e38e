"""Whose mail is taken: our domains, and the addresses that exist in them, without I/O.

Two addresses are the same if their keys are.  A key is written in lower case and without
needless quotes (RFC 5321 section 4.1.2), its domain in A-labels (RFC 5890 section 2.3.2.1), so
that ``"Ann"@B\u00fccher.example`` and ``ann@xn--bcher-kva.example`` are one; an address literal
as ``ipaddress`` writes it.  RFC 5321 section 2.4 lets the final host alone interpret a
local-part: we are that host, and tell no two mailboxes apart by case.

A table holds keys of three kinds: ``user@domain``, ``@domain`` for everybody in it, and ``user``
for that user in each of our domains.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.path import NULL_PATH, MailPath, is_address_literal, is_domain, parse_forward_path
from mailsrv.smtp.reply import Reply

EVERY_DOMAIN = "*"
POSTMASTER = "postmaster"

_ROUTING = re.compile("[%!@]")
"""Marks by which a local-part may name a further host: user%host, host!user, "user@host"."""
_HOST = re.compile("(?<=[%@])[^%!@]*+|(?<![^%!@])[^%!@]*+(?=!)")
"""What stands behind a "%" or "@", and what stands before a "!"."""
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_IPV6_TAG = "[ipv6:"
_FOLDS_TO_ASCII = re.compile("[\u037e\u1fef\u212a]")
"""Greek question mark, varia, Kelvin sign: to Unicode the same as ";", "`" and "K"."""


class Mailbox(NamedTuple):
    """Whose mail goes into one place: keys of a local-part, "" for everybody else in the domain,
    and of the domain."""

    local: str
    domain: str


class Directory:
    """The domains and the recipients of a server.

    ``domains`` may hold address literals; none, or ``*``, is every domain.  ``table`` holds keys
    (see ``table_key``); None: every address in our domains exists.  ``delimiter`` separates a
    subaddress from the user before it (RFC 5233), "" for nothing.  ``hostname`` is the server's
    own name, whose postmaster can be written to.
    """

    __slots__ = ("_delimiter", "_domains", "_hostname", "_table")

    def __init__(
        self,
        domains: Iterable[str],
        table: AbstractSet[str] | None = None,
        *,
        delimiter: str = "+",
        hostname: str = "",
    ) -> None:
        keys = frozenset(map(domain_key, domains))
        self._domains = None if not keys or EVERY_DOMAIN in keys else keys
        self._table = table
        self._delimiter = delimiter
        self._hostname = domain_key(hostname)

    @classmethod
    def of(cls, settings: Settings, table: AbstractSet[str] | None = None) -> Directory:
        """The directory that ``settings`` and a table make."""
        return cls(
            settings.domains,
            table,
            delimiter=settings.recipient_delimiter,
            hostname=settings.hostname,
        )

    @property
    def takes_all(self) -> bool:
        """Whether ``check`` never refuses."""
        return self._domains is None and self._table is None

    def check(self, path: MailPath) -> Reply | None:
        """Refuse a forward-path that is not ours, or that does not exist; None takes it.

        The postmaster of each of our domains is always taken, and ``<postmaster>`` without one
        (RFC 5321 section 4.5.1).
        """
        if not path.domain:
            return None  # by the grammar only the postmaster can do without
        domain, local = domain_key(path.domain), local_key(path.local)
        if not self.is_ours(domain):
            own_postmaster = local == POSTMASTER and domain == self._hostname
            return None if own_postmaster else reply.RELAY_DENIED
        if self._exists(local, domain):
            return None
        if self._leads_elsewhere(local):
            return reply.RELAY_DENIED
        if self._table is None or f"@{domain}" in self._table:
            return None
        return None if self._has_subaddress(local, domain) else reply.UNKNOWN_RECIPIENT

    def mailbox(self, path: MailPath) -> Mailbox | None:
        """The mailbox that a forward-path's mail belongs into; None if there is none.

        A subaddress shares its user's, and all who are listed by their domain alone share one: no
        sender can make a mailbox by writing to it.  Without a table there are no mailboxes but the
        postmaster's.
        """
        domain = domain_key(path.domain or self._hostname)
        is_ours = self.is_ours(domain)
        for local in address_keys(path.local, self._delimiter):
            at_home = is_ours or (local == POSTMASTER and domain == self._hostname)
            if at_home and self._exists(local, domain):
                return Mailbox(local, domain)
        if is_ours and self._table is not None and f"@{domain}" in self._table:
            return Mailbox("", domain)
        return None

    def knows(self, path: MailPath) -> bool:
        """Whether ``check`` knows that ``path``, which it has taken, exists: from the table, or as
        the postmaster."""
        return self._table is not None or not path.domain or local_key(path.local) == POSTMASTER

    def is_ours(self, domain: str) -> bool:
        """Whether the key ``domain`` is one of our domains."""
        return self._domains is None or domain in self._domains

    def _exists(self, local: str, domain: str) -> bool:
        if local == POSTMASTER:
            return True
        table = self._table
        if table is None:
            return False
        # A local-part may look like the key of an address: "ann@other.example"@ours.
        return f"{local}@{domain}" in table or (local in table and "@" not in local)

    def _has_subaddress(self, local: str, domain: str) -> bool:
        """Whether something before a delimiter exists; which one splits is the user's affair."""
        return any(self._exists(user, domain) for user in _users(local, self._delimiter))

    def _leads_elsewhere(self, local: str) -> bool:
        """Whether the local-part names a host that is not ours.

        We do not read such routes (RFC 5321 section 3.6.1, appendix C), but whoever gets the
        message from us may, and would trust us.
        """
        if not _ROUTING.search(local):
            return False
        return not all(self.is_ours(host) for host in _HOST.findall(local))


# -- keys -----------------------------------------------------------------------------------------


def table_key(text: str) -> str:
    """The key of ``user@domain``, ``@domain`` or ``user``.  Raises ValueError."""
    domain = text[1:]
    if text.startswith("@") and (is_domain(domain) or is_address_literal(domain)):
        return f"@{domain_key(domain)}"
    if not text.startswith((" ", "<")):
        path, rest = parse_forward_path(text) or (NULL_PATH, "")
        alone = not path.domain
        if alone:
            path, rest = parse_forward_path(f"{text}@domain") or (NULL_PATH, "")
        local = local_key(path.local)
        if local and not rest and not (alone and "@" in local):
            return local if alone else f"{local}@{domain_key(path.domain)}"
    raise ValueError("takes user@domain, @domain or user")


def local_key(local: str) -> str:
    """A local-part as it is compared."""
    if local.startswith('"'):
        local = _QUOTED_PAIR.sub(r"\1", local[1:-1])
    return local.lower() if local.isascii() else _folded(local)


def address_keys(local: str, delimiter: str) -> Iterator[str]:
    """Under which keys a local-part may be listed: its own, then those of the users that it may be
    a subaddress of, the longest first."""
    key = local_key(local)
    yield key
    yield from _users(key, delimiter)


def _users(local: str, delimiter: str) -> Iterator[str]:
    """What stands before each delimiter in the key ``local``."""
    at = local.rfind(delimiter) if delimiter else 0
    while at > 0:
        yield local[:at]
        at = local.rfind(delimiter, 0, at)


def domain_key(domain: str) -> str:
    """A domain, in U-labels or A-labels, or an address literal, as it is compared."""
    if not domain.isascii():
        return ".".join(map(_a_label, domain.split(".")))
    key = domain.lower()
    if key.startswith(_IPV6_TAG):
        return f"{_IPV6_TAG}{ipaddress.IPv6Address(key[len(_IPV6_TAG) : -1])}]"
    return key


def _a_label(label: str) -> str:
    """The A-label of a label (RFC 5891 section 4.4), after the mapping of RFC 5895 section 2.

    What is no U-label by IDNA 2008 gets one all the same: such a domain cannot be registered.
    """
    if label.isascii():
        return label.lower()
    return f"xn--{_folded(label).encode('punycode').decode('ascii')}"


def _folded(text: str) -> str:
    """``text`` in lower case and in NFC (RFC 6532 section 3.1), unless that makes ASCII of it:
    whoever gets the message from us might not take a Kelvin sign for a "k"."""
    if _FOLDS_TO_ASCII.search(text):
        return text
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
