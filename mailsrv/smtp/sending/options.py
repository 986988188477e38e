"""How a next hop is spoken to: the settings of a route that the protocol needs."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Dialect(Enum):
    """The protocol spoken; the values are the words of the log."""

    SMTP = "SMTP"
    LMTP = "LMTP"  # RFC 2033


class TlsPolicy(Enum):
    """Whether STARTTLS is used (RFC 3207); the values are the words of the settings."""

    NEVER = "never"
    OPPORTUNISTIC = "opportunistic"
    """Where it is offered, with any certificate; in the clear where it fails."""
    REQUIRED = "required"
    """With any certificate, or the mail waits."""
    VERIFIED = "verified"
    """With a certificate that is valid for the next hop's name, or the mail waits."""


class SendingOptions(NamedTuple):
    """``hostname`` is the name that we give with EHLO or LHLO.

    ``chunking``: use BDAT where it is offered (RFC 3030).
    """

    hostname: str
    dialect: Dialect = Dialect.SMTP
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    chunking: bool = True
