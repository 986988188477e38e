"""A message in the queue, as an operator sees it."""

from __future__ import annotations

from dataclasses import dataclass

from mailsrv.delivery.queue.progress import Progress
from mailsrv.delivery.spool.rows import Entry
from mailsrv.smtp.envelope import Envelope

STATES = ("new", "due", "deferred", "waiting", "held", "unreadable")
"""Not tried yet; to be tried now, or being tried; to be tried later; for a way out with room; until
it is released; its row in the database says nothing that can be understood."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient: its last outcome, "pending" where there is none yet."""

    address: str
    outcome: str = "pending"
    status: str = ""
    reply: str = ""
    remote: str = ""


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """One message.  Instants count from 1970; ``due_ns`` is None where nothing is planned."""

    number: int
    id: str
    received_ns: int
    octets: int
    state: str
    attempts: int
    due_ns: int | None
    waits_for: str
    sender: str
    client: str
    recipients: tuple[Recipient, ...]

    @property
    def reason(self) -> str:
        """Why it is still here, as far as one recipient tells."""
        return next((one.reply for one in self.recipients if one.outcome == "deferred"), "")


def queued_message(
    entry: Entry, envelope: Envelope | None, progress: Progress, now_ns: int
) -> QueuedMessage:
    """The message of ``entry``; ``envelope`` is None if it cannot be read."""
    message, row = entry
    return QueuedMessage(
        number=message.number,
        id=message.id,
        received_ns=message.received_ns,
        octets=message.octets,
        state="unreadable" if envelope is None else _state(entry, now_ns),
        attempts=row.attempts if row else 0,
        due_ns=row.due_ns if row else None,
        waits_for=(row.waits_for if row else None) or "",
        sender="" if envelope is None else str(envelope.reverse_path),
        client="" if envelope is None else envelope.client,
        recipients=() if envelope is None else _recipients(envelope, progress),
    )


def _state(entry: Entry, now_ns: int) -> str:
    row = entry.row
    if row is None:
        return "new"
    if row.held:
        return "held"
    if row.waits_for is not None:
        return "waiting"
    return "due" if row.due_ns is None or row.due_ns <= now_ns else "deferred"


def _recipients(envelope: Envelope, progress: Progress) -> tuple[Recipient, ...]:
    found = []
    for place, path in enumerate(envelope.forward_paths):
        outcome = progress.outcomes.get(place)
        if outcome is None:
            found.append(Recipient(str(path)))
        else:
            said = outcome.kind.value, outcome.status, outcome.diagnostic, outcome.remote
            found.append(Recipient(str(path), *said))
    return tuple(found)
