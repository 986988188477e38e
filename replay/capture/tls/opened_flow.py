"""A flow whose TLS was opened: put together again with the plaintext in place of its records.

tshark tells the plaintext of each record; where the records lie in the stream, and so when each was
complete and how much of the other side its sender had acknowledged, is read here from the record
headers (RFC 8446 section 5.1).  Each record becomes one piece of the opened flow, in place of the
pieces that carried it; handshake, tickets and alerts have no place in it.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from replay.capture.flow import Flow, Gap, Piece, RawPiece, StreamEnd, TlsStart
from replay.capture.oddity import CaptureError, Oddity
from replay.capture.smtp_flows import client_side
from replay.capture.source import STANDARD_INPUT
from replay.capture.tls.tshark import (
    HANDSHAKE,
    DecryptedRecord,
    KeysError,
    decrypt,
    holds_secrets,
    keys_beside,
)

FLOWS_MAX = 1000
"""Connections of one capture that are opened."""

_APPLICATION_DATA = 23
_HEADER_OCTETS = 5
_TLS13_OVERHEAD = 17  # the inner type and the tag (RFC 8446 section 5.2)


def open_flows(
    path: str | Path, keys: Path | None, flows: Sequence[Flow], oddities: list[Oddity]
) -> dict[int, Flow]:
    """Those of ``flows`` that could be opened, by number; why others could not is noted in
    ``oddities``, unless there are no keys at all.  Raises CaptureError for a key log that is not
    there."""
    path = Path(path)
    if keys is not None and not keys.is_file():
        raise CaptureError(f"{keys}: no such key log")
    if str(path) == STANDARD_INPUT or not path.is_file():
        if keys is not None:
            oddities.append(_locked("what comes through a pipe cannot be read a second time"))
        return {}
    keys = keys or keys_beside(path)
    if keys is None and not holds_secrets(path):
        return {}
    if len(flows) > FLOWS_MAX:
        why = (
            f"of {len(flows)} connections the first {FLOWS_MAX} are opened; pick a smaller capture"
        )
        oddities.append(_locked(why))
        flows = flows[:FLOWS_MAX]
    try:
        told = decrypt(path, keys, flows)
    except KeysError as error:
        oddities.append(_locked(str(error)))
        return {}
    found = {}
    for flow in flows:
        try:
            found[flow.number] = opened(flow, client_side(flow), told.get(flow.number, ()))
        except KeysError as error:
            oddities.append(_locked(str(error), flow.first_packet))
    return found


def _locked(why: str, packet: int = 0) -> Oddity:
    return Oddity(packet, "locked", f"TLS stays closed, though there are keys: {why}")


class TlsRecord(NamedTuple):
    """A record of application data: its place in the stream of its side, headers included."""

    start: int
    end: int

    @property
    def octets(self) -> int:
        return self.end - self.start - _HEADER_OCTETS


@dataclass(slots=True)
class _Direction:
    """One side's stream: where TLS begins in it, and its records, with their plaintext."""

    begins: int
    octets: int
    ends: list[int]
    """Where each record ends, in the stream as captured."""
    plain: list[bytes]
    plain_ends: list[int]

    def place(self, offset: int) -> int:
        """The place in the opened stream of one in the captured stream: what lies within a record
        counts once that is whole; what lies behind all octets (a FIN) stays so far behind."""
        if offset <= self.begins:
            return offset
        whole = bisect_right(self.ends, offset)
        behind = max(offset - self.octets, 0)
        return (self.plain_ends[whole - 1] if whole else self.begins) + behind


def opened(flow: Flow, side: int, records: Iterable[DecryptedRecord]) -> Flow:
    """``flow``, whose client is ``side``, with ``records`` in place of its TLS.

    Raises KeysError where the records cannot be placed in it.
    """
    hello = next(
        (
            one
            for one in flow.events
            if isinstance(one, Piece) and one.side == side and HANDSHAKE.match(one.octets)
        ),
        None,
    )
    if hello is None:
        raise KeysError("the beginning of its TLS is not in the capture")
    sides = {one.packet: one.side for one in flow.events if isinstance(one, Piece)}
    told: tuple[list[bytes], list[bytes]] = ([], [])
    for record in records:
        if record.packet not in sides:
            raise KeysError(f"packet {record.packet}, which tshark opened, is not one of its own")
        told[sides[record.packet]].append(record.octets)
    if not any(told):
        raise KeysError("none of the keys is that of this connection")
    directions = [_direction(flow, one, hello, told[one]) for one in (0, 1)]
    result = copy.copy(flow)
    result.happened = list(_events(flow, directions))
    result._events = None
    result.acknowledged = [directions[1 - one].place(flow.acknowledged[one]) for one in (0, 1)]
    result.oddities = list(flow.oddities)
    acknowledged = directions[1 - side].place(hello.acknowledged)
    result.tls = TlsStart(hello.ts_ns, hello.packet, acknowledged, hello.start == 0)
    sentence = f"packet {hello.packet} begins TLS, which was opened with recorded keys"
    result.oddities.append(Oddity(hello.packet, "opened", sentence))
    return result


def _direction(flow: Flow, side: int, hello: Piece, plain: list[bytes]) -> _Direction:
    pieces = [one for one in flow.events if isinstance(one, Piece) and one.side == side]
    behind = [one for one in pieces if (one.ts_ns, one.packet) >= (hello.ts_ns, hello.packet)]
    first = next((one for one in behind if HANDSHAKE.match(one.octets)), None)
    total = pieces[-1].start + len(pieces[-1].octets) if pieces else 0
    if first is None:
        return _Direction(total, total, [], [], [])
    placed = _placed(list(_application_data(pieces, first.start)), plain)
    ends, place = [], first.start
    for octets in plain:
        place += len(octets)
        ends.append(place)
    return _Direction(first.start, total, [one.end for one in placed], plain, ends)


def _application_data(pieces: Iterable[Piece], begins: int) -> Iterator[TlsRecord]:
    """The records from ``begins`` on, as far as no octets are missing."""
    octets = bytearray()
    for piece in pieces:
        if piece.start + len(piece.octets) <= begins:
            continue
        if piece.start != begins + len(octets):
            break
        octets += piece.octets
    at = 0
    while at + _HEADER_OCTETS <= len(octets):
        end = at + _HEADER_OCTETS + int.from_bytes(octets[at + 3 : at + _HEADER_OCTETS])
        if end > len(octets):
            return
        if octets[at] == _APPLICATION_DATA:
            yield TlsRecord(begins + at, begins + end)
        at = end


def _placed(records: list[TlsRecord], plain: list[bytes]) -> list[TlsRecord]:
    """Which record each plaintext is of.  In TLS 1.3 handshake messages, tickets and alerts look
    like application data from outside, and the length tells."""
    if len(records) == len(plain):
        return records
    found, rest = [], iter(records)
    for octets in plain:
        record = next((one for one in rest if one.octets == len(octets) + _TLS13_OVERHEAD), None)
        if record is None:
            raise KeysError("tshark's records cannot be found again in its octets")
        found.append(record)
    return found


def _events(flow: Flow, directions: Sequence[_Direction]) -> Iterator[RawPiece | Gap | StreamEnd]:
    given = [0, 0]
    for event in flow.events:
        side = event.side
        own, other = directions[side], directions[1 - side]
        if isinstance(event, StreamEnd):
            yield event._replace(acknowledged=other.place(event.acknowledged))
            continue
        if isinstance(event, Gap):
            yield event._replace(start=own.place(event.start))
            continue
        seen = other.place(event.acknowledged)
        if event.start < own.begins:
            yield (side, event.ts_ns, event.packet, event.start, event.octets, seen)
            continue
        while given[side] < len(own.ends) and own.ends[given[side]] <= event.start + len(
            event.octets
        ):
            octets = own.plain[given[side]]
            start = own.plain_ends[given[side]] - len(octets)
            given[side] += 1
            yield (side, event.ts_ns, event.packet, start, octets, seen)
