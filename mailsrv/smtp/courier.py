"""The interfaces of outbound delivery: the courier, and the sink that takes one message's content.

Delivery answers through a callback, now or later; a caller must be ready for an answer before
the call returns.  An answer that is no longer awaited is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.reply import Reply


class Sink(Protocol):
    """Takes one message's content, unstuffed, as it arrives.

    It begins with a header field or an empty line, so trace fields may stand right before it.
    """

    def write(self, chunk: bytes) -> None:
        """Take the next octets.  A failure is kept for ``finish`` to answer; this never raises."""

    def finish(self, answer: Callable[[Reply], None]) -> None:
        """The content is whole.  ``answer`` gets the reply to the final dot: a 250 only when
        the message can no longer be lost."""

    def abort(self) -> None:
        """The message will not be finished: forget it.  Harmless after ``finish`` or twice."""


class Courier(Protocol):
    """Carries accepted messages on."""

    def begin(self, envelope: Envelope) -> Sink:
        """Open a sink for the content of ``envelope``."""
