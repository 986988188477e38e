"""What can be wrong with a capture: so wrong that it cannot be used, or merely worth saying."""

from __future__ import annotations

import re
from typing import NamedTuple


class CaptureError(Exception):
    """The capture cannot be used.  The text is one sentence that names the file and the place."""


class Oddity(NamedTuple):
    """Something about a capture that its user should know; the rest of it is still usable.

    ``packet`` counts from 1 in file order, 0 where no single packet is meant.  ``kind`` is a short
    word to group and test by; ``sentence`` is for people.
    """

    packet: int
    kind: str
    sentence: str


_SPANS = (
    (365 * 86_400 * 10**9, "years"),
    (86_400 * 10**9, "days"),
    (3_600 * 10**9, "h"),
    (60 * 10**9, "min"),
    (10**9, "s"),
    (10**6, "ms"),
    (10**3, "µs"),
)


def span(ns: int) -> str:
    """A duration for people: "15.9 years", "120.5 ms"."""
    for unit_ns, name in _SPANS:
        if ns >= unit_ns:
            return f"{ns / unit_ns:.1f} {name}".replace(".0 ", " ")
    return f"{ns} ns"


def told(oddity: Oddity) -> str:
    """The oddity in a sentence that names its packet, once."""
    number, sentence = oddity.packet, oddity.sentence
    named = number == 0 or re.match(rf"packet \d|.*\bpacket {number}\b", sentence)
    return sentence if named else f"packet {number}: {sentence}"
