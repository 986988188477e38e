"""Durations as people write them, exactly: integer nanoseconds <-> one number and one unit.

``parse`` takes any of the units; ``format_ns`` always writes the same spelling for the same
number, so that texts can be compared: seconds from 1 s up, milliseconds from 0.01 ms up, below
that microseconds where they are whole and nanoseconds where not.  ``long_duration`` is rounded, for
reports.
"""

from __future__ import annotations

import re

from mailsrv.units import NS_PER_MS, NS_PER_S

NS_PER_US = 1_000

UNITS_NS = {
    "ns": 1,
    "us": NS_PER_US,
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "min": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}

DURATION_NS_MAX = 1000 * 24 * 3600 * NS_PER_S
"""A thousand days: beyond any retry schedule; more than that is a slip of the pen."""

_MILLISECONDS_FROM_NS = 10 * NS_PER_US

# Twenty digits on each side are more than the maximum needs; the bound keeps int() cheap.
_DURATION = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?([a-z]*)")


def parse(text: str) -> int:
    """Nanoseconds of ``text``, like "0", "0.4ms" or "90s".

    Raises ValueError, which says what is allowed, for anything that is not one number and one
    unit, is not a whole number of nanoseconds or is longer than ``DURATION_NS_MAX``.
    """
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if match is None or match[3] not in UNITS_NS:
        raise ValueError(
            f"{text[:40]!r} is no duration; write one number and one unit of "
            f"{', '.join(UNITS_NS)}, as in 0.4ms or 90s, or 0"
        )
    whole, fraction, unit = match[1], match[2] or "", match[3]
    scale = int("1" + "0" * len(fraction))
    ns, rest = divmod(int(whole + fraction) * UNITS_NS[unit], scale)
    if rest:
        raise ValueError(f"{text!r} is no whole number of nanoseconds, the finest unit there is")
    if ns > DURATION_NS_MAX:
        raise ValueError(f"{text!r} is longer than {format_ns(DURATION_NS_MAX)} (1000 days)")
    return ns


def format_ns(ns: int) -> str:
    """The one canonical spelling of ``ns`` (not negative): ``parse`` returns ``ns`` again."""
    if ns < 0:
        raise ValueError(f"a duration of {ns} ns is negative")
    if ns == 0:
        return "0"
    if ns >= NS_PER_S:
        return _decimal(ns, "s")
    if ns >= _MILLISECONDS_FROM_NS:
        return _decimal(ns, "ms")
    return f"{ns // NS_PER_US}us" if ns % NS_PER_US == 0 else f"{ns}ns"


def long_duration(ns: int) -> str:
    """A rounded duration for people: "5 days", "1 h 52 min", "4.2 s", "31.0 ms"."""
    seconds = ns / NS_PER_S
    if seconds >= 2 * 86_400:
        return f"{int(seconds // 86_400):,} days"
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _decimal(ns: int, unit: str) -> str:
    whole, rest = divmod(ns, UNITS_NS[unit])
    if not rest:
        return f"{whole}{unit}"
    places = len(str(UNITS_NS[unit])) - 1
    fraction = f"{rest:0{places}d}".rstrip("0")
    return f"{whole}.{fraction}{unit}"
