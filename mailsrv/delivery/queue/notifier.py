"""Makes the notices to senders as messages for the spool."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from mailsrv.delivery.aliasing import expand
from mailsrv.delivery.notices.notice import Origin, notice
from mailsrv.delivery.notices.occasions import due
from mailsrv.delivery.notices.returned import Original, beginning_octets
from mailsrv.delivery.queue.retries import RandomBits, Retries
from mailsrv.delivery.spool.rows import NewMessage, SpoolError, StoredMessage
from mailsrv.delivery.spool.stored_envelope import to_json
from mailsrv.policy.aliases import Aliases
from mailsrv.runtime.clock import Clock
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome

ID_BITS = 60

Content = Callable[[], Iterator[bytes]]

NoticeMaker = Callable[[StoredMessage, Envelope, Sequence[Outcome], Content], Iterable[NewMessage]]
"""Makes the notices that outcomes ask for: final ones, and deferred ones when the delay is told."""


def no_notices(
    message: StoredMessage, envelope: Envelope, outcomes: Sequence[Outcome], content: Content
) -> Iterable[NewMessage]:
    """Nobody is told."""
    return ()


class Notifier:
    """Tells senders in the name of ``hostname``, those whom a notice ``reaches``;
    ``returned_octets_max`` bounds a message that comes back whole.  A sender may be an alias of
    ours, which ``aliases`` knows."""

    def __init__(
        self,
        clock: Clock,
        dice: RandomBits,
        hostname: str,
        retries: Retries,
        returned_octets_max: int,
        reaches: Callable[[MailPath], bool] = lambda sender: True,
        aliases: Aliases | None = None,
    ) -> None:
        self._aliases = aliases
        self._reaches = reaches
        self._clock = clock
        self._dice = dice
        self._hostname = hostname
        self._retries = retries
        self._returned_octets_max = returned_octets_max

    def __call__(
        self,
        message: StoredMessage,
        envelope: Envelope,
        outcomes: Sequence[Outcome],
        content: Content,
    ) -> list[NewMessage]:
        """The notice about ``outcomes``, if one is due."""
        if not due(envelope, outcomes) or not self._reaches(envelope.reverse_path):
            return []
        wanted = beginning_octets(message.octets, self._returned_octets_max)
        original = Original(_beginning(content, wanted), message.octets)
        now_ns, hostname = self._clock.realtime_ns(), self._hostname
        id_ = f"{self._dice.getrandbits(ID_BITS):015X}"
        origin = Origin(hostname, now_ns, id_, self._returned_octets_max)
        until_ns = self._retries.ends_ns(message.received_ns)
        made = notice(envelope, outcomes, original, message.received_ns, origin, until_ns)
        if made is None:
            return []
        addressed = made.envelope
        if self._aliases is not None:
            addressed = expand(addressed, self._aliases) or addressed
        text = to_json(addressed)
        return [NewMessage(id_, now_ns, hostname, len(made.content), text, made.content)]


def _beginning(content: Content, octets: int) -> bytes:
    """As much of the content; less where it cannot be read."""
    found = bytearray()
    with contextlib.suppress(SpoolError, ValueError):
        for piece in content():
            found += piece[: octets - len(found)]
            if len(found) >= octets:
                break
    return bytes(found)
