"""Every reply the server can send, in one place (RFC 5321 section 4.2, RFC 3463).

A ``Reply`` is encoded once, when it is made; fixed replies are made at import, so that sending
one costs nothing.  Text that comes from outside is reduced to printable ASCII before it is put
into a reply: a client must never write our lines for us.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mailsrv.settings import Settings

TEXT_OCTETS_MAX = 400
"""RFC 5321 section 4.5.3.1.5: a reply line has 512 octets at most, CRLF and codes included."""

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: its code, its enhanced status code ("" where RFC 2034 allows none), its lines.

    ``wire`` is what goes to the socket, ``text`` the same for people.  ``check`` names, for the
    log, the check or the limit that speaks here.
    """

    code: int
    enhanced: str
    lines: tuple[str, ...]
    check: str = field(default="", compare=False)
    wire: bytes = field(init=False, repr=False, compare=False)
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        status = f"{self.enhanced} " if self.enhanced else ""
        last = len(self.lines) - 1
        text = "".join(
            f"{self.code}{'-' if number < last else ' '}{status}{line}\r\n"
            for number, line in enumerate(self.lines)
        )
        object.__setattr__(self, "wire", text.encode("ascii"))
        object.__setattr__(self, "text", text.rstrip("\r\n"))

    @property
    def positive(self) -> bool:
        """True for 2yz and 3yz."""
        return self.code < 400

    def __str__(self) -> str:
        return self.text


def reply(code: int, enhanced: str, *lines: str, check: str = "") -> Reply:
    """Make a reply; each line is reduced to printable ASCII and cut to ``TEXT_OCTETS_MAX``."""
    return Reply(code, enhanced, tuple(printable(line) for line in lines), check)


def printable(text: str) -> str:
    """``text`` with everything but printable ASCII replaced by "?", cut to the line's bound."""
    return _UNPRINTABLE.sub("?", text[:TEXT_OCTETS_MAX])


# -- fixed replies --------------------------------------------------------------------------------

OK = reply(250, "2.0.0", "Ok")
SENDER_OK = reply(250, "2.1.0", "Ok")
RECIPIENT_OK = reply(250, "2.1.5", "Ok")
CHUNK_OK = reply(250, "2.0.0", "Ok: chunk received")
START_TLS = reply(220, "2.0.0", "Ready to start TLS")
START_CONTENT = reply(354, "", "End data with <CR><LF>.<CR><LF>")
BYE = reply(221, "2.0.0", "Bye")
CANNOT_VERIFY = reply(252, "2.5.0", "Cannot verify the user; send mail and see")
NO_EXPANSION = reply(502, "5.5.1", "Error: lists are not expanded here")
HELP = reply(
    214,
    "2.0.0",
    "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP QUIT",
    "See RFC 5321",
)

UNKNOWN_COMMAND = reply(500, "5.5.2", "Error: command not recognized")
NOT_IMPLEMENTED = reply(502, "5.5.1", "Error: command not implemented")
LINE_TOO_LONG = reply(500, "5.5.2", "Error: command line too long", check="line length")
BARE_LF_COMMAND = reply(500, "5.5.2", "Error: command ended in a bare <LF>; end it in <CR><LF>")
CONTROL_CHARACTER = reply(501, "5.5.2", "Error: control character in command")
NOT_ASCII = reply(501, "5.5.2", "Error: octets above 127 that are not UTF-8 in command")
HELO_NOT_ASCII = reply(
    501, "5.5.4", "Error: a name given with HELO or EHLO is ASCII; write U-labels as A-labels"
)
NEED_ARGUMENT = reply(501, "5.5.4", "Error: this command needs an argument")
NO_ARGUMENT = reply(501, "5.5.4", "Error: this command takes no argument")
MAIL_SYNTAX = reply(
    501,
    "5.5.4",
    "Syntax: MAIL FROM:<address> [SIZE=n] [BODY=7BIT|8BITMIME] [SMTPUTF8]"
    " [RET=FULL|HDRS] [ENVID=xtext]",
)
RCPT_SYNTAX = reply(
    501,
    "5.5.4",
    "Syntax: RCPT TO:<address> [NOTIFY=NEVER|SUCCESS,FAILURE,DELAY] [ORCPT=type;xtext]",
)
BAD_CHUNK = reply(501, "5.5.4", "Syntax: BDAT octets [LAST]; what follows is read as commands")
BAD_SENDER_ADDRESS = reply(501, "5.1.7", "Error: bad sender address syntax")
BAD_RECIPIENT_ADDRESS = reply(501, "5.1.3", "Error: bad recipient address syntax")
UNKNOWN_PARAMETER = reply(555, "5.5.4", "Error: parameter not recognized or not implemented")
BAD_SIZE = reply(501, "5.5.4", "Error: SIZE takes a number of at most 20 digits")
BAD_BODY = reply(501, "5.5.4", "Error: BODY takes 7BIT or 8BITMIME")
REPEATED_PARAMETER = reply(501, "5.5.4", "Error: parameter given twice")
BAD_RET = reply(501, "5.5.4", "Error: RET takes FULL or HDRS")
BAD_NOTIFY = reply(501, "5.5.4", "Error: NOTIFY takes NEVER, or a list of SUCCESS,FAILURE,DELAY")
NEED_SMTPUTF8 = reply(553, "5.6.7", "Error: address needs SMTPUTF8, which MAIL did not ask for")
VRFY_NEEDS_SMTPUTF8 = reply(553, "5.6.7", "Error: this name needs the parameter SMTPUTF8 behind it")

NEED_HELO = reply(503, "5.5.1", "Error: send HELO or EHLO first")
NEED_MAIL = reply(503, "5.5.1", "Error: need MAIL command")
NESTED_MAIL = reply(503, "5.5.1", "Error: nested MAIL command")
NEED_RCPT = reply(503, "5.5.1", "Error: need RCPT command")
NO_VALID_RECIPIENTS = reply(554, "5.5.1", "Error: no valid recipients")
AFTER_BDAT = reply(
    503, "5.5.1", "Error: a message in chunks has begun; send the next chunk with BDAT, or RSET"
)
TLS_ALREADY = reply(503, "5.5.1", "Error: TLS is in use already")

BARE_LINE_END = reply(
    550,
    "5.5.2",
    "Error: bare <LF> or <CR> in message content; end each line in <CR><LF>",
    check="line ends",
)
LOCAL_ERROR = reply(451, "4.3.0", "Error: local trouble, please try again later")
STORAGE_FULL = reply(452, "4.3.1", "Error: insufficient system storage", check="storage")
TOO_MANY_HOPS = reply(
    554, "5.4.6", "Error: too many Received fields, the message is in a loop", check="loop"
)
DELIVERY_SLOW = reply(
    451, "4.3.2", "Error: delivery took too long, please try again later", check="delivery"
)

RELAY_DENIED = reply(550, "5.7.1", "Relay access denied", check="relay")
UNKNOWN_RECIPIENT = reply(
    550, "5.1.1", "Recipient address rejected: user unknown", check="recipient"
)
RECIPIENT_UNVERIFIED = reply(
    451,
    "4.4.1",
    "Recipient address cannot be verified now, please try again later",
    check="callout",
)
GREYLISTED = reply(450, "4.2.0", "Greylisted, please try again later", check="greylist")
_SENDER_DOMAIN, _HELO, _REVERSE_NAME = "sender domain", "helo", "reverse name"
SENDER_DOMAIN_UNKNOWN = reply(
    450, "4.1.8", "Sender address rejected: domain not found", check=_SENDER_DOMAIN
)
SENDER_NULL_MX = reply(
    550, "5.7.27", "Sender address rejected: its domain accepts no mail", check=_SENDER_DOMAIN
)
RESOLVER_TROUBLE = reply(
    451,
    "4.4.3",
    "Temporary failure in name resolution, try again later",
    check=_SENDER_DOMAIN,
)
HELO_NOT_A_NAME = reply(
    550, "5.7.1", "HELO name rejected: say a fully qualified domain name", check=_HELO
)
HELO_NOT_YOURS = reply(
    550, "5.7.1", "HELO name rejected: the address in it is not yours", check=_HELO
)
HELO_OURS = reply(550, "5.7.1", "HELO name rejected: that is our name", check=_HELO)
HELO_UNKNOWN = reply(550, "5.7.1", "HELO name rejected: it does not exist", check=_HELO)
HELO_TROUBLE = reply(
    450, "4.7.1", "HELO name cannot be looked up now, try again later", check=_HELO
)
# RFC 7372 section 3.3
REVERSE_NAME_MISSING = reply(
    550, "5.7.25", "Client refused: its address has no reverse name", check=_REVERSE_NAME
)
REVERSE_NAME_UNCONFIRMED = reply(
    550,
    "5.7.25",
    "Client refused: its reverse name does not lead back to its address",
    check=_REVERSE_NAME,
)
REVERSE_NAME_TROUBLE = reply(
    450, "4.7.25", "Reverse name cannot be looked up now, try again later", check=_REVERSE_NAME
)


# -- replies that carry a name or a number --------------------------------------------------------


def greeting(hostname: str) -> Reply:
    """220, the first reply (RFC 5321 section 4.2: host name first)."""
    return reply(220, "", f"{hostname} ESMTP mailsrv")


def teaser(hostname: str) -> bytes:
    """The first line of a greeting whose last comes after the greet wait."""
    return f"220-{printable(hostname)} ESMTP mailsrv\r\n".encode("ascii")


def hello(hostname: str) -> Reply:
    """The answer to HELO."""
    return reply(250, "", hostname)


def extended_hello(settings: Settings, *, starttls: bool, dsn: bool) -> Reply:
    """The answer to EHLO: a line for each extension (RFC 5321 section 4.1.1.1)."""
    return reply(
        250,
        "",
        settings.hostname,
        "PIPELINING",
        f"SIZE {settings.message_octets}",
        *(("STARTTLS",) if starttls else ()),
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        *(("DSN",) if dsn else ()),
        f"LIMITS MAILMAX={settings.transactions} RCPTMAX={settings.recipients}",  # RFC 9422
    )


def queued(envelope_id: str) -> Reply:
    """250 to the final dot: the message is ours now."""
    return reply(250, "2.0.0", f"Ok: queued as {envelope_id}")


def too_many_recipients(allowed: int) -> Reply:
    """452, not 552: RFC 5321 section 4.5.3.1.10."""
    return reply(
        452,
        "4.5.3",
        f"Error: too many recipients, {allowed} allowed in a transaction",
        check="recipients",
    )


def message_too_large(allowed_octets: int) -> Reply:
    """552 at SIZE and again at the end of data (RFC 1870 section 6.1)."""
    return reply(552, "5.3.4", f"Error: message exceeds {allowed_octets} octets", check="size")


def refused_by_next_hop(status: str, said: str) -> Reply:
    """The next hop, which was asked ahead, refuses the recipient; ``said`` is its reply."""
    return reply(550, status, f"Recipient address rejected by next hop: {said}", check="callout")


def endless_line(hostname: str, allowed_octets: int) -> Reply:
    return reply(
        421,
        "4.7.0",
        f"{hostname} Error: {allowed_octets} octets without a line end",
        check="line length",
    )


def too_many_errors(hostname: str, allowed: int) -> Reply:
    """``allowed`` errors are answered, and with the last of them this."""
    return reply(421, "4.7.0", f"{hostname} Error: too many errors: {allowed}", check="errors")


def too_many_refused_recipients(hostname: str, allowed: int) -> Reply:
    """``allowed`` recipients are refused in a session, and with the last of them this."""
    return reply(
        421,
        "4.7.0",
        f"{hostname} Error: too many refused recipients: {allowed} in this session",
        check="refused recipients",
    )


def too_many_refusals_a_minute(hostname: str, limit: str) -> Reply:
    """To a client that comes back within the minute in which so many were refused."""
    return reply(
        421,
        "4.7.0",
        f"{hostname} Error: too many refused recipients: {limit}",
        check="refused recipients",
    )


def too_many_junk_commands(hostname: str, allowed: int) -> Reply:
    return reply(
        421,
        "4.7.0",
        f"{hostname} Error: too many commands without mail, {allowed} allowed",
        check="junk commands",
    )


def too_many_transactions(hostname: str, allowed: int) -> Reply:
    return reply(
        421,
        "4.7.0",
        f"{hostname} Error: {allowed} transactions allowed in a session",
        check="transactions",
    )


def talked_too_early(hostname: str) -> Reply:
    return reply(
        554,
        "5.5.1",
        f"{hostname} Protocol error: you talked before the greeting was sent",
        check="early talker",
    )


def unsolicited_pipelining(hostname: str, verb: str) -> Reply:
    """Something was sent behind ``verb``, which must be waited for."""
    return reply(
        554,
        "5.5.0",
        f"{hostname} Protocol error: you did not wait for the answer to {verb}",
        check="pipelining",
    )


def not_smtp(what: str) -> Reply:
    """``what`` names the protocol that the client speaks."""
    return reply(
        554,
        "5.5.1",
        f"Protocol error: this is an SMTP server, and that was {what}",
        check="protocol",
    )


def timed_out(hostname: str, limit: str, check: str = "timeout") -> Reply:
    """``limit`` says which clock ran out, and at how much."""
    return reply(421, "4.4.2", f"{hostname} Error: timeout exceeded: {limit}", check=check)


def too_many_connections(hostname: str, limit: str, check: str = "connections") -> Reply:
    """At once, or with the check "rate" in a minute."""
    return reply(421, "4.7.0", f"{hostname} Error: too many connections: {limit}", check=check)


def too_many_messages(limit: str) -> Reply:
    return reply(450, "4.7.1", f"Error: too many messages: {limit}", check="rate")


def too_many_recipients_a_minute(limit: str) -> Reply:
    return reply(450, "4.7.1", f"Error: too many recipients: {limit}", check="rate")


def bad_reputation(score: int, threshold: int, reasons: Sequence[str]) -> Reply:
    """``reasons`` say what the score is made of."""
    made_of = f": {', '.join(reasons)}" if reasons else ""
    return reply(
        550,
        "5.7.1",
        f"Client refused: bad reputation, score {score} reaches {threshold}{made_of}",
        check="reputation",
    )


def shutting_down(hostname: str) -> Reply:
    return reply(421, "4.3.2", f"{hostname} Service shutting down, please try again later")
