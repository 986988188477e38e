"""Which way out a recipient's mail takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from mailsrv.delivery.job import Done, Job, WayOut
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind


def _never() -> bool:
    return False


class Way(NamedTuple):
    """A way out of the queue, with the name that log, metrics and queue have for it.

    ``local``: it leads to a disk of this machine, where a message that is delivered a second time
    is found to be there already.  ``failing`` is whether it can do nothing at present and tries
    again by itself.
    """

    name: str
    out: WayOut
    local: bool = False
    failing: Callable[[], bool] = _never


class Ways(Protocol):
    """The ways out of the queue, in one configuration."""

    only: Way | None
    """The way of all mail, if there is just one: behind it nothing can be overtaken."""

    def way(self, recipient: MailPath) -> Way:
        """The way for a recipient; the same object for all that may go together.  Never raises."""

    def close(self) -> None:
        """Nothing is begun here any more: close each way out once its last job has ended."""


class Decided:
    """A way that ends at once, for every recipient in the same manner."""

    def __init__(self, kind: OutcomeKind, status: str, diagnostic: str) -> None:
        self._verdict = kind, status, diagnostic

    def deliver(self, job: Job, done: Done) -> None:
        done([Outcome(place, *self._verdict) for place in job.places])

    def room(self) -> int:
        return 1

    def close(self) -> None:
        pass


ALIAS = Way("alias", Decided(OutcomeKind.EXPANDED, "2.0.0", "It stands for several addresses"))
"""Takes what is left of an alias whose members are recipients themselves (``Envelope.expanded``):
the sender wants to know of it."""
NOWHERE = Way("nowhere", Decided(OutcomeKind.FAILED, "5.4.4", "No way leads to this domain"))
"""Takes what no route is for."""


class OneWay:
    """All mail takes the same way."""

    def __init__(self, way: Way) -> None:
        self.only: Way | None = way
        self._way = way

    def way(self, recipient: MailPath) -> Way:
        return self._way

    def close(self) -> None:
        self._way.out.close()
