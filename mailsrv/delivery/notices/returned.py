"""The part of a notice that returns the message, or its header (RFC 6522 section 3, RFC 6533).

Whole it comes back where the sender asked for that, the delivery failed, and it is small and can be
carried as it is.  A header can always be carried: what is not plain ASCII is encoded.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from typing import NamedTuple

HEADER_OCTETS_MAX = 16 * 1024
"""Of a returned header: what goes to a forged sender is small."""
LINE_OCTETS_MAX = 998
"""RFC 5321 section 4.5.3.1.6, without CRLF."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
_LONE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\x00")
"""What only BINARYMIME could carry."""
_MESSAGE_ID = re.compile(
    rb"^message-id:[ \t]*(?:\r\n[ \t]+)?(<[!-;=?-~]{1,250}>)[ \t]*\r$", re.IGNORECASE | re.MULTILINE
)


class Part(NamedTuple):
    """A body part: its Content-Type, its Content-Transfer-Encoding, its octets."""

    content_type: str
    encoding: str
    octets: bytes


class Original(NamedTuple):
    """The content that a notice is about: its beginning, and how long it is in all.

    The beginning is the whole, or at least ``HEADER_OCTETS_MAX`` octets of it.
    """

    beginning: bytes
    octets: int

    @property
    def whole(self) -> bytes | None:
        """All of it, if it is at hand."""
        return self.beginning if len(self.beginning) == self.octets else None

    @property
    def header(self) -> bytes:
        """The header section, with CRLF after each line, cut between two fields where it is too
        long."""
        section = self.beginning[: HEADER_OCTETS_MAX + 1]
        if section.startswith((b"\r\n", b"\n")):
            return b""
        lines = _LINE_END.split(section)
        if b"" in lines[:-1] or len(section) == self.octets:
            end = lines.index(b"") if b"" in lines else len(lines)
            return b"".join(line + b"\r\n" for line in lines[:end])
        lines.pop()  # it may be cut
        while lines and lines[-1].startswith((b" ", b"\t")):
            lines.pop()
        return b"".join(line + b"\r\n" for line in lines[:-1])  # the field may go on

    @property
    def message_id(self) -> str:
        """Its Message-ID, "" where there is none that can be quoted."""
        match = _MESSAGE_ID.search(self.header)
        return match[1].decode() if match else ""


def beginning_octets(octets: int, returned_octets_max: int) -> int:
    """How much of a content of ``octets`` a notice needs: all of it, if it may come back whole."""
    return octets if octets <= returned_octets_max else min(octets, HEADER_OCTETS_MAX)


def returned_part(original: Original, *, full: bool, smtputf8: bool, octets_max: int) -> Part:
    """The message as a body part if ``full`` and if it can be, else its header; ``smtputf8``: it
    was sent as internationalised mail."""
    whole = original.whole if full else None
    if whole is not None and len(whole) <= octets_max and _can_be_carried(whole):
        kind = "global" if smtputf8 and not original.header.isascii() else "rfc822"
        return Part(f"message/{kind}", "7bit" if whole.isascii() else "8bit", whole)
    header = original.header
    kind = "text/rfc822-headers"
    if smtputf8 and not header.isascii():
        kind = "message/global-headers"
    if header.isascii() and _can_be_carried(header):
        return Part(kind, "7bit", header)
    return Part(kind, "quoted-printable", quoted_printable(header.replace(b"\x00", b"?")))


def quoted_printable(text: bytes) -> bytes:
    """Lines that end in CRLF, encoded (RFC 2045 section 6.7)."""
    return b"".join(_encoded_lines(text))


def _encoded_lines(text: bytes) -> Iterable[bytes]:
    for line in text.removesuffix(b"\r\n").split(b"\r\n"):
        yield binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") + b"\r\n"


def _can_be_carried(text: bytes) -> bool:
    if _LONE.search(text):
        return False
    return max(map(len, text.split(b"\r\n"))) <= LINE_OCTETS_MAX
