"""Which end of a flow is the client, and whether SMTP is spoken: told by what is said."""

from __future__ import annotations

import re

from replay.flow import Flow, Piece

HEAD_OCTETS = 4096
"""How much of each direction is looked at."""

SMTP_PORTS = frozenset((25, 465, 587, 1025, 2525))

_GREETING = re.compile(rb"(?:220|421|4\d\d|5\d\d)(?:[ -]|\r?\n)")
_REPLY = re.compile(rb"[2-5]\d\d(?:[ -]|\r?\n)")
_COMMAND = re.compile(
    rb"(?im)^(?:(?:EHLO|HELO|LHLO)(?:[ \t\r]|$)|MAIL[ \t]+FROM[ \t]*:|RCPT[ \t]+TO[ \t]*:)"
)
_FTP_COMMAND = re.compile(rb"(?i)(?:USER|PASS|FEAT|SYST|AUTH +(?:TLS|SSL))\b")

# What else servers and clients begin with.  A foreign client does not make a foreign
# conversation: it may have called on the wrong server, and that server's 5xx is worth testing.
_FOREIGN_SERVERS = (
    (re.compile(rb"HTTP/"), "HTTP"),
    (re.compile(rb"\x16\x03|\x15\x03"), "TLS from its first octet, so nothing can be read"),
    (re.compile(rb"SSH-"), "SSH"),
    (re.compile(rb"\+OK"), "POP3"),
    (re.compile(rb"\* (?:OK|PREAUTH|BYE)"), "IMAP"),
    (re.compile(rb"20[01] "), "NNTP"),
)

_PROXY_LINE = re.compile(rb"PROXY [^\n]{0,100}\n")
_PROXY_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY_FIXED_OCTETS = 16

_SOCKS_CLIENT = re.compile(rb"\x05[\x01-\x09][\x00-\x09\x80-\xfe]")  # RFC 1928 section 3


def behind_proxy_header(said: bytes) -> bytes:
    """What a sender said behind the header of the PROXY protocol, if it began with one.

    The header names ports, so it is another one in every recording of the same sender.
    """
    if line := _PROXY_LINE.match(said):
        return said[line.end() :]
    if said.startswith(_PROXY_SIGNATURE) and len(said) >= _PROXY_FIXED_OCTETS:
        length = int.from_bytes(said[_PROXY_FIXED_OCTETS - 2 : _PROXY_FIXED_OCTETS])
        return said[_PROXY_FIXED_OCTETS + length :]
    return said


def _heads(flow: Flow) -> tuple[bytes, bytes]:
    """The first octets of each side."""
    heads = [b"", b""]
    for event in flow.events:
        if isinstance(event, Piece) and len(heads[event.side]) < HEAD_OCTETS:
            heads[event.side] += event.octets[:HEAD_OCTETS]
            if min(map(len, heads)) >= HEAD_OCTETS:
                break
    return heads[0], heads[1]


def client_side(flow: Flow) -> int:
    """The side that connected; without a handshake, told by what is said or by the ports."""
    if flow.opener is not None:
        return flow.opener
    heads = _heads(flow)
    for side in (0, 1):
        if _COMMAND.search(heads[side]) or _REPLY.match(heads[1 - side]):
            return side
    ports = flow.ends[0].port, flow.ends[1].port
    if (ports[0] in SMTP_PORTS) != (ports[1] in SMTP_PORTS):
        return 1 if ports[0] in SMTP_PORTS else 0
    return 0 if ports[0] >= ports[1] else 1


def why_not_smtp(flow: Flow, side: int) -> str:
    """Why ``flow``, whose client is ``side``, is no SMTP conversation; empty if it is one."""
    heads = _heads(flow)
    client, server = heads[side], heads[1 - side]
    is_smtp_port = flow.ends[1 - side].port in SMTP_PORTS
    if _SOCKS_CLIENT.match(client) and server.startswith(b"\x05"):
        return "a SOCKS proxy is asked first"
    for pattern, name in _FOREIGN_SERVERS:
        if pattern.match(server):
            return f"the server speaks {name}"
    if _GREETING.match(server):
        if _FTP_COMMAND.match(client) or flow.ends[1 - side].port == 21:
            return "the server speaks FTP"
        return ""
    if _COMMAND.search(client):
        return ""
    if not is_smtp_port:
        return "nothing said in it is SMTP" if client or server else "nothing is said in it"
    if server and not _REPLY.match(server):
        return "nothing said in it is SMTP"
    was_refused = flow.opener is not None and not flow.accepted and flow.packets[1 - side]
    unanswered = not client and not flow.accepted
    return "the connection was never accepted" if was_refused or unanswered else ""
