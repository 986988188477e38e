"""A capture file, walked through once, down to its SMTP conversations.

However long the file is, memory stays bounded: connections that are over leave the reassembler, and
those in which no SMTP is spoken become small records, then numbers.  Where that loses something, it
is said.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from replay.capture.conversation import Conversation, conversation
from replay.capture.flow import Flow
from replay.capture.oddity import Oddity
from replay.capture.pcap import read_records
from replay.capture.reassembly import PIECE_OCTETS, Reassembler
from replay.capture.records import PacketRecord
from replay.capture.segments import decode
from replay.capture.sketches import SKETCHES_FROM_FLOWS
from replay.capture.smtp_flows import (
    TLS_FIRST,
    client_side,
    why_forget,
    why_not_by_first_octets,
    why_not_smtp,
)
from replay.capture.source import Watch, name_of
from replay.capture.tls.opened_flow import open_flows

MAX_SESSION_OCTETS = 256 << 20
"""What SMTP conversations may keep.  Those that end later are left out, with a word."""

MAX_FOREIGN_OCTETS = 32 << 20
"""What other connections may keep; those that end later are only described."""

MAX_LEFT_OUT = 10_000
"""Connections without SMTP that are described one by one; the rest is counted by reason."""

_NO_ROOM = (
    f"SMTP, but more than {MAX_SESSION_OCTETS >> 20} MiB of it came before: read this one from a "
    f"smaller capture"
)


class LeftOut(NamedTuple):
    """A flow that is no SMTP conversation, and why."""

    flow: Flow
    reason: str


@dataclass(slots=True)
class Capture:
    """All that a capture file says."""

    name: str
    packets: int = 0
    flows: int = 0
    """TCP connections of all kinds."""
    conversations: list[Conversation] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    more_left_out: Counter[str] = field(default_factory=Counter)
    """How many more, by reason, where there are too many to describe them all."""
    oddities: list[Oddity] = field(default_factory=list)
    """What concerns no single connection."""


def read_capture(
    path: str | Path,
    watch: Watch | None = None,
    *,
    keys: Path | None = None,
    sketches_from_flows: int = SKETCHES_FROM_FLOWS,
) -> Capture:
    """Read a capture down to its SMTP conversations; "-" is standard input.

    ``watch`` is told how far the file has been read.  TLS is opened with the key log ``keys``; left
    out, with one of the capture's name that ends in ``.keys``, or the keys that a pcapng brings.
    Of more flows than ``sketches_from_flows`` nothing is kept that is no SMTP.
    Raises CaptureError.
    """
    capture = Capture(Path(name_of(path)).name)
    oddities = capture.oddities
    records = _counted(read_records(path, oddities, watch), capture)
    reassembler = Reassembler(oddities, why_forget, why_not_by_first_octets, sketches_from_flows)
    sorter = FlowSorter(capture)
    with _no_collector():
        for flow in reassembler.walk(decode(records, oddities)):
            capture.flows += 1
            sorter.put(flow)
    open_tls(capture, path, keys)
    sorter.close()
    return capture


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the garbage collector, which would look at all that is kept again and again, a third
    of the time, and find nothing: what is let go of leaves no circles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def open_tls(capture: Capture, path: str | Path, keys: Path | None) -> None:
    """Follow conversations on into their TLS, where there are keys for it."""
    hidden = [one for one in capture.conversations if one.cut_short == "encrypted"]
    others = [one for one in capture.left_out if one.reason == TLS_FIRST and one.flow.happened]
    if not (hidden or others):
        return
    flows = [one.flow for one in hidden] + [one.flow for one in others]
    opened = open_flows(path, keys, flows, capture.oddities)
    for one in hidden:
        if (flow := opened.get(one.flow.number)) is not None:
            place = capture.conversations.index(one)
            capture.conversations[place] = conversation(flow, client_side(flow))
    for left in others:
        flow = opened.get(left.flow.number)
        if flow is not None and not why_not_smtp(flow, client_side(flow)):
            capture.left_out.remove(left)
            capture.conversations.append(conversation(flow, client_side(flow)))


def _counted(records: Iterator[PacketRecord], capture: Capture) -> Iterator[PacketRecord]:
    for record in records:
        capture.packets = record.number
        yield record


class FlowSorter:
    """Puts flows where they belong, as long as there is room."""

    __slots__ = ("_capture", "_foreign_octets", "_session_octets")

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._session_octets = self._foreign_octets = 0

    def put(self, flow: Flow) -> None:
        side = client_side(flow)
        reason = why_not_smtp(flow, side)
        octets = flow.kept_octets(PIECE_OCTETS)
        if not reason and self._session_octets + octets <= MAX_SESSION_OCTETS:
            self._session_octets += octets
            self._capture.conversations.append(conversation(flow, side))
            return
        if self._foreign_octets + octets > MAX_FOREIGN_OCTETS and not flow.forgotten:
            flow.client = side
            flow.forget(reason or _NO_ROOM)
        else:
            self._foreign_octets += octets
        left_out = self._capture.left_out
        if len(left_out) < MAX_LEFT_OUT:
            left_out.append(LeftOut(flow, reason or _NO_ROOM))
        else:
            self._capture.more_left_out[reason or _NO_ROOM] += 1

    def close(self) -> None:
        """Everything is there: put it into the order of first packets."""
        self._capture.conversations.sort(key=attrgetter("flow.number"))
        self._capture.left_out.sort(key=attrgetter("flow.number"))
