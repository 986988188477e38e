"""Message content as it arrives: after DATA (RFC 5321 section 4.5.2) and in the chunks of BDAT
(RFC 3030 section 2).

Theory of operation.  A reader takes the octets that were received in one piece and returns the
content in them and where the content ended: ``ContentReader`` for DATA, ``ChunkReader`` for BDAT,
and ``RefusedChunk`` for a chunk whose octets are thrown away.  All three work on whole pieces, with
no loop over lines or octets.

After DATA the only end is CRLF "." CRLF, where the CRLF that ends the command counts as the first
one.  An LF or CR alone never ends anything: it is remembered (``bare_line_end``), and the true end
is still looked for, so that what follows is never read as commands (RFC 5321 section 2.3.8; the
smuggling of CVE-2023-51764 and its kin).  CRLF "." begins both the end of data and each stuffed
line.  Most large pieces hold no dot at all (base64), which one memchr shows.  The octets at the end
of a piece that may be the beginning of an end (at most four) are kept back until more arrive.

After BDAT the command has said how many octets follow.  Nothing in them ends the chunk or is
unstuffed; a CR at the end of a piece is kept back until the next octet is known.

So no line end is ever cut in what is searched for a CR or LF alone.  The newline decoder of ``io``
does that search, in one pass in C.
"""

from __future__ import annotations

import re
from io import IncrementalNewlineDecoder

from mailsrv.smtp import reply
from mailsrv.smtp.reply import Reply

_DOT = 0x2E
_CRLF = b"\r\n"
_MARK = b"\r\n."
_END = b"\r\n.\r\n"
_CRLF_OCTETS, _END_OCTETS = len(_CRLF), len(_END)
_KEPT_BACK = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
PROPER_LINE_ENDS = (None, "\r\n")
"""What the newline decoder says of content without a lone CR or LF."""

FIELD_NAME_OCTETS_MAX = 998
"""Of a field's name and the blanks behind it; RFC 5322 section 2.1.1: a line has no more."""
# field-name = 1*ftext, then ":" (RFC 5322 section 2.2); old senders put blanks before it (4.5).
field_begins = re.compile(rb"[!-9;-~]{1,900}+[ \t]{0,98}+:").match
_FIELD_MAY_BEGIN = re.compile(rb"[!-9;-~]*+[ \t]*+\Z")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_MAILBOX_LINE = re.compile(rb">*+From [ \t]*+[^ \t:]")


class ContentReader:
    """The content of one message after DATA.

    ``size_octets`` counts what was handed out: the message as RFC 1870 section 5 counts it,
    without stuffed dots.  ``received_octets`` counts what came in.  ``bare_line_end`` is True once
    a CR or LF stood alone in what was handed out.
    """

    __slots__ = (
        *("_at_start", "_kept_back", "_line_ends"),
        *("bare_line_end", "received_octets", "size_octets"),
    )

    def __init__(self) -> None:
        self._kept_back = _CRLF
        self._at_start = True
        self._line_ends = IncrementalNewlineDecoder(None, False)
        self.bare_line_end = False
        self.received_octets = 0
        self.size_octets = 0

    def feed(self, chunk: bytes, at: int = 0) -> tuple[bytes, int]:
        """Take octets, from ``at`` on; return the content in them, unstuffed, and where it ended.

        The second value is the offset of the first octet after the end of data, or -1 as long
        as the end was not seen.
        """
        if at:
            chunk = chunk[at:]
        self.received_octets += len(chunk)
        kept_back = self._kept_back
        data = kept_back + chunk if kept_back else chunk
        mark = data.find(_MARK) if _DOT in data else -1
        end = data.find(_END, mark) if mark >= 0 else -1
        stuffed = mark != end
        if end >= 0:
            after = at + end + _END_OCTETS - len(kept_back)
            data = data[: end + _CRLF_OCTETS]
            self._kept_back = b""
        else:
            after = -1
            data = self._keep_back(data)
        # No line end is cut in ``data`` from here on.
        self._line_ends.decode(data.decode("latin-1"))
        self.bare_line_end = self._line_ends.newlines not in PROPER_LINE_ENDS
        if stuffed:
            data = data.replace(_MARK, _CRLF)
        if self._at_start and data:
            # The CRLF of the DATA command was put in front; it is no part of the message.
            self._at_start = False
            data = data[_CRLF_OCTETS:]
        self.size_octets += len(data)
        return data, after

    def _keep_back(self, data: bytes) -> bytes:
        """``data`` without the octets at its end that may begin an end of data."""
        for beginning in _KEPT_BACK:
            if data.endswith(beginning):
                self._kept_back = beginning
                return data[: -len(beginning)]
        self._kept_back = b""
        return data


class ChunkReader:
    """The chunks of one message, each after a ``begin``.

    ``size_octets`` counts the message; ``received_octets`` what came of the present chunk;
    ``last`` says that the present chunk ends the message.
    """

    __slots__ = ("_kept_back", "_line_ends", "_missing", "last", "received_octets", "size_octets")

    def __init__(self) -> None:
        self._kept_back = False
        self._line_ends = IncrementalNewlineDecoder(None, False)
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
        return self.ends_in_cr or self._line_ends.newlines not in PROPER_LINE_ENDS

    @property
    def ends_in_cr(self) -> bool:
        """The message has ended in a lone CR, which was not handed out."""
        return self._kept_back and self.last and not self._missing

    def feed(self, data: bytes, at: int = 0) -> tuple[bytes, int]:
        """Take octets, from ``at`` on; return the content in them, and where the chunk ended, or
        -1 if it goes on."""
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
    """A refused chunk: its octets are counted and thrown away, then ``refusal`` is sent.

    RFC 3030 section 2: a client may send a chunk before it knows that the chunk is refused; its
    octets must never be read as commands.
    """

    __slots__ = ("_missing", "received_octets", "refusal")

    def __init__(self, octets: int, refusal: Reply) -> None:
        self._missing = octets
        self.received_octets = 0
        self.refusal = refusal

    def pass_over(self, octets: int) -> int:
        """So many octets came; return how many of them belonged to the chunk, -1 for all and
        more to come."""
        self.received_octets += octets
        missing, self._missing = self._missing, self._missing - octets
        return missing if octets >= missing else -1


def refusal(
    reader: ContentReader | ChunkReader | None, allowed_octets: int, *, normalise: bool
) -> Reply:
    """The reply to content that cannot be accepted: for its bare line ends, or for its size."""
    if reader is not None and reader.bare_line_end and not normalise:
        return reply.BARE_LINE_END
    return reply.message_too_large(allowed_octets)


def normalised(octets: bytes) -> bytes:
    """``octets``, in which no line end is cut, with CRLF for each lone CR and LF."""
    return _LINE_END.sub(_CRLF, octets)


def separator(beginning: bytes, ended: bool) -> bytes | None:
    """What must stand between trace fields and a message with this ``beginning``, so that nothing
    of it becomes part of them; None if more octets are needed to know.  ``ended``: there are no
    more.

    A header field or an empty line may follow a field at once.  Anything else is a body without a
    header, and an empty line comes first: a blank would continue our Received field.  The line
    "From " with which an mbox file begins a message is made a field, as other servers do: an empty
    line there would turn the whole header behind it into text.
    """
    if field_begins(beginning) or beginning.startswith(_CRLF) or (ended and not beginning):
        return b""
    if _MAILBOX_LINE.match(beginning):
        return b"X-Mailbox-Line: "
    undecided = _FIELD_MAY_BEGIN.match(beginning) or beginning == b"\r"
    if undecided and not ended and len(beginning) <= FIELD_NAME_OCTETS_MAX:
        return None
    return _CRLF
