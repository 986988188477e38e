"""One direction of a flow: its stream, put together from segments in whatever order they came.

Offsets in the stream are unbounded integers; a sequence number becomes one by its distance from
the number expected next (RFC 9293 section 3.4).
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter, itemgetter

from replay.capture.flow import Flow, Gap, RawPiece, StreamEnd

MAX_PENDING_OCTETS = 8 << 20
"""Octets of one side held behind a hole; no receiver's window of the mail world is larger."""

MAX_PENDING_CHUNKS = 4096
"""Segments of one side held behind a hole."""

MAX_LATE_EVENTS = 1000
"""How many of a flow's events ago a gap may have been seen that a late packet still fills."""

MAX_JUMP_OCTETS = 64 << 20
"""A sequence or acknowledgement number further off than this is not of this connection."""

SEQUENCE_MASK = 0xFFFFFFFF

FORGOTTEN = -1
"""As the number expected next, which none equals: the flow is no longer followed."""

_HALF = 0x80000000


class _Chunk:
    """Octets waiting behind a hole; ``octets`` is None where a snapshot length cut them off."""

    __slots__ = ("acknowledged", "end", "octets", "packet", "start", "ts_ns")

    def __init__(
        self, start: int, end: int, octets: bytes | None, ts_ns: int, packet: int, acked: int
    ) -> None:
        self.start = start
        self.end = end
        self.octets = octets
        self.ts_ns = ts_ns
        self.packet = packet
        self.acknowledged = acked

    def cut(self, start: int, end: int) -> _Chunk:
        """The part from ``start`` to ``end``."""
        octets = self.octets
        if octets is not None:
            octets = octets[start - self.start : end - self.start]
        return _Chunk(start, end, octets, self.ts_ns, self.packet, self.acknowledged)


_chunk_end = attrgetter("end")
_piece_start = itemgetter(3)  # of a Piece, plain or not, and of a Gap


class DirectionStream:
    """One direction of a flow: the stream of ``side``, and what it acknowledged of the other."""

    __slots__ = (
        "ack_number", "ack_packet", "acknowledged", "base", "ended", "expected", "fin",
        "fin_offset", "flow", "happened", "is_guessed", "next", "peer", "pending", "pieces",
        "reset", "side", "taken",
    )  # fmt: skip

    peer: DirectionStream

    def __init__(self, flow: Flow, side: int) -> None:
        self.flow = flow
        self.side = side
        self.happened = flow.happened
        self.base = 0
        self.expected: int | None = None  # sequence number of the octet ``next``; None: unknown
        self.next = 0
        self.ack_number = 0
        self.ack_packet = 0  # carried the highest acknowledgement
        self.acknowledged = 0
        self.pending: list[_Chunk] = []
        self.pieces: list[RawPiece | Gap] = []
        self.fin: StreamEnd | None = None  # captured, though perhaps not yet reached
        self.fin_offset = 0
        self.ended = False  # its FIN was reached
        self.is_guessed = False  # its beginning is where an acknowledgement without octets stood
        self.reset = False
        self.taken: int | None = None  # acknowledged before its reset

    def begin(self, sequence: int) -> None:
        """Learn the sequence number of the first octet."""
        self.base = self.expected = sequence
        self.peer.ack_number = sequence

    def guess_begin(self, sequence: int, has_octets: bool) -> None:
        """Learn where the stream is from its first packet in the capture.

        An acknowledgement stands where the next octet will; a keepalive one octet before.
        """
        if self.expected is None:
            self.begin(sequence)
            self.is_guessed = not has_octets
        elif self.is_guessed and has_octets:
            if sequence == (self.base + 1) & SEQUENCE_MASK:
                self.begin(sequence)
                self.peer.acknowledged = 0
            self.is_guessed = False

    # -- acknowledgements ---------------------------------------------------------------------

    def acknowledge(self, number: int, packet: int) -> None:
        """Take in an acknowledgement number that this side sent."""
        if self.peer.expected is None:
            self.peer.begin(number)
            return
        ahead = (number - self.ack_number) & SEQUENCE_MASK
        if ahead >= _HALF:
            return  # an old one
        if self.acknowledged + ahead > self.peer.next + MAX_JUMP_OCTETS and self.peer.pieces:
            sentence = f"packet {packet} acknowledges octets that are far from this connection's"
            self.flow.odd(packet, "foreign-ack", sentence)
            return
        self.ack_number = number
        self.ack_packet = packet
        self.acknowledged += ahead

    # -- octets -------------------------------------------------------------------------------

    def offset(self, sequence: int) -> int:
        """The place in the stream that ``sequence`` means."""
        assert self.expected is not None
        ahead = (sequence - self.expected) & SEQUENCE_MASK
        return self.next + (ahead if ahead < _HALF else ahead - (SEQUENCE_MASK + 1))

    def accept(self, start: int, payload: bytes, missing: int, ts_ns: int, packet: int) -> None:
        """Take in a segment's octets, wherever in the stream they stand."""
        end = start + len(payload)
        old_octets = min(self.next, end) - start
        if old_octets > 0:
            self._repeated(start, payload[:old_octets], packet, missing)
        acked = self.acknowledged
        if end > self.next:
            first = max(start, self.next)
            octets = payload[first - start :]
            if first > self.next and not self.pending:
                sentence = f"packet {packet} comes {first - self.next} octets ahead of its turn"
                self.flow.odd(packet, "out-of-order", sentence)
            self._insert(_Chunk(first, end, octets, ts_ns, packet, acked))
        if missing and end + missing > self.next:
            first = max(end, self.next)
            self._insert(_Chunk(first, end + missing, None, ts_ns, packet, acked))
        self.drain(ts_ns)
        while len(self.pending) > MAX_PENDING_CHUNKS or (
            self.pending and self.pending[-1].end - self.next > MAX_PENDING_OCTETS
        ):
            self.give_up_hole(self.pending[0].start, ts_ns, packet, "unproven")

    def _repeated(self, start: int, octets: bytes, packet: int, missing: int) -> None:
        """Octets that have been delivered before: compare, and tell."""
        end = start + len(octets)
        if len(octets) == 1 and end == self.next and not missing:
            if self._held(start, end) != octets:
                sentence = f"packet {packet} is a keepalive"
                self.flow.odd(packet, "keepalive", sentence)
                return
        elif start < 0:
            sentence = f"packet {packet} brings octets from before the first one captured"
            self.flow.odd(packet, "before-start", sentence)
        differs = self._differs(start, octets)
        filled = self._fill_gaps(start, octets, packet)
        if differs:
            sentence = (
                f"packet {packet} says otherwise about octets {max(start, 0)} to {end - 1} than "
                f"an earlier packet, which is believed"
            )
            self.flow.odd(packet, "overlap-conflict", sentence)
        elif not filled:
            sentence = f"packet {packet} repeats octets {max(start, 0)} to {end - 1}"
            self.flow.odd(packet, "retransmission", sentence)

    def _fill_gaps(self, start: int, octets: bytes, packet: int) -> bool:
        """Put octets where gaps were seen too soon: the capture has them late, after their
        acknowledgement."""
        at = max(bisect_right(self.pieces, max(start, 0), key=_piece_start) - 1, 0)
        filled = False
        while at < len(self.pieces) and _piece_start(gap := self.pieces[at]) < start + len(octets):
            at += 1
            if not isinstance(gap, Gap):
                continue
            recent = self.happened[-MAX_LATE_EVENTS:]
            parts = self._parts_of(gap, at, start, octets, packet) if gap in recent else []
            if parts:
                filled = True
                self.pieces[at - 1 : at] = parts
                place = len(self.happened) - len(recent) + recent.index(gap)
                self.happened[place : place + 1] = parts
                at += len(parts) - 1
        return filled

    def _parts_of(
        self, gap: Gap, following: int, start: int, octets: bytes, packet: int
    ) -> list[RawPiece | Gap]:
        """What becomes of ``gap`` with these octets in it; empty if they are elsewhere."""
        end = gap.start + gap.missing_octets
        first, last = max(gap.start, start), min(end, start + len(octets))
        if first >= last:
            return []
        later = self.pieces[following : following + 1]
        acked = min([self.acknowledged, *(one[5] for one in later if not isinstance(one, Gap))])
        middle = (
            self.side, gap.ts_ns, packet, first, octets[first - start : last - start], acked,
        )  # fmt: skip
        parts: list[RawPiece | Gap] = [middle]
        if first > gap.start:
            parts.insert(0, gap._replace(missing_octets=first - gap.start))
        if last < end:
            parts.append(gap._replace(start=last, missing_octets=end - last))
        sentence = f"packet {packet} brings octets {first} to {last - 1} late; they fill the gap"
        self.flow.odd(packet, "late", sentence)
        return parts

    def _differs(self, start: int, octets: bytes) -> bool:
        """Whether these octets contradict what was delivered from ``start`` on."""
        position = max(start, 0)
        end = start + len(octets)
        at = max(bisect_right(self.pieces, position, key=_piece_start) - 1, 0)
        while at < len(self.pieces) and _piece_start(piece := self.pieces[at]) < end:
            at += 1
            if not isinstance(piece, Gap):
                _, _, _, held_from, held, _ = piece
                first = max(position, held_from)
                last = min(end, held_from + len(held))
                ours = held[first - held_from : last - held_from]
                if first < last and ours != octets[first - start : last - start]:
                    return True
        return False

    def _held(self, start: int, end: int) -> bytes:
        """The delivered octets from ``start`` to ``end``, if one piece has them."""
        at = bisect_right(self.pieces, start, key=_piece_start) - 1
        piece = self.pieces[at] if at >= 0 else None
        if piece is None or isinstance(piece, Gap):
            return b""
        _, _, _, held_from, held, _ = piece
        return held[start - held_from : end - held_from]

    def _insert(self, chunk: _Chunk) -> None:
        """Put a chunk among the pending ones, keeping of it what none of them has."""
        at = bisect_right(self.pending, chunk.start, key=_chunk_end)
        upto = at
        position = chunk.start
        parts: list[_Chunk] = []
        while upto < len(self.pending) and self.pending[upto].start < chunk.end:
            old = self.pending[upto]
            if old.start > position:
                parts.append(chunk.cut(position, old.start))
            first, last = max(old.start, chunk.start), min(old.end, chunk.end)
            ours, theirs = old.cut(first, last).octets, chunk.cut(first, last).octets
            if ours is not None and theirs is not None and ours != theirs:
                sentence = (
                    f"packet {chunk.packet} says otherwise about octets {first} to {last - 1} "
                    f"than packet {old.packet}, which is believed"
                )
                self.flow.odd(chunk.packet, "overlap-conflict", sentence)
            parts.append(old)
            position = max(position, old.end)
            upto += 1
        if position < chunk.end:
            parts.append(chunk.cut(position, chunk.end))
        self.pending[at:upto] = parts

    def drain(self, ts_ns: int) -> None:
        """Deliver what no hole holds back, at ``ts_ns``."""
        ready, position = 0, self.next
        while ready < len(self.pending) and self.pending[ready].start == position:
            position = self.pending[ready].end
            ready += 1
        # Later octets were written later: where they were captured earlier (this one having been
        # lost, or overtaken), they bound what the sender had seen when it wrote these.
        acked = min((chunk.acknowledged for chunk in self.pending[ready:]), default=None)
        bounds: list[int] = []
        for chunk in reversed(self.pending[:ready]):
            acked = chunk.acknowledged if acked is None else min(acked, chunk.acknowledged)
            bounds.append(acked)
        for chunk, acked in zip(self.pending[:ready], reversed(bounds), strict=True):
            if chunk.octets is None:
                octets = chunk.end - chunk.start
                self._deliver(Gap(self.side, ts_ns, chunk.packet, chunk.start, octets, "cut"))
            else:
                self._deliver((self.side, ts_ns, chunk.packet, chunk.start, chunk.octets, acked))
        del self.pending[:ready]
        if self.fin is not None and not self.ended and self.fin_offset <= self.next:
            self.ended = True
            self.happened.append(self.fin._replace(ts_ns=ts_ns))

    def _deliver(self, event: RawPiece | Gap) -> None:
        self.pieces.append(event)
        self.happened.append(event)
        self.next += event.missing_octets if isinstance(event, Gap) else len(event[4])
        self.expected = (self.base + self.next) & SEQUENCE_MASK

    # -- ends -----------------------------------------------------------------------------------

    def take_fin(self, end: int, ts_ns: int, packet: int) -> None:
        """Take in a FIN that stands at ``end``; the first one counts."""
        if self.fin is None:
            self.fin = StreamEnd(self.side, ts_ns, packet, self.acknowledged, False)
            self.fin_offset = max(end, self.next)

    def take_reset(self, ts_ns: int, packet: int) -> None:
        """Take in a reset; the first one counts."""
        if not self.reset:
            self.reset = True
            self.happened.append(StreamEnd(self.side, ts_ns, packet, self.acknowledged, True))

    def acknowledged_in_the_end(self) -> int:
        """How much was acknowledged, but for what the reset itself says."""
        return self.acknowledged if self.taken is None else self.taken

    def stop(self) -> None:
        """Take in no more octets, and forget those that there are."""
        self.expected = FORGOTTEN
        self.pieces, self.happened = [], []
        self.pending.clear()
        self.fin = None

    # -- holes --------------------------------------------------------------------------------

    def give_up_acknowledged_holes(self, ts_ns: int, packet: int) -> None:
        """Go past the holes that the other side acknowledged: the capture missed them."""
        while self.next < (end := self._hole_end()) <= self.peer.acknowledged:
            self.give_up_hole(end, ts_ns, packet, "lost")

    def _hole_end(self) -> int:
        if self.pending:
            return self.pending[0].start
        if self.fin is not None:
            return self.fin_offset
        return self.next

    def give_up_hole(self, end: int, ts_ns: int, packet: int, why: str) -> None:
        """Go past the hole that reaches to ``end``."""
        octets = end - self.next
        reason = {
            "lost": f"though packet {self.peer.ack_packet} acknowledges them",
            "unproven": "and nothing acknowledges them",
        }[why]
        sentence = f"octets {self.next} to {end - 1} are not in the capture, {reason}"
        self.flow.odd(packet, "gap", sentence)
        self._deliver(Gap(self.side, ts_ns, packet, self.next, octets, why))
        self.drain(ts_ns)

    def finish(self) -> None:
        """No segment will follow: deliver what waits, and tell what is missing at the end."""
        while self.next < (end := self._hole_end()):
            waiting = self.pending[0] if self.pending else self.fin
            assert waiting is not None
            self.give_up_hole(end, waiting.ts_ns, waiting.packet, "unproven")
        silent = self.peer.acknowledged - self.next - (1 if self.ended else 0)
        if silent > 0 and self.flow.packets[self.side]:
            packet, ts_ns = self.flow.last_packet, self.flow.last_ns
            if silent == 1 and not self.ended:
                sentence = "one more octet or a FIN was acknowledged, which is not in the capture"
                self.flow.odd(packet, "gap", sentence)
            else:
                self.give_up_hole(self.next + silent, ts_ns, packet, "lost")
