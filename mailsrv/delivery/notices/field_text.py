"""Text from elsewhere as a notice can hold it: printable, cut to a bound, in lines that fit.

Addresses, replies of next hops and identifiers were chosen by others.  Whatever they hold, they
neither end a line nor begin a field, and nothing of them is invisible.
"""

from __future__ import annotations

import textwrap

LINE_CHARACTERS = 76
"""RFC 5322 section 2.1.1 recommends 78 with the CRLF apart."""
WORD_OCTETS_MAX = 900
"""A longer word is cut: a line takes 998 octets at most, the field's name among them."""
CUT = "..."


def printable(text: str, *, utf8: bool) -> str:
    """``text`` with "?" for what nobody can see; beyond ASCII as it is if ``utf8``, else as
    ``\\x{E9}``."""
    seen = "".join(one if one.isprintable() else "?" for one in text)
    if utf8 or seen.isascii():
        return seen
    return "".join(one if one.isascii() else f"\\x{{{ord(one):X}}}" for one in seen)


def cut(text: str, octets: int) -> str:
    """The beginning of ``text``, in ``octets`` of UTF-8 at most; an end that is missing shows."""
    if len(text.encode()) <= octets:
        return text
    kept = text.encode()[: octets - len(CUT)].decode(errors="ignore")
    return kept + CUT


def lines(text: str, *, indent: str, first: str = "") -> list[str]:
    """Printable ``text`` in lines; ``first`` stands before the first, ``indent`` before others."""
    words = " ".join(cut(word, WORD_OCTETS_MAX) for word in text.split())
    wrapped = textwrap.wrap(
        words,
        LINE_CHARACTERS,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped or [first.rstrip()]
