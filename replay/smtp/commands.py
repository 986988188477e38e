"""Which commands a sender said, in its order: the outline of a session."""

from __future__ import annotations

import re
from itertools import groupby

VERBS_MAX = 100_000
"""Commands listed of one session."""
OUTLINE_MAX = 12
"""Groups of equal commands in an outline; the middle of more is left out."""

_VERB = re.compile(rb"[A-Za-z]{4,12}(?=[ :\r\n]|$)")
_BDAT = re.compile(rb"(?i)BDAT +(\d{1,18})")
_END_OF_DATA = b"\r\n.\r\n"


def verbs(sent: bytes, contents: int) -> list[str]:
    """The verbs in what a sender said, in capitals; "?" for a line that begins with none.

    ``contents`` is how many times the server asked for content (354): so many DATA are followed
    by content and its end, which are passed over, as are the octets of chunks.
    """
    found: list[str] = []
    at = 0
    while at < len(sent) and len(found) < VERBS_MAX:
        end = sent.find(b"\n", at)
        line = sent[at : end if end >= 0 else len(sent)]
        at = end + 1 if end >= 0 else len(sent)
        verb = _VERB.match(line)
        found.append(verb[0].decode().upper() if verb else "?")
        if chunk := _BDAT.match(line):
            at += int(chunk[1])
        elif found[-1] == "DATA" and contents:
            contents -= 1
            # The CRLF that ends the command may be the one before the dot.
            content_end = sent.find(_END_OF_DATA, at - 2)
            at = content_end + len(_END_OF_DATA) if content_end >= 0 else len(sent)
    return found


def outline(sent: bytes, contents: int) -> str:
    """ "EHLO MAIL RCPT*3 DATA QUIT": equal commands in a row are counted."""
    groups = [(verb, sum(1 for _ in same)) for verb, same in groupby(verbs(sent, contents))]
    words = [verb if count == 1 else f"{verb}*{count}" for verb, count in groups]
    left_out = len(words) - OUTLINE_MAX
    if left_out > 0:
        half = OUTLINE_MAX // 2
        words[half:-half] = [f"…{left_out} more…"]
    return " ".join(words)
