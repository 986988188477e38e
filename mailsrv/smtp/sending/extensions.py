"""What a next hop offers: the lines of its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

import re
from typing import NamedTuple

from mailsrv.smtp.sending.reply_reader import ReceivedReply

_match_number = re.compile(rb"[0-9]{1,20}").fullmatch


class Extensions(NamedTuple):
    """The extensions on offer that a sender has a use for.

    ``size_octets_max`` is 0 where no limit was named, or SIZE was not offered.
    ``recipients_max`` and ``transactions_max`` are RCPTMAX and MAILMAX of RFC 9422, None where they
    were not named.
    """

    pipelining: bool = False  # RFC 2920
    size: bool = False  # RFC 1870
    size_octets_max: int = 0
    eight_bit: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    starttls: bool = False  # RFC 3207
    chunking: bool = False  # RFC 3030
    dsn: bool = False  # RFC 3461
    recipients_max: int | None = None
    transactions_max: int | None = None


NO_EXTENSIONS = Extensions()
"""Of a next hop that knows HELO alone."""


def parse_extensions(reply: ReceivedReply) -> Extensions:
    """What the lines after the first say; what is malformed or unknown is passed over."""
    offered: dict[bytes, list[bytes]] = {}
    for line in reply.lines[1:]:
        words = line.upper().split()
        if words:
            offered[words[0]] = words[1:]
    size = offered.get(b"SIZE", [])
    limits = dict(word.partition(b"=")[::2] for word in offered.get(b"LIMITS", ()))
    return Extensions(
        pipelining=b"PIPELINING" in offered,
        size=b"SIZE" in offered,
        size_octets_max=(_number(size[0]) or 0) if size else 0,
        eight_bit=b"8BITMIME" in offered,
        smtputf8=b"SMTPUTF8" in offered,
        starttls=b"STARTTLS" in offered,
        chunking=b"CHUNKING" in offered,
        dsn=b"DSN" in offered,
        recipients_max=_number(limits.get(b"RCPTMAX", b"")) or None,
        transactions_max=_number(limits.get(b"MAILMAX", b"")) or None,
    )


def _number(word: bytes) -> int | None:
    return int(word) if _match_number(word) else None
