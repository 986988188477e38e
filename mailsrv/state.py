"""Where a session stands."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a session stands between two commands (RFC 5321 section 4.1.4)."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call

    CONNECTED = "no HELO or EHLO yet"
    GREETED = "no mail transaction"
    SENDER = "a reverse-path, no forward-path"
    RECIPIENT = "a reverse-path and a forward-path"
    CONTENT = "message content"
    CHUNKS = "a part of the content, between two chunks"
