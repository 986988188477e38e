"""One mail transaction: its envelope, its content on the way to the courier, and how it ended."""

from __future__ import annotations

from mailsrv.smtp.content import (
    ChunkReader,
    ContentReader,
    field_begins,
    normalised,
    refusal,
    separator,
)
from mailsrv.smtp.courier import Courier, Sink
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.events import TransactionEnded
from mailsrv.smtp.reply import Reply

_make_tuple = tuple.__new__
"""What a NamedTuple's constructor, which is a Python call, would call for every message."""


class Transaction:
    """From an accepted MAIL to the reply to the message, or to whatever ended it before.

    ``reader`` takes the content and is None before the first octet of it may come; ``sink``
    carries it on, and is None again as soon as the content cannot be accepted any more.
    ``beginning`` is what is held back of the content until it is known what goes before it, then
    None.  ``normalise``: a lone LF or CR in the content becomes CRLF instead of refusing it.
    ``refusal`` is that of the last recipient that was refused.
    """

    __slots__ = (
        *("_allowed_octets", "_limit_octets", "beginning", "envelope", "normalise", "reader"),
        *("refusal", "sink"),
    )

    def __init__(self, envelope: Envelope, allowed_octets: int) -> None:
        self._allowed_octets = allowed_octets
        self._limit_octets = allowed_octets  # less what normalising has added
        self.beginning: bytes | None = b""
        self.envelope = envelope
        self.reader: ContentReader | ChunkReader | None = None
        self.normalise = False
        self.refusal: Reply | None = None
        self.sink: Sink | None = None

    def open(self, courier: Courier, reader: ContentReader | ChunkReader) -> None:
        """Content may come now."""
        self.sink = courier.begin(self.envelope)
        self.reader = reader

    def take(self, data: bytes, at: int) -> int:
        """Take content from ``at`` on; return where in ``data`` it, or its chunk, has ended: -1
        if it goes on."""
        reader = self.reader
        assert reader is not None, "content comes only after the go-ahead"
        octets, after = reader.feed(data, at)
        if self.sink is not None:
            if self.normalise:
                received_octets = len(octets)
                octets = normalised(octets)
                self._limit_octets -= len(octets) - received_octets
            refused = reader.bare_line_end and not self.normalise
            if refused or reader.size_octets > self._limit_octets:
                # Refused at the end, and read on until then, so that the sender learns why.
                self.abandon()
            elif octets:
                if self.beginning is None:
                    self.sink.write(octets)
                elif not self.beginning and field_begins(octets):
                    self.beginning = None
                    self.sink.write(octets)
                else:
                    self._begin_content(self.sink, self.beginning + octets)
        return after

    def complete(self) -> None:
        """All content has come: write what was held back of it."""
        if self.sink is None:
            return
        if self.beginning is not None:
            self._begin_content(self.sink, self.beginning, ended=True)
        if isinstance(self.reader, ChunkReader) and self.reader.ends_in_cr:
            self.sink.write(b"\r\n")

    @property
    def normalised(self) -> bool:
        """Some line ends of the content were made CRLF."""
        return self.normalise and self.reader is not None and self.reader.bare_line_end

    def _begin_content(self, sink: Sink, beginning: bytes, ended: bool = False) -> None:
        """Write the first octets, behind what keeps them apart from the trace fields."""
        before = separator(beginning, ended)
        self.beginning = beginning if before is None else None
        if before is not None and beginning:
            sink.write(before + beginning)

    @property
    def fault(self) -> Reply:
        """Why the content cannot be accepted, once ``sink`` is None."""
        return refusal(self.reader, self._allowed_octets, normalise=self.normalise)

    def abandon(self) -> None:
        """The message will not be delivered."""
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.abort()

    def ended(self, verdict: Reply | None) -> TransactionEnded:
        """How the transaction ended, for the log.  With no verdict on the whole and no recipient
        accepted, the last recipient's refusal decided."""
        envelope, reader = self.envelope, self.reader
        if verdict is None and not envelope.forward_paths:
            verdict = self.refusal
        size_octets = 0 if reader is None else reader.size_octets
        return _make_tuple(TransactionEnded, (envelope, verdict, size_octets))
