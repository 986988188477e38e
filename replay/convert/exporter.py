"""A scenario, or a run of it, as a capture that Wireshark opens: packets made up around it.

Departures keep their octets, boundaries and virtual times; each acknowledges just those replies
that its sender had seen, so that an import of the capture hangs it on the same reply.  What goes
through TLS in the scenario stands in plaintext, behind a comment.  Differences, and what else no
packet can say, are comments on packets.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO, NamedTuple

from replay.capture.pcap_writer import PcapngWriter
from replay.capture.tcp_packets import CLIENT, LINKTYPE_RAW, SERVER, PacketFlow, packed_by_dpkt
from replay.convert.timeline import Moment, expected, observed, with_differences
from replay.counted import counted
from replay.play.observed import ObservedConnection
from replay.transcript.script import Listen, Open, Scenario, ScriptedConnection
from replay.verify.comparison import Difference

BEGIN_NS = 1_767_225_600_000_000_000
"""The instant at which scenarios begin (2026, 1 January, 0 h UTC): the faked wall clock's."""

SERVERS = {False: "198.51.100.25", True: "2001:db8::25"}
"""The server's address, by whether the client's is IPv6 (RFC 5737, RFC 3849)."""
SERVER_PORT = 25
FIRST_PORT = 30_000
"""The first connection's; a scenario has at most 10,000."""


class Packet(NamedTuple):
    """One packet (raw IP) to be written."""

    ts_ns: int
    frame: bytes
    comments: tuple[str, ...] = ()


def export(
    file: BinaryIO,
    scenario: Scenario,
    run: Sequence[ObservedConnection] | None = None,
    differences: Sequence[Difference] = (),
) -> int:
    """Write ``scenario`` to ``file`` as a pcapng, and return the number of packets: what it expects
    or, with ``run``, what was observed.  ``differences`` become comments."""
    lines = [scenario.story]
    lines += [f"Source: {scenario.source}"] if scenario.source else []
    lines.append(
        "Made up from what the transcript expects." if run is None
        else f"Made up from what a run showed: {_counted(len(differences))}."
    )  # fmt: skip
    lines += [str(one) for one in differences if not one.connection]  # of accepted messages
    writer = PcapngWriter(file, LINKTYPE_RAW, ["\n".join(lines)])
    packets = 0
    for packet in made_up(scenario, run, differences):
        writer.write(*packet)
        packets += 1
    return packets


def _counted(differences: int) -> str:
    if not differences:
        return "as the transcript expects"
    return counted(differences, "difference")


def made_up(
    scenario: Scenario,
    run: Sequence[ObservedConnection] | None = None,
    differences: Sequence[Difference] = (),
) -> Iterator[Packet]:
    """The packets of all connections, in order of time."""
    flows = []
    for number, connection in enumerate(scenario.connections):
        moments = expected(connection) if run is None else observed(connection, run[number])
        theirs = [one for one in differences if one.connection == connection.name]
        flows.append(_Connection(number, connection, with_differences(moments, theirs)).packets())
    return heapq.merge(*flows, key=lambda packet: packet.ts_ns)


class _Connection:
    """Makes up the packets of one connection.

    Acknowledgements of the client ride on what it sends.  One by itself comes only where it says
    something: that a half-closed client takes what it is told, or that the record went on.
    """

    def __init__(self, number: int, connection: ScriptedConnection, moments: list[Moment]) -> None:
        first = next(connection.departures()).action
        if isinstance(first, Listen):
            ends = SERVERS[":" in first.address], (first.address, first.port)
            self._played, self._peer = SERVER, CLIENT
        else:
            assert isinstance(first, Open)
            ends = first.client, (SERVERS[":" in first.client], SERVER_PORT)
            self._played, self._peer = CLIENT, SERVER
        client, server = ends
        self._flow = PacketFlow((client, FIRST_PORT + number), server, pack=packed_by_dpkt)
        self._moments = moments
        replies = [len(one.octets) for one in moments if one.kind == "reply"]
        self._reply_ends = [0, *accumulate(replies)]
        # A server that sends nothing acknowledges nothing: so it shows that it was not captured.
        self._is_unseen = not any(one.is_peers for one in moments) and any(
            one.kind == "half-close" for one in moments
        )
        self._left = ""  # how the client has ended its side: half-close, close or reset
        self._peer_ended = ""

    def packets(self) -> Iterator[Packet]:
        comments: tuple[str, ...] = ()
        last: Packet | None = None
        for moment in self._moments:
            comments += moment.comments
            for frame in self._frames(moment):
                if last:
                    yield last
                last = Packet(BEGIN_NS + moment.at_ns, frame, comments)
                comments = ()
        if not last:
            return
        yield last._replace(comments=last.comments + comments)
        for frame in self._closing_packets():
            yield Packet(last.ts_ns, frame)

    def _frames(self, moment: Moment) -> list[bytes]:
        flow = self._flow
        seen = self._reply_ends[min(moment.replies_seen, len(self._reply_ends) - 1)]
        seen += moment.end_seen
        match moment.kind:
            case "open" | "peer-open":
                return flow.open()
            case "send":
                return flow.data(self._played, moment.octets, seen)
            case "half-close" | "close":
                self._left = moment.kind
                return flow.finish(self._played, seen) + self._peer_acknowledges()
            case "reset":
                self._left = moment.kind
                return flow.reset(self._played, seen)
            case "reply":
                frames = flow.data(self._peer, moment.octets, flow.sent(self._played))
                return frames + self._played_acknowledges()
            case "eof":
                self._peer_ended = moment.kind
                return (
                    flow.finish(self._peer, flow.sent(self._played)) + self._played_acknowledges()
                )
            case "peer-reset":
                self._peer_ended = moment.kind
                return flow.reset(self._peer, flow.sent(self._played))
            case "abandon":
                return (
                    flow.acknowledge(self._played)
                    or self._peer_acknowledges()
                    or flow.repeat(self._played)
                )
            case _:
                return []

    def _peer_acknowledges(self) -> list[bytes]:
        """The peer's acknowledgement."""
        return [] if self._is_unseen else self._flow.acknowledge(self._peer)

    def _played_acknowledges(self) -> list[bytes]:
        """The acknowledgement of a played end that reads on."""
        return self._flow.acknowledge(self._played) if self._left == "half-close" else []

    def _closing_packets(self) -> list[bytes]:
        """What kernels say when both sides have done what they do."""
        flow = self._flow
        kinds = [one.kind for one in self._moments]
        resets = {"reset", "peer-reset"}.intersection(kinds)
        if self._is_unseen or resets or "abandon" in kinds:
            return []
        if self._left == "close":
            if flow.seen(self._played) < self._reply_ends[-1]:
                return flow.reset(self._played)  # what is left is not read
            frames = [] if self._peer_ended else flow.finish(self._peer)
            return frames + flow.acknowledge(self._played)
        if self._peer_ended and not self._left:
            return flow.finish(self._played, flow.sent(self._peer)) + flow.acknowledge(self._peer)
        return []
