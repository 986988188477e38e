"""What all connections of a server share: its rules, its machinery, and whom it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mailsrv.policy.networks import Networks
from mailsrv.policy.policy import Policy
from mailsrv.policy.rate_limits import Rates
from mailsrv.policy.runner import Panel
from mailsrv.runtime.loop import Loop
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.state import SessionContext
from mailsrv.smtp.timeouts import Patience
from mailsrv.telemetry.event_log import Journal
from mailsrv.transport.transport import Owner, Tap

if TYPE_CHECKING:
    import ssl


class Guest(Owner, Protocol):
    """A connection, as far as the door knows it: ``client`` is its address as text."""

    client: str


@dataclass(frozen=True, slots=True)
class Premises:
    """What all connections of a server share until it is configured anew.

    ``admit`` counts a client in once its address is known; it gives the reply that turns it
    away, or None.  ``closed`` is told when a connection is over.  ``tls`` is None where no
    certificate is configured, ``rates`` where no rate of mail is limited.  ``proxies`` are those
    who tell another client's address.
    """

    session_context: SessionContext
    policy: Policy
    panel: Panel
    patience: Patience
    loop: Loop
    journal: Journal
    tap: Tap | None
    tls: ssl.SSLContext | None
    rates: Rates | None
    proxies: Networks
    admit: Callable[[Guest], Reply | None]
    closed: Callable[[Guest], None]
