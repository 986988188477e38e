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


def told(oddity: Oddity) -> str:
    """The oddity in a sentence that names its packet, once."""
    number, sentence = oddity.packet, oddity.sentence
    named = number == 0 or re.match(rf"packet \d|.*\bpacket {number}\b", sentence)
    return sentence if named else f"packet {number}: {sentence}"
