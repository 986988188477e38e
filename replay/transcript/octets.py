r"""Octets as visible text and back: ``b"250 Ok\r\n"`` <-> ``250 Ok\r\n``.

Text in UTF-8 stands as it is.  A backslash and every octet that cannot be seen are written as
escapes (``\r \n \t \\ \xNN``), so that a line end, a trailing space or a text-direction mark
never hides in a file.
"""

from __future__ import annotations

import re
from itertools import groupby, pairwise

WIDTH_CHARACTERS_MAX = 120
"""Longer pieces are wrapped."""
RUN_MIN = 4
"""From so many equal pieces in a row on they are written once, with a count."""

# What no reader can see or tell apart: controls, spaces other than U+0020, soft hyphen, joiners,
# direction marks, line separators, surrogates (here: octets that are not UTF-8), private use,
# variation selectors, tags.  Fixed ranges, because Python's tables change with its version, and a
# transcript must not.
_INVISIBLE_RANGES = (
    r"\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\uffff\U000e0000-\U0010ffff"
)
INVISIBLE = re.compile(f"[{_INVISIBLE_RANGES}]")
_TO_ESCAPE = re.compile(rf"[\\{_INVISIBLE_RANGES}]")
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[\x00-\xff]?)", re.DOTALL)
_LINE_END = re.compile(r"\r?\n\Z")

_SHORT = {"\r": r"\r", "\n": r"\n", "\t": r"\t", "\\": r"\\"}
_SHORT_OCTETS = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}

# How many characters to try in one piece: with all of them escaped, the last still fits.
_WRAP_CHARACTERS = (WIDTH_CHARACTERS_MAX, 90, 60, WIDTH_CHARACTERS_MAX // 4)

_CRLF_TEXT = rb"\r\n"


class OctetsError(ValueError):
    """Text that stands for no octets; ``offset`` counts characters from 0."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


def to_text(octets: bytes) -> str:
    """``octets`` as visible text on one line, without a space at either end."""
    return _visible(octets.decode("utf-8", "surrogateescape"))


def to_octets(text: str) -> bytes:
    """The octets that ``text`` stands for.  Raises OctetsError."""
    unseen = None if text.isascii() and text.isprintable() else INVISIBLE.search(text)
    if unseen is not None:
        spelling = to_text(unseen[0].encode("utf-8", "surrogatepass"))
        raise OctetsError(
            unseen.start(), f"U+{ord(unseen[0]):04X} cannot be seen; write it as {spelling}"
        )
    if text.endswith(" "):
        raise OctetsError(len(text) - 1, r"a space at the end cannot be seen; write it as \x20")
    raw = text.encode("utf-8")
    if raw.endswith(_CRLF_TEXT) and raw.find(b"\\") == len(raw) - len(_CRLF_TEXT):
        return raw[: -len(_CRLF_TEXT)] + b"\r\n"  # most lines are like this
    return _ESCAPE.sub(lambda match: _unescaped(match, raw), raw) if b"\\" in raw else raw


def to_pieces(octets: bytes) -> list[tuple[int, str]]:
    """``octets`` cut after every LF and at the width's limit, as (count, visible text)."""
    lines = octets.split(b"\n")
    whole = [line + b"\n" for line in lines[:-1]]
    if lines[-1]:
        whole.append(lines[-1])
    pieces: list[tuple[int, str]] = []
    for line, equal in groupby(whole):
        wrapped = _wrapped(line.decode("utf-8", "surrogateescape"))
        count = sum(1 for _ in equal)
        if len(wrapped) == 1 and count >= RUN_MIN:
            pieces.append((count, wrapped[0]))
            continue
        for piece, same in groupby(wrapped * count):
            run = sum(1 for _ in same)
            pieces.extend([(run, piece)] if run >= RUN_MIN else [(1, piece)] * run)
    return pieces


def printable(text: str) -> str:
    """``text`` with a question mark for each character that would move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else "?" for one in text)


def _wrapped(line: str) -> list[str]:
    """``line`` in pieces of at most the width, its line end (which may exceed it) at the last."""
    end = _LINE_END.search(line)
    body_characters = end.start() if end else len(line)
    cuts = [0]
    while cuts[-1] < body_characters:
        start = cuts[-1]
        for length in _WRAP_CHARACTERS:
            stop = min(start + length, body_characters)
            if len(_visible(line[start:stop])) <= WIDTH_CHARACTERS_MAX:
                break
        cuts.append(stop)
    if len(cuts) == 1:
        cuts.append(0)
    cuts[-1] = len(line)
    return [_visible(line[start:stop]) for start, stop in pairwise(cuts)]


def _visible(text: str) -> str:
    shown = _TO_ESCAPE.sub(_escaped, text)
    if shown.startswith(" "):
        shown = r"\x20" + shown[1:]
    if shown.endswith(" "):
        shown = shown[:-1] + r"\x20"
    return shown


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    short = _SHORT.get(character)
    if short is not None:
        return short
    octets = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{octet:02x}" for octet in octets)


def _unescaped(match: re.Match[bytes], raw: bytes) -> bytes:
    escape = match[1]
    if len(escape) == 3:
        return bytes((int(escape[1:], 16),))
    octet = _SHORT_OCTETS.get(escape)
    if octet is None:
        offset = len(raw[: match.start()].decode("utf-8"))
        raise OctetsError(offset, r"unknown escape; the escapes are \r \n \t \\ and \xNN")
    return octet
