"""A server's octets become whole replies (RFC 5321 section 4.2.1)."""

from __future__ import annotations

import re
from typing import NamedTuple

REPLY_MAX_OCTETS = 64 * 1024
"""A reply that is longer is cut here: what does not end must still be shown."""

_LAST_LINE = re.compile(rb"\d{3}(?:[ \r\n]|$)")
_BEGIN = re.compile(rb"\d{3}")
_FURTHER_LINE = re.compile(rb"[2-5][0-9][0-9]-")
_REPLY_BEGIN = re.compile(rb"[2-5][0-9][0-9](?:[ -]|\r?\n)")
_WELL_FORMED = re.compile(
    rb"(?:[2-5][0-9][0-9]-[^\n]*\n)*[2-5][0-9][0-9](?: [^\n]*)?\r?\n"
)  # RFC 5321 section 4.2


class ReceivedReply(NamedTuple):
    """One whole reply and the instant at which its last octet arrived.

    ``code`` is 0 for a line that is no reply at all.
    """

    at_ns: int
    octets: bytes

    @property
    def code(self) -> int:
        return int(self.octets[:3]) if _is_reply(self.octets) else 0

    @property
    def text(self) -> str:
        """All lines, without the last line end."""
        return self.octets.decode("utf-8", "backslashreplace").removesuffix("\r\n")

    def __str__(self) -> str:
        return self.text


def begins_reply(octets: bytes) -> bool:
    """Whether ``octets`` begin as a reply does, with a code that SMTP has."""
    return _REPLY_BEGIN.match(octets) is not None


def is_well_formed(reply: bytes) -> bool:
    """Whether a whole reply is one by RFC 5321 section 4.2, but for line ends without a CR."""
    return _WELL_FORMED.fullmatch(reply) is not None


class ReplyReader:
    """Takes what arrives, in pieces of any size, and returns the replies that are whole."""

    __slots__ = ("_begun", "_begun_octets", "_rest")

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._begun_octets = 0
        self._rest = b""

    def feed(self, octets: bytes, at_ns: int) -> list[ReceivedReply]:
        """Take what arrived at ``at_ns``."""
        is_one_line = 0 <= octets.find(b"\n") == len(octets) - 1
        if is_one_line and not (self._begun or self._rest or _FURTHER_LINE.match(octets)):
            return [ReceivedReply(at_ns, octets)]  # nearly always
        lines = (self._rest + octets).split(b"\n")
        self._rest = lines.pop()
        replies = []
        for line in lines:
            self._begun += (line, b"\n")
            self._begun_octets += len(line) + 1
            if not (_FURTHER_LINE.match(line) and self._begun_octets < REPLY_MAX_OCTETS):
                replies.append(ReceivedReply(at_ns, b"".join(self._begun)))
                self._begun.clear()
                self._begun_octets = 0
        return replies

    @property
    def line(self) -> bytes:
        """What has come of a line that is not whole."""
        return self._rest

    @property
    def rest(self) -> bytes:
        """What has come of a reply that is not whole."""
        return b"".join(self._begun) + self._rest if self._begun else self._rest


def _is_reply(octets: bytes) -> bool:
    last = octets[octets.rfind(b"\n", 0, -1) + 1 :]
    return _LAST_LINE.match(last) is not None and _BEGIN.match(octets) is not None
