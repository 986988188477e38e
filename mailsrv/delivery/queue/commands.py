"""What an operator asks to be done with a message, and what that does to its row."""

from __future__ import annotations

from enum import Enum

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
    """The row of a message after a command; None if the message is to be forgotten."""
    if verb == Verb.DROP.value:
        return None
    if verb == Verb.HOLD.value:
        return row._replace(due_ns=None, waits_for=None, held=True)
    if row.held and verb != Verb.RELEASE.value:
        return row
    return row._replace(due_ns=now_ns, waits_for=None, held=False)
