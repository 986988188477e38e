"""Doors: what a configuration wants is bound before anything changes, or nothing is."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from mailsrv.config.file import Config
from mailsrv.config.validation import ConfigError
from mailsrv.daemon.listen_sockets import ListenSockets, SocketKind
from mailsrv.runtime.listener import bind

ANY = "127.0.0.1:0"


class Answering:
    """What answers at a door, as far as doors care."""

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
def doors() -> Iterator[ListenSockets]:
    with closing(ListenSockets(Answering)) as made:
        yield made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def opened(doors: ListenSockets, config: Config) -> list[tuple[SocketKind, int]]:
    """The kinds and ports of what is new."""
    return [(kind, one.address[1]) for kind, one in doors.open(doors.prepare(config))]


def test_each_kind_of_address_gets_its_door(doors: ListenSockets) -> None:
    config = Config(listen=(ANY, ANY), listen_tls=(ANY,), tls_certificate="x", metrics_listen=ANY)
    assert [kind for kind, _ in opened(doors, config)] == [
        *(SocketKind.SMTP, SocketKind.SMTP, SocketKind.SMTPS, SocketKind.METRICS)
    ]


def test_what_is_wanted_still_stays_open_and_what_is_not_is_closed(doors: ListenSockets) -> None:
    before = descriptors()
    assert len(opened(doors, Config(listen=(ANY, ANY)))) == 2
    assert opened(doors, Config(listen=(ANY,))) == []
    assert descriptors() == before + 1
    assert len(opened(doors, Config(listen=(ANY, ANY)))) == 1
    doors.close()
    assert descriptors() == before


def test_an_address_that_changes_its_kind_is_bound_anew(doors: ListenSockets) -> None:
    opened(doors, Config(listen=(ANY,)))
    config = Config(listen=(), listen_tls=(ANY,), tls_certificate="x")
    assert [kind for kind, _ in opened(doors, config)] == [SocketKind.SMTPS]


def test_a_port_in_use_leaves_everything_as_it_was(doors: ListenSockets) -> None:
    opened(doors, Config(listen=(ANY,)))
    with bind("127.0.0.1", 0) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        before = descriptors()
        with pytest.raises(ConfigError, match=f"cannot listen on {address}: Address already"):
            doors.prepare(Config(listen=(ANY, ANY, ANY, address)))
        assert descriptors() == before
    assert opened(doors, Config(listen=(ANY,))) == []


def test_a_change_that_is_discarded_leaves_nothing(doors: ListenSockets) -> None:
    before = descriptors()
    doors.prepare(Config(listen=(ANY, ANY))).discard()
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
def test_sockets_handed_over_take_the_place_of_their_kind_and_stay(
    names: list[str], kinds: list[SocketKind], own: list[SocketKind]
) -> None:
    config = Config(listen=(ANY,), listen_tls=(ANY,), tls_certificate="x", metrics_listen=ANY)
    handed = [(name, bind("127.0.0.1", 0)) for name in names]
    with closing(ListenSockets(Answering, handed)) as doors:
        change = doors.prepare(config)
        assert [kind for kind, _ in doors.open_handed()] == kinds
        assert [kind for kind, _ in doors.open(change)] == own
        doors.open(doors.prepare(Config(listen=(ANY,), tls_certificate="x")))
        assert all(sock.fileno() >= 0 for _, sock in handed)


def test_tls_from_the_first_octet_needs_a_certificate_on_a_socket_handed_over_too() -> None:
    with closing(ListenSockets(Answering, [("smtps", bind("127.0.0.1", 0))])) as doors:
        doors.open_handed()
        with pytest.raises(ConfigError, match="tls_certificate"):
            doors.prepare(Config())
