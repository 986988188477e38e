"""Sockets that somebody else bound: they too must not take the world's mail by mistake."""

from __future__ import annotations

import socket

import pytest

from mailsrv.config import Config
from mailsrv.doors import Doors, Kind, Listening
from mailsrv.settings import Settings
from mailsrv.values import ConfigError


def never(kind: Kind, sock: socket.socket) -> Listening:
    raise AssertionError("nothing is to be opened here")


@pytest.mark.parametrize("name", ["", "smtp", "anything"])
def test_a_handed_socket_that_others_reach_needs_domains(name: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as sock:
        doors = Doors(never, [(name, sock)])
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"domains: who listens on 0\.0\.0\.0:{port} must"):
            doors.prepare(Config())
        assert doors.prepare(Config(Settings(domains=("example.org",)))).opened == []


def test_a_handed_socket_on_loopback_or_for_metrics_needs_none() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mail,
        socket.create_server(("0.0.0.0", 0)) as metrics,
    ):
        doors = Doors(never, [("smtp", mail), ("metrics", metrics)])
        assert doors.prepare(Config()).opened == []
