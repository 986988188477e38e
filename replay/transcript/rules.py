"""The rules that the steps of a connection keep, read from a text or made by a program.

The reader of transcripts reports a breach with its line, the writer refuses it, and so no driver
has to check again.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from replay.transcript import masks
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.script import (
    ENDINGS,
    HANDSHAKES,
    REPLIES,
    AfterReply,
    At,
    Departure,
    ExactReply,
    Expectation,
    HalfClose,
    MaskedReply,
    Open,
    ReplyCode,
    ScriptedConnection,
    SendOctets,
    StartTls,
    Step,
)

# A reply's last line: its code is followed by a space or by nothing (RFC 5321 section 4.2).
_REPLY_ENDS = re.compile(rb"^[2-5][0-9][0-9](?: [^\n]*)?\r?\n(?=[\x00-\xff])", re.MULTILINE)


def faults(connection: ScriptedConnection) -> Iterator[tuple[Step | None, str]]:
    """What is wrong, step by step; None for the connection as a whole."""
    replies = 0
    latest_ns = 0
    latest: Departure | None = None
    half_closed = False
    handshakes = {"sent": 0, "expected": 0}
    for step in connection.steps:
        if isinstance(step, Departure):
            message = _departure_fault(step, latest, replies)
            if half_closed and isinstance(step.action, SendOctets | StartTls):
                message = message or "nothing can be sent after half-close"
            half_closed = half_closed or isinstance(step.action, HalfClose)
            handshakes["sent"] += isinstance(step.action, StartTls)
            latest = step
        else:
            message = _expectation_fault(step, latest_ns, latest is not None)
            handshakes["expected"] += isinstance(step.outcome, HANDSHAKES)
            replies += isinstance(step.outcome, REPLIES)
            latest_ns = latest_ns if step.at_ns is None else step.at_ns
        if max(handshakes.values()) > 1:
            message = message or "a connection has one TLS handshake"
        if message:
            yield step, message
    if latest is None:
        yield None, "the connection has no departures; it begins with an open"
    elif not isinstance(latest.action, ENDINGS):
        yield (
            latest,
            "the connection has no end; its last departure is close, reset, until-closed or "
            "abandon",
        )


def _departure_fault(step: Departure, above: Departure | None, replies: int) -> str:
    action, anchor = step.action, step.anchor
    if not 0 <= anchor.ns <= DURATION_NS_MAX:
        return "a time lies between 0 and 1000 days"
    if above is None:
        if not isinstance(action, Open):
            return "a connection begins with an open"
        if not isinstance(anchor, At):
            return "nothing stands above an open to wait for; its time is @T"
        return _client_fault(action.client)
    if isinstance(action, Open):
        return "a connection is opened once; start another under a name of its own"
    if isinstance(above.action, ENDINGS):
        return "nothing departs after the connection's end"
    if isinstance(anchor, AfterReply) and not replies:
        return "reply+ needs a reply expected above; write @T or +T"
    if isinstance(action, SendOctets) and not action.octets:
        return "nothing to send; write at least one octet"
    return ""


def _client_fault(client: str) -> str:
    try:
        valid = "%" not in client and ipaddress.ip_address(client) is not None
    except ValueError:
        valid = False
    return "" if valid else "the client is an IPv4 or IPv6 address, as in 192.0.2.10 or 2001:db8::1"


def _expectation_fault(step: Expectation, latest_ns: int, opened: bool) -> str:
    if not opened:
        return "a connection begins with an open"
    if step.at_ns is not None and not 0 <= step.at_ns <= DURATION_NS_MAX:
        return "a time lies between 0 and 1000 days"
    if step.at_ns is not None and step.at_ns < latest_ns:
        return "this is expected earlier than what stands above it"
    outcome = step.outcome
    if isinstance(outcome, ReplyCode) and not 100 <= outcome.code <= 999:
        return "a reply code has three digits, as in 250"
    if isinstance(outcome, MaskedReply) and (message := masks.fault(outcome)):
        return message
    if isinstance(outcome, ExactReply | MaskedReply):
        octets = masks.example(outcome)
        if not octets:
            return "a reply has at least one octet"
        if _REPLY_ENDS.search(octets):
            return "this is more than one reply; each has a time column of its own"
    return ""
