"""One attempt at delivery: what the queue hands to a way out, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from mailsrv.delivery.spool.rows import StoredMessage
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.sending.outcome import Outcome


class Job(NamedTuple):
    """One attempt at one message for some of its recipients, by one way out.

    ``places`` are the recipients' indexes in the envelope's forward-paths; ``head`` the trace
    fields that stand before the content (Received; Return-Path is the mailbox's business).
    ``content`` yields the stored content in pieces of at most 256 KiB and raises SpoolError, and
    ValueError where it is missing.  The octets to be sent are head and content.  ``probe``: there
    is no message, the recipients are only asked about; those that would be taken are RELAYED.
    """

    message: StoredMessage
    envelope: Envelope
    places: tuple[int, ...]
    head: bytes
    content: Callable[[], Iterator[bytes]]
    probe: bool = False


Done = Callable[[Sequence[Outcome]], None]
"""Takes the outcomes of a job, one for each of its places."""


class WayOut(Protocol):
    """Takes mail out of the queue: a Maildir, a next hop, or nothing at all."""

    def deliver(self, job: Job, done: Done) -> None:
        """Begin an attempt.  ``done`` is called exactly once, now or later.  Never raises."""

    def room(self) -> int:
        """How many jobs it takes now without keeping them waiting."""

    def close(self) -> None:
        """End what is under way."""
