"""From TCP segments to flows (RFC 9293 section 3.4), without papering over what is missing.

Sequence numbers are extended to 64 bits by their distance from the next one expected.  What was
seen first wins: a retransmission, whatever its boundaries, adds only octets that are new, and if
it says otherwise about old ones that is an oddity.  A hole holds back what follows it until it is
filled, or until the other side acknowledges it, which proves that the capture missed it.

Times of a flow never run backwards: packets count in file order, and a time before the one already
reached is raised to it and told as an oddity.

Memory stays bounded however long the capture is: a flow is returned some time after it has ended,
or when there are too many of them; octets of flows that are not wanted (``Judge``) are forgotten
when those of all open flows become too many.  Captures of ordinary size come to none of this.
Nor to sketches (``FlowSketch``): in a capture of very many flows, nothing is built for one before
its first octets have told that it may be wanted; of others the octets are not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import attrgetter

from replay.capture.flow import SILENCE_MAX_NS, Endpoint, Flow
from replay.capture.oddity import Oddity
from replay.capture.segments import ACK, FIN, RST, SYN, Segment
from replay.capture.sketches import (
    SKETCHES_FROM_FLOWS,
    Ends,
    FirstJudge,
    FlowSketch,
    Sketches,
)
from replay.capture.stream import FORGOTTEN, MAX_JUMP_OCTETS, SEQUENCE_MASK, DirectionStream

MAX_OPEN_FLOWS = 65_536
"""Flows followed at one time.  Above, the quarter that has been idle for longest is given up."""

MAX_OPEN_OCTETS = 256 << 20
"""What open flows may keep.  Above, the largest are followed no further."""

JUDGED_FROM_OCTETS = 64 << 20
"""Each time open flows keep so much more, those that are not wanted are looked for."""

PIECE_OCTETS = 320
"""What a piece takes beside its octets: objects, and places in lists."""

LINGER_NS = 30 * 1_000_000_000
"""How long after its end a flow may still get packets that belong to it."""

BATCH_SEGMENTS = 4096
"""How often the bounds are looked after."""

Judge = Callable[[Flow], str]
"""Says of an open flow why it is not wanted; empty as long as it may be."""

_number = attrgetter("flow.number")
_last_ns = attrgetter("flow.last_ns")
_side = attrgetter("side")


class _OpenFlow:
    """A flow that packets may still belong to, and how far the reassembler is with it.

    ``judged_events`` is how many events it had when it was last judged.
    """

    __slots__ = ("flow", "half", "is_leaving", "is_returned", "judged_events")

    def __init__(self, flow: Flow, half: DirectionStream) -> None:
        self.flow = flow
        self.half = half  # that of side 0; the other is its peer
        self.is_leaving = self.is_returned = False
        self.judged_events = 0


def _wanted(flow: Flow) -> str:
    return ""


def _wanted_from_the_first(client: bytes, server: bytes, server_port: int) -> str | None:
    return ""


class Reassembler:
    """Sorts segments into flows: ``walk`` through them in file order."""

    __slots__ = (
        "_disordered", "_ending", "_given_up", "_halves", "_judge", "_judged_at",
        "_kept_octets", "_leaving", "_now_ns", "_number", "_oddities", "_open", "_over",
        "_sketches", "_sketches_from_flows",
    )  # fmt: skip

    def __init__(
        self,
        oddities: list[Oddity],
        judge: Judge = _wanted,
        first_judge: FirstJudge = _wanted_from_the_first,
        sketches_from_flows: int = SKETCHES_FROM_FLOWS,
    ) -> None:
        self._sketches_from_flows = sketches_from_flows
        self._halves: dict[Ends, DirectionStream] = {}
        self._open: dict[int, _OpenFlow] = {}  # by number of the flow
        self._leaving: deque[tuple[int, _OpenFlow]] = deque()  # ended then; packets may follow
        self._over: list[Flow] = []
        self._sketches = Sketches(first_judge, self._next_number, self._follow, self._over)
        self._number = 0
        self._now_ns = 0
        self._kept_octets = 0
        self._ending = False
        self._judge = judge
        self._judged_at = JUDGED_FROM_OCTETS
        self._given_up: list[int] = []  # count of flows, packet of the first
        self._disordered: list[int] = []  # the same
        self._oddities = oddities

    def walk(self, segments: Iterable[Segment]) -> Iterator[Flow]:
        """Take in segments, and yield each flow when it is over; at the latest in the end."""
        segments = iter(segments)
        while self._feed(islice(segments, BATCH_SEGMENTS)):
            self._keep_bounds()
            if self._over:
                yield from self._over
                self._over.clear()
        self._ending = True
        self._sketches.finish()
        for one in sorted(self._open.values(), key=_number):
            self._finish(one)
        yield from self._over
        self._over.clear()
        if self._disordered:
            count, packet = self._disordered
            connections = f"{count} connections do" if count > 1 else "a connection does"
            sentence = (
                f"the packets of {connections} not stand in the order of their times: neither "
                f"times nor what followed what can be told; 'reordercap FILE NEW-FILE' "
                f"(Wireshark) puts a file in order"
            )
            self._oddities.append(Oddity(packet, "time-order", sentence))
        if self._given_up:
            count, packet = self._given_up
            sentence = (
                f"{count} connections, idle for longest, were followed no further: more than "
                f"{MAX_OPEN_FLOWS} were open at a time, packet {packet} first"
            )
            self._oddities.append(Oddity(packet, "too-many-flows", sentence))

    def _feed(self, segments: Iterable[Segment]) -> bool:
        """Take in segments; False if there are none.  The loop holds the ordinary case;
        ``_feed_unusual`` the rest."""
        halves = self._halves
        sketching = self._number >= self._sketches_from_flows
        sketches = self._sketches.by_ends
        number = ts_ns = kept_octets = 0
        for segment in segments:
            number, ts_ns, src, sport, dst, dport, seq, ack, flags, _, payload, missing = segment
            ends = (src, sport, dst, dport)
            half = halves.get(ends)
            if half is None and sketching:
                found = sketches.get(ends)
                if found is not None and found[0].reason and not flags & 0x07:
                    sketch, side = found
                    sketch.last_ns = ts_ns
                    sketch.last_packet = number
                    sketch.packets[side] += 1
                    continue
                if self._sketches.take(found, segment):
                    continue
                half = halves.get(ends)  # of what is more than a sketch from now on
            if (
                half is None
                or seq != half.expected
                or flags & 0x17 != ACK
                or missing
                or half.pending
                or half.peer.pending
                or half.fin is not None
                or half.peer.fin is not None
                or ts_ns < half.flow.last_ns
            ):
                if half is not None and half.expected == FORGOTTEN:
                    self._feed_forgotten(half, segment)
                else:
                    self._feed_unusual(half, segment)
                continue
            flow = half.flow
            flow.last_ns = ts_ns
            flow.last_packet = number
            side = half.side
            flow.packets[side] += 1
            if ack != half.ack_number:
                half.acknowledge(ack, number)
            if payload:
                start = half.next
                octets = len(payload)
                piece = (side, ts_ns, number, start, payload, half.acknowledged)
                half.pieces.append(piece)
                half.happened.append(piece)
                half.next = start + octets
                half.expected = (seq + octets) & SEQUENCE_MASK
                kept_octets += octets + PIECE_OCTETS
        self._kept_octets += kept_octets
        self._now_ns = ts_ns
        return number > 0

    def _follow(self, sketch: FlowSketch) -> None:
        """Build for a sketch what a flow needs, and take its segments in."""
        half = self._begin(sketch.segments[0], sketch.number)
        for one, side in zip(sketch.segments, sketch.sides, strict=True):
            self._feed_unusual(half.peer if side else half, one)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    # -- what is not the ordinary case --------------------------------------------------------

    def _feed_unusual(self, half: DirectionStream | None, segment: Segment) -> None:
        if half is None or self._is_another_connection(half, segment):
            half = self._begin(segment)
        flow, peer = half.flow, half.peer
        number, flags, seq = segment.number, segment.flags, segment.seq
        ts_ns = segment.ts_ns
        if ts_ns < flow.last_ns:
            flow.step_back(number, ts_ns)
        flow.last_ns = ts_ns
        flow.last_packet = number
        flow.packets[half.side] += 1
        if flags & SYN:
            seq = (seq + 1) & SEQUENCE_MASK
            self._synchronize(half, segment, seq)
        elif not flags & RST and not half.pieces:
            half.guess_begin(seq, bool(segment.payload))
        if flags & RST and half.taken is None:
            half.taken = half.acknowledged
        if flags & ACK:
            half.acknowledge(segment.ack, number)
            peer.give_up_acknowledged_holes(ts_ns, number)
        if segment.payload or segment.missing_octets or flags & FIN:
            if half.expected is None:
                half.begin(seq)
            start = half.offset(seq)
            if flags & FIN:
                end = start + len(segment.payload) + segment.missing_octets
                half.take_fin(end, ts_ns, number)
            half.accept(start, segment.payload, segment.missing_octets, ts_ns, number)
            self._kept_octets += len(segment.payload) + PIECE_OCTETS
        half.give_up_acknowledged_holes(ts_ns, number)
        if flags & RST:
            half.take_reset(ts_ns, number)
        if flags & (FIN | RST) or half.fin is not None:
            self._see_off(half)

    def _feed_forgotten(self, half: DirectionStream, segment: Segment) -> None:
        """A segment of a flow that is no longer followed: it is counted."""
        flow, flags = half.flow, segment.flags
        if flags & SYN and (segment.seq + 1) & SEQUENCE_MASK != half.base:
            self._feed_unusual(None, segment)
            return
        flow.last_ns = max(segment.ts_ns, flow.last_ns)  # nothing is mended any more
        flow.last_packet = segment.number
        flow.packets[half.side] += 1
        if flags & (FIN | RST):
            half.reset = half.reset or bool(flags & RST)
            half.ended = True
            self._see_off(half)

    def _see_off(self, half: DirectionStream) -> None:
        """Let the flow go some time after it has ended."""
        peer = half.peer
        over = half.reset or peer.reset or (half.ended and peer.ended)
        if over and not (one := self._open[half.flow.number]).is_leaving:
            one.is_leaving = True
            self._leaving.append((half.flow.last_ns, one))

    def _is_another_connection(self, half: DirectionStream, segment: Segment) -> bool:
        """Whether the ports were reused: a new initial sequence number, or one out of reach."""
        if half.expected is None or segment.flags & RST:
            return False
        if segment.flags & SYN:
            if self._has_ended_long_ago(half, segment):
                return True
            begun = half.pieces or half.ended or half.reset or half.peer.pieces
            first = (segment.seq + 1) & SEQUENCE_MASK
            return first != half.base and bool(begun or not segment.flags & ACK)
        if not segment.payload:
            return False
        far = abs(half.offset(segment.seq) - half.next) > MAX_JUMP_OCTETS
        if far:
            sentence = (
                f"packet {segment.number} is too far from connection {half.flow.number}'s octets; "
                f"a new connection of the same ports is assumed"
            )
            self._oddities.append(Oddity(segment.number, "stream-jump", sentence))
        return far

    def _has_ended_long_ago(self, half: DirectionStream, segment: Segment) -> bool:
        """Whether the same numbers come again as a connection of their own: no late packet does
        after so long."""
        one = self._open[half.flow.number]
        is_first = segment.flags & (SYN | ACK) == SYN
        return one.is_leaving and is_first and segment.ts_ns - half.flow.last_ns > LINGER_NS

    def _begin(self, segment: Segment, number: int = 0) -> DirectionStream:
        """Begin a flow with its first segment; it has a ``number`` already if it was a sketch."""
        near = Endpoint(segment.src, segment.sport)
        far = Endpoint(segment.dst, segment.dport)
        if (before := self._halves.get(near + far)) is not None:
            self._finish(self._open[before.flow.number])
        if not number:
            number = self._number = self._number + 1
        flow = Flow(number, (near, far), segment.ts_ns, segment.number)
        half, peer = DirectionStream(flow, 0), DirectionStream(flow, 1)
        half.peer, peer.peer = peer, half
        self._halves[near + far] = half
        self._halves[far + near] = peer
        self._open[flow.number] = _OpenFlow(flow, half)
        return half

    def _synchronize(self, half: DirectionStream, segment: Segment, first: int) -> None:
        """A SYN: it names the sequence number of its side's first octet."""
        if half.expected is None or half.base != first:
            half.begin(first)
        elif segment.flags & SYN and half.flow.opener is not None:
            sentence = f"packet {segment.number} repeats a SYN"
            half.flow.odd(segment.number, "retransmission", sentence)
        if segment.flags & ACK:
            half.flow.opener = 1 - half.side
            half.flow.accepted = True
        else:
            half.flow.opener = half.side

    # -- bounds -------------------------------------------------------------------------------

    def _keep_bounds(self) -> None:
        until_ns = self._now_ns - LINGER_NS
        self._sketches.keep_bounds(self._now_ns, until_ns)
        while self._leaving and (
            self._leaving[0][0] < until_ns or len(self._open) > MAX_OPEN_FLOWS
        ):
            ended_ns, one = self._leaving.popleft()
            if ended_ns >= until_ns or one.flow.last_ns < until_ns:
                self._finish(one)
            else:
                self._leaving.append((one.flow.last_ns, one))
        if len(self._open) > MAX_OPEN_FLOWS:
            self._give_up_idle()
        if self._kept_octets > self._judged_at:
            self._forget_unwanted()

    def _finish(self, one: _OpenFlow) -> None:
        """Follow a flow no further, and return it, once."""
        flow, half = one.flow, one.half
        if self._open.pop(flow.number, None) is None:
            return
        peer = half.peer
        near, far = flow.ends
        for key, stream in ((near + far, half), (far + near, peer)):
            if self._halves.get(key) is stream:
                del self._halves[key]
        if half.expected != FORGOTTEN:
            if not self._ending:
                self._kept_octets -= _weight(half)
            self._close(half)
        if not one.is_returned:
            self._return(one)
        del half.peer, peer.peer  # what refers to each other stays for longer

    def _close(self, half: DirectionStream) -> None:
        """No more octets of this flow will be taken in."""
        flow = half.flow
        for one in sorted((half, half.peer), key=_side):
            one.finish()
            flow.acknowledged[one.side] = one.acknowledged_in_the_end()
        flow.tell_doubles()
        times_may_be_wrong = flow.steps_back or flow.last_ns - flow.first_ns > SILENCE_MAX_NS
        if times_may_be_wrong and not flow.mend_times():
            self._disordered = self._disordered or [0, flow.first_packet]
            self._disordered[0] += 1

    def _return(self, one: _OpenFlow) -> None:
        flow = one.flow
        if flow.untold:
            sentence = f"{flow.untold} more oddities of this connection are not told"
            flow.oddities.append(Oddity(flow.last_packet, "untold", sentence))
        one.is_returned = True
        self._over.append(flow)

    def _give_up_idle(self) -> None:
        idlest = sorted(self._open.values(), key=_last_ns)[: MAX_OPEN_FLOWS // 4]
        self._given_up = self._given_up or [0, idlest[0].flow.first_packet]
        self._given_up[0] += len(idlest)
        for one in idlest:
            self._finish(one)

    def _forget_unwanted(self) -> None:
        """Forget the octets of flows that are not wanted; follow the largest no further if what is
        left is still too much."""
        kept: list[tuple[int, int, _OpenFlow]] = []
        for one in self._open.values():
            flow, half = one.flow, one.half
            if half.expected == FORGOTTEN:
                continue
            if len(flow.happened) != one.judged_events and (reason := self._judge(flow)):
                self._close(half)
                flow.forget(reason)
                _stop(half)
            else:
                one.judged_events = len(flow.happened)
                kept.append((_weight(half), flow.number, one))
        total = sum(octets for octets, _, _ in kept)
        for octets, _, one in sorted(kept, reverse=True):
            if total <= MAX_OPEN_OCTETS:
                break
            flow = one.flow
            self._close(one.half)
            sentence = (
                f"after packet {flow.last_packet} the connection is followed no further: open ones "
                f"hold more than {MAX_OPEN_OCTETS >> 20} MiB"
            )
            flow.oddities.append(Oddity(flow.last_packet, "not-kept", sentence))
            _stop(one.half)
            self._return(one)
            total -= octets
        self._kept_octets = total
        self._judged_at = total + JUDGED_FROM_OCTETS


def _weight(half: DirectionStream) -> int:
    """The memory that a flow takes."""
    waiting = half.pending + half.peer.pending
    octets = sum(len(chunk.octets or b"") + PIECE_OCTETS for chunk in waiting)
    return octets + half.flow.kept_octets(PIECE_OCTETS)


def _stop(half: DirectionStream) -> None:
    """Take in no more of a flow's octets, and forget what served for that."""
    half.stop()
    half.peer.stop()


def reassemble(segments: Iterable[Segment], oddities: list[Oddity]) -> list[Flow]:
    """Sort ``segments`` into flows, by the place of their first packet.  What concerns no single
    flow goes to ``oddities``."""
    return sorted(Reassembler(oddities).walk(segments), key=attrgetter("number"))
