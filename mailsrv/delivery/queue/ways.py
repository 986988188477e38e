"""Which way out a recipient's mail takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from mailsrv.delivery.job import WayOut
from mailsrv.smtp.path import MailPath


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


class OneWay:
    """All mail takes the same way."""

    def __init__(self, way: Way) -> None:
        self.only: Way | None = way
        self._way = way

    def way(self, recipient: MailPath) -> Way:
        return self._way

    def close(self) -> None:
        self._way.out.close()
