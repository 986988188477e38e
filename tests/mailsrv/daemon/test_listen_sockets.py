"""Listening sockets: what a configuration names is bound before anything changes, or nothing is."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mailsrv.config.endpoints import Endpoint
from mailsrv.config.file import Config
from mailsrv.config.validation import ConfigError
from mailsrv.daemon.listen_sockets import ListenSockets, SocketKind
from mailsrv.runtime.listener import bind

ANY = Endpoint("127.0.0.1", 0)
CERTIFICATE = Path("x")


class Serving:
    """Serves a socket, as far as that concerns ``ListenSockets``."""

    def __init__(self, kind: SocketKind, sock: socket.socket) -> None:
        self.kind = kind
        self._sock = sock

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._sock.getsockname()
        return host, port

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def sockets() -> Iterator[ListenSockets]:
    with closing(ListenSockets(Serving)) as made:
        yield made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def opened(sockets: ListenSockets, config: Config) -> list[tuple[SocketKind, int]]:
    """The kinds and ports of what is new."""
    return [(kind, one.address[1]) for kind, one in sockets.open(sockets.prepare(config))]


def test_each_kind_of_address_gets_its_socket(sockets: ListenSockets) -> None:
    config = Config(
        listen=(ANY, ANY), listen_tls=(ANY,), tls_certificate=CERTIFICATE, metrics_listen=ANY
    )
    assert [kind for kind, _ in opened(sockets, config)] == [
        *(SocketKind.SMTP, SocketKind.SMTP, SocketKind.SMTPS, SocketKind.METRICS)
    ]


def test_what_is_still_configured_stays_open_and_what_is_not_is_closed(
    sockets: ListenSockets,
) -> None:
    before = descriptors()
    assert len(opened(sockets, Config(listen=(ANY, ANY)))) == 2
    assert opened(sockets, Config(listen=(ANY,))) == []
    assert descriptors() == before + 1
    assert len(opened(sockets, Config(listen=(ANY, ANY)))) == 1
    sockets.close()
    assert descriptors() == before


def test_an_address_that_changes_its_kind_is_bound_anew(sockets: ListenSockets) -> None:
    opened(sockets, Config(listen=(ANY,)))
    config = Config(listen=(), listen_tls=(ANY,), tls_certificate=CERTIFICATE)
    assert [kind for kind, _ in opened(sockets, config)] == [SocketKind.SMTPS]


def test_a_port_in_use_leaves_everything_as_it_was(sockets: ListenSockets) -> None:
    opened(sockets, Config(listen=(ANY,)))
    with bind("127.0.0.1", 0) as taken:
        address = Endpoint("127.0.0.1", taken.getsockname()[1])
        before = descriptors()
        with pytest.raises(ConfigError, match=f"cannot listen on {address}: Address already"):
            sockets.prepare(Config(listen=(ANY, ANY, ANY, address)))
        assert descriptors() == before
    assert opened(sockets, Config(listen=(ANY,))) == []


def test_a_change_that_is_discarded_leaves_nothing(sockets: ListenSockets) -> None:
    before = descriptors()
    sockets.prepare(Config(listen=(ANY, ANY))).discard()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("names", "kinds", "own"),
    [
        (["smtp"], [SocketKind.SMTP], [SocketKind.METRICS]),
        (["mailsrv.socket"], [SocketKind.SMTP], [SocketKind.METRICS]),
        (["smtps", ""], [SocketKind.SMTPS, SocketKind.SMTP], [SocketKind.METRICS]),
        (["metrics"], [SocketKind.METRICS], [SocketKind.SMTP, SocketKind.SMTPS]),
    ],
)
def test_inherited_sockets_replace_those_of_their_kind_and_stay(
    names: list[str], kinds: list[SocketKind], own: list[SocketKind]
) -> None:
    config = Config(
        listen=(ANY,), listen_tls=(ANY,), tls_certificate=CERTIFICATE, metrics_listen=ANY
    )
    inherited = [(name, bind("127.0.0.1", 0)) for name in names]
    with closing(ListenSockets(Serving, inherited)) as sockets:
        change = sockets.prepare(config)
        assert [kind for kind, _ in sockets.open_inherited()] == kinds
        assert [kind for kind, _ in sockets.open(change)] == own
        sockets.open(sockets.prepare(Config(listen=(ANY,), tls_certificate=CERTIFICATE)))
        assert all(sock.fileno() >= 0 for _, sock in inherited)


def test_tls_from_the_first_octet_needs_a_certificate_on_an_inherited_socket_too() -> None:
    with closing(ListenSockets(Serving, [("smtps", bind("127.0.0.1", 0))])) as sockets:
        sockets.open_inherited()
        with pytest.raises(ConfigError, match="tls_certificate"):
            sockets.prepare(Config())
