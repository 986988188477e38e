"""What reassembly makes of segments: flows, and what happened in them in order.

A flow has two sides, 0 (the sender of its first packet) and 1.  Its ``events`` stand in the order
in which they became true: octets that arrive ahead of a hole count from when it was filled.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from replay.capture.oddity import Oddity, span

MAX_FLOW_ODDITIES = 200
"""Oddities told one by one for a flow; the rest are counted."""


SILENCE_MAX_NS = 30 * 86_400 * 1_000_000_000
"""No connection is silent for longer and goes on: such a first or last time is a wrong one."""

DISORDER_SHARE, DISORDER_RUN = 4, 3
"""Times are in no order where one event in so many stands aside, in runs of so many or more."""


DOUBLES_SHARE, DOUBLES_MIN = (4, 5), 3
"""A connection was captured twice where so many of its segments are repeated, of so many."""


class Piece(NamedTuple):
    """Octets as one segment carried them, once they could be delivered.

    ``ts_ns`` is when the segment that made them deliverable was seen, which is a later one where
    they came out of order.  ``packet`` carried them.  ``start`` is their place in the stream of
    ``side``.  ``acknowledged`` is how many octets of the other side the sender had acknowledged
    when it sent them: it had seen no more than the network had brought it, and may have seen
    all of these.  A FIN counts as one octet after the last.
    """

    side: int
    ts_ns: int
    packet: int
    start: int
    octets: bytes
    acknowledged: int


class Gap(NamedTuple):
    """Octets that were sent but are not in the capture.  ``why`` is ``lost`` (the other side
    acknowledged them), ``unproven`` (later octets follow, but nothing acknowledges) or ``cut``
    (the capture's snapshot length)."""

    side: int
    ts_ns: int
    packet: int
    start: int
    missing_octets: int
    why: str


class StreamEnd(NamedTuple):
    """``side`` finished its stream (FIN), or aborted the connection (``is_reset``)."""

    side: int
    ts_ns: int
    packet: int
    acknowledged: int
    is_reset: bool


class TlsStart(NamedTuple):
    """Where the client began TLS, in a flow that was opened with recorded keys.

    ``is_first`` says that nothing was sent in the clear before it.
    """

    ts_ns: int
    packet: int
    acknowledged: int
    is_first: bool


Event = Piece | Gap | StreamEnd

RawPiece = tuple[int, int, int, int, bytes, int]
"""The fields of a ``Piece``.  Millions of them are kept, and unlike named tuples plain ones are
left alone by the garbage collector, which else takes a third of the time."""


class Endpoint(NamedTuple):
    """One end of a flow; ``address`` is packed, 4 or 16 octets."""

    address: bytes
    port: int

    def host(self) -> str:
        """The address as text."""
        return str(ipaddress.ip_address(self.address))

    def __str__(self) -> str:
        host = self.host()
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Flow:
    """One TCP connection, or as much of it as was captured."""

    __slots__ = (
        "_events",
        "_suspects",
        "accepted",
        "acknowledged",
        "client",
        "ends",
        "first_ns",
        "first_packet",
        "forgotten",
        "happened",
        "last_ns",
        "last_packet",
        "number",
        "oddities",
        "opener",
        "packets",
        "steps_back",
        "tls",
        "untold",
    )  # fmt: skip

    number: int
    """Counts the flows of a capture from 1."""
    ends: tuple[Endpoint, Endpoint]
    opener: int | None
    """The side that connected, where the handshake was captured."""
    accepted: bool
    """Whether the other side was seen to accept."""
    first_ns: int
    last_ns: int
    happened: list[RawPiece | Gap | StreamEnd]
    """The events as plain tuples, in order so far; read ``events`` instead."""
    oddities: list[Oddity]
    steps_back: int
    """How many packets claim a time before that of the packet before them."""
    packets: list[int]
    """How many segments each side sent."""
    forgotten: str
    """Why the octets are not kept, where they were forgotten to keep memory bounded."""
    client: int | None
    """The client's side, where that was told before the octets were forgotten."""
    tls: TlsStart | None
    """Where TLS began, in a flow that was opened with recorded keys."""
    acknowledged: list[int]
    """How many octets of the other side each side had acknowledged in the end.  A reset's own
    acknowledgement does not count: some systems acknowledge what they refuse."""

    def __init__(self, number: int, ends: tuple[Endpoint, Endpoint], ts_ns: int, packet: int):
        self.number = number
        self.ends = ends
        self.opener = None
        self.accepted = False
        self.steps_back = 0
        self._suspects: list[tuple[int, int]] = []  # packets around steps back, and their times
        self.forgotten = ""
        self.client = None
        self.tls = None
        self.first_ns = self.last_ns = ts_ns
        self.first_packet = self.last_packet = packet
        self._events: list[Event] | None = None
        self.happened = []
        self.oddities = []
        self.untold = 0
        self.packets = [0, 0]
        self.acknowledged = [0, 0]

    @property
    def events(self) -> list[Event]:
        """What happened, in order.  To be read when the flow is complete."""
        if self._events is None:
            self._events = [
                Piece(*event) if type(event) is tuple else event  # type: ignore[misc]
                for event in self.happened
            ]
        return self._events

    def kept_octets(self, octets_each: int) -> int:
        """The memory that its events take, if one takes ``octets_each`` beside its octets."""
        octets = (len(self.happened) + len(self.oddities)) * octets_each
        # Plain tuples are pieces.  It is asked of all open flows at a time, so it has to be quick.
        pieces: list[RawPiece] = [one for one in self.happened if type(one) is tuple]  # type: ignore[misc]
        return octets + sum([len(piece[4]) for piece in pieces])

    def said(self) -> Iterator[tuple[int, bytes]]:
        """Side and octets of each piece so far, in order."""
        for event in self.happened:
            if not isinstance(event, Gap | StreamEnd):
                side, _, _, _, octets, _ = event
                yield side, octets

    def forget(self, reason: str) -> None:
        """Forget the octets, for this reason."""
        self.forgotten = reason
        octets = [0, 0]
        for side, said in self.said():
            octets[side] += len(said)
        sentence = not_kept(octets, self.last_packet, reason)
        del self.oddities[:]
        self.oddities.append(Oddity(self.last_packet, "not-kept", sentence))
        self.happened = []
        self._events = None

    def tell_doubles(self) -> None:
        """Say once what is true of the whole connection: that each of its segments is there twice,
        which no network does."""
        repeats = [one for one in self.oddities if one.kind == "retransmission"]
        if len(repeats) < DOUBLES_MIN:
            return
        pieces = sum(1 for one in self.happened if not isinstance(one, Gap | StreamEnd))
        enough = min(pieces, MAX_FLOW_ODDITIES) * DOUBLES_SHARE[0] // DOUBLES_SHARE[1]
        if pieces < DOUBLES_MIN or len(repeats) < enough:
            return
        self.oddities = [one for one in self.oddities if one.kind != "retransmission"]
        sentence = (
            f"packet {repeats[0].packet} and {len(repeats) - 1} more repeat what is in the capture "
            f"already: it was made at two places, or of an interface and its bridge; the first of "
            f"each is used"
        )
        self.oddities.append(Oddity(repeats[0].packet, "seen-twice", sentence))

    def step_back(self, packet: int, ts_ns: int) -> None:
        """Note that ``packet`` claims a time before that of the packet before it."""
        self.steps_back += 1
        if len(self._suspects) < MAX_FLOW_ODDITIES:
            self._suspects += ((self.last_packet, self.last_ns), (packet, ts_ns))

    def mend_times(self) -> bool:
        """Set aside times that cannot be, and let the rest keep theirs; False where so many
        contradict one another that they tell nothing.

        An event that is set aside takes the nearest time between its neighbours.
        """
        packets = [self.first_packet, *map(_packet_of, self.happened), self.last_packet]
        times = [self.first_ns, *map(_time_of, self.happened), self.last_ns]
        added = self._add_suspects(packets, times)
        kept = _in_order(times)
        aside = len(times) - len(kept)
        disorder = (
            aside * DISORDER_SHARE >= len(times) and aside >= DISORDER_RUN * self.steps_back > 0
        )
        mended = list(accumulate(times, max)) if disorder else _nearest(times, kept)
        told: set[int] = set()
        for packet, ts_ns, at_ns in zip(packets, times, mended, strict=True):
            if ts_ns != at_ns and packet not in told and not disorder:
                told.add(packet)
                self._tell_wrong(packet, ts_ns, at_ns)
        for place in reversed(added):
            del mended[place]
        self.first_ns, self.last_ns = mended[0], mended[-1]
        for place, ts_ns in enumerate(mended[1:-1]):
            event = self.happened[place]
            if isinstance(event, Gap | StreamEnd):
                self.happened[place] = event._replace(ts_ns=ts_ns)
            else:
                self.happened[place] = (event[0], ts_ns, *event[2:])
        return not disorder

    def _add_suspects(self, packets: list[int], times: list[int]) -> list[int]:
        """Put the packets around steps back that make no event where they belong; the places."""
        known = set(packets)
        highest = list(accumulate(packets, max))
        suspects = sorted({one for one in self._suspects if one[0] not in known})
        added = []
        for number, (packet, ts_ns) in enumerate(suspects):
            place = max(min(bisect_right(highest, packet), len(highest) - 1), 1) + number
            packets.insert(place, packet)
            times.insert(place, ts_ns)
            added.append(place)
        return added

    def _tell_wrong(self, packet: int, ts_ns: int, at_ns: int) -> None:
        kind, where = ("time-ahead", "after") if ts_ns > at_ns else ("time-backwards", "before")
        sentence = (
            f"packet {packet} claims a time {span(abs(ts_ns - at_ns))} {where} that of its "
            f"neighbours; it is set aside, and the packet taken as simultaneous with them"
        )
        self.odd(packet, kind, sentence)

    def odd(self, packet: int, kind: str, sentence: str) -> None:
        """Note an oddity, or only count it when there are too many."""
        if len(self.oddities) < MAX_FLOW_ODDITIES:
            self.oddities.append(Oddity(packet, kind, sentence))
        else:
            self.untold += 1

    def octets(self, side: int) -> bytes:
        """All that ``side`` sent and the capture holds, in stream order, gaps left out."""
        return b"".join(
            event.octets for event in self.events if isinstance(event, Piece) and event.side == side
        )


def not_kept(octets: Sequence[int], packet: int, reason: str) -> str:
    """What is said of a connection whose octets are forgotten at ``packet``."""
    return (
        f"octets are not kept from the first packet on, {octets[0]} and {octets[1]} of them "
        f"up to packet {packet}: {reason}"
    )


def _packet_of(event: RawPiece | Gap | StreamEnd) -> int:
    return event.packet if isinstance(event, Gap | StreamEnd) else event[2]


def _time_of(event: RawPiece | Gap | StreamEnd) -> int:
    return event.ts_ns if isinstance(event, Gap | StreamEnd) else event[1]


def _in_order(times: Sequence[int]) -> list[int]:
    """The places of the longest run of ``times`` that never goes back, without a first or last
    one that is further from the others than any connection is silent."""
    # From the end, so that of two that contradict each other the later one is set aside.
    tails: list[int] = []  # by length of a run: minus the largest time that one may begin with
    places: list[int] = []
    after: list[int] = []
    for place, ts_ns in enumerate(reversed(times)):
        length = bisect_right(tails, -ts_ns)
        after.append(places[length - 1] if length else -1)
        tails[length : length + 1] = [-ts_ns]
        places[length : length + 1] = [place]
    kept, place = list[int](), places[-1]
    while place >= 0:
        kept.append(len(times) - 1 - place)
        place = after[place]
    for entries in (2, 1):  # a packet at an end may be an event and the end
        if len(kept) > 2 * entries:
            if times[kept[entries]] - times[kept[entries - 1]] > SILENCE_MAX_NS:
                del kept[:entries]
            if times[kept[-entries]] - times[kept[-entries - 1]] > SILENCE_MAX_NS:
                del kept[-entries:]
    return kept


def _nearest(times: Sequence[int], kept: Sequence[int]) -> list[int]:
    """The times in order: those at the places ``kept`` as they are, the others moved between."""
    mended: list[int] = []
    place = 0
    for following in [*kept, len(times)]:
        least_ns = mended[-1] if mended else times[kept[0]]
        most_ns = times[following] if following < len(times) else least_ns
        mended += [min(max(ts_ns, least_ns), most_ns) for ts_ns in times[place:following]]
        mended += times[following : following + 1]
        place = following + 1
    return mended
