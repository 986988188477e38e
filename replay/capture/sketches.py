"""Sketches: connections that are looked at before anything is built for them.

In a capture of very many flows, a new one begins as a sketch: its first segments are held until the
first octets of each side tell what it is.  If it may be wanted, it is *followed*: the segments go
to the reassembler as if they had come just now.  Else they are let go, and of what comes later only
packets are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from replay.capture.flow import Endpoint, Flow, not_kept
from replay.capture.oddity import Oddity
from replay.capture.segments import ACK, FIN, RST, SYN, Segment
from replay.capture.stream import SEQUENCE_MASK

SKETCHES_FROM_FLOWS = 10_000
"""Flows of a capture that are followed whatever they are; later ones begin as sketches."""

SKETCHES_MAX = 65_536
"""Sketches at one time.  Above, the quarter that has been idle for longest is finished."""

SKETCH_SEGMENTS_MAX = 16
"""What is held of a connection while its first octets do not tell what it is."""

Ends = tuple[bytes, int, bytes, int]
"""Address and port of a segment's sender, and of its receiver."""

FirstJudge = Callable[[bytes, bytes, int], str | None]
"""Says by the first octets of client and server, and the server's port, why a connection is not
wanted; empty where it may be, None as long as that cannot be told."""


class FlowSketch:
    """A connection of which little is kept.

    ``ends`` are those of its first segment, which is a SYN; ``sides`` are those of ``segments``;
    ``first`` are the first octets of each side, and ``next_seq`` is where they have to stand;
    ``reason`` says why it is not wanted; ``over`` has a bit for each side that has ended.
    """

    __slots__ = (
        *("ends", "first", "first_ns", "first_packet", "last_ns", "last_packet", "next_seq"),
        *("number", "over", "packets", "reason", "segments", "sides", "told"),
    )

    def __init__(self, number: int, segment: Segment) -> None:
        self.number = number
        self.ends: Ends = segment[2:6]
        self.first_packet, self.first_ns = segment[:2]
        self.last_packet, self.last_ns = segment[:2]
        self.packets = [1, 0]
        self.segments = [segment]
        self.sides = [0]
        self.first = [b"", b""]
        self.next_seq: list[int | None] = [(segment.seq + 1) & SEQUENCE_MASK, None]
        self.over = 0
        self.reason = self.told = ""

    def let_go(self, reason: str) -> None:
        """It is not wanted: forget its segments."""
        self.reason = reason
        octets = [0, 0]
        for one, side in zip(self.segments, self.sides, strict=True):
            octets[side] += len(one.payload)
        self.told = not_kept(octets, self.last_packet, reason)
        self.segments, self.sides = [], []

    def as_flow(self) -> Flow:
        """What is known of it."""
        src, sport, dst, dport = self.ends
        ends = Endpoint(src, sport), Endpoint(dst, dport)
        flow = Flow(self.number, ends, self.first_ns, self.first_packet)
        flow.opener = 0
        flow.accepted = self.next_seq[1] is not None
        flow.last_ns, flow.last_packet = self.last_ns, self.last_packet
        flow.packets = self.packets
        flow.forgotten = self.reason
        flow.oddities.append(Oddity(self.last_packet, "not-kept", self.told))
        return flow


class Sketches:
    """The sketches of a reassembler.

    ``by_ends`` has each under the ends of both directions, with the side that sends so; ``judge``
    looks at first octets, ``next_number`` counts a new flow, ``follow`` takes one that may be
    wanted, and the others go to ``over``.
    """

    __slots__ = ("_follow", "_judge", "_next_number", "_over", "_seen_ns", "by_ends")

    def __init__(
        self,
        judge: FirstJudge,
        next_number: Callable[[], int],
        follow: Callable[[FlowSketch], None],
        over: list[Flow],
    ) -> None:
        self.by_ends: dict[Ends, tuple[FlowSketch, int]] = {}
        self._judge = judge
        self._next_number = next_number
        self._follow = follow
        self._over = over
        self._seen_ns = 0

    def take(self, found: tuple[FlowSketch, int] | None, segment: Segment) -> bool:
        """Take a segment into the sketch that was found for it, or into a new one; False if there
        is none to be."""
        number, ts_ns, src, sport, dst, dport, seq, _, flags, _, payload, missing = segment
        if found is None:
            if flags & (SYN | ACK | RST | FIN) != SYN or payload:
                return False
            sketch = FlowSketch(self._next_number(), segment)
            if (src, sport) != (dst, dport) and self._judge(b"", b"", dport) is None:
                self.by_ends[src, sport, dst, dport] = sketch, 0
                self.by_ends[dst, dport, src, sport] = sketch, 1
            else:
                self._follow(sketch)
            return True
        sketch, side = found
        if flags & SYN and not self._is_its_syn(sketch, side, seq):
            self._finish(sketch)  # the ports are used anew
            return self.take(None, segment)
        sketch.last_ns = ts_ns
        sketch.last_packet = number
        sketch.packets[side] += 1
        if sketch.reason:
            sketch.over |= 3 if flags & RST else (flags & FIN) << side
            return True
        sketch.segments.append(segment)
        sketch.sides.append(side)
        is_enough = not (flags & (RST | FIN) or missing or len(sketch.sides) >= SKETCH_SEGMENTS_MAX)
        if payload and is_enough and not sketch.first[side]:
            is_enough = self._begins_unwanted(sketch, side, seq, payload)
        if not is_enough:
            self._remove(sketch)
            self._follow(sketch)
        return True

    def _is_its_syn(self, sketch: FlowSketch, side: int, seq: int) -> bool:
        next_seq = (seq + 1) & SEQUENCE_MASK
        if side == 1 and sketch.next_seq[1] is None:
            sketch.next_seq[1] = next_seq
        return next_seq == sketch.next_seq[side]

    def _begins_unwanted(self, sketch: FlowSketch, side: int, seq: int, payload: bytes) -> bool:
        """Look at the first octets of a side; False if more than a sketch is needed."""
        if seq != sketch.next_seq[side]:
            return False
        sketch.first[side] = payload
        reason = self._judge(sketch.first[0], sketch.first[1], sketch.ends[3])
        if reason:
            sketch.let_go(reason)
        return reason != ""

    def _remove(self, sketch: FlowSketch) -> None:
        src, sport, dst, dport = sketch.ends
        del self.by_ends[src, sport, dst, dport], self.by_ends[dst, dport, src, sport]

    def _finish(self, sketch: FlowSketch) -> None:
        self._remove(sketch)
        if sketch.reason:
            self._over.append(sketch.as_flow())
        else:
            self._follow(sketch)

    def keep_bounds(self, now_ns: int, until_ns: int) -> None:
        """Let those go that were over by ``until_ns``, which are looked for once in as long; and
        the idlest if there are too many."""
        many = len(self.by_ends) > 2 * SKETCHES_MAX
        if not many and (not self.by_ends or self._seen_ns > until_ns):
            return
        self._seen_ns = now_ns
        for one in self._all():
            if one.over == 3 and one.last_ns < until_ns:
                self._finish(one)
        if len(self.by_ends) > 2 * SKETCHES_MAX:
            for one in sorted(self._all(), key=attrgetter("last_ns"))[: SKETCHES_MAX // 4]:
                self._finish(one)

    def finish(self) -> None:
        """No segment will follow."""
        for one in self._all():
            self._finish(one)

    def _all(self) -> list[FlowSketch]:
        return [sketch for sketch, side in self.by_ends.values() if side == 0]
