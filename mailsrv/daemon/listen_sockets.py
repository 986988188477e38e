"""Listening sockets: bound here or inherited by socket activation, as the configuration says.

A listening socket is known by its kind and its address.  Those that are configured before and
after a reload stay open throughout; new ones are bound before anything changes, so that a port in
use leaves everything as it was.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from mailsrv.config.endpoints import Endpoint
from mailsrv.config.file import Config, domain_complaints
from mailsrv.config.validation import ConfigError
from mailsrv.runtime.listener import bind


class SocketKind(Enum):
    """What is spoken on a listening socket; the value is the name of such a socket in systemd."""

    SMTP = "smtp"
    SMTPS = "smtps"
    METRICS = "metrics"


_MAIL = {SocketKind.SMTP, SocketKind.SMTPS}


class ListenPlace(NamedTuple):
    """What is spoken where; an inherited socket has no endpoint that the configuration names."""

    kind: SocketKind
    endpoint: Endpoint | None


class OpenListener(Protocol):
    """What serves a listening socket; closing it closes the socket."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""

    def close(self) -> None:
        """Accept no more; harmless when closed."""


Answer = Callable[[SocketKind, socket.socket], OpenListener]


@dataclass(frozen=True, slots=True)
class SocketChange:
    """What a new configuration changes: ``opened`` is bound already, ``closed`` still open.
    It goes to ``ListenSockets.open`` or is discarded."""

    opened: list[tuple[ListenPlace, socket.socket]]
    closed: list[ListenPlace]

    def discard(self) -> None:
        """Close what was bound."""
        for _, sock in self.opened:
            sock.close()


class ListenSockets:
    """All listening sockets of a server.

    ``answer`` starts to serve a socket.  The sockets in ``inherited``, each with its name, were
    bound by the service manager, stay open, and replace all addresses of their kind that the
    configuration names; those for mail replace all for mail, with TLS or without.
    """

    def __init__(self, answer: Answer, inherited: Iterable[tuple[str, socket.socket]] = ()) -> None:
        kinds = {kind.value: kind for kind in SocketKind}
        self._answer = answer
        self._inherited = [(kinds.get(name, SocketKind.SMTP), sock) for name, sock in inherited]
        self._open: list[tuple[ListenPlace, OpenListener]] = []

    def prepare(self, config: Config) -> SocketChange:
        """Bind what ``config`` names in addition.  Raises ConfigError, and has bound nothing."""
        replaced = {kind for kind, _ in self._inherited}
        if complaints := domain_complaints(config.settings, self._inherited_for_mail()):
            raise ConfigError(*complaints)
        if SocketKind.SMTPS in replaced and config.tls_certificate is None:
            raise ConfigError("tls_certificate: the smtps socket that was handed over needs one")
        if replaced & _MAIL:
            replaced |= _MAIL
        change = SocketChange([], [place for place, _ in self._open if place.endpoint is not None])
        try:
            for kind, endpoint in _configured(config):
                place = ListenPlace(kind, endpoint)
                if place in change.closed:
                    change.closed.remove(place)
                elif kind not in replaced:
                    change.opened.append((place, _bound(endpoint)))
        except ConfigError:
            change.discard()
            raise
        return change

    def _inherited_for_mail(self) -> list[Endpoint]:
        mail = [sock for kind, sock in self._inherited if kind in _MAIL]
        return [Endpoint(*sock.getsockname()[:2]) for sock in mail]

    def open(self, change: SocketChange) -> list[tuple[SocketKind, OpenListener]]:
        """Serve the new sockets and close those that are no longer configured; returns the new."""
        opened = [(place, self._answer(place.kind, sock)) for place, sock in change.opened]
        for gone in change.closed:
            number = [place for place, _ in self._open].index(gone)
            self._open.pop(number)[1].close()
        self._open += opened
        return [(place.kind, listening) for place, listening in opened]

    def open_inherited(self) -> list[tuple[SocketKind, OpenListener]]:
        """Serve the inherited sockets; called once."""
        opened = [(kind, self._answer(kind, sock)) for kind, sock in self._inherited]
        self._open += [(ListenPlace(kind, None), listening) for kind, listening in opened]
        return opened

    def close(self) -> None:
        """Close every socket; harmless for those that are closed."""
        for _, listening in self._open:
            listening.close()
        self._open.clear()


def _bound(endpoint: Endpoint) -> socket.socket:
    try:
        return bind(endpoint.host, endpoint.port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}") from None


def _configured(config: Config) -> list[tuple[SocketKind, Endpoint]]:
    metrics = [config.metrics_listen] if config.metrics_listen is not None else []
    return [
        *((SocketKind.SMTP, endpoint) for endpoint in config.listen),
        *((SocketKind.SMTPS, endpoint) for endpoint in config.listen_tls),
        *((SocketKind.METRICS, endpoint) for endpoint in metrics),
    ]
