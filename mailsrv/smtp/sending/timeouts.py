"""How long a next hop is waited for (RFC 5321 section 4.5.3.2), as values.

Each wait is for one whole thing: a reply to its last octet, the acceptance of a block of content.
So a next hop that sends an octet now and then gains no time by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from mailsrv.units import seconds_to_ns


class SendingTimeout(Enum):
    """What is waited for; the values are the words of log and diagnostics."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    CONNECT = "connection"
    HANDSHAKE = "TLS handshake"
    GREETING = "greeting"
    HELLO = "reply to EHLO"
    STARTTLS = "reply to STARTTLS"
    MAIL = "reply to MAIL"
    RCPT = "reply to RCPT"
    DATA = "reply to DATA"
    CONTENT = "content to be taken"
    CHUNK = "reply to BDAT"
    END = "reply to the end of the content"
    RSET = "reply to RSET"
    QUIT = "reply to QUIT"


SENDING_TIMEOUTS_NS: Mapping[SendingTimeout, int] = MappingProxyType(
    {
        SendingTimeout.CONNECT: seconds_to_ns(30),
        SendingTimeout.HANDSHAKE: seconds_to_ns(60),
        SendingTimeout.GREETING: seconds_to_ns(300),  # section 4.5.3.2.1
        SendingTimeout.HELLO: seconds_to_ns(300),
        SendingTimeout.STARTTLS: seconds_to_ns(60),
        SendingTimeout.MAIL: seconds_to_ns(300),  # section 4.5.3.2.2
        SendingTimeout.RCPT: seconds_to_ns(300),  # section 4.5.3.2.3
        SendingTimeout.DATA: seconds_to_ns(120),  # section 4.5.3.2.4
        SendingTimeout.CONTENT: seconds_to_ns(180),  # section 4.5.3.2.5
        SendingTimeout.CHUNK: seconds_to_ns(600),
        SendingTimeout.END: seconds_to_ns(600),  # section 4.5.3.2.6
        SendingTimeout.RSET: seconds_to_ns(20),
        SendingTimeout.QUIT: seconds_to_ns(5),
    }
)
"""In nanoseconds.  RSET and QUIT are short: nothing is lost if their replies never come."""
