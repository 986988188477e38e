"""Message content in chunks whose length is told beforehand: BDAT (RFC 3030).

No octet in a chunk means anything to the protocol, a dot least of all.  The content is text all
the same, since BINARYMIME is not offered: what is stored has the line ends of its system, so
that a lone CR or LF would not survive.  It is refused as in DATA.

A message is kept in one reader, however many chunks it comes in: what is remembered of a chunk
does not outlive it.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder

from mailsrv.content import PROPER_LINE_ENDS
from mailsrv.reply import Reply


class ChunkReader:
    """Takes the chunks of one message, each after a ``begin``.

    ``size_octets`` counts the message; ``received_octets`` what came of the present chunk;
    ``last`` says that the present chunk ends the message.  A CR at the end of what came is kept
    back until its LF is here, so that no line end is ever cut.
    """

    __slots__ = ("_kept_back", "_line_ends", "_missing", "last", "received_octets", "size_octets")

    def __init__(self) -> None:
        self._kept_back = False
        self._line_ends = IncrementalNewlineDecoder(None, translate=False)
        self._missing = 0
        self.last = False
        self.received_octets = 0
        self.size_octets = 0

    def begin(self, octets: int, last: bool) -> None:
        """A chunk of ``octets`` follows."""
        self._missing = octets
        self.last = last
        self.received_octets = 0

    @property
    def bare_line_end(self) -> bool:
        """True once a CR or LF stood alone; a CR at the very end does."""
        if self._kept_back and self.last and not self._missing:
            return True
        return self._line_ends.newlines not in PROPER_LINE_ENDS

    def feed(self, data: bytes, at: int = 0) -> tuple[bytes, int]:
        """Take octets, from ``at`` on; give the content in them, and where the chunk ended, or
        -1."""
        end = at + self._missing
        after = end if end <= len(data) else -1
        if at or after >= 0:
            data = data[at:end]
        self._missing -= len(data)
        self.received_octets += len(data)
        self.size_octets += len(data)
        if self._kept_back:
            data = b"\r" + data
        self._kept_back = data.endswith(b"\r")
        if self._kept_back:
            data = data[:-1]
        self._line_ends.decode(data.decode("latin-1"))
        return data, after


class RefusedChunk:
    """Passes over a chunk that nobody wants, to its end: then ``refusal`` is said.

    RFC 3030 section 2: a client may send a chunk before it knows that the chunk is refused; its
    octets must never be read as commands.
    """

    __slots__ = ("_missing", "received_octets", "refusal")

    def __init__(self, octets: int, refusal: Reply) -> None:
        self._missing = octets
        self.received_octets = 0
        self.refusal = refusal

    def pass_over(self, octets: int) -> int:
        """So many octets came; give how many of them belonged to the chunk, -1 for all and
        more to come."""
        self.received_octets += octets
        missing, self._missing = self._missing, self._missing - octets
        return missing if octets >= missing else -1
