r"""Masks: what stands in an expected reply for octets that a server may vary.

    <*>             anything, up to where the text behind the mask goes on, or the line ends
    <:PATTERN>      what the pattern fits
    <name>          anything but nothing; from then on the same octets
    <name:PATTERN>  what the pattern fits; from then on the same octets

Matching goes once from left to right and never back, so that no mask takes long, whatever a
server says.  Patterns are a small part of regular expressions for the same reason: a repetition
takes all that it can get and gives nothing back, and of alternatives the first that fits counts.
No mask reaches over the end of a line.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache

from replay.transcript.notation import TranscriptError
from replay.transcript.octets import OctetsError, to_octets, to_text
from replay.transcript.script import ExactOctets, Mask, MaskedOctets

PATTERN_CHARACTERS_MAX = 200
LINES_MAX = 1000
"""Of a file of masks."""
MASKS_MAX = 100
"""In one reply."""
REPLY_OCTETS_MAX = 64 * 1024
"""Of a masked reply's own text: more than any reply has that is read."""
SHOWN_OCTETS_MAX = 100

NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TOKEN = re.compile(
    r"\\(?P<literal><)|(?P<mask><(?P<inside>[^<>]*)>)|(?:\\.?|[^\\<])+?(?=[\\<]|\Z)"
)
_CLASS_MEMBER = r"(?:\\x[0-9A-Fa-f]{2}|\\[dws]|\\[!-/:-@\[-`{-~]|[ -;=?-Z^-~])"
_ATOM = re.compile(
    rf"""
      (?: \[ \^? {_CLASS_MEMBER}+ \]
        | \\x[0-9A-Fa-f]{{2}} | \\[dws] | \\[!-/:-@\[-`{{-~]
        | [^\\\[\](){{}}*+?|^$<>]
      )
      (?P<times> [*+?] | \{{ [0-9]{{1,4}} (?: , (?:[0-9]{{1,4}})? )? \}} )?
      | (?P<or> \| )
    """,
    re.VERBOSE | re.ASCII,
)
_PATTERN_HELP = (
    r"a pattern takes characters, . [...] [^...] \d \w \s \xNN, \ before punctuation, "
    r"* + ? {m} {m,n}, and | between alternatives"
)
_MASK_HELP = r"a mask is <*>, <name>, <name:pattern> or <:pattern>; write < itself as \<"

Pieces = tuple[bytes | Mask, ...]
Bindings = dict[str, bytes]
"""What names stand for, once they have been met."""


# -- text -----------------------------------------------------------------------------------------


def from_text(text: str) -> Pieces:
    r"""The pieces that ``text`` stands for: octets as in ``octets``, ``\<``, and masks.

    Raises OctetsError.
    """
    if text.endswith(" "):
        raise OctetsError(len(text) - 1, r"a space at the end cannot be seen; write it as \x20")
    pieces: list[bytes | Mask] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise OctetsError(at, _MASK_HELP)
        if match["literal"]:
            pieces.append(b"<")
        elif match["mask"]:
            try:
                pieces.append(_mask(match["inside"]))
            except OctetsError as error:
                raise OctetsError(at + 1 + error.offset, str(error)) from None
        else:
            try:
                pieces.append(to_octets(match[0] + ".")[:-1])
            except OctetsError as error:
                raise OctetsError(at + error.offset, str(error)) from None
        at = match.end()
    return joined(pieces)


def joined(pieces: list[bytes | Mask]) -> Pieces:
    """``pieces`` without neighbours that are both octets."""
    whole: list[bytes | Mask] = []
    for piece in pieces:
        if isinstance(piece, bytes) and whole and isinstance(whole[-1], bytes):
            whole[-1] += piece
        elif piece:
            whole.append(piece)
    return tuple(whole)


def to_lines(pieces: Pieces) -> list[str]:
    """The text of ``pieces``, cut after every LF."""
    lines = [""]
    for piece in pieces:
        if isinstance(piece, Mask):
            lines[-1] += str(piece)
            continue
        first, *more = (_visible(line) for line in re.split(rb"(?<=\n)", piece))
        lines[-1] += first
        lines += more
    return [_without_bare_ends(line) for line in lines if line]


def shown(pieces: Pieces) -> str:
    """The text of ``pieces`` on one line."""
    return "".join(to_lines(pieces))


def _visible(octets: bytes) -> str:
    return to_text(b"." + octets + b".")[1:-1].replace("<", r"\<")


def _without_bare_ends(line: str) -> str:
    if line.startswith(" "):
        line = r"\x20" + line[1:]
    return line[:-1] + r"\x20" if line.endswith(" ") else line


def _mask(inside: str) -> Mask:
    """What stands between < and >.  Raises OctetsError."""
    if inside == "*":
        return Mask()
    name, colon, pattern = inside.partition(":")
    mask = Mask(name, pattern)
    if (colon and not pattern) or not (name or pattern):
        raise OctetsError(0, _MASK_HELP)
    if name and not NAME.fullmatch(name):
        raise OctetsError(
            0, f"a mask's name is 1 to 32 of a-z, 0-9 and -, a letter first; {_MASK_HELP}"
        )
    if fault := _pattern_fault(pattern):
        offset, message = fault
        raise OctetsError(len(name + colon) + offset, message)
    return mask


def read_lines(text: str, path: str) -> list[MaskedOctets]:
    """A file of masked reply lines, without line ends; empty lines and # comments are nothing.

    Raises TranscriptError.
    """
    found: list[MaskedOctets] = []
    for number, line in enumerate(text.splitlines()[: LINES_MAX + 1], 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            masked = MaskedOctets(from_text(line))
        except OctetsError as error:
            raise TranscriptError(path, number, error.offset + 1, str(error)) from None
        if not any(isinstance(piece, Mask) for piece in masked.pieces):
            raise TranscriptError(path, number, 1, "a line without a mask excuses nothing")
        if message := fault(masked):
            raise TranscriptError(path, number, 1, message)
        found.append(masked)
    if len(found) > LINES_MAX:
        raise TranscriptError(path, LINES_MAX, 1, f"more than {LINES_MAX} lines")
    return found


# -- rules ----------------------------------------------------------------------------------------


def fault(masked: MaskedOctets) -> str:
    """What is wrong with a masked reply in itself; empty if nothing is."""
    pieces = masked.pieces
    found = [piece for piece in pieces if isinstance(piece, Mask)]
    if not found:
        return "S~ has at least one mask; without one write S:"
    if len(found) > MASKS_MAX:
        return f"more than {MASKS_MAX} masks in one reply"
    if sum(len(piece) for piece in pieces if isinstance(piece, bytes)) > REPLY_OCTETS_MAX:
        return f"a masked reply has at most {REPLY_OCTETS_MAX} octets"
    if joined(list(pieces)) != pieces:
        return "octets stand in one piece"
    for piece, behind in zip(pieces, (*pieces[1:], b""), strict=True):
        if not isinstance(piece, Mask):
            continue
        if (piece.name and not NAME.fullmatch(piece.name)) or _pattern_fault(piece.pattern):
            return f"{piece} is no mask; {_MASK_HELP}"
        if not piece.pattern and isinstance(behind, Mask):
            return f"{piece}{behind}: text, or a pattern in the first, says where one mask ends"
    return ""


def example(reply: ExactOctets | MaskedOctets) -> bytes:
    """The octets of ``reply``, an x for each mask."""
    if isinstance(reply, ExactOctets):
        return reply.octets
    return b"".join(b"x" if isinstance(piece, Mask) else piece for piece in reply.pieces)


def _pattern_fault(pattern: str) -> tuple[int, str] | None:
    """Where and why ``pattern`` is none; None if it is one, or empty."""
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        return PATTERN_CHARACTERS_MAX, f"a pattern has at most {PATTERN_CHARACTERS_MAX} characters"
    at = 0
    while at < len(pattern):
        match = _ATOM.match(pattern, at)
        if match is None or not pattern[at].isascii() or not pattern[at].isprintable():
            return at, _PATTERN_HELP
        at = match.end()
    try:
        _compiled(pattern)
    except (re.error, OverflowError, Warning) as error:
        return 0, f"{pattern}: {error}"
    return None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[bytes]:
    """Repetitions made possessive.  Raises re.error, or Warning for an odd set."""
    atoms = (match[0] + ("+" if match["times"] else "") for match in _ATOM.finditer(pattern))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return re.compile(f"(?>{''.join(atoms)})".encode("ascii"))


# -- matching -------------------------------------------------------------------------------------


def mismatch(masked: MaskedOctets, octets: bytes, bindings: Bindings) -> str:
    """Why ``octets`` are not as ``masked`` says, in words; empty if they are.

    Only then are names that were met for the first time added to ``bindings``.
    """
    fresh: Bindings = {}
    at = 0
    pieces = masked.pieces or (b"",)
    for piece, behind in zip(pieces, (*pieces[1:], b""), strict=True):
        if isinstance(piece, bytes):
            if not octets.startswith(piece, at):
                return "text differs"
            at += len(piece)
            continue
        bound = bindings.get(piece.name, fresh.get(piece.name))
        if bound is not None:
            if not octets.startswith(bound, at):
                return f"<{piece.name}> was {_quoted(bound)} before"
            at += len(bound)
            continue
        end = _end(piece, behind, octets, at)
        if end is None:
            return f"{piece} does not fit {_quoted(octets[at : _line_end(octets, at)])}"
        if piece.name:
            fresh[piece.name] = octets[at:end]
        at = end
    if at != len(octets):
        return "text differs"
    bindings.update(fresh)
    return ""


def same_but_for(lines: Sequence[MaskedOctets], expected: bytes, observed: bytes) -> bool:
    """Whether two replies are the same, but for lines of which one mask fits both."""
    one_side, other_side = (
        one.replace(b"\r\n", b"\n").split(b"\n") for one in (expected, observed)
    )
    return len(one_side) == len(other_side) and all(
        a == b or any(not (mismatch(one, a, {}) or mismatch(one, b, {})) for one in lines)
        for a, b in zip(one_side, other_side, strict=True)
    )


def _end(mask: Mask, behind: bytes | Mask, octets: bytes, at: int) -> int | None:
    """Where the octets that ``mask`` stands for end, if they begin at ``at``."""
    line_end = _line_end(octets, at)
    if mask.pattern:
        match = _compiled(mask.pattern).match(octets, at, line_end)
        end = -1 if match is None else match.end()
    elif behind and isinstance(behind, bytes):
        end = octets.find(behind, at, line_end + len(behind))
    else:
        end = line_end
    empty = end == at and mask.name
    return None if empty or not at <= end <= line_end else end


def _line_end(octets: bytes, at: int) -> int:
    """Where the line ends that ``at`` is in, without its CRLF or LF."""
    end = octets.find(b"\n", at)
    if end < 0:
        return len(octets)
    return end - 1 if end > at and octets[end - 1] == 0x0D else end


def _quoted(octets: bytes) -> str:
    cut = "…" if len(octets) > SHOWN_OCTETS_MAX else ""
    return f"'{to_text(octets[:SHOWN_OCTETS_MAX])}{cut}'"
