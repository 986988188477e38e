"""Replies of a next hop, read from octets in any pieces (RFC 5321 section 4.2).

Theory of operation.  Octets go in, whole replies come out, one by one.  Everything is bounded: a
line, the lines of a reply and their octets.  What is merely odd is taken: a bare LF at the end of
a line, several CRs before it, a code without text, a tab behind it, octets beyond ASCII, control
characters in the text.  What leaves open what the next hop meant is a ``ReplyError``: a line
without a code, a code that changes within a reply, a bound exceeded.  It makes no difference in
which pieces the octets come.

Nothing that came from the next hop goes into a log or a notice but through ``printable``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

REPLY_LINE_OCTETS_MAX = 4_096
"""RFC 5321 section 4.5.3.1.5 allows 512."""
REPLY_OCTETS_MAX = 65_536
REPLY_LINES_MAX = 512
"""Of one reply; an EHLO with everything on offer has thirty."""
DIAGNOSTIC_CHARACTERS_MAX = 500
EXCERPT_OCTETS_MAX = 60

# Reply-code = %x32-35 %x30-35 %x30-39; the second digit is read to no purpose, so any will do.
_match_line = re.compile(rb"([2-5][0-9][0-9])(?:([ \t-])(.*))?", re.DOTALL).fullmatch
# status-code = class "." subject "." detail (RFC 2034 section 4, RFC 3463 section 2)
_match_status = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[ \t]+|\Z)").match
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class ReplyError(ValueError):
    """What the next hop sent is no reply; the message says why, in printable ASCII."""


class ReceivedReply(NamedTuple):
    """A whole reply: its code and the text of each line, without code and line end."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def status(self) -> str:
        """The enhanced status code that it begins with, if that agrees with the code; else ""."""
        given = _match_status(self.lines[0])
        status = given[1].decode() if given else ""
        return status if status[:1] == str(self.code)[0] else ""

    @property
    def diagnostic(self) -> str:
        """The reply in one line of printable ASCII, cut to ``DIAGNOSTIC_CHARACTERS_MAX``.

        An enhanced status code that each line repeats is shown once.
        """
        lines = list(self.lines)
        given = _match_status(lines[0])
        if given:
            lines[1:] = [line.removeprefix(given[0]) for line in lines[1:]]
        return printable(f"{self.code} ".encode() + b" ".join(lines)).rstrip()


class ReplyReader:
    """The replies of one connection."""

    __slots__ = ("_at", "_input", "_lines", "_octets")

    def __init__(self) -> None:
        self._at = 0  # what of ``_input`` was read
        self._input = b""
        self._lines: list[bytes] = []
        self._octets = 0

    @property
    def pending(self) -> bool:
        """Octets have come that belong to no reply that was returned."""
        return self._at < len(self._input) or bool(self._lines)

    def receive(self, octets: bytes) -> None:
        """Take octets of the next hop."""
        self._input = self._input[self._at :] + octets
        self._at = 0

    def next(self) -> ReceivedReply | None:
        """Return the next whole reply, None if there is none yet.  Raises ReplyError."""
        while (end := self._input.find(b"\n", self._at)) >= 0:
            line = self._input[self._at : end].removesuffix(b"\r")
            self._at = end + 1
            reply = self._take(line)
            if reply is not None:
                return reply
        # One octet more than allowed: the CR that may end the line.
        if len(self._input) - self._at > REPLY_LINE_OCTETS_MAX + 1:
            raise _too_long(self._input[self._at :])
        return None

    def _take(self, line: bytes) -> ReceivedReply | None:
        """Take a line, without its end; return the reply that it ends."""
        if len(line) > REPLY_LINE_OCTETS_MAX:
            raise _too_long(line)
        match = _match_line(line.rstrip(b"\r"))
        if match is None:
            raise ReplyError(f"not a reply: {_excerpt(line)}")
        code, separator, text = match.groups(b"")
        if self._lines and self._lines[0] != code:
            first = self._lines[0].decode()
            raise ReplyError(f"a reply that begins with {first} goes on with {_excerpt(line)}")
        if not self._lines:
            self._lines.append(code)
        self._lines.append(text)
        self._octets += len(line)
        if self._octets > REPLY_OCTETS_MAX:
            raise ReplyError(f"a reply of more than {REPLY_OCTETS_MAX} octets")
        if separator == b"-":
            if len(self._lines) > REPLY_LINES_MAX:
                raise ReplyError(f"a reply of more than {REPLY_LINES_MAX} lines")
            return None
        lines, self._lines, self._octets = tuple(self._lines[1:]), [], 0
        return ReceivedReply(int(code), lines)


def printable(octets: bytes, characters_max: int = DIAGNOSTIC_CHARACTERS_MAX) -> str:
    """``octets`` in printable ASCII, with ``\\xhh`` for every other octet, cut to a bound."""
    text = _UNPRINTABLE.sub(_escaped, octets[: characters_max + 1].decode("latin-1"))
    return text if len(text) <= characters_max else text[: characters_max - 3] + "..."


def _escaped(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


def _excerpt(line: bytes) -> str:
    return f'"{printable(line, EXCERPT_OCTETS_MAX)}"'


def _too_long(line: bytes) -> ReplyError:
    return ReplyError(f"a reply line of more than {REPLY_LINE_OCTETS_MAX} octets: {_excerpt(line)}")
