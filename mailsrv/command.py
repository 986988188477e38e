"""A command line becomes a verb and its arguments (RFC 5321 section 4.1.1, RFC 1869).

Each parser gives either what it understood or the ``Reply`` that says what was wrong: a bad
command is no exception in a server's life.
"""

from __future__ import annotations

import re

from mailsrv import parameters, reply
from mailsrv.address import Path, needs_smtputf8, parse_forward_path, parse_reverse_path
from mailsrv.envelope import Notice
from mailsrv.parameters import NO_MAIL_PARAMETERS, MailParameters
from mailsrv.reply import Reply

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAIL_FROM = "FROM:"
_RCPT_TO = "TO:"
_SMTPUTF8 = "SMTPUTF8"
_CHUNK = re.compile(r"([0-9]{1,20})( +LAST)?", re.IGNORECASE | re.ASCII)
CHUNK_OCTETS_MAX = 2**63 - 1
"""What a signed count of 64 bits holds; a client that says more has miscounted."""

HTTP_VERBS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH"))
NOT_IMPLEMENTED = frozenset(("AUTH", "ETRN", "TURN", "SEND", "SOML", "SAML"))
"""Commands of the standards that are not offered here (RFC 5321 section 4.2.4: 502, not 500)."""
TLS_HANDSHAKE = 0x16
"""The first octet of a TLS ClientHello record (RFC 8446 section 5.1)."""


def split(line: bytes) -> tuple[str, str] | Reply:
    """Split a command line, without its CRLF, into the verb in capitals and its argument.

    Trailing white space is tolerated (RFC 5321 section 4.1.1); control characters, bare CR
    among them, and octets that are not UTF-8 are not.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return reply.NOT_ASCII
    if not text.isprintable():
        text = text.rstrip(" \t")
        if _CONTROL.search(text):
            return reply.CONTROL_CHARACTER
    verb, _, argument = text.partition(" ")
    # Beyond ASCII nothing is capitalised: "\u017f" would become an "S".
    return verb.upper() if verb.isascii() else verb, argument.strip(" ")


def parse_mail(argument: str) -> tuple[Path, MailParameters] | Reply:
    """Parse what stands after ``MAIL``."""
    if argument[:5].upper() != _MAIL_FROM:
        return reply.MAIL_SYNTAX
    parsed = parse_reverse_path(argument[5:])
    if parsed is None:
        return reply.BAD_SENDER_ADDRESS
    path, rest = parsed
    asked = parameters.mail(rest) if rest else NO_MAIL_PARAMETERS
    if isinstance(asked, Reply):
        return asked
    if not asked.smtputf8 and not argument.isascii() and needs_smtputf8(path):
        return reply.NEED_SMTPUTF8
    return path, asked


def parse_rcpt(argument: str, smtputf8: bool) -> tuple[Path, Notice | None] | Reply:
    """Parse what stands after ``RCPT``; ``smtputf8`` says whether MAIL asked for it."""
    if argument[:3].upper() != _RCPT_TO:
        return reply.RCPT_SYNTAX
    parsed = parse_forward_path(argument[3:])
    if parsed is None:
        return reply.BAD_RECIPIENT_ADDRESS
    path, rest = parsed
    notice = parameters.rcpt(rest, smtputf8) if rest else None
    if isinstance(notice, Reply):
        return notice
    if not smtputf8 and not argument.isascii() and needs_smtputf8(path):
        return reply.NEED_SMTPUTF8
    return path, notice


def parse_bdat(argument: str) -> tuple[int, bool] | None:
    """Parse what stands after ``BDAT``: the octets that follow, and whether they are the last
    (RFC 3030 section 2).  None if that cannot be told."""
    match = _CHUNK.fullmatch(argument)
    if match is None:
        return None
    octets = int(match[1])
    return (octets, match[2] is not None) if octets <= CHUNK_OCTETS_MAX else None


def parse_vrfy(argument: str) -> Reply | None:
    """What is wrong with what stands after ``VRFY`` or ``EXPN``, None for nothing.

    RFC 6531 section 3.7.4.2: beyond ASCII the parameter SMTPUTF8 is needed.
    """
    name, _, parameter = argument.rpartition(" ")
    if parameters.capitals(parameter) == _SMTPUTF8:  # alone it is a user's name
        argument = name.rstrip(" ") or argument
    elif not argument.isascii():
        return reply.VRFY_NEEDS_SMTPUTF8
    return None if argument else reply.NEED_ARGUMENT
