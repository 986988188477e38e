"""IP fragments put together (RFC 791 section 3.2, RFC 8200 section 4.5), within bounds.

As in reassembly above, what was seen first wins, and what never became whole is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from replay.capture.oddity import Oddity

DATAGRAMS_MAX = 256
"""Datagrams that wait for fragments at one time; the oldest makes room for a new one."""

DATAGRAM_OCTETS_MAX = 65_535
"""What IP allows (RFC 791 section 3.1)."""

FRAGMENTS_MAX = 1024
"""Of one datagram: 64 octets each, where no link is known whose packets are so short."""

WAIT_NS = 60 * 1_000_000_000
"""How long a datagram waits for its fragments (RFC 8200 section 4.5)."""

REPEATED_WITHIN_NS = 1_000_000_000
"""A fragment of a datagram that became whole so shortly before was captured twice."""


class _Datagram:
    __slots__ = (
        *("first_ns", "first_packet", "head", "numbers", "packets", "pieces", "total_octets"),
    )

    def __init__(self, packet: int, ts_ns: int) -> None:
        self.first_packet = packet
        self.first_ns = ts_ns
        self.packets = 0
        self.numbers: list[int] = []  # of the packets
        self.pieces: list[tuple[int, bytes]] = []  # by offset, not overlapping
        self.total_octets: int | None = None  # known once the last fragment is there
        self.head = 0

    def add(self, start: int, octets: bytes) -> bool:
        """Keep of ``octets`` what is new; True if they contradict what was there."""
        end, position, differs = start + len(octets), start, False
        parts: list[tuple[int, bytes]] = []
        for held_from, held in self.pieces:
            first, last = max(held_from, start), min(held_from + len(held), end)
            if first >= last:
                continue
            ours = octets[first - start : last - start]
            differs = differs or ours != held[first - held_from : last - held_from]
            if held_from > position:
                parts.append((position, octets[position - start : held_from - start]))
            position = max(position, held_from + len(held))
        if position < end:
            parts.append((position, octets[position - start :]))
        self.pieces = sorted(self.pieces + parts)
        return differs

    def whole(self) -> bytes | None:
        """All octets, once they are there."""
        if self.total_octets is None:
            return None
        position = 0
        for held_from, held in self.pieces:
            if held_from != position:
                return None
            position += len(held)
        whole = b"".join(held for _, held in self.pieces)
        return whole[: self.total_octets] if position >= self.total_octets else None


class Fragments:
    """The datagrams of a capture that are not whole yet."""

    __slots__ = ("_conflicts", "_done", "_put_together", "_waiting", "_widowed", "parts")

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, _Datagram] = OrderedDict()
        self._done: OrderedDict[Hashable, int] = OrderedDict()
        self._conflicts: list[int] = []  # count of packets, first packet
        self._put_together: list[int] = []  # count of datagrams, of packets, first packet
        self._widowed: list[int] = []  # count of packets, first packet
        self.parts: list[int] = []
        """The packets of the datagram that became whole last."""

    def add(
        self, key: Hashable, start: int, octets: bytes, more: bool, head: int, packet: int,
        ts_ns: int,
    ) -> tuple[int, bytes] | None:  # fmt: skip
        """Take in a fragment: ``octets`` from ``start`` on of the datagram named ``key``.

        ``head`` is what the first fragment says of the content (IPv6's next header).  Returns head
        and content once all of it is there.  Empty and oversized fragments are left out.
        """
        done_ns = self._done.get(key)
        if done_ns is not None and abs(ts_ns - done_ns) <= REPEATED_WITHIN_NS:
            return None
        datagram = self._waiting.get(key)
        if datagram is not None and abs(ts_ns - datagram.first_ns) > WAIT_NS:
            self._give_up(key)
            datagram = None
        if datagram is None:
            if len(self._waiting) >= DATAGRAMS_MAX:
                self._give_up(next(iter(self._waiting)))
            datagram = self._waiting[key] = _Datagram(packet, ts_ns)
        datagram.packets += 1
        end = start + len(octets)
        if end <= DATAGRAM_OCTETS_MAX and datagram.packets <= FRAGMENTS_MAX:
            datagram.numbers.append(packet)
            if datagram.add(start, octets):
                self._conflicts = self._conflicts or [0, packet]
                self._conflicts[0] += 1
            if not more and datagram.total_octets is None:
                datagram.total_octets = end
            if not start:
                datagram.head = head
        whole = datagram.whole()
        if whole is None:
            return None
        del self._waiting[key]
        self.parts = datagram.numbers
        self._done[key] = ts_ns
        if len(self._done) > DATAGRAMS_MAX:
            self._done.popitem(last=False)
        if not self._put_together:
            self._put_together = [0, 0, datagram.first_packet]
        self._put_together[0] += 1
        self._put_together[1] += datagram.packets
        return datagram.head, whole

    def _give_up(self, key: Hashable) -> None:
        datagram = self._waiting.pop(key)
        if not self._widowed:
            self._widowed = [0, datagram.first_packet]
        self._widowed[0] += datagram.packets

    def finish(self) -> Iterator[Oddity]:
        """What there is to say in the end."""
        while self._waiting:
            self._give_up(next(iter(self._waiting)))
        if self._put_together:
            datagrams, packets, first = self._put_together
            into = f"{datagrams} datagram{'s' if datagrams > 1 else ''}"
            sentence = f"{packets} packets, packet {first} first, are fragments: {into} made whole"
            yield Oddity(first, "fragments", sentence)
        if self._conflicts:
            packets, first = self._conflicts
            sentence = (
                f"packet {first} is a fragment that says otherwise than an earlier one, which is "
                f"believed"
            )
            if packets > 1:
                sentence += f"; {packets - 1} more do the same"
            yield Oddity(first, "overlap-conflict", sentence)
        if self._widowed:
            packets, first = self._widowed
            if packets == 1:
                sentence = f"packet {first} is left out: an IP fragment without the others"
            else:
                sentence = (
                    f"{packets} packets are left out, packet {first} first: IP fragments without "
                    f"all the others"
                )
            yield Oddity(first, "fragment", sentence)
