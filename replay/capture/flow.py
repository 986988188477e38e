"""What reassembly makes of segments: flows, and what happened in them in order.

A flow has two sides, 0 (the sender of its first packet) and 1.  Its ``events`` stand in the order
in which they became true: octets that arrive ahead of a hole count from when it was filled.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from replay.capture.oddity import Oddity

MAX_FLOW_ODDITIES = 200
"""Oddities told one by one for a flow; the rest are counted."""


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
        "_events", "accepted", "acknowledged", "client", "ends", "first_ns", "first_packet",
        "forgotten", "happened", "last_ns", "last_packet", "number", "oddities", "opener",
        "packets", "untold",
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
    packets: list[int]
    """How many segments each side sent."""
    forgotten: str
    """Why the octets are not kept, where they were forgotten to keep memory bounded."""
    client: int | None
    """The client's side, where that was told before the octets were forgotten."""
    acknowledged: list[int]
    """How many octets of the other side each side had acknowledged in the end.  A reset's own
    acknowledgement does not count: some systems acknowledge what they refuse."""

    def __init__(self, number: int, ends: tuple[Endpoint, Endpoint], ts_ns: int, packet: int):
        self.number = number
        self.ends = ends
        self.opener = None
        self.accepted = False
        self.forgotten = ""
        self.client = None
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
        sentence = (
            f"octets are not kept from the first packet on, {octets[0]} and {octets[1]} of them "
            f"up to packet {self.last_packet}: {reason}"
        )
        del self.oddities[:]
        self.oddities.append(Oddity(self.last_packet, "not-kept", sentence))
        self.happened = []
        self._events = None

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
