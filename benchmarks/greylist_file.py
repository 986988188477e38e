"""A greylist whose file knows any number of rows.  For benchmarks; no benchmark itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from mailsrv.policy.greylist import Greylist, GreylistKey, GreylistRecord
from mailsrv.runtime.clock import FakeClock
from mailsrv.stores.greylist_sqlite import SqliteStore
from mailsrv.units import NS_PER_S

WALL_S = 1_767_225_600
FILLED_AT_ONCE = 50_000
STEP_S = 0.01
"""Between two tries."""
_SPREAD = 2_654_435_761
"""Multiples of it, in 32 bits, go all over the place: no two tries lie side by side."""


def triplet(number: int) -> tuple[str, str, str]:
    at = number * _SPREAD & 0xFFFFFFFF
    client = f"{at >> 24}.{at >> 16 & 255}.{at >> 8 & 255}.9"
    return client, f"n.{at:08x}@company{at % 9973}.example", f"user{at % 50_021}@example.test"


class Filled:
    """A greylist whose file knows ``rows`` transactions of the last day, every other passed."""

    def __init__(self, path: Path, rows: int) -> None:
        self.clock = FakeClock(start=WALL_S)
        self.store = SqliteStore(str(path))
        self.fill(rows)
        self.greylist = Greylist(self.clock, store=self.store)
        self._numbers = count(rows)

    def fill(self, rows: int) -> None:
        file = self.store._file
        assert file is not None
        file._connection.execute("PRAGMA synchronous = OFF")
        records = self._records(rows)
        while batch := list(islice(records, FILLED_AT_ONCE)):
            file.write(batch, None, 0, 0, 0)
        file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file._connection.execute("PRAGMA synchronous = NORMAL")

    def _records(self, rows: int) -> Iterator[tuple[GreylistKey, GreylistRecord]]:
        first_ns = self.clock.realtime_ns() - 86_400 * NS_PER_S
        for number in range(rows):
            client, sender, recipient = triplet(number)
            since_ns = first_ns + 86_400 * NS_PER_S // rows * number
            yield (
                GreylistKey(f"{client}/16", sender, recipient),
                GreylistRecord(since_ns, number % 2),
            )

    def check(self, tries: int) -> None:
        for number in islice(self._numbers, tries):
            self.clock.advance(STEP_S)
            self.greylist.check(triplet(number))

    def close(self) -> None:
        self.store.close()
