"""Cuts one connection out of a capture: its own frames as they are, and no others.

The file is walked once more, up to the connection's last packet, and most frames are passed over
for not having its addresses in them.  Of a datagram in fragments all frames are taken.  What was
cut out is read again, and is the same session or an error.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from replay.capture.conversation import Conversation
from replay.capture.flow import Flow
from replay.capture.oddity import CaptureError
from replay.capture.pcap import read_records
from replay.capture.pcap_writer import PcapWriter
from replay.capture.reader import read_capture
from replay.capture.records import PacketRecord
from replay.capture.segments import FrameDecoder

FRAGMENTS_KEPT_MAX = 4096
"""Frames that may still turn out to be fragments of a segment of the connection."""


def cut_session(
    path: Path, conversation: Conversation, target: Path, keys: Path | None = None
) -> None:
    """Write the connection of ``conversation``, which was read from ``path``, as a pcap; ``keys``
    is the key log that opened its TLS.

    Raises CaptureError where it cannot be cut out, and OSError.
    """
    records = frames_of(path, conversation.flow)
    first = next(records, None)
    if first is None:
        raise CaptureError(f"{path}: its packets are not found again")
    with target.open("wb") as file:
        writer = PcapWriter(file, first.linktype)
        for record in (first, *records):
            if record.linktype != first.linktype:
                raise CaptureError(
                    f"{path}: the session's packets are of several link types, so they cannot be "
                    f"cut out into one pcap; make a capture of one interface (editcap, tshark -w)"
                )
            try:
                writer.write(record.ts_ns, record.frame, record.original_octets)
            except ValueError as error:
                raise CaptureError(f"{path}: packet {record.number}: {error}") from None
    again = read_capture(target, keys=keys).conversations
    if len(again) != 1 or _said(again[0]) != _said(conversation):
        raise CaptureError(
            f"{path}: the session cut out by itself is not the same any more; take it out with "
            f"another tool (tshark -Y 'tcp.stream == N' -w NEW-FILE), and import that"
        )


def _said(conversation: Conversation) -> tuple[list[object], list[object]]:
    acts = [(act.kind, act.ts_ns, act.octets, act.acknowledged) for act in conversation.acts]
    return [*acts], [(reply.ts_ns, reply.octets) for reply in conversation.replies]


def frames_of(path: Path, flow: Flow) -> Iterator[PacketRecord]:
    """The records that carry a flow's segments, whole or in fragments, in file order."""
    near, far = flow.ends
    ends = {(*near, *far), (*far, *near)}
    decoder = FrameDecoder()
    waiting: OrderedDict[int, PacketRecord] = OrderedDict()
    for record in read_records(path, []):
        number, ts_ns, linktype, _, original_octets, frame = record
        if number > flow.last_packet:
            return
        if near.address not in frame or far.address not in frame:
            continue
        ethernet = decoder.as_ethernet(number, linktype, frame)
        if not ethernet:
            continue
        segment = decoder.decode(number, ts_ns, ethernet, original_octets - len(frame))
        if segment is None:
            waiting[number] = record
            if len(waiting) > FRAGMENTS_KEPT_MAX:
                waiting.popitem(last=False)
            continue
        of_fragments = [waiting.pop(one) for one in decoder.parts if one in waiting]
        is_ours = (segment.src, segment.sport, segment.dst, segment.dport) in ends
        if is_ours and number >= flow.first_packet:
            yield from of_fragments
            yield record
