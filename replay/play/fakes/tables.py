"""Values of a scenario's [world], each checked, with a complaint that says where it stands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping

from mailsrv.units import NS_PER_S, seconds_to_ns
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.octets import printable

CallLater = Callable[[int, Callable[[], None]], object]
"""Takes a delay in nanoseconds and what to call then."""

SILENCE = "silence"

ENTRIES_MAX = 100_000
"""Entries in one table."""

_DELAY_S_MAX = DURATION_NS_MAX // NS_PER_S
_QUESTION = re.compile(r"(?P<name>[!-~]{1,255}) +(?P<rtype>[A-Za-z0-9]{1,16})")


class WorldError(ValueError):
    """A header's [server] or [world] that cannot be: ``key`` is where.  The message quotes no
    character of it that would move a terminal's cursor."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(printable(f"{key}: {message}"))
        self.key = key


def table_of(key: str, value: object) -> Mapping[str, object]:
    """``value``, which must be a table."""
    if not isinstance(value, Mapping):
        raise WorldError(key, "a table")
    if len(value) > ENTRIES_MAX:
        raise WorldError(key, f"a table of at most {ENTRIES_MAX} entries")
    return value


def check_keys(key: str, table: Mapping[str, object], allowed: Collection[str]) -> None:
    """See that ``table`` has no key but those."""
    for unknown in table:
        if unknown in allowed:
            continue
        close = difflib.get_close_matches(str(unknown)[:80], allowed, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        known = ", ".join(sorted(allowed))
        raise WorldError(f"{key}.{unknown}", f"unknown key; {hint}allowed are {known}")


def delay_ns(key: str, table: Mapping[str, object]) -> int:
    """The ``delay_s`` of ``table``, 0 where it is left out."""
    delay_s = table.get("delay_s", 0)
    if (
        not isinstance(delay_s, int | float)
        or isinstance(delay_s, bool)
        or not 0 <= delay_s <= _DELAY_S_MAX
    ):
        raise WorldError(f"{key}.delay_s", f"a number of seconds from 0 to {_DELAY_S_MAX}")
    return seconds_to_ns(delay_s)


def question_of(key: str, text: str) -> tuple[str, str]:
    """The name and type in ``"NAME TYPE"``: in small letters without a final dot, in capitals."""
    match = _QUESTION.fullmatch(text)
    if match is None:
        raise WorldError(key, 'a question is a name and a type, as in "example.org MX"')
    return canonical_name(match["name"]), match["rtype"].upper()


def canonical_name(name: str) -> str:
    """``name`` as names are compared."""
    return name.lower().removesuffix(".")


def texts_of(key: str, value: object) -> tuple[str, ...]:
    """``value``, which must be a list of records."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise WorldError(key, 'a list of texts, as in ["10 mx.example.org."]')
    return tuple(value)
