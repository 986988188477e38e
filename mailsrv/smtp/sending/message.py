"""The message that a next hop is to be sent: its envelope, for some of its recipients."""

from __future__ import annotations

from typing import NamedTuple

from mailsrv.smtp.envelope import Envelope


class OutgoingMessage(NamedTuple):
    """One message for the recipients at ``places`` in ``envelope.forward_paths``.

    ``size_octets`` is that of everything that is fed as content, trace fields included.  ``probe``:
    nothing but the recipients is asked about, no content is wanted or sent; a recipient that the
    next hop would take has the outcome RELAYED.
    """

    envelope: Envelope
    places: tuple[int, ...]
    size_octets: int
    probe: bool = False
