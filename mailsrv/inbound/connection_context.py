"""What all connections of a server share: rules, loop, log, and the policy with its backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mailsrv.policy.networks import Networks
from mailsrv.policy.policy import Policy
from mailsrv.policy.rate_limits import Rates
from mailsrv.policy.runner import PolicyContext
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.memory_budget import MemoryBudget
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.state import SessionContext
from mailsrv.smtp.timeouts import Timeouts
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.transport import TransportOwner, TransportTap

if TYPE_CHECKING:
    import ssl


class AdmittedClient(TransportOwner, Protocol):
    """A connection as admission knows it: ``client`` is its address as text."""

    client: str


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """What all connections of a server share until it is configured anew.

    ``admit`` counts a client in once its address is known; it returns the reply that turns it
    away, or None.  ``closed`` is called when a connection is over.  ``tls`` is None where no
    certificate is configured.  ``proxies`` are the networks whose connections begin with another
    client's address; from ``health_checks`` a connection without a command is no event.
    """

    session_context: SessionContext
    policy: Policy
    policy_context: PolicyContext
    timeouts: Timeouts
    loop: Loop
    memory: MemoryBudget
    event_log: EventLog
    tap: TransportTap | None
    tls: ssl.SSLContext | None
    rates: Rates
    proxies: Networks
    health_checks: Networks
    admit: Callable[[AdmittedClient], Reply | None]
    closed: Callable[[AdmittedClient], None]
