"""How much more may be written: bounded by a setting, and by what is free on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mailsrv.delivery.files import Files
from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS

MEASURED_NS = 200 * NS_PER_MS
"""How long a measured figure is good for: other programs write to the disk as well."""


class Limits(NamedTuple):
    """What the spool may use of its disk, in octets: of content at most, and left free at least."""

    used_max_octets: int
    free_min_octets: int


class DiskRoom:
    """Octets that may still be taken; ``used_max_octets`` in all, and none of the last
    ``free_min_octets`` of the disk."""

    def __init__(
        self,
        folder: Path,
        files: Files,
        clock: Clock,
        *,
        used_max_octets: int,
        free_min_octets: int,
    ) -> None:
        self.folder = folder
        self._files = files
        self._clock = clock
        self._free_octets = 0
        self._measured_ns: int | None = None
        self.used_max_octets = used_max_octets
        self.free_min_octets = free_min_octets

    def has(self, octets: int, used_octets: int) -> bool:
        """Whether ``octets`` may be written where ``used_octets`` are used.  Raises OSError."""
        now_ns = self._clock.monotonic_ns()
        if self._measured_ns is None or now_ns - self._measured_ns >= MEASURED_NS:
            self._free_octets = self._files.free_octets(self.folder)
            self._measured_ns = now_ns
        return (
            used_octets + octets <= self.used_max_octets
            and self._free_octets - octets >= self.free_min_octets
        )
