"""What is in a capture, as plain data for machines: ``replay show --json``.

Instants are integer nanoseconds since the connection's first packet (``began_ns``, since 1970 UTC);
octet streams are base64.  Streams are whole, beyond where a conversation can be followed; gaps are
left out of them and listed.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from replay.capture.conversation import Conversation
from replay.capture.flow import Flow, Gap, Piece, StreamEnd
from replay.capture.oddity import Oddity
from replay.capture.reader import Capture
from replay.capture.smtp_flows import client_side
from replay.convert.anchors import anchor_acts
from replay.transcript.script import AfterArrival


def summary(capture: Capture) -> dict[str, Any]:
    """The capture with all its connections, SMTP or not, in the order of their first packets."""
    connections = [
        (one.flow.first_packet, _smtp(number, one))
        for number, one in enumerate(capture.conversations, 1)
    ]
    connections += [
        (flow.first_packet, {"session": None, "left_out": reason} | _flow(flow, flow.oddities))
        for flow, reason in capture.left_out
    ]
    connections.sort(key=lambda numbered: numbered[0])
    return {
        "file": capture.name,
        "packets": capture.packets,
        "sessions": len(capture.conversations),
        "oddities": _oddities(capture.oddities),
        "more_left_out": dict(capture.more_left_out),
        "connections": [connection for _, connection in connections],
    }


def _oddities(oddities: list[Oddity]) -> list[dict[str, Any]]:
    return [oddity._asdict() for oddity in oddities]


def _smtp(session: int, conversation: Conversation) -> dict[str, Any]:
    began_ns = conversation.opened_ns
    return (
        {"session": session, "left_out": None}
        | _flow(conversation.flow, conversation.oddities)
        | {
            "recorded_server_is_mailsrv": conversation.is_mailsrv,
            "cut_short": conversation.cut_short or None,
            "replies": [
                {
                    "at_ns": reply.ts_ns - began_ns,
                    "packet": reply.packet,
                    "code": reply.code,
                    "text": reply.octets.decode("utf-8", "backslashreplace"),
                }
                for reply in conversation.replies
            ],
            "acts": [
                {
                    "at_ns": one.act.ts_ns - began_ns,
                    "packet": one.act.packet,
                    "kind": one.act.kind,
                    "octets": len(one.act.octets),
                    "after": "reply" if isinstance(one.anchor, AfterArrival) else "act",
                    "wait_ns": one.anchor.ns,
                    "replies_seen": one.replies_seen,
                    "evidence": one.evidence.value,
                    "because": one.because,
                }
                for one in anchor_acts(conversation)
            ],
        }
    )


def _flow(flow: Flow, oddities: list[Oddity]) -> dict[str, Any]:
    client = client_side(flow)
    return {
        "connection": flow.number,
        "began_ns": flow.first_ns,
        "lasted_ns": flow.last_ns - flow.first_ns,
        "client": _side(flow, client),
        "server": _side(flow, 1 - client),
        "oddities": _oddities(oddities),
    }


def _side(flow: Flow, side: int) -> dict[str, Any]:
    events = [event for event in flow.events if event.side == side]
    ends = [event for event in events if isinstance(event, StreamEnd)]
    return {
        "address": flow.ends[side].host(),
        "port": flow.ends[side].port,
        "packets": flow.packets[side],
        "octets_base64": b64encode(flow.octets(side)).decode(),
        "segments": [
            {
                "at_ns": event.ts_ns - flow.first_ns,
                "packet": event.packet,
                "start": event.start,
                "octets": len(event.octets),
                "acknowledged": event.acknowledged,
            }
            for event in events
            if isinstance(event, Piece)
        ],
        "gaps": [
            {
                "at_ns": event.ts_ns - flow.first_ns,
                "packet": event.packet,
                "start": event.start,
                "missing_octets": event.missing_octets,
                "why": event.why,
            }
            for event in events
            if isinstance(event, Gap)
        ],
        "ends": [
            {
                "at_ns": event.ts_ns - flow.first_ns,
                "packet": event.packet,
                "kind": "reset" if event.is_reset else "fin",
            }
            for event in ends
        ],
    }
