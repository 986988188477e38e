"""What all connections of a server share: its rules, its machinery, and whom it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mailsrv.deadlines import Patience
from mailsrv.deliberation import Panel
from mailsrv.house import House
from mailsrv.journal import Journal
from mailsrv.loop import Loop
from mailsrv.networks import Networks
from mailsrv.policy import Policy
from mailsrv.rates import Rates
from mailsrv.reply import Reply
from mailsrv.wire import Owner, Tap

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

    house: House
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
