"""Bounds what one DNS message costs: cuts its counts down before it is parsed.

Theory of operation.  A sender chooses what its domain's name server answers.  Through compression
(RFC 1035 section 4.1.4) a few thousand octets can stand for hundreds of names of 120 labels each,
and to parse them takes most of a second, in which no other client is served.  So the records are
first walked over without making anything of them: in the order of the message, until there are
enough records, enough labels, or one of a type that answers nothing.  The counts in the header
then say how many are to be parsed; a parser that ignores what comes behind them does the rest.
"""

from __future__ import annotations

import struct

RECORDS_MAX = 32
"""Records read of one answer; no domain that means well has more."""
AUTHORITY_RECORDS_MAX = 4
"""Records read of the authority section: the SOA of a negative answer (RFC 2308) is one of them."""
LABELS_MAX = 200
"""Labels of all names in these, as they are without compression."""
LABELS_OF_A_NAME_MAX = 40
"""Of one name in a record; the reverse name of an IPv6 address has 34."""
JUMPS_OF_A_NAME_MAX = LABELS_OF_A_NAME_MAX
"""Compression pointers in one name: a label precedes each, unless they were chained for nothing."""

HEADER_OCTETS = 12
_COUNTS = struct.Struct("!4H")  # questions, answers, authority, additional; behind id and flags
_COUNTS_AT = 4
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, octets of data
_QUESTION_OCTETS = 4  # type and class
_POINTER = 0xC0

_NAMES_IN: dict[int, tuple[int | None, ...]] = {
    **dict.fromkeys((1, 28, 16), ()),  # A, AAAA, TXT
    **dict.fromkeys((5, 12, 2, 39), (0,)),  # CNAME, PTR, NS, DNAME
    15: (2,),  # MX
    6: (0, None),  # SOA
    46: (18,),  # RRSIG
}
"""Where names begin in the data of a record, by its type; None: behind the one before.  DNAME and
RRSIG stand among the records that were asked for: a DNAME before the CNAME that is made from it
(RFC 6672 section 3.1), signatures where a server sends them unasked."""


def bounded(octets: bytes) -> bytes:
    """``octets``, a message, with counts that say no more than is to be read.

    Raises ValueError, IndexError or struct.error where it is malformed.
    """
    questions, answers, authority, _ = _COUNTS.unpack_from(octets, _COUNTS_AT)
    at, labels = HEADER_OCTETS, LABELS_MAX
    if questions:
        _, at = _name(octets, at)
        at += _QUESTION_OCTETS
    read, at, labels = _records(octets, at, min(answers, RECORDS_MAX), labels)
    if read == answers:
        authority, _, _ = _records(octets, at, min(authority, AUTHORITY_RECORDS_MAX), labels)
    else:
        authority = 0  # it stands behind the answers that are not read
    counts = _COUNTS.pack(min(questions, 1), read, authority, 0)
    return octets[:_COUNTS_AT] + counts + octets[HEADER_OCTETS:]


def _records(octets: bytes, at: int, count: int, labels: int) -> tuple[int, int, int]:
    """How many of the ``count`` records at ``at`` fit; where the next stands; the labels left."""
    for number in range(count):
        used, data_at = _name(octets, at)
        longest = used
        rtype, _, _, data_octets = _FIXED.unpack_from(octets, data_at)
        data_at += _FIXED.size
        name_at = data_at
        for begins in _NAMES_IN.get(rtype, ()):
            more, name_at = _name(octets, name_at if begins is None else data_at + begins)
            used, longest = used + more, max(longest, more)
        if rtype not in _NAMES_IN or used > labels or longest > LABELS_OF_A_NAME_MAX:
            return number, at, labels
        labels -= used
        at = data_at + data_octets
    return count, at, labels


def _name(octets: bytes, at: int) -> tuple[int, int]:
    """The labels of the name at ``at``, and where it ends there."""
    labels, jumps, end, limit = 0, 0, -1, at
    while length := octets[at]:
        if length >= _POINTER:
            target = (length - _POINTER) << 8 | octets[at + 1]
            if target >= limit:
                raise ValueError("a name that points forward")
            jumps += 1
            if jumps > JUMPS_OF_A_NAME_MAX:
                raise ValueError("a name of pointers to pointers")
            end = at + 2 if end < 0 else end
            at = limit = target
        else:
            labels += 1
            at += 1 + length
    return labels, at + 1 if end < 0 else end
