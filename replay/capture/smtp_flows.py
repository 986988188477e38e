"""Which end of a flow is the client, and whether SMTP is spoken: told by what is said."""

from __future__ import annotations

import re

from replay.capture.flow import Flow, Gap
from replay.smtp.replies import begins_reply

HEAD_OCTETS = 4096
"""How much of each direction is looked at."""

REPLY_OCTETS_MIN = 4
"""A code and what follows it."""

LONG_OCTETS = 64 * 1024
"""A flow in which nothing has been SMTP for so long will not become it."""

PLAIN_PORTS = frozenset((25, 587, 1025, 2525))
SMTP_PORTS = PLAIN_PORTS | {465}

_GREETING = re.compile(rb"(?:220|421|4\d\d|5\d\d)(?:[ -]|\r?\n)")
_GREETING_INSIDE = re.compile(rb"220[ -][^\r\n]{0,500}SMTP")
_COMMAND = re.compile(
    rb"(?im)^(?:(?:EHLO|HELO|LHLO)(?:[ \t\r]|$)|MAIL[ \t]+FROM[ \t]*:|RCPT[ \t]+TO[ \t]*:)"
)
_FTP_COMMAND = re.compile(rb"(?i)(?:USER|PASS|FEAT|SYST|AUTH +(?:TLS|SSL))\b")

_NOT_SMTP = "nothing said in it is SMTP"
TLS_FIRST = "TLS is spoken from its first octet on, so nothing can be read"
_TLS_SERVER = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")

# What else servers and clients begin with.  A foreign client does not make a foreign
# conversation: it may have called on the wrong server, and that server's 5xx is worth testing.
_FOREIGN_SERVERS = (
    (re.compile(rb"HTTP/"), "HTTP"),
    (_TLS_SERVER, "TLS"),
    (re.compile(rb"SSH-"), "SSH"),
    (re.compile(rb"\+OK"), "POP3"),
    (re.compile(rb"\* (?:OK|PREAUTH|BYE)"), "IMAP"),
    (re.compile(rb"20[01] "), "NNTP"),
)

_SOCKS5_CLIENT = re.compile(rb"\x05[\x01-\xff][\x00-\xff]")  # RFC 1928 section 3
_SOCKS4_CLIENT = re.compile(rb"\x04[\x01\x02]")
_SOCKS4_SERVER = re.compile(rb"\x00[\x5a-\x5d]")
_HTTP_CONNECT = re.compile(
    rb"(?i)CONNECT[ \t]+[^ \t\r\n]{1,255}(?:[ \t]+HTTP/|[ \t]*\r?\n)"
)  # RFC 9110 section 9.3.6
_TLS_CLIENT = re.compile(rb"\x16\x03[\x00-\x04]..\x01", re.DOTALL)  # RFC 8446 sections 4 and 5.1


def _heads(flow: Flow) -> tuple[bytes, bytes]:
    """The first octets of each side."""
    heads = [b"", b""]
    for side, octets in flow.said():
        if len(heads[side]) < HEAD_OCTETS:
            heads[side] += octets[:HEAD_OCTETS]
            if min(map(len, heads)) >= HEAD_OCTETS:
                break
    return heads[0], heads[1]


def why_forget(flow: Flow) -> str:
    """Why ``flow``, which still goes on, will be no SMTP conversation; empty where it may be.

    Told early, so that its octets need not be kept: by what its server begins with, or when it has
    gone on for long.  Which side is the client is then kept in the flow.
    """
    side = client_side(flow)
    first = next((octets for one, octets in flow.said() if one != side), b"")
    if _GREETING.match(first):
        return ""
    foreign = any(pattern.match(first) for pattern, _ in _FOREIGN_SERVERS)
    if not foreign and flow.kept_octets(0) < LONG_OCTETS:
        return ""
    reason = why_not_smtp(flow, side)
    if reason:
        flow.client = side
    return reason


def why_not_by_first_octets(client: bytes, server: bytes, server_port: int) -> str | None:
    """Why a connection whose sides begin with these octets will be no SMTP conversation; empty
    where it may be, None where that cannot be told yet."""
    if server_port in SMTP_PORTS:
        return ""
    if not server:
        return None
    if _GREETING.match(server) or any(
        proxy.match(client) for proxy in (_HTTP_CONNECT, _SOCKS5_CLIENT, _SOCKS4_CLIENT)
    ):
        return ""
    for pattern, name in _FOREIGN_SERVERS:
        if pattern.match(server):
            return TLS_FIRST if name == "TLS" else f"the server speaks {name}"
    if len(server) < REPLY_OCTETS_MIN or not client:
        return None
    is_smtp = _COMMAND.search(client) or begins_reply(server)
    return "" if is_smtp else _NOT_SMTP


def client_side(flow: Flow) -> int:
    """The side that connected; without a handshake, told by what is said or by the ports."""
    if flow.opener is not None:
        return flow.opener
    if flow.client is not None:
        return flow.client
    heads = _heads(flow)
    for side in (0, 1):
        if _COMMAND.search(heads[side]) or begins_reply(heads[1 - side]):
            return side
    ports = flow.ends[0].port, flow.ends[1].port
    if (ports[0] in SMTP_PORTS) != (ports[1] in SMTP_PORTS):
        return 1 if ports[0] in SMTP_PORTS else 0
    return 0 if ports[0] >= ports[1] else 1


_SERVER_ALONE = (
    "SMTP, but the capture holds the server's direction alone; what a sender does is replayed, so "
    "capture both directions"
)
_ALL_CUT = "the capture's snapshot length cut off all that is said; capture whole packets (-s 0)"


def why_not_smtp(flow: Flow, side: int) -> str:
    """Why ``flow``, whose client is ``side``, is no SMTP conversation; empty if it is one."""
    if flow.forgotten:
        return flow.forgotten
    heads = _heads(flow)
    client, server = heads[side], heads[1 - side]
    is_smtp_port = flow.ends[1 - side].port in SMTP_PORTS
    if reason := _asked_first(client, server):
        return reason
    if begins_with_tls(flow, side):
        return "" if is_smtp_port else TLS_FIRST
    for pattern, name in _FOREIGN_SERVERS:
        if pattern.match(server):
            return f"the server speaks {name}"
    if _GREETING.match(server):
        if _FTP_COMMAND.match(client) or flow.ends[1 - side].port == 21:
            return "the server speaks FTP"
        return "" if flow.packets[side] else _SERVER_ALONE
    if _COMMAND.search(client):
        return ""
    if not is_smtp_port:
        if client or server:
            return _NOT_SMTP
        cut = any(isinstance(event, Gap) and event.why == "cut" for event in flow.events)
        return _ALL_CUT if cut else "nothing is said in it"
    if server and not begins_reply(server):
        return _NOT_SMTP
    if server and not flow.packets[side]:
        return _SERVER_ALONE
    was_refused = flow.opener is not None and not flow.accepted and flow.packets[1 - side]
    unanswered = not client and not flow.accepted
    return "the connection was never accepted" if was_refused or unanswered else ""


def begins_with_tls(flow: Flow, side: int) -> bool:
    """Whether ``flow``, whose client is ``side``, is TLS from its first octet.

    A server that greets, or that may have and was not asked to, speaks no TLS whatever it is told.
    """
    heads = _heads(flow)
    client, server = heads[side], heads[1 - side]
    if server:
        return bool(_TLS_SERVER.match(server))
    return flow.ends[1 - side].port not in PLAIN_PORTS and bool(_TLS_CLIENT.match(client))


def _asked_first(client: bytes, server: bytes) -> str:
    """Which proxy is asked for a connection, if one is: what follows within may be SMTP, but is
    not that of who opened this one."""
    if _HTTP_CONNECT.match(client) and (not server or server[:5].upper() == b"HTTP/"):
        proxy = "an HTTP proxy is asked to connect first"
    elif (_SOCKS5_CLIENT.match(client) and server.startswith(b"\x05")) or (
        _SOCKS4_CLIENT.match(client) and _SOCKS4_SERVER.match(server)
    ):
        proxy = "a SOCKS proxy is asked first"
    else:
        return ""
    inside = _GREETING_INSIDE.search(server) or _COMMAND.search(client)
    return f"{proxy}; the SMTP within is not followed" if inside else proxy
