"""From TCP segments to flows (RFC 9293 section 3.4), without papering over what is missing.

Sequence numbers are extended to 64 bits by their distance from the next one expected.  What was
seen first wins: a retransmission, whatever its boundaries, adds only octets that are new, and if
it says otherwise about old ones that is an oddity.  A hole holds back what follows it until it is
filled, or until the other side acknowledges it, which proves that the capture missed it.

Times of a flow never run backwards: packets count in file order, and a time before the one already
reached is raised to it and told as an oddity.
"""

from __future__ import annotations

from collections.abc import Iterable

from replay.flow import End, Endpoint, Flow
from replay.half import MAX_JUMP_OCTETS, SEQUENCE_MASK, Half
from replay.oddity import Oddity
from replay.packet import ACK, FIN, RST, SYN, Segment

MAX_FLOWS = 65_536
"""Flows followed in one capture."""


class Reassembler:
    """Sorts segments into flows; ``feed`` them in file order, then ``finish``."""

    __slots__ = ("_flows", "_halves", "_oddities", "_overflowed")

    def __init__(self, oddities: list[Oddity]) -> None:
        self._halves: dict[tuple[bytes, int, bytes, int], Half] = {}
        self._flows: list[tuple[Flow, Half, Half]] = []
        self._oddities = oddities
        self._overflowed = False

    def feed(self, segments: Iterable[Segment]) -> None:
        """Take in segments.  The loop holds the ordinary case; ``_feed_unusual`` the rest."""
        halves = self._halves
        for segment in segments:
            number, ts_ns, src, sport, dst, dport, seq, ack, flags, _, payload, missing = segment
            half = halves.get((src, sport, dst, dport))
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
                piece = (side, ts_ns, number, start, payload, half.acknowledged)
                half.pieces.append(piece)
                half.happened.append(piece)
                half.next = start + len(payload)
                half.expected = (seq + len(payload)) & SEQUENCE_MASK

    def finish(self) -> list[Flow]:
        """All flows, by the place of their first packet."""
        for flow, *halves in self._flows:
            for half in halves:
                half.finish()
                taken = half.acknowledged if half.taken is None else half.taken
                flow.acknowledged[half.side] = taken
            if flow.untold:
                sentence = f"{flow.untold} more oddities of this connection are not told"
                flow.oddities.append(Oddity(flow.last_packet, "untold", sentence))
        return [flow for flow, *_ in self._flows]

    # -- what is not the ordinary case --------------------------------------------------------

    def _feed_unusual(self, half: Half | None, segment: Segment) -> None:
        if half is None or self._is_another_connection(half, segment):
            half = self._open(segment)
            if half is None:
                return
        flow, peer = half.flow, half.peer
        number, flags, seq = segment.number, segment.flags, segment.seq
        ts_ns = segment.ts_ns
        if ts_ns < flow.last_ns:
            sentence = (
                f"packet {number} claims a time {flow.last_ns - ts_ns} ns before an earlier "
                f"packet's; it is taken as simultaneous"
            )
            flow.odd(number, "time-backwards", sentence)
            ts_ns = flow.last_ns
        flow.last_ns = ts_ns
        flow.last_packet = number
        flow.packets[half.side] += 1
        if flags & SYN:
            seq = (seq + 1) & SEQUENCE_MASK
            self._synchronize(half, segment, seq)
        if flags & RST and half.taken is None:
            half.taken = half.acknowledged
        if flags & ACK:
            half.acknowledge(segment.ack, number)
            peer.give_up_acknowledged_holes(ts_ns, number)
        if segment.payload or segment.missing_octets or flags & FIN:
            if half.expected is None:
                half.begin(seq)
            start = half.offset(seq)
            end = start + len(segment.payload) + segment.missing_octets
            if flags & FIN and half.fin is None:
                half.fin = End(half.side, ts_ns, number, half.acknowledged, False)
                half.fin_offset = max(end, half.next)
            half.accept(start, segment.payload, segment.missing_octets, ts_ns, number)
        half.give_up_acknowledged_holes(ts_ns, number)
        if flags & RST and not half.reset:
            half.reset = True
            flow.happened.append(End(half.side, ts_ns, number, half.acknowledged, True))

    def _is_another_connection(self, half: Half, segment: Segment) -> bool:
        """Whether the ports were reused: a new initial sequence number, or one out of reach."""
        if half.expected is None or segment.flags & RST:
            return False
        if segment.flags & SYN:
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

    def _open(self, segment: Segment) -> Half | None:
        """Begin a flow with its first segment; None if there are too many."""
        if len(self._flows) >= MAX_FLOWS:
            if not self._overflowed:
                self._overflowed = True
                sentence = (
                    f"from packet {segment.number} on new connections are left out: there are "
                    f"more than {MAX_FLOWS}"
                )
                self._oddities.append(Oddity(segment.number, "too-many-flows", sentence))
            return None
        near = Endpoint(segment.src, segment.sport)
        far = Endpoint(segment.dst, segment.dport)
        flow = Flow(len(self._flows) + 1, (near, far), segment.ts_ns, segment.number)
        half, peer = Half(flow, 0), Half(flow, 1)
        half.peer, peer.peer = peer, half
        self._halves[near + far] = half
        self._halves[far + near] = peer
        self._flows.append((flow, half, peer))
        return half

    def _synchronize(self, half: Half, segment: Segment, first: int) -> None:
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


def reassemble(segments: Iterable[Segment], oddities: list[Oddity]) -> list[Flow]:
    """Sort ``segments`` into flows.  What concerns no single flow goes to ``oddities``."""
    reassembler = Reassembler(oddities)
    reassembler.feed(segments)
    return reassembler.finish()
