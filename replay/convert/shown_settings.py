"""The settings of a recorded mailsrv, as its reply to EHLO shows them."""

from __future__ import annotations

import re
from typing import Any

from replay.transcript.ehlo import DEFAULTS

_EHLO_REPLY = re.compile(rb"250-[^\r\n]{1,255}\r\n250-PIPELINING\r\n")
_SIZE = re.compile(rb"^250[ -]SIZE (?P<message_octets>[0-9]{1,15})\r\n", re.MULTILINE)
_LIMITS = re.compile(
    rb"^250[ -]LIMITS MAILMAX=(?P<transactions>[0-9]{1,9}) RCPTMAX=(?P<recipients>[0-9]{1,9})\r\n",
    re.MULTILINE,
)


def is_ehlo_reply(octets: bytes) -> bool:
    """Whether a recorded reply of mailsrv answers EHLO."""
    return bool(_EHLO_REPLY.match(octets))


def settings_shown(octets: bytes) -> dict[str, Any]:
    """The settings that a recorded reply of mailsrv to EHLO shows, less those at their defaults."""
    found = (pattern.search(octets) for pattern in (_SIZE, _LIMITS))
    values = {key: int(value) for one in found if one for key, value in one.groupdict().items()}
    return {key: value for key, value in values.items() if value != DEFAULTS[key]}


def offers_tls(octets: bytes) -> bool:
    """Whether a recorded reply to EHLO offers STARTTLS."""
    return is_ehlo_reply(octets) and b"-STARTTLS\r\n" in octets
