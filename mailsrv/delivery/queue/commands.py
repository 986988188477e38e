"""What an operator asks to be done with a message, and what that does to its row."""

from __future__ import annotations

from enum import Enum

from mailsrv.delivery.queue.progress import Progress
from mailsrv.delivery.spool.rows import QueueRow


class Verb(Enum):
    """The commands; their values are the words of the command line and the database."""

    RETRY = "retry"
    """Try it now, unless it is held."""
    HOLD = "hold"
    """Do not try it until it is released."""
    RELEASE = "release"
    """Hold it no more, and try it now."""
    DROP = "drop"
    """Forget it; nobody is told."""


def carried_out(verb: str, row: QueueRow, now_ns: int) -> QueueRow | None:
    """The row of a message after a command; None if the message is to be forgotten.

    When it was to be tried without the command is remembered in its progress.
    """
    if verb == Verb.DROP.value:
        return None
    if row.held and verb == Verb.RETRY.value:
        return row
    is_hold = verb == Verb.HOLD.value
    due_ns, progress = None if is_hold else now_ns, _planned(row, now_ns)
    return row._replace(due_ns=due_ns, waits_for=None, held=is_hold, progress=progress)


def _planned(row: QueueRow, now_ns: int) -> str:
    if row.due_ns is None or row.due_ns <= now_ns:
        return row.progress
    try:
        progress = Progress.from_json(row.progress)
    except ValueError:
        return row.progress  # the queue says so when it tries the message
    progress.planned_ns = row.due_ns
    return progress.to_json()
