"""Every number and name an operator may set, with its default and its reason.

Times are seconds (integers or exact decimals a person would type); the shells turn them into
integer nanoseconds.  The defaults are argued beside each field; RFC 5321 section 4.5.3 gives the
minimums a receiver should grant.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one server instance is told.  Immutable: a reload makes a new one.

    Fields ending in ``_s`` are seconds, in ``_octets`` octets; the others are counts or flags.
    """

    hostname: str = "localhost"
    """The name in the greeting, in 421 replies and in the Received field."""

    # Timers; the formulas are in docs/timers.md.
    greet_wait_s: float = 0
    """Silence before the greeting; who talks during it is refused.  0 greets at once."""
    idle_timeout_s: float = 300
    """From the last reply to the first octet of a command (RFC 5321 section 4.5.3.2.7)."""
    command_timeout_s: float = 300
    """From the first octet of a command line to its end: stops dripped commands."""
    content_timeout_s: float = 180
    """Without an octet of content, and the head start of the minimum data rate."""
    content_rate_octets_s: int = 500
    """Each received octet of content buys 1/500 s: stops dripped content, spares slow mail."""
    session_timeout_s: float = 3600
    """A session's life, whatever it does: nobody holds a descriptor for ever."""
    lookup_timeout_s: float = 10
    """How long a policy decision may wait for DNS or reputation."""
    delivery_timeout_s: float = 300
    """How long the final dot may wait for the courier before the client is told to retry."""
    linger_timeout_s: float = 5
    """How long a closing connection drains what the peer still sends."""
    grace_s: float = 30
    """How long a shutdown waits for transactions in flight."""

    # Sizes and counts.
    message_octets: int = 50 * 1024 * 1024
    command_line_octets: int = 2048
    """Without CRLF.  RFC 5321 section 4.5.3.1.4 asks for 512 at least; Postfix takes 2,048."""
    recipients: int = 1000
    """Accepted recipients in one transaction; RFC 5321 section 4.5.3.1.8 asks for 100."""
    transactions: int = 100
    """Mail transactions in one session."""
    errors_soft: int = 10
    """Errors after which each reply is held back by ``error_pause_s``."""
    errors_hard: int = 20
    """Errors at which the session ends.  Counts restart after an accepted message."""
    error_pause_s: float = 1
    junk_commands: int = 100
    """NOOP, RSET, VRFY, HELO and their like in one transaction."""
    connections: int = 0
    """Connections in all; 0 takes what the descriptor limit allows."""
    connections_per_client: int = 50
    trusted_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Clients in these networks are exempt from limits for one client."""

    # Checks, all off until configured: a first try from a laptop must simply work.
    sender_domain_check: bool = False
    greylist: bool = False
    greylist_delay_s: float = 300
    reputation_threshold: int = 0
    """Refuse a client whose reputation score reaches this; 0 does not ask."""
