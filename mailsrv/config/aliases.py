"""The table of aliases: addresses, and the one or the several that each of them stands for."""

from __future__ import annotations

from collections.abc import Mapping

from mailsrv.config.validation import ConfigError, each
from mailsrv.policy.aliases import MEMBERS_MAX, AliasError, Aliases, Table
from mailsrv.policy.recipients import Directory, table_key
from mailsrv.settings import Settings
from mailsrv.smtp.path import MailPath, parse_forward_path

ALIASES_MAX = 10_000


def parse_aliases(value: object, place: str) -> Table:
    """The table ``[aliases]``.  Raises ConfigError with every complaint."""
    if not isinstance(value, Mapping) or len(value) > ALIASES_MAX:
        raise ConfigError(
            f"{place}: takes a table of at most {ALIASES_MAX:,} aliases, such as "
            '"info@example.org" = "ann@example.org"'
        )
    table: dict[str, tuple[MailPath, ...]] = {}

    def alias(written: str, members: object) -> None:
        here = f"{place}: {written[:80]!r}"
        key = _key(written, here)
        if key in table:
            raise ConfigError(f"{here}: stands there twice")
        table[key] = _members(members, here)

    each(value, alias)
    return table


def aliases_of(table: Table, settings: Settings) -> Aliases:
    """The aliases of a server with ``settings``."""
    directory = Directory.of(settings)
    return Aliases(table, directory, settings.recipient_delimiter, settings.hostname)


def alias_complaints(table: Table, settings: Settings) -> list[str]:
    """What is wrong with the aliases' going together."""
    try:
        aliases_of(table, settings).check()
    except AliasError as error:
        return [f"aliases: {error.key!r}: {error}"]
    return []


def _key(written: str, here: str) -> str:
    try:
        if written.startswith("@"):
            raise ValueError
        return table_key(written)
    except ValueError:
        raise ConfigError(
            f'{here}: takes "user@domain", or "user" for that user in each of our domains'
        ) from None


def _members(value: object, here: str) -> tuple[MailPath, ...]:
    members = [value] if isinstance(value, str) else value
    if not isinstance(members, list) or not 1 <= len(members) <= MEMBERS_MAX:
        raise ConfigError(
            f'{here}: takes an address such as "ann@example.org", or a list of 1 to '
            f"{MEMBERS_MAX:,} of them"
        )
    return tuple(_member(one, here) for one in members)


def _member(value: object, here: str) -> MailPath:
    if isinstance(value, str) and value.isprintable() and not value.startswith((" ", "<")):
        path, rest = parse_forward_path(value) or (MailPath("", ""), "")
        if path.domain and not rest:
            return path
    raise ConfigError(f'{here}: {str(value)[:80]!r} is no address such as "ann@example.org"')
