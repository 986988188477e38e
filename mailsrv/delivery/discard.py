"""A courier that discards every message: for benchmarks, never by default."""

from __future__ import annotations

from collections.abc import Callable

from mailsrv.delivery.job import Done, Job
from mailsrv.smtp import reply
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

ROOM = 64
"""Jobs that are taken at once, of which none has to wait."""

_DISCARDED = reply.reply(250, "2.0.0", "Ok: discarded")


class DiscardCourier:
    """Accepts every message and keeps none; it is the sink of all of them at once.

    ``messages`` counts those finished, ``octets`` the content that came in, whether its message
    was finished or not.
    """

    __slots__ = ("messages", "octets")

    def __init__(self) -> None:
        self.messages = 0
        self.octets = 0

    def begin(self, envelope: Envelope) -> DiscardCourier:
        return self

    def write(self, chunk: bytes) -> None:
        self.octets += len(chunk)

    def finish(self, answer: Callable[[Reply], None]) -> None:
        self.messages += 1
        answer(_DISCARDED)

    def abort(self) -> None:
        pass


class DiscardWay:
    """A way out of the queue that forgets every message, for routes that lead nowhere."""

    __slots__ = ()

    def deliver(self, job: Job, done: Done) -> None:
        done([Outcome(place, OutcomeKind.DELIVERED, "2.0.0", "Discarded") for place in job.places])

    def room(self) -> int:
        return ROOM

    def close(self) -> None:
        pass
