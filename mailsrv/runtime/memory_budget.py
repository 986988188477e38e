"""The memory that all connections together may hold: input not yet used, replies not yet taken by
the kernel, content not yet on the disk, the state of TLS.

What one connection holds is bounded where it is held; here is the sum, and what follows from it.
While memory is *scarce*, reads are short, content goes to the disk at once, and the server is under
stress; once it is *spent*, new clients are refused.
"""

from __future__ import annotations

READ_OCTETS = 64 * 1024
"""One read."""
SCARCE_READ_OCTETS = 4 * 1024
"""One read while memory is scarce."""
SCARCE_PERCENT = 50


class MemoryBudget:
    """Counts ``held_octets`` against ``max_octets``; ``read_octets`` is what one read may take.
    ``scarce`` is True from half of the budget on, ``spent`` when all of it is held."""

    __slots__ = ("held_octets", "max_octets", "read_octets", "scarce", "spent")

    def __init__(self, max_octets: int) -> None:
        self.max_octets = max_octets
        self.held_octets = 0
        self.read_octets = READ_OCTETS
        self.scarce = self.spent = False

    def filled(self, percent: int) -> bool:
        """True when that share is held."""
        return self.held_octets * 100 >= self.max_octets * percent

    def hold(self, octets: int) -> None:
        """So many octets more are held; fewer, if negative."""
        self.held_octets += octets
        self.scarce = self.filled(SCARCE_PERCENT)
        self.spent = self.held_octets >= self.max_octets
        self.read_octets = SCARCE_READ_OCTETS if self.scarce else READ_OCTETS
