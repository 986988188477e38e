"""What the spool's database holds, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class SpoolError(Exception):
    """The spool cannot be used; the message says which file and why."""


class NewMessage(NamedTuple):
    """A message to be stored.  ``content`` is None if it lies in a file."""

    id: str
    received_ns: int
    hostname: str
    octets: int
    envelope: str
    content: bytes | None


class StoredMessage(NamedTuple):
    """A message that is stored, without its content.  ``received_ns`` counts from 1970."""

    number: int
    id: str
    received_ns: int
    hostname: str
    octets: int
    envelope: str
    in_file: bool


class QueueRow(NamedTuple):
    """What is known of a message that was tried, or is not to be tried now.

    ``due_ns`` counts from 1970; None if it is held or waits for a way out.  ``progress`` is JSON,
    or "" where no recipient has an outcome.
    """

    number: int
    id: str
    due_ns: int | None = None
    waits_for: str | None = None
    held: bool = False
    attempts: int = 0
    progress: str = ""


class Entry(NamedTuple):
    """A message and its row; None if it is fresh: it was never tried."""

    message: StoredMessage
    row: QueueRow | None = None


class Command(NamedTuple):
    """What an operator asked to be done with a message, which is given by its number."""

    number: int
    message: int
    verb: str


@dataclass(slots=True)
class Changes:
    """What a transaction changes besides storing what was received.

    ``gone`` are messages that are done with, and ``rows`` those of the queue, by number;
    ``notices`` are messages of our own; ``commands`` were carried out; ``fresh_from`` is a number
    below which no message is fresh.
    """

    gone: dict[int, StoredMessage] = field(default_factory=dict)
    rows: dict[int, QueueRow] = field(default_factory=dict)
    notices: list[NewMessage] = field(default_factory=list)
    commands: set[int] = field(default_factory=set)
    fresh_from: int = 0

    def __bool__(self) -> bool:
        return bool(self.gone or self.rows or self.notices or self.commands)
