"""The descriptors of the process: how many are open, whoever opened them.

The kernel numbers a new descriptor with the lowest number that is free (POSIX, open()).  So when a
socket is accepted as number n, all n below it are open: connections, content on its way, questions
to DNS, log and database alike.  Nothing has to be counted, and nothing can be forgotten.
"""

from __future__ import annotations

RESERVE = 128
"""Kept for files, for DNS and for the sockets of clients that are refused; at most a quarter."""


class DescriptorBudget:
    """At most ``max_descriptors`` may be open; ``used`` is what the newest socket showed.

    ``spent`` is True when nothing but the reserve is left.
    """

    __slots__ = ("_reserved", "max_descriptors", "spent", "used")

    def __init__(self, max_descriptors: int) -> None:
        self.max_descriptors = max_descriptors
        self._reserved = min(RESERVE, max_descriptors // 4)
        self.spent = False
        self.used = 0

    def opened(self, descriptor: int) -> None:
        """A socket was accepted as number ``descriptor``."""
        self.used = descriptor + 1
        self.spent = self.used > self.max_descriptors - self._reserved

    def filled(self, percent: int) -> bool:
        """True when that share is open."""
        return self.used * 100 >= self.max_descriptors * percent
