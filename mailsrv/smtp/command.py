"""Command lines: verb, argument and parameters (RFC 5321 section 4.1.1).

Theory of operation.  ``split`` makes a verb and an argument of a line; ``parse_mail``,
``parse_rcpt``, ``parse_bdat`` and ``parse_vrfy`` read the argument of one command.  MAIL and RCPT
have a path first (``path``) and then the parameters of extensions: SIZE (RFC 1870), BODY (RFC
6152), SMTPUTF8 (RFC 6531), and RET, ENVID, NOTIFY and ORCPT (RFC 3461).  Each parser returns what
it understood, or the ``Reply`` that says what is wrong: a bad command is nothing exceptional in a
server's life.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from mailsrv.smtp import command, reply
from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.path import MailPath, needs_smtputf8, parse_forward_path, parse_reverse_path
from mailsrv.smtp.reply import Reply

PARAMETERS_MAX = 16
LINES_KNOWN_MAX = 256
"""The command lines whose parse is remembered: clients and recipients come again."""
ENVID_CHARACTERS_MAX = 100
"""RFC 3461 section 4.4."""
ORCPT_CHARACTERS_MAX = 500
"""RFC 3461 section 4.2."""

_SIZE = re.compile(r"[0-9]{1,20}")  # RFC 1870 section 4: 1*20DIGIT
_match_usual = re.compile(r"SIZE=([0-9]{1,20})(?: BODY=(7BIT|8BITMIME))?").fullmatch
"""The parameters that nearly every MAIL has, for speed."""
_BODIES = frozenset(
    ("7BIT", "8BITMIME")
)  # RFC 6152 section 3; no BINARYMIME: see docs/run/esmtp.md
_RETURNS = frozenset(("FULL", "HDRS"))
_NEVER = ("NEVER",)
_OCCASIONS = frozenset(("SUCCESS", "FAILURE", "DELAY"))

# xtext = *( xchar / hexchar ), RFC 3461 section 4; of the octets that a hexchar can stand for,
# those that are printable US-ASCII, as its sections 4.2 and 4.4 demand of what is encoded.
_XTEXT = r"(?:[!-*,-<>-~]|\+(?:[2-6][0-9A-F]|7[0-9A-E]))++"
_ENVID = re.compile(_XTEXT)
# original-recipient-address = addr-type ";" xtext; addr-type is an atom
_ORCPT = re.compile(rf"[A-Za-z0-9._-]++;{_XTEXT}")
# utf-8-addr-xtext and, where MAIL asked for SMTPUTF8, utf-8-addr-unitext (RFC 6533 section 3).
_ORCPT_UTF8 = re.compile(r"utf-8;", re.IGNORECASE | re.ASCII)
_UTF8_ADDRESS = re.compile(r"(?:[!-*,-<>-\[\]-~]|[^\x00-\xa0]|\\x\{[0-9A-F]{2,6}\})++")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")


class MailParameters(NamedTuple):
    """The parameters behind the reverse-path.

    ``size_octets`` is None where SIZE was not given; ``ret`` is "FULL", "HDRS" or ""; ``envid``
    is still xtext.  ``dropped`` are the parameters that were taken and not used.
    """

    size_octets: int | None = None
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    dropped: tuple[str, ...] = ()


class RcptParameters(NamedTuple):
    """The parameters behind the forward-path; ``dropped`` are those that were not used."""

    notice: Notice | None
    dropped: tuple[str, ...] = ()


NO_MAIL_PARAMETERS = MailParameters()


def capitals(word: str) -> str:
    """``word`` in capitals, unless it goes beyond ASCII: "\u017f" would become an "S"."""
    return word.upper() if word.isascii() else word


def _each(rest: str) -> dict[str, str | None] | Reply:
    """The parameters by keyword; None where there was no "="."""
    words = rest.split()
    if len(words) > PARAMETERS_MAX:
        return reply.UNKNOWN_PARAMETER
    by_keyword: dict[str, str | None] = {}
    for word in words:
        keyword, equals, value = word.partition("=")
        keyword = capitals(keyword)
        if keyword in by_keyword:
            return reply.REPEATED_PARAMETER
        by_keyword[keyword] = value if equals else None
    return by_keyword


def mail(rest: str) -> MailParameters | Reply:
    """The parameters of MAIL.

    Those that only advise must not cost the sender its mail: an ENVID that is no printable xtext,
    and AUTH, which is not offered, are dropped, as other servers do.
    """
    usual = _match_usual(rest)
    if usual is not None:
        return MailParameters(int(usual[1]), usual[2] or "7BIT")
    given = _each(rest)
    if isinstance(given, Reply):
        return given
    size_octets, body, smtputf8, ret, envid = None, "7BIT", False, "", ""
    dropped: tuple[str, ...] = ()
    for keyword, value in given.items():
        match keyword:
            case "SIZE":
                if not _SIZE.fullmatch(value or ""):
                    return reply.BAD_SIZE
                size_octets = int(value or "")
            case "BODY":
                body = capitals(value or "")
                if body not in _BODIES:
                    return reply.BAD_BODY
            case "SMTPUTF8" if value is None:  # RFC 6531 section 3.4: it takes no value
                smtputf8 = True
            case "RET":
                ret = capitals(value or "")
                if ret not in _RETURNS:
                    return reply.BAD_RET
            case "ENVID":
                envid = value or ""
                if len(envid) > ENVID_CHARACTERS_MAX or not _ENVID.fullmatch(envid):
                    dropped += (f"ENVID={envid}",)
                    envid = ""
            case "AUTH":
                dropped += (f"AUTH={value or ''}",)
            case _:
                return reply.UNKNOWN_PARAMETER
    return MailParameters(size_octets, body, smtputf8, ret, envid, dropped)


def rcpt(rest: str, smtputf8: bool) -> RcptParameters | Reply:
    """The parameters of RCPT; ``smtputf8`` says whether MAIL asked for it.

    An ORCPT that is no printable xtext is dropped: it only advises.
    """
    given = _each(rest)
    if isinstance(given, Reply):
        return given
    notify: tuple[str, ...] = ()
    orcpt = ""
    dropped: tuple[str, ...] = ()
    for keyword, value in given.items():
        match keyword:
            case "NOTIFY":
                occasions = _occasions(value or "")
                if occasions is None:
                    return reply.BAD_NOTIFY
                notify = occasions
            case "ORCPT":
                orcpt = value or ""
                if len(orcpt) > ORCPT_CHARACTERS_MAX or not _is_orcpt(orcpt, smtputf8):
                    dropped = (f"ORCPT={orcpt}",)
                    orcpt = ""
            case _:
                return reply.UNKNOWN_PARAMETER
    return RcptParameters(Notice(notify, orcpt) if notify or orcpt else None, dropped)


def _occasions(value: str) -> tuple[str, ...] | None:
    occasions = tuple(dict.fromkeys(capitals(value).split(",")))
    if occasions == _NEVER or _OCCASIONS.issuperset(occasions):
        return occasions
    return None


def _is_orcpt(value: str, smtputf8: bool) -> bool:
    if not _ORCPT_UTF8.match(value):
        return _ORCPT.fullmatch(value) is not None
    if not (value.isascii() or smtputf8) or not _UTF8_ADDRESS.fullmatch(value, len("utf-8;")):
        return False
    embedded = [int(point, 16) for point in _EMBEDDED.findall(value)]
    return value.isprintable() and all(map(_is_printable, embedded))


def _is_printable(point: int) -> bool:
    return point == 0x20 or (point <= 0x10FFFF and chr(point).isprintable())


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


@lru_cache(LINES_KNOWN_MAX)
def split(line: bytes) -> tuple[str, str] | Reply:
    """Split a command line, without its CRLF, into the verb in capitals and its argument.

    A tab is taken for a blank, except in a line with a quoted string, where it would be part of
    a name; trailing blanks are tolerated (RFC 5321 section 4.1.1).  Control characters, bare CR
    among them, and octets that are not UTF-8 are refused.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return reply.NOT_ASCII
    if not text.isprintable():
        text = text.rstrip(" \t")
        if '"' not in text:
            text = text.replace("\t", " ")
        if _CONTROL.search(text):
            return reply.CONTROL_CHARACTER
    verb, _, argument = text.partition(" ")
    # Beyond ASCII nothing is capitalised: "\u017f" would become an "S".
    return verb.upper() if verb.isascii() else verb, argument.strip(" ")


@lru_cache(LINES_KNOWN_MAX)
def split_whole(octets: bytes) -> tuple[str, str] | None:
    """Split ``octets`` that are one command line with its CRLF; None if they are anything else, or
    a line that must be refused."""
    end = len(octets) - len(b"\r\n")
    if end < 0 or octets.find(b"\r\n") != end:
        return None
    parts = split(octets[:end])
    return None if isinstance(parts, Reply) else parts


@lru_cache(LINES_KNOWN_MAX)
def parse_mail(argument: str) -> tuple[MailPath, MailParameters] | Reply:
    """Parse what stands after ``MAIL``."""
    if argument[:5].upper() != _MAIL_FROM:
        return reply.MAIL_SYNTAX
    parsed = parse_reverse_path(argument[5:])
    if parsed is None:
        return reply.BAD_SENDER_ADDRESS
    path, rest = parsed
    asked = command.mail(rest) if rest else NO_MAIL_PARAMETERS
    if isinstance(asked, Reply):
        return asked
    if not asked.smtputf8 and not argument.isascii() and needs_smtputf8(path):
        return reply.NEED_SMTPUTF8
    return path, asked


NO_RCPT_PARAMETERS = RcptParameters(None)


@lru_cache(LINES_KNOWN_MAX)
def parse_rcpt(argument: str, smtputf8: bool) -> tuple[MailPath, RcptParameters] | Reply:
    """Parse what stands after ``RCPT``; ``smtputf8`` says whether MAIL asked for it."""
    if argument[:3].upper() != _RCPT_TO:
        return reply.RCPT_SYNTAX
    parsed = parse_forward_path(argument[3:])
    if parsed is None:
        return reply.BAD_RECIPIENT_ADDRESS
    path, rest = parsed
    asked = command.rcpt(rest, smtputf8) if rest else NO_RCPT_PARAMETERS
    if isinstance(asked, Reply):
        return asked
    if not smtputf8 and not argument.isascii() and needs_smtputf8(path):
        return reply.NEED_SMTPUTF8
    return path, asked


def parse_bdat(argument: str) -> tuple[int, bool] | None:
    """Parse what stands after ``BDAT``: the octets that follow, and whether they are the last
    (RFC 3030 section 2).  None if it is malformed."""
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
    if command.capitals(parameter) == _SMTPUTF8:  # alone it is a user's name
        argument = name.rstrip(" ") or argument
    elif not argument.isascii():
        return reply.VRFY_NEEDS_SMTPUTF8
    return None if argument else reply.NEED_ARGUMENT
