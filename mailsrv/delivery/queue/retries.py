"""When a message is tried again, and for how long.

After the first attempt that failed for now the next one follows after ``first_s``; each pause is
twice the one before, up to ``longest_s``.  Up to a quarter of it is added by chance, so that what
failed together does not come back together.  The last attempt is made when the message has been
here for ``lifetime_s``; RFC 5321 section 4.5.4.1 asks for four to five days.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from mailsrv.units import seconds_to_ns

JITTER_BITS = 10
JITTER_PART = 4
"""A part in so many of a pause is the most that is added to it."""
DOUBLINGS_MAX = 40
"""Beyond any setting, and not too large a number."""


class RandomBits(Protocol):
    """The part of ``random.Random`` that a queue uses."""

    def getrandbits(self, bits: int, /) -> int:
        """Return ``bits`` random bits."""


class Retries(NamedTuple):
    """The times that an operator sets, in seconds."""

    first_s: float = 300
    longest_s: float = 3600
    lifetime_s: float = 5 * 24 * 3600
    delay_notice_s: float = 4 * 3600
    """After so long the sender is told of the delay; 0: never."""

    def ends_ns(self, received_ns: int) -> int:
        """When the last attempt is made.  Instants are counted from 1970."""
        return received_ns + seconds_to_ns(self.lifetime_s)

    def is_over(self, received_ns: int, now_ns: int) -> bool:
        """Whether an attempt that ends now was the last one."""
        return now_ns >= self.ends_ns(received_ns)

    def is_delayed(self, received_ns: int, now_ns: int) -> bool:
        """Whether the sender is to be told that its message is still here."""
        delay_ns = seconds_to_ns(self.delay_notice_s)
        return bool(delay_ns) and now_ns >= received_ns + delay_ns

    def next_due_ns(self, attempts: int, received_ns: int, now_ns: int, dice: RandomBits) -> int:
        """When to try again after ``attempts`` of them."""
        first_ns, longest_ns = seconds_to_ns(self.first_s), seconds_to_ns(self.longest_s)
        doublings = min(max(attempts - 1, 0), DOUBLINGS_MAX)
        pause_ns = min(first_ns << doublings, longest_ns)
        pause_ns += (pause_ns * dice.getrandbits(JITTER_BITS) >> JITTER_BITS) // JITTER_PART
        return min(now_ns + pause_ns, max(self.ends_ns(received_ns), now_ns))
