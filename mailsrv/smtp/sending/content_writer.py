"""Message content on its way out: after DATA with stuffed dots (RFC 5321 section 4.5.2), or in the
chunks of BDAT as it is (RFC 3030).

Theory of operation.  The pieces are worked on whole, with no loop over lines or octets.  A CR at
the end of a piece is kept back until the next octet is known, so that no CRLF is ever cut in what
is looked at; the newline decoder of ``io`` does that in one pass in C.  A CR or LF that stands
alone is never sent: the next hop might take it for the end of a line, and what follows for commands
(CVE-2023-51764 and its kin).  Nor are octets beyond ASCII where the next hop did not offer to take
them.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder

from mailsrv.smtp.content import PROPER_LINE_ENDS

CRLF = b"\r\n"
_MARK, _STUFFED = b"\r\n.", b"\r\n.."


class ContentFault(ValueError):
    """Content that may not be sent.  ``status`` is the enhanced status code that it fails with."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


class ContentWriter:
    """The content of one message.  ``stuffed``: for DATA; ``eight_bit``: octets above 127 may be
    sent."""

    __slots__ = ("_at_line_start", "_eight_bit", "_kept_back", "_line_ends", "_stuffed")

    def __init__(self, *, stuffed: bool, eight_bit: bool) -> None:
        self._stuffed = stuffed
        self._eight_bit = eight_bit
        self._at_line_start = True
        self._kept_back = False
        self._line_ends = IncrementalNewlineDecoder(None, translate=False)

    def take(self, piece: bytes) -> bytes:
        """Return what is to be sent for ``piece``.  Raises ContentFault."""
        if self._kept_back:
            piece = b"\r" + piece
        self._kept_back = piece.endswith(b"\r")
        if self._kept_back:
            piece = piece[:-1]
        if not piece:
            return b""
        if not self._eight_bit and not piece.isascii():
            raise ContentFault("5.6.3", "8-bit content, and the next hop does not offer 8BITMIME")
        self._line_ends.decode(piece.decode("latin-1"))
        # The decoder waits for what follows a CR at the end, which here is another CR.
        if piece.endswith(b"\r") or self._line_ends.newlines not in PROPER_LINE_ENDS:
            raise _bare_line_end()
        if not self._stuffed:
            return piece
        begins_with_dot = self._at_line_start and piece.startswith(b".")
        self._at_line_start = piece.endswith(CRLF)
        if b"." in piece:  # base64, most of all mail, has none
            piece = piece.replace(_MARK, _STUFFED)
        return b"." + piece if begins_with_dot else piece

    def end(self) -> bytes:
        """Return what is to be sent at the end of the content.  Raises ContentFault.

        After DATA the last line is ended if it was not.
        """
        if self._kept_back:
            raise _bare_line_end()
        if not self._stuffed:
            return b""
        return b".\r\n" if self._at_line_start else b"\r\n.\r\n"


def _bare_line_end() -> ContentFault:
    return ContentFault("5.6.0", "the content has a bare CR or LF, which must not be sent")
