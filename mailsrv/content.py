"""Message content: strict end of data and dot-unstuffing, over whole chunks (RFC 5321 4.5.2).

The only end of data is CRLF "." CRLF, where the CRLF that ends the DATA command counts as the
first one.  An LF or CR alone never ends anything: it is remembered (``bare_line_end``), and the
true end is still looked for, so that what follows is never read as commands (RFC 5321 section
2.3.8; the smuggling of CVE-2023-51764 and its kin).

Theory of operation: CRLF "." is what both the end of data and each stuffed line begin with.
Most chunks hold neither it nor a lone CR, which one search tells; a second search tells of a
lone LF.  Both begin at a fixed octet and so run at the speed of memchr.  The octets at the end
of a chunk that may be the beginning of a mark (at most four) are kept back until more arrives.
"""

from __future__ import annotations

import re

_CRLF = b"\r\n"
_MARK = b"\r\n."
_END = b"\r\n.\r\n"
_LONE_CR_OR_MARK = re.compile(rb"\r(?!\n(?!\.))")
_LONE_CR = re.compile(rb"\r(?!\n)")
_LONE_LF = re.compile(rb"\n(?<!\r\n)")
_KEPT_BACK = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")


class ContentReader:
    """Takes the chunks of one message.

    ``bare_line_end`` is True once a CR or LF stood alone; ``size_octets`` counts what was handed
    out: the message as RFC 1870 section 5 counts it, without stuffed dots.
    """

    __slots__ = ("_at_start", "_kept_back", "bare_line_end", "size_octets")

    def __init__(self) -> None:
        self._kept_back = _CRLF
        self._at_start = True
        self.bare_line_end = False
        self.size_octets = 0

    def feed(self, chunk: bytes) -> tuple[bytes, int]:
        """Take a chunk; give the content in it, unstuffed, and where in the chunk the data ended.

        The second value is the offset of the first octet after the end of data, or -1 as long
        as the end was not seen.
        """
        data = self._kept_back + chunk if self._kept_back else chunk
        if _LONE_CR_OR_MARK.search(data):
            return self._feed_marked(data, len(chunk))
        return self._hand_out(self._keep_back(data)), -1

    def _feed_marked(self, data: bytes, chunk_octets: int) -> tuple[bytes, int]:
        """``feed`` for data that holds a mark or a lone CR (or ends in what may become one)."""
        end = data.find(_END)
        if end >= 0:
            after = end + len(_END) - (len(data) - chunk_octets)
            data = data[: end + len(_CRLF)]
            self._kept_back = b""
        else:
            after = -1
            data = self._keep_back(data)
        if _LONE_CR.search(data):
            self.bare_line_end = True
        return self._hand_out(data, marked=True), after

    def _keep_back(self, data: bytes) -> bytes:
        """Give ``data`` without the octets at its end that may begin a mark."""
        for beginning in _KEPT_BACK:
            if data.endswith(beginning):
                self._kept_back = beginning
                return data[: -len(beginning)]
        self._kept_back = b""
        return data

    def _hand_out(self, data: bytes, *, marked: bool = False) -> bytes:
        """Unstuff and count ``data``, in which no line end is cut."""
        if _LONE_LF.search(data):
            self.bare_line_end = True
        if marked:
            data = data.replace(_MARK, _CRLF)
        if self._at_start and data:
            # The CRLF of the DATA command was put in front; it is no part of the message.
            self._at_start = False
            data = data[len(_CRLF) :]
        self.size_octets += len(data)
        return data
