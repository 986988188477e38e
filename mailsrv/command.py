"""A command line becomes a verb and its arguments (RFC 5321 section 4.1.1, RFC 1869).

Each parser gives either what it understood or the ``Reply`` that says what was wrong: a bad
command is no exception in a server's life.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mailsrv import reply
from mailsrv.address import Path, needs_smtputf8, parse_forward_path, parse_reverse_path
from mailsrv.reply import Reply

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAIL_FROM = "FROM:"
_RCPT_TO = "TO:"
_SIZE = re.compile(r"[0-9]{1,20}")  # RFC 1870 section 4: 1*20DIGIT
_BODIES = frozenset(("7BIT", "8BITMIME"))  # RFC 6152 section 3
PARAMETERS_MAX = 16

HTTP_VERBS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH"))
NOT_IMPLEMENTED = frozenset(("STARTTLS", "AUTH", "BDAT", "ETRN", "TURN", "SEND", "SOML", "SAML"))
"""Commands of the standards that are not offered here (RFC 5321 section 4.2.4: 502, not 500)."""
TLS_HANDSHAKE = 0x16
"""The first octet of a TLS ClientHello record (RFC 8446 section 5.1)."""


class Mail(NamedTuple):
    """The arguments of MAIL.  ``size_octets`` is None where SIZE was not given."""

    reverse_path: Path
    size_octets: int | None = None
    body: str = "7BIT"
    smtputf8: bool = False


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


def _capitals(word: str) -> str:
    """``word`` in capitals, unless it goes beyond ASCII: "\u017f" would become an "S"."""
    return word.upper() if word.isascii() else word


def parse_mail(argument: str) -> Mail | Reply:
    """Parse what stands after ``MAIL``."""
    if argument[:5].upper() != _MAIL_FROM:
        return reply.MAIL_SYNTAX
    parsed = parse_reverse_path(argument[5:])
    if parsed is None:
        return reply.BAD_SENDER_ADDRESS
    path, rest = parsed
    mail = _mail_parameters(path, rest) if rest else Mail(path)
    if not argument.isascii() and isinstance(mail, Mail) and not mail.smtputf8:
        return reply.NEED_SMTPUTF8 if needs_smtputf8(path) else mail
    return mail


def _mail_parameters(path: Path, rest: str) -> Mail | Reply:
    words = rest.split()
    if len(words) > PARAMETERS_MAX:
        return reply.UNKNOWN_PARAMETER
    size_octets, body, smtputf8 = None, "7BIT", False
    for word in words:
        keyword, equals, value = word.partition("=")
        match _capitals(keyword):
            case "SIZE":
                if not _SIZE.fullmatch(value):
                    return reply.BAD_SIZE
                size_octets = int(value)
            case "BODY":
                body = _capitals(value)
                if body not in _BODIES:
                    return reply.BAD_BODY
            case "SMTPUTF8" if not equals:  # RFC 6531 section 3.4: it takes no value
                smtputf8 = True
            case _:
                return reply.UNKNOWN_PARAMETER
    return Mail(path, size_octets, body, smtputf8)


def parse_rcpt(argument: str, smtputf8: bool) -> Path | Reply:
    """Parse what stands after ``RCPT``; ``smtputf8`` says whether MAIL asked for it."""
    if argument[:3].upper() != _RCPT_TO:
        return reply.RCPT_SYNTAX
    parsed = parse_forward_path(argument[3:])
    if parsed is None:
        return reply.BAD_RECIPIENT_ADDRESS
    path, rest = parsed
    if rest:
        return reply.UNKNOWN_PARAMETER
    if not smtputf8 and not argument.isascii() and needs_smtputf8(path):
        return reply.NEED_SMTPUTF8
    return path
