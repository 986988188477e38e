"""The envelope of one mail transaction: what was agreed before the content (RFC 5321 2.3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from mailsrv.smtp.path import MailPath


class Notice(NamedTuple):
    """The notifications that the sender asked for, for one recipient (RFC 3461).

    ``notify``: ("NEVER",), or some of "SUCCESS", "FAILURE" and "DELAY", or nothing where the
    command had no such parameter.  ``orcpt``: the original recipient as it was written, "rfc822;"
    and xtext, or "".
    """

    notify: tuple[str, ...] = ()
    orcpt: str = ""


@dataclass(slots=True)
class Envelope:
    """One transaction's sender and recipients, and what the commands said of it.

    ``client`` is the peer's address as text ("192.0.2.1", "2001:db8::1"); ``helo`` the name it
    gave; ``protocol`` the keyword for the Received field's "with" clause (RFC 3848, RFC 6531);
    ``began_ns`` the loop's instant of MAIL; ``tls`` the protocol version and cipher suite, ""
    in the clear; ``refused`` counts recipients.  Of RFC 3461 are ``ret`` ("FULL", "HDRS" or
    ""), ``envid`` (xtext as it was written, or ""), and ``notices``, by place in
    ``forward_paths``, for the recipients that came with parameters.  ``expanded`` are the places
    of aliases whose members stand beside them: nothing is delivered there, the sender wants to
    know of it.
    """

    client: str
    helo: str
    protocol: str
    id: str
    reverse_path: MailPath
    forward_paths: list[MailPath] = field(default_factory=list)
    size_declared_octets: int | None = None
    body: str = "7BIT"
    smtputf8: bool = False
    tls: str = ""
    began_ns: int = 0
    refused: int = 0
    ret: str = ""
    envid: str = ""
    notices: dict[int, Notice] = field(default_factory=dict)
    expanded: tuple[int, ...] = ()
