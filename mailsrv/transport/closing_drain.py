"""The end of a connection that we close: after our FIN, what the peer still sends is thrown away.

Closing a socket with unread input sends a reset, which can destroy the last reply on its way (RFC
9293 section 3.6.1; for HTTP, RFC 9112 section 9.6).  So the socket is read until the peer's own
FIN, or until it has sent more than a peer that reads our reply has any reason to send.
"""

from __future__ import annotations

DRAIN_MAX_OCTETS = 64 * 1024
"""How much is drained from a peer that goes on sending after our FIN."""


class ClosingDrain:
    """Counts what one connection drains.  How long it may take is its owner's timer's business."""

    __slots__ = ("_drained_octets",)

    def __init__(self) -> None:
        self._drained_octets = 0

    def receive(self, chunk: bytes) -> bool:
        """Throw ``chunk`` away; True if it is time to close.  An empty one is the peer's FIN."""
        self._drained_octets += len(chunk)
        return not chunk or self._drained_octets >= DRAIN_MAX_OCTETS
