"""Where we listen: sockets bound, handed over or given up, as the configuration wants them.

A door is known by its kind and its address as the configuration writes it.  What is wanted before
and after a reload stays open throughout; what is new is bound before anything changes, so that a
port in use leaves everything as it was.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from mailsrv.config.endpoints import format_address, parse_address
from mailsrv.config.file import Config, domain_complaints
from mailsrv.config.validation import ConfigError
from mailsrv.runtime.listener import bind


class SocketKind(Enum):
    """What is spoken behind a door; the value is the name of such a socket in systemd."""

    SMTP = "smtp"
    SMTPS = "smtps"
    METRICS = "metrics"


_MAIL = {SocketKind.SMTP, SocketKind.SMTPS}
HANDED = ""
"""Stands for the address of a socket that was handed over."""


class ListenPlace(NamedTuple):
    """A door as the configuration wants it."""

    kind: SocketKind
    address: str

    def bind(self) -> socket.socket:
        """Raises ConfigError."""
        try:
            return bind(*parse_address(self.address))
        except OSError as error:
            raise ConfigError(f"cannot listen on {self.address}: {error.strerror}") from None


class OpenListener(Protocol):
    """What answers at a door; closing it closes the socket."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""

    def close(self) -> None:
        """Answer no more; harmless when closed."""


Answer = Callable[[SocketKind, socket.socket], OpenListener]


@dataclass(frozen=True, slots=True)
class SocketChange:
    """What a new configuration wants, bound already: for ``discard``, or ``ListenSockets.open``."""

    opened: list[tuple[ListenPlace, socket.socket]]
    closed: list[ListenPlace]

    def discard(self) -> None:
        """Let go of what was bound."""
        for _, sock in self.opened:
            sock.close()


class ListenSockets:
    """All doors of a server.

    ``answer`` lets something answer at a socket.  Sockets in ``handed``, each with its name, were
    bound by somebody else, stay, and take the place of all addresses of their kind that the
    configuration names; those for mail take the place of all for mail, with TLS or without.
    """

    def __init__(self, answer: Answer, handed: Iterable[tuple[str, socket.socket]] = ()) -> None:
        kinds = {kind.value: kind for kind in SocketKind}
        self._answer = answer
        self._handed = [(kinds.get(name, SocketKind.SMTP), sock) for name, sock in handed]
        self._open: list[tuple[ListenPlace, OpenListener]] = []

    def prepare(self, config: Config) -> SocketChange:
        """Bind what ``config`` wants in addition.  Raises ConfigError, and has bound nothing."""
        handed = {kind for kind, _ in self._handed}
        if complaints := domain_complaints(config.settings, self._handed_for_mail()):
            raise ConfigError(*complaints)
        if SocketKind.SMTPS in handed and not config.tls_certificate:
            raise ConfigError("tls_certificate: the smtps socket that was handed over needs one")
        if handed & _MAIL:
            handed |= _MAIL
        change = SocketChange([], [place for place, _ in self._open if place.address != HANDED])
        try:
            for place in _wanted(config):
                if place in change.closed:
                    change.closed.remove(place)
                elif place.kind not in handed:
                    change.opened.append((place, place.bind()))
        except ConfigError:
            change.discard()
            raise
        return change

    def _handed_for_mail(self) -> list[str]:
        """The addresses of the sockets for mail that were handed over."""
        mail = [sock for kind, sock in self._handed if kind in _MAIL]
        return [format_address(*sock.getsockname()[:2]) for sock in mail]

    def open(self, change: SocketChange) -> list[tuple[SocketKind, OpenListener]]:
        """Answer at the new doors, and close those that nobody wants any more; gives the new."""
        opened = [(place, self._answer(place.kind, sock)) for place, sock in change.opened]
        for gone in change.closed:
            number = [place for place, _ in self._open].index(gone)
            self._open.pop(number)[1].close()
        self._open += opened
        return [(place.kind, listening) for place, listening in opened]

    def open_handed(self) -> list[tuple[SocketKind, OpenListener]]:
        """Answer at the sockets that were handed over; once."""
        opened = [(kind, self._answer(kind, sock)) for kind, sock in self._handed]
        self._open += [(ListenPlace(kind, HANDED), listening) for kind, listening in opened]
        return opened

    def close(self) -> None:
        """Close every door; harmless for those that are closed."""
        for _, listening in self._open:
            listening.close()
        self._open.clear()


def _wanted(config: Config) -> list[ListenPlace]:
    return [
        *(ListenPlace(SocketKind.SMTP, address) for address in config.listen),
        *(ListenPlace(SocketKind.SMTPS, address) for address in config.listen_tls),
        *(
            ListenPlace(SocketKind.METRICS, address)
            for address in [config.metrics_listen]
            if address
        ),
    ]
