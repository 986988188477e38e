"""Writes a capture anew with everything personal in it replaced by look-alikes.

    clean = sanitize([read_capture("stall.pcap")], key)
    clean.captures[0]        # octets of a pcap file
    clean.report             # what was replaced, for JSON

What was sent is cleaned (``smtp_cleaner``), then new packets are made for it: at the same times,
with the same boundaries, acknowledgements, ports and ends.  Nothing of the old file is copied.
Not carried over: connections that are no SMTP, what is encrypted (a mark tells where), what comes
behind octets of the sender's that are missing, retransmissions, and acknowledgements that came
alone.

In the end everything of the original is looked for in what was made of it (``leak_check``); what is
found raises LeftOver, and there is no result.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from replay.capture.conversation import Conversation
from replay.capture.flow import Event, Gap, Piece
from replay.capture.oddity import CaptureError
from replay.capture.pcap_writer import PcapWriter
from replay.capture.reader import Capture
from replay.capture.tcp_packets import LINKTYPE_RAW, PacketFlow, packed_by_dpkt
from replay.sanitize.ip_lookalikes import is_unassigned
from replay.sanitize.leak_check import Leak, Originals, TooMuch, told
from replay.sanitize.lookalikes import Lookalikes
from replay.sanitize.smtp_cleaner import SmtpCleaner
from replay.smtp.replies import begins_reply

SEQUENCE_STEP = 0x0B00_0001
"""Between the first sequence numbers of connections: the same ports may come again."""

CLIENT_TLS, SERVER_TLS = b"\x16\x03\x01\x00\x01\x01", b"\x16\x03\x01\x00\x01\x02"
"""TLS records (RFC 8446 section 5.1) that hold no more than the kind of a message: a mark where
the sender's and the server's ciphertext began."""

ADVICE = (
    "if that is a chance likeness, another --key has others; if it stands in a text of yours "
    "(--story, --source), say it otherwise; if not, the sanitiser missed it"
)
"""What to do about a finding."""

Chosen = tuple[Capture, Sequence[Conversation]]


class LeftOver(Exception):
    """Something of the original is in the result, which is therefore dropped."""

    def __init__(self, findings: Sequence[Leak]) -> None:
        super().__init__(f"something of the original would remain: {told(findings)}; {ADVICE}")
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Sanitized:
    """What became of captures: each as a pcap file, and a report as plain values."""

    captures: tuple[bytes, ...]
    report: dict[str, Any]
    originals: Originals

    def check_text(self, text: str, where: str) -> None:
        """Look for names of the original in words that the user wrote.  Raises LeftOver."""
        if findings := self.originals.find_names(text, where):
            raise LeftOver(findings)

    def check_transcript(self, text: str) -> None:
        """Look for addresses and host names of the original in a transcript.  Raises LeftOver."""
        if findings := self.originals.find_exact(text.encode("utf-8"), "the transcript"):
            raise LeftOver(findings)


def sanitize(
    chosen: Sequence[Chosen],
    key: bytes,
    clean_by: Callable[[Lookalikes], SmtpCleaner] = SmtpCleaner,
) -> Sanitized:
    """Clean these conversations of these captures under one key.

    Raises LeftOver, and CaptureError for a capture that cannot be sanitised.
    """
    flows = [[_Followed(one) for one in conversations] for _, conversations in chosen]
    originals = _originals(chosen, [one for some in flows for one in some])
    looks = Lookalikes(key, originals.words)
    cleaner = clean_by(looks)
    for one in (one for some in flows for one in some):
        one.clean(cleaner)
    originals.allow(cleaner.kept)
    names = [capture.name for capture, _ in chosen]
    packets = [_packets(some, cleaner) for some in flows]
    captures = tuple(_written(name, some) for name, some in zip(names, packets, strict=True))
    findings: list[Leak] = []
    for made, some in zip(packets, flows, strict=True):
        for number, (_, packet) in enumerate(made, 1):
            findings += originals.find_packed(packet, number)
        for one in some:
            for side, said in enumerate(one.cleaned):
                who = "the sender" if side == one.side else "the server"
                findings += originals.find(said, f"what {who} says")
    if findings:
        raise LeftOver(findings)
    return Sanitized(captures, _report(chosen, flows, looks, originals), originals)


class _Followed:
    """A conversation up to where it can be followed, and what becomes of it."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.flow = conversation.flow
        self.side = 0 if self.flow.ends[0] == conversation.client else 1
        self.events = self.flow.events[: conversation.followed]
        self.said = [_runs(self.events, side) for side in (0, 1)]
        self.marks = self._where_tls_began() if conversation.cut_short == "encrypted" else []
        self.cleaned: list[bytes] = [b"", b""]

    @property
    def dropped(self) -> int:
        """Octets that are not carried over."""
        return sum(len(self.flow.octets(side)) - sum(map(len, self.said[side])) for side in (0, 1))

    def _where_tls_began(self) -> list[Piece]:
        """The first octets under TLS of each side, with a mark in their place."""
        marks: dict[int, Piece] = {}
        for event in self.flow.events[len(self.events) :]:
            if isinstance(event, Piece) and event.side not in marks:
                octets = CLIENT_TLS if event.side == self.side else SERVER_TLS
                marks[event.side] = event._replace(octets=octets)
        return list(marks.values())

    def clean(self, cleaner: SmtpCleaner) -> None:
        """Clean what both sides said."""
        from_the_beginning = self.flow.opener is not None
        for side, runs in enumerate(self.said):
            parts = []
            for number, run in enumerate(runs):
                begins = from_the_beginning and number == 0
                if side == self.side:
                    new = cleaner.sender(run, from_the_beginning=begins)
                else:
                    begins = begins or begins_reply(run)
                    new = cleaner.server(run, at_line_begin=begins)
                if len(new) != len(run):
                    raise AssertionError("a look-alike of another length")
                parts.append(new)
            self.cleaned[side] = b"".join(parts)

    def packets(self, cleaner: SmtpCleaner) -> Iterator[tuple[int, bytes]]:
        """The connection's packets with their times."""
        flow, client = self.flow, self.side
        ends = [(one.host(), one.port) for one in flow.ends]
        new = [(cleaner.host_address(host), port) for host, port in ends]
        first = flow.number * SEQUENCE_STEP & 0x7FFF_FFFF
        wire = PacketFlow(
            new[client],
            new[1 - client],
            first_sequence=(first, first + 0x1000),
            pack=packed_by_dpkt,
        )
        syn, accepted, ack = wire.open()
        server_heard = bool(flow.packets[1 - client])
        if flow.opener is not None:
            yield flow.first_ns, syn
            if flow.accepted and server_heard:
                yield flow.first_ns, accepted
            if flow.accepted or flow.acknowledged[client] or any(map(len, self.said[1 - client])):
                yield flow.first_ns, ack
        elif not self.events or self.events[0].ts_ns > flow.first_ns:
            yield flow.first_ns, ack
        if not server_heard:  # it has said something all the same, as the sender acknowledges
            wire.leave_out(1, flow.acknowledged[client])
        places = [0, 0]
        for event in self.events:
            side = 0 if event.side == client else 1  # as the wire counts
            for packet in self._packets_of(wire, side, event, places):
                yield event.ts_ns, packet
        for mark in self.marks:
            side = 0 if mark.side == client else 1
            for packet in wire.data(side, mark.octets, mark.acknowledged):
                yield mark.ts_ns, packet
        yield from self._last(wire, server_heard=server_heard)

    def _packets_of(
        self, wire: PacketFlow, side: int, event: Event, places: list[int]
    ) -> Iterator[bytes]:
        if isinstance(event, Gap):
            wire.leave_out(side, event.missing_octets)
            if event.why == "lost":
                yield from wire.acknowledge(1 - side, event.start + event.missing_octets)
        elif isinstance(event, Piece):
            place = places[side]
            octets = self.cleaned[event.side][place : place + len(event.octets)]
            places[side] += len(event.octets)
            yield from wire.data(side, octets, event.acknowledged)
        elif event.is_reset:
            yield from wire.reset(side, event.acknowledged)
        else:
            yield from wire.finish(side, event.acknowledged)

    def _last(self, wire: PacketFlow, *, server_heard: bool) -> Iterator[tuple[int, bytes]]:
        """What was acknowledged in the end, and that the connection lasted so long."""
        whole = len(self.events) == len(self.flow.events)
        kept = [*self.events, *self.marks]
        last_ns = kept[-1].ts_ns if kept else self.flow.first_ns
        until_ns = self.flow.last_ns if whole else last_ns
        for side in (0, 1):
            flow_side = self.side if side == 0 else 1 - self.side
            if side == 0 or server_heard:
                for packet in wire.acknowledge(side, self.flow.acknowledged[flow_side]):
                    yield until_ns, packet
                    last_ns = until_ns
        if last_ns < until_ns:
            for packet in wire.repeat(0):
                yield until_ns, packet


def _runs(events: Sequence[Event], side: int) -> list[bytes]:
    """What ``side`` said, in runs without a gap."""
    runs: list[list[bytes]] = [[]]
    for event in events:
        if event.side == side:
            if isinstance(event, Piece):
                runs[-1].append(event.octets)
            elif isinstance(event, Gap):
                runs.append([])
    return [b"".join(run) for run in runs]


def _originals(chosen: Sequence[Chosen], flows: Sequence[_Followed]) -> Originals:
    originals = Originals()
    try:
        for one in flows:
            for runs in one.said:
                originals.add(b"\n".join(runs))
            for end in one.flow.ends:
                if not is_unassigned(end.host()):
                    originals.packed.add(end.address)
                    originals.exact.add(end.host())
    except TooMuch as error:
        raise CaptureError(f"{chosen[0][0].name}: {error}; sanitise one session of it") from None
    return originals


def _packets(flows: Sequence[_Followed], cleaner: SmtpCleaner) -> list[tuple[int, bytes]]:
    """The packets of all connections, in the order of their times."""
    packets = [packet for one in flows for packet in one.packets(cleaner)]
    return sorted(packets, key=lambda one: one[0])


def _written(name: str, packets: Sequence[tuple[int, bytes]]) -> bytes:
    """The packets as a pcap file."""
    file = io.BytesIO()
    writer = PcapWriter(file, LINKTYPE_RAW)
    for ts_ns, packet in packets:
        try:
            writer.write(ts_ns, packet)
        except ValueError as error:  # a time that pcapng can tell and pcap cannot
            raise CaptureError(f"{name}: cannot be written anew: {error}") from None
    return file.getvalue()


def _report(
    chosen: Sequence[Chosen],
    flows: Sequence[Sequence[_Followed]],
    looks: Lookalikes,
    originals: Originals,
) -> dict[str, Any]:
    odd = Counter(
        oddity.kind for some in flows for one in some for oddity in one.conversation.oddities
    )
    every = [one for some in flows for one in some]
    return {
        "sessions": len(every),
        "replaced": {
            kind: {"places": count, "for_example": looks.examples.get(kind, [])}
            for kind, count in sorted(looks.counts.items())
        },
        "looked_for": {
            "words": len(originals.words),
            "addresses_and_host_names": len(originals.exact),
            "found": 0,
        },
        "not_carried_over": {
            "connections_without_smtp": sum(len(capture.left_out) for capture, _ in chosen),
            "encrypted_octets": sum(
                one.dropped for one in every if one.conversation.cut_short == "encrypted"
            ),
            "octets_behind_missing_ones": sum(
                one.dropped for one in every if one.conversation.cut_short == "missing octets"
            ),
            "repeated_or_contradicting_packets": odd["retransmission"] + odd["overlap-conflict"],
        },
        "not_avoided": {
            "values_that_share_a_lookalike": looks.merged,
            "top_level_names_not_reserved": sorted(looks.unreserved),
        },
    }
