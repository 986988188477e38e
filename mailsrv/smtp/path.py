"""Paths: the addresses of the envelope and their grammar (RFC 5321 section 4.1.2, RFC 6531).

Each pattern stands below the rule that it obeys.  All repetitions are possessive (``++``,
``*+``): no input, however hostile, makes the matcher try twice, so a parse takes time in
proportion to the length of the line.

What is taken beyond the grammar, because real senders use it and refusing would lose mail:

- blanks after the colon, and a mailbox without its angle brackets: old programs and devices;
- "_" in domain names: Windows hosts;
- a final dot of the domain, which is dropped: programs that take names from DNS;
- dots anywhere in a local-part: mobile providers and their customers' first choice of a name;
- local-parts over 64 octets, up to the bound of a path: forwarders, bounce tags and reply tokens.
  RFC 5321 section 4.5.3.1 says what must be taken at least, not what may be refused.

What RFC 6531 would allow and is refused, because it makes one address look like another or a domain
look like part of a local-part: marks without width or with a direction of writing, and the wide
forms of "@" and "%".  So is a local-part with ".." that would lead out of a folder.  Control
characters are refused with the whole line (``command.split``).
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

DOMAIN_OCTETS_MAX = 255
"""RFC 5321 section 4.5.3.1.2."""
PATH_OCTETS_MAX = 512
"""Brackets, source route and "@" included: twice what RFC 5321 section 4.5.3.1.3 demands."""
LABEL_OCTETS_MAX = 63
"""RFC 1035 section 2.3.4."""


class MailPath(NamedTuple):
    """A reverse-path or forward-path as it was written, without source route and brackets.

    The null reverse-path has neither part; the forward-path ``<postmaster>`` has no domain.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local


NULL_PATH = MailPath("", "")
"""``<>``: no bounce can be sent to it (RFC 5321 section 4.5.5)."""


# -- the grammar ----------------------------------------------------------------------------------

# RFC 6531 section 3.3 adds UTF8-non-ascii to atext, qtextSMTP and sub-domain.  White space,
# control characters and lone surrogates are no part of any name, and marks that nobody can see and
# the wide forms of "@" and "%" deceive: they are left out everywhere.
_UNSEEN = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u3164\ufeff\uffa0\U000e0000-\U000e007f"
)
_WIDE = r"\ufe6a\ufe6b\uff05\uff20"
_NOT_TEXT = rf"\x7f-\xa0\s\ud800-\udfff{_UNSEEN}{_WIDE}"

# atext (RFC 5322 section 3.2.3): ASCII without controls, space and the specials.
_ATEXT = rf'[^\x00-\x20"(),.:;<>@\[\\\]{_NOT_TEXT}]'

# Dot-string = Atom *("." Atom); Atom = 1*atext; here with dots anywhere
_DOT_STRING = rf"(?:{_ATEXT}|\.)++"

# Quoted-string = DQUOTE *QcontentSMTP DQUOTE
# qtextSMTP = %d32-33 / %d35-91 / %d93-126; quoted-pairSMTP = %d92 %d32-126
_QUOTED_STRING = rf'"(?:(?:\x20|[^\x00-\x20"\\{_NOT_TEXT}])|\\[\x20-\x7e])*+"'

# Local-part = Dot-string / Quoted-string
_LOCAL_PART = rf"(?:{_DOT_STRING}|{_QUOTED_STRING})"

# Domain = sub-domain *("." sub-domain); sub-domain = Let-dig [Ldh-str] / U-label
# The three full stops that IDNA once read as "." would be labels to us and dots to others.
_LET_DIG = rf"[^\x00-/:-@\[-^`{{-~\u3002\uff0e\uff61{_NOT_TEXT}]"
_DOMAIN = rf"{_LET_DIG}++(?:(?:-++|\.){_LET_DIG}++)*+"

# address-literal = "[" ( IPv4-address-literal / IPv6-address-literal ) "]"
# Its octets are checked by ``ipaddress``.  No General-address-literal tag was ever registered.
_ADDRESS_LITERAL = r"\[(?:[Ii][Pp][Vv]6:[0-9A-Fa-f:.]{2,45}|[0-9.]{7,15})\]"

# A-d-l = At-domain *( "," At-domain ): the source route, to be ignored (appendix C)
_ROUTE = rf"@{_DOMAIN}(?:,@{_DOMAIN})*+:"

# Path = "<" [ A-d-l ":" ] Mailbox ">"; Mailbox = Local-part "@" ( Domain / address-literal )
_PATH = re.compile(
    rf"\x20*+(<)?+(?(1)(?:{_ROUTE})?+)"
    rf"({_LOCAL_PART})@(?:({_DOMAIN})\.?+|({_ADDRESS_LITERAL}))(?(1)>)(?:\x20++|\Z)"
)

# Reverse-path = Path / "<>"
_NULL = re.compile(r"\x20*+<>(?:\x20++|\Z)")

# RCPT TO: ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ), in any case (4.1.1.3)
_POSTMASTER = re.compile(r"\x20*+(<)?+(postmaster)(?(1)>)(?:\x20++|\Z)", re.IGNORECASE | re.ASCII)

# What nearly every path looks like, "<" Dot-string "@" Domain ">" in ASCII, for speed.
_COMMON = re.compile(
    r"<([\w!#$%&'*+/=?^`{|}~-]++(?:\.[\w!#$%&'*+/=?^`{|}~-]++)*+)"
    r"@(\w++(?:(?:-++|\.)\w++)*+)>(?:\x20++|\Z)(.*+)",
    re.ASCII | re.DOTALL,
)

_WHOLE_DOMAIN = re.compile(_DOMAIN)
_WHOLE_LITERAL = re.compile(_ADDRESS_LITERAL)

_SHORT = PATH_OCTETS_MAX // 2
"""A local-part of so many octets needs no look at the bounds."""
_match_common = _COMMON.match
_make_tuple = tuple.__new__
"""What a NamedTuple's constructor, which is a Python call, would call for nearly every path."""


# -- parsing --------------------------------------------------------------------------------------


def parse_reverse_path(argument: str) -> tuple[MailPath, str] | None:
    """Parse what stands after ``MAIL FROM:``: the path, and the parameters behind it.

    None if it is no reverse-path, or exceeds a bound.
    """
    return _parse_common(argument) or _parse_null(argument) or _parse_any(argument)


def parse_forward_path(argument: str) -> tuple[MailPath, str] | None:
    """Parse what stands after ``RCPT TO:``: the path, and the parameters behind it.

    None if it is no forward-path, or exceeds a bound.
    """
    return _parse_common(argument) or _parse_postmaster(argument) or _parse_any(argument)


def _parse_common(argument: str) -> tuple[MailPath, str] | None:
    match = _match_common(argument)
    if match is None:
        return None
    local, domain, rest = match.groups()
    if len(local) > _SHORT or len(domain) > LABEL_OCTETS_MAX:
        return None  # it may still be right: the long way will tell
    return _make_tuple(MailPath, (local, domain)), rest


def _parse_null(argument: str) -> tuple[MailPath, str] | None:
    match = _NULL.match(argument)
    return None if match is None else (NULL_PATH, argument[match.end() :])


def _parse_postmaster(argument: str) -> tuple[MailPath, str] | None:
    match = _POSTMASTER.match(argument)
    return None if match is None else (MailPath(match[2], ""), argument[match.end() :])


def _parse_any(argument: str) -> tuple[MailPath, str] | None:
    match = _PATH.match(argument)
    if match is None:
        return None
    local, domain, literal = match[2], match[3], match[4]
    if _leads_out(local):
        return None
    if len(match[0].strip(" ").encode()) > PATH_OCTETS_MAX:
        return None
    if not (_literal_holds(literal) if literal else _labels_fit(domain)):
        return None
    return MailPath(local, literal or domain), argument[match.end() :]


def _leads_out(local: str) -> bool:
    """Whether a local-part taken for the name of a folder would lead out of it, however quoted."""
    name = local.strip('"').replace("\\", "")
    return ".." in name and ("/" in name or not name.strip("."))


def _labels_fit(domain: str) -> bool:
    octets = domain.encode()
    return len(octets) <= DOMAIN_OCTETS_MAX and all(
        len(label) <= LABEL_OCTETS_MAX for label in octets.split(b".")
    )


def _literal_holds(literal: str) -> bool:
    """Whether the address in a well-formed literal is one."""
    try:
        if literal[1] in "Ii":
            ipaddress.IPv6Address(literal[len("[IPv6:") : -1])
        else:
            ipaddress.IPv4Address(literal[1:-1])
    except ValueError:
        return False
    return True


# -- questions ------------------------------------------------------------------------------------


def needs_smtputf8(path: MailPath) -> bool:
    """Whether the path may only be used after MAIL with SMTPUTF8 (RFC 6531 section 3.4)."""
    return not (path.local.isascii() and path.domain.isascii())


def is_domain(text: str) -> bool:
    """Whether ``text`` is a Domain, as HELO and EHLO take it; U-labels are allowed."""
    return _WHOLE_DOMAIN.fullmatch(text) is not None and _labels_fit(text)


def is_address_literal(text: str) -> bool:
    """Whether ``text`` is an address literal: ``[192.0.2.1]`` or ``[IPv6:2001:db8::1]``."""
    return _WHOLE_LITERAL.fullmatch(text) is not None and _literal_holds(text)
