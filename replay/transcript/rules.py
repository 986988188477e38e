"""The rules that the steps of a connection keep, read from a text or made by a program.

The reader of transcripts reports a breach with its line, the writer refuses it, and so no driver
has to check again.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache

from replay.smtp.commands import END_OF_CONTENT, command_at
from replay.transcript import masks
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.script import (
    ARRIVALS,
    CONTENT,
    ENDINGS,
    HANDSHAKES,
    After,
    AfterArrival,
    At,
    CommandVerb,
    Departure,
    ExactOctets,
    Expectation,
    HalfClose,
    HalfCloseAtOnce,
    Listen,
    MaskedOctets,
    Open,
    PeerOpens,
    ReplyCode,
    ScriptedConnection,
    SendOctets,
    StartTls,
    Step,
)

# A reply's last line: its code is followed by a space or by nothing (RFC 5321 section 4.2).
_REPLY_ENDS = re.compile(rb"^[2-5][0-9][0-9](?: [^\n]*)?\r?\n(?=[\x00-\xff])", re.MULTILINE)

_VERB = re.compile(rf"[A-Z]{{1,16}}|{CONTENT}")
_OPENS_FIRST = "C open stands right below listen, and nowhere else"
PORT_MAX = 65535
ADDRESS_CHARACTERS_MAX = 45
"""Of an IPv6 address with the IPv4 address that it maps, written out."""


def faults(connection: ScriptedConnection) -> Iterator[tuple[Step | None, str]]:
    """What is wrong, step by step; None for the connection as a whole."""
    receiver = connection.plays_receiver
    arrivals = 0
    latest_ns = 0
    latest: Departure | None = None
    half_closed = False
    sent = expected = 0  # handshakes
    for step in connection.steps:
        if isinstance(step, Departure):
            action = step.action
            message = _departure_fault(step, latest, arrivals, receiver)
            if half_closed and isinstance(action, (SendOctets, StartTls)):
                message = message or "nothing can be sent after half-close"
            half_closed = half_closed or isinstance(action, HalfClose)
            sent += isinstance(action, StartTls)
            latest = step
        else:
            outcome = step.outcome
            message = _expectation_fault(step, latest_ns, latest is not None, receiver)
            if receiver and isinstance(outcome, PeerOpens) is bool(arrivals):
                message = message or _OPENS_FIRST
            expected += isinstance(outcome, HANDSHAKES)
            arrivals += isinstance(outcome, ARRIVALS)
            latest_ns = latest_ns if step.at_ns is None else step.at_ns
        if sent > 1 or expected > 1:
            message = message or "a connection has one TLS handshake"
        if message:
            yield step, message
    if latest is None:
        yield None, "the connection has no departures; it begins with open or listen"
    elif not isinstance(latest.action, ENDINGS):
        yield (
            latest,
            "the connection has no end; its last departure is close, reset, until-closed or "
            "abandon",
        )


def _departure_fault(
    step: Departure, above: Departure | None, arrivals: int, receiver: bool
) -> str:
    action, anchor = step.action, step.anchor
    if not 0 <= anchor.ns <= DURATION_NS_MAX:
        return "a time lies between 0 and 1000 days"
    if above is None:
        if not isinstance(action, Open | Listen):
            return "a connection begins with open or listen"
        if not isinstance(anchor, At):
            return "nothing stands above the first line to wait for; its time is @T"
        if isinstance(action, Open):
            return _address_fault("client", action.client)
        if not 1 <= action.port <= PORT_MAX:
            return f"a port lies between 1 and {PORT_MAX}"
        return _address_fault("receiver", action.address)
    if isinstance(action, (Open, Listen)):
        return "a connection is opened once; start another under a name of its own"
    if receiver and not arrivals:
        return _OPENS_FIRST
    if isinstance(above.action, ENDINGS):
        return "nothing departs after the connection's end"
    if isinstance(anchor, AfterArrival) and not arrivals:
        return "reply+ needs a reply expected above; write @T or +T"
    if isinstance(action, HalfCloseAtOnce) and (
        not isinstance(above.action, SendOctets) or anchor != After(0)
    ):
        return "half-close-at-once stands at +0, right below the octets that it leaves with"
    if isinstance(action, SendOctets) and not action.octets:
        return "nothing to send; write at least one octet"
    return ""


def _address_fault(whose: str, address: str) -> str:
    if len(address) <= ADDRESS_CHARACTERS_MAX and _is_address(address):
        return ""
    return f"the {whose} is an IPv4 or IPv6 address, as in 192.0.2.10 or 2001:db8::1"


@lru_cache(1024)
def _is_address(text: str) -> bool:
    try:
        return "%" not in text and ipaddress.ip_address(text) is not None
    except ValueError:
        return False


def _expectation_fault(step: Expectation, latest_ns: int, opened: bool, receiver: bool) -> str:
    if not opened:
        return "a connection begins with open or listen"
    if step.at_ns is not None and not 0 <= step.at_ns <= DURATION_NS_MAX:
        return "a time lies between 0 and 1000 days"
    if step.at_ns is not None and step.at_ns < latest_ns:
        return "this is expected earlier than what stands above it"
    outcome = step.outcome
    if isinstance(outcome, ExactOctets):
        return _octets_fault(outcome.octets, receiver)
    if isinstance(outcome, MaskedOctets):
        return masks.fault(outcome) or _octets_fault(masks.example(outcome), receiver)
    if isinstance(outcome, ReplyCode if receiver else (CommandVerb, PeerOpens)):
        return "a server's reply has a code and a client's command a verb"
    if isinstance(outcome, CommandVerb) and not _VERB.fullmatch(outcome.verb):
        return "a verb is 1 to 16 capitals, as in MAIL, or content"
    if isinstance(outcome, ReplyCode) and not 100 <= outcome.code <= 999:
        return "a reply code has three digits, as in 250"
    return ""


def _octets_fault(octets: bytes, receiver: bool) -> str:
    """What is wrong with expected octets; those of one line cannot be more than one."""
    if not octets:
        return "at least one octet is expected"
    if octets.find(b"\n") == len(octets) - 1:
        return ""
    if receiver:
        return _command_fault(octets)
    if _REPLY_ENDS.search(octets):
        return "this is more than one reply; each has a time column of its own"
    return ""


def _command_fault(octets: bytes) -> str:
    """A command is one line; content ends in a dot of its own, and a chunk is behind a BDAT."""
    first = octets.find(b"\n") + 1
    if first in (0, len(octets)) or octets.endswith(END_OF_CONTENT):
        return ""
    if command_at(octets, 0).chunk_octets >= 0:
        return ""
    return "this is more than one command; each has a time column of its own"
