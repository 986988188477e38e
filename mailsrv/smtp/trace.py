"""The trace fields put before an accepted message (RFC 5321 section 4.4).

Every text in them that a peer chose is reduced to what the grammar can hold: a name given with
HELO must not close a comment, end a line, or begin a field of its own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import is_domain
from mailsrv.units import NS_PER_S

HELO_OCTETS_MAX = 255
"""The length of a domain: what more there is says nothing more."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Not strftime, whose names follow the locale.
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9._:\[\]-]")


def trace_fields(envelope: Envelope, hostname: str, realtime_ns: int) -> bytes:
    """Return-Path and Received for ``envelope``, received by ``hostname`` at ``realtime_ns``."""
    return return_path(envelope) + received(envelope, hostname, realtime_ns)


def return_path(envelope: Envelope) -> bytes:
    """The field that the last delivery puts before all others, and no earlier one."""
    return f"Return-Path: <{envelope.reverse_path}>\r\n".encode()


def received(envelope: Envelope, hostname: str, realtime_ns: int) -> bytes:
    """The field of ``hostname``, which received ``envelope`` at ``realtime_ns``.

    Lines end in CRLF and are folded.  Beyond ASCII there is only what SMTPUTF8 allowed, in UTF-8
    (RFC 6532).  The recipient is named when there is one: with several, each would learn of
    the others (RFC 5321 section 7.2).  A comment tells the TLS version and the cipher suite.
    """
    paths = envelope.forward_paths
    recipient = f"\r\n\tfor <{paths[0]}>" if len(paths) == 1 else ""
    tls = f"\r\n\t({envelope.tls})\r\n\t" if envelope.tls else " "
    return (
        f"Received: from {_helo_name(envelope)} ({address_literal(envelope.client)})\r\n"
        f"\tby {hostname} with {envelope.protocol}{tls}id {envelope.id}{recipient};\r\n"
        f"\t{date(realtime_ns)}\r\n"
    ).encode()


def date(realtime_ns: int) -> str:
    """The date-time of RFC 5322 section 3.3, in UTC."""
    at = _EPOCH + timedelta(seconds=realtime_ns // NS_PER_S)
    return (
        f"{_WEEKDAYS[at.weekday()]}, {at.day} {_MONTHS[at.month - 1]} {at.year:04}"
        f" {at.hour:02}:{at.minute:02}:{at.second:02} +0000"
    )


def address_literal(client: str) -> str:
    """``client``, an IP address as text, as an address literal (RFC 5321 section 4.1.3)."""
    safe = _UNSAFE_IN_NAME.sub("?", client)
    return f"[IPv6:{safe}]" if ":" in safe else f"[{safe}]"


def _helo_name(envelope: Envelope) -> str:
    helo = envelope.helo
    if envelope.smtputf8 and is_domain(helo):
        return helo
    return _UNSAFE_IN_NAME.sub("?", helo[:HELO_OCTETS_MAX]) or address_literal(envelope.client)
