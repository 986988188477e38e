"""What became of a message at one attempt, for one recipient each."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class OutcomeKind(Enum):
    """The values are the words of the log, the metrics and the queue's table."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    DELIVERED = "delivered"
    """In a mailbox (RFC 3464 action "delivered")."""
    RELAYED = "relayed"
    """The next hop took it; ``Outcome.dsn`` says whether it promised notices of its own."""
    EXPANDED = "expanded"
    """An alias: the message goes to the several addresses that it stands for."""
    DEFERRED = "deferred"
    """Not now: to be tried again."""
    FAILED = "failed"
    """Never: the sender is to be told."""


class Outcome(NamedTuple):
    """What one attempt came to for one recipient.

    ``place`` is the recipient's index in the envelope's ``forward_paths``.  ``status`` is the
    enhanced status code ("5.1.1", RFC 3463).  ``diagnostic`` is the reply that decided, in
    printable ASCII and cut to a bound, or words of our own.  ``remote`` names the next hop (the
    Remote-MTA of RFC 3464), "" where none was reached.  ``dsn``, for RELAYED: the next hop
    offered DSN and was sent the parameters, so its notices are its own duty (RFC 3461 5.2).
    """

    place: int
    kind: OutcomeKind
    status: str
    diagnostic: str
    remote: str = ""
    dsn: bool = False

    @property
    def is_reply(self) -> bool:
        """Whether ``diagnostic`` is a reply of the next hop, and not in words of our own."""
        return bool(self.remote) and self.diagnostic[:3].isdigit()
