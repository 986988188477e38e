"""Every number and name an operator may set, with its default and its reason.

Times are seconds (integers or exact decimals a person would type); the shells turn them into
integer nanoseconds.  The reason for each default stands beside its field; RFC 5321 section 4.5.3
has the minimums that a receiver should grant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Mode = Literal["off", "score", "reject"]
"""What a failed check does: nothing, as it is not made; add to the score; refuse."""
Watch = Literal["off", "record", "reject"]
"""What follows a breach of timing: nothing; a line in the log; a refusal."""
TlsUse = Literal["never", "opportunistic", "required", "verified"]
"""TLS towards a next hop: never; where it is offered, with any certificate; always, with any
certificate; always, with a certificate for the host that we know to be good."""


CalloutUse = Literal["off", "take", "defer"]
"""Whether the next hop is asked about recipients, and what becomes of those on which it does not
answer."""


class DnsList(NamedTuple):
    """One DNS block list or allow list (RFC 5782): an answer of ``zone`` that lies in
    ``answers``, a network within 127.0.0.0/8, adds ``score``, which is negative for good."""

    zone: str
    answers: str
    score: int


CHECKS_OF_CLIENTS = ("greylist", "reputation", "reverse_name", "helo", "sender_domain")
"""Checks of the policy, which an exception may name by network, reverse name and recipient."""
CHECKS_OF_PROTOCOL = ("bare_lf", "pipelining", "early_talker")
"""Checks of the protocol: an exception may name them by network; ``bare_lf`` by recipient too."""


class CheckException(NamedTuple):
    """Checks that are not made, and for whom: clients in ``networks`` or with a confirmed reverse
    name in ``names``; ``recipients``, addresses and domains.  Where both are given, both must
    hold.  Where ``bare_lf`` is not made, line ends in content are normalised."""

    checks: tuple[str, ...]
    networks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one server.  Immutable: a reload makes new ones.

    Fields ending in ``_s`` are seconds, in ``_octets`` octets; the others are counts or flags.
    """

    hostname: str = "localhost"
    """The name in the greeting, in 421 replies and in the Received field."""

    # Timers; the formulas are in docs/run/timeouts.md.
    greet_wait_s: float = 0
    """Silence before the greeting; a client that sends during it is refused.  0 greets at once."""
    greet_teaser: bool = False
    """Send the first of two lines of the greeting before the greet wait, to tempt early talkers."""
    proxy_timeout_s: float = 5
    """From accepting a proxy's connection to the end of its PROXY header."""
    handshake_timeout_s: float = 30
    """A TLS handshake, from its begin to its end."""
    idle_timeout_s: float = 300
    """From the last reply to the first octet of a command (RFC 5321 section 4.5.3.2.7)."""
    command_timeout_s: float = 300
    """From the first octet of a command line to its end: stops dripped commands."""
    content_start_timeout_s: float = 300
    """From 354, or BDAT, to the first octet of content: the sender may have to read a disk or ask a
    scanner before it begins."""
    content_timeout_s: float = 180
    """Without an octet of content, and the head start of the minimum data rate."""
    content_rate_octets_s: int = 500
    """Each received octet of content buys 1/500 s: stops dripped content, spares slow mail."""
    session_timeout_s: float = 3600
    """A session's life; content that keeps its rate is finished first."""
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
    refused_recipients: int = 1000
    """Recipients refused in a session, whatever the reason and the code, before it is ended: lists
    that are greylisted pass, and nobody fills the log and the greylist in one connection."""
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
    """Clients in these networks are exempt from limits for one client or its network."""
    connections_per_network: int = 0
    """Connections of one client network (/24, /64); 0: as many as there are."""
    client_connections_per_min: int = 0
    client_messages_per_min: int = 0
    client_recipients_per_min: int = 0
    """Rates of one client address; 0: no limit.  Retries of what was deferred are not charged."""
    client_refusals_per_min: int = 1000
    """Refused recipients of one client address in a minute, after which new connections of it are
    refused until the minute is over: a flooder cannot come straight back.  0: no limit."""
    network_connections_per_min: int = 0
    network_messages_per_min: int = 0
    network_recipients_per_min: int = 0
    network_refusals_per_min: int = 5000
    memory_octets: int = 128 * 1024 * 1024
    """What connections may hold in all: input, replies, content not yet on the disk.  From half of
    it on there is stress; when all of it is held, new clients are refused."""
    stress_percent: int = 80
    """From this share of ``connections``, or of the descriptors of the process, on timeouts are
    short; 0: never."""
    stress_timeout_s: float = 10
    """Under stress, the longest that any timeout for the client is."""
    stress_errors: int = 1
    """Under stress, errors at which a session ends."""

    # Proxies, which tell us the client's address, and clients that do not wait their turn.
    proxy_networks: tuple[str, ...] = ()
    """Connections from here begin with a PROXY protocol header (HAProxy, v1 or v2)."""
    health_check_networks: tuple[str, ...] = ()
    """Load balancers and monitors; a connection from here that ends without a command is not
    logged: HAProxy's plain check connects every other second and resets."""
    early_talkers: Watch = "record"
    """Octets that came before the greeting was sent; with a greet wait they are refused anyway."""
    unsolicited_pipelining: Watch = "record"
    """Commands sent behind one that must be waited for (RFC 2920 section 3.1)."""

    # The spool, where accepted mail waits for its delivery.
    spool_octets: int = 10 * 1024**3
    """Of content that waits; beyond that, mail is deferred (452 4.3.1)."""
    spool_free_octets: int = 256 * 1024**2
    """What is left free on the spool's disk; below that, mail is deferred (452 4.3.1)."""

    received_fields: int = 100
    """In the header of a message; one with more is in a loop, and refused (554 5.4.6).  RFC 5321
    section 6.3 asks for 100 at least."""

    # The queue, which tries again what cannot be delivered now.
    retry_first_s: float = 300
    """From the first attempt to the second, as Postfix; each pause is twice the one before."""
    retry_longest_s: float = 3600
    """The longest pause; up to a quarter is added to each by chance."""
    queue_lifetime_s: float = 5 * 24 * 3600
    """After so long the last attempt is made and the sender is told; RFC 5321 section 4.5.4.1 asks
    for 4 or 5 days."""

    # Next hops; a route may say otherwise.
    relay_tls: TlsUse = "opportunistic"
    relay_connections: int = 20
    """Open at once to one destination; Postfix's number."""
    relay_messages_per_min: int = 0
    """To one destination; 0: as many as there are."""

    mx_private_networks: tuple[str, ...] = ()
    """Networks with private addresses that the MX records of a domain may lead to; without them
    such addresses are passed over: a stranger's DNS must not point into our own network."""

    # Notices to senders (RFC 3461).
    delay_notice_s: float = 4 * 3600
    """After so long in the queue the sender is told once that its message is delayed; 0: never."""
    notice_content_octets: int = 50_000
    """Of the content of a message that comes back whole with its notice; of a larger one the
    header comes back.  What goes to a forged sender is no bigger than this."""

    # Recipients.
    domains: tuple[str, ...] = ()
    """The domains whose mail is taken; none: every domain's, which is allowed only for a server
    that no other machine reaches; "*" says it on purpose."""
    recipient_delimiter: Literal["", "+", "-"] = "+"
    """What separates a subaddress in the local-part (RFC 5233); "" for nothing."""

    recipient_callout: CalloutUse = "off"
    """Ask the next hop about a recipient before it is taken, where no table knows."""
    callout_taken_s: float = 24 * 3600
    """How long it is remembered that the next hop takes a recipient; Exim's time."""
    callout_refused_s: float = 2 * 3600
    """How long it is remembered that it refuses one: an address that was made a moment ago should
    not be refused for a day.  Exim's time."""

    exceptions: tuple[CheckException, ...] = ()
    """Clients and recipients for whom a check is not made."""

    # Checks, all off until configured: a first try from a laptop must simply work.
    sender_domain_check: Mode = "off"
    sender_domain_score: int = 5
    helo_check: Mode = "off"
    helo_score: int = 5
    reverse_name_check: Mode = "off"
    reverse_name_score: int = 5
    dns_lists: tuple[DnsList, ...] = ()
    reputation_threshold: int = 0
    """Refuse a client whose score reaches this; 0 does not ask for a reputation."""
    greylist: bool = False
    greylist_delay_s: float = 300
    greylist_retry_within_s: float = 2 * 24 * 3600
    """A triplet that is first retried later than this is new again."""
    greylist_kept_s: float = 35 * 24 * 3600
    """How long what has passed is remembered after it was last seen."""
    greylist_client_passes: int = 5
    """Passed triplets after which the client itself passes."""
    greylist_allow_networks: tuple[str, ...] = ()
    greylist_allow_names: tuple[str, ...] = ()
    """Domains; a client whose confirmed reverse name lies in one is not greylisted."""
    greylist_allow_recipients: tuple[str, ...] = ()
    """Addresses and domains whose mail is not greylisted."""
