"""Fifteen hundred connections in the worst state there is, and a good client is served.

A process of its own with 2,000 descriptors, on real sockets, with the default budgets.
"""

from __future__ import annotations

import resource
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import PATIENCE_S, serving

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_S

CONNECTIONS = 1500
DESCRIPTORS = 2000
QUIET_S = 0.5
RESIDENT_MAX_OCTETS = 256 * 1024 * 1024
HELLO = b"EHLO flood.example.org\r\n"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n"
HALF = HELLO + ENVELOPE + b"DATA\r\n" + b"x" * 70 + b"\r\n"
STATES = (
    HALF + b"y" * 60_000,
    HALF + b"y" * 200_000,
    HELLO + ENVELOPE + b"BDAT 2\r\nxx" * 9000,
    HELLO + ENVELOPE + b"BDAT 60000\r\n" + b"z" * 60_000 + b"NOOP\r\n" * 20_000,
    HELLO + b"HELP\r\n" * 50_000,
    HELLO + ENVELOPE + b"RCPT TO:<c@example.org>\r\n" * 5000,
)
"""Content half sent, small and large; chunks of two octets; replies unread."""


@pytest.fixture
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"a process may hold {hard} descriptors here; {needed} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def bad_connection(port: int) -> socket.socket:
    """One whose replies are not read, and that soon takes no more of them."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def send_all_that_goes(socks: list[socket.socket]) -> None:
    """Turn by turn, until no socket takes any more for a while."""
    with selectors.DefaultSelector() as selector:
        for at, sock in enumerate(socks):
            selector.register(sock, selectors.EVENT_WRITE, [memoryview(STATES[at % len(STATES)])])
        while selector.get_map() and (ready := selector.select(QUIET_S)):
            for key, _ in ready:
                sock, rest = key.fileobj, key.data
                assert isinstance(sock, socket.socket)
                try:
                    rest[0] = rest[0][sock.send(rest[0]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    rest[0] = b""
                if not rest[0]:
                    selector.unregister(sock)


def test_fifteen_hundred_connections_in_the_worst_state_and_a_good_client(
    tmp_path: Path, descriptors: None
) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS},) * 2)"
    options = ("--listen", "127.0.0.1:0", "--delivery", f"maildir={tmp_path / 'mail'}")
    config = "junk_commands = 1_000_000\nstress_timeout_s = 300\n"
    with serving(tmp_path, config, options, before=limit) as server:
        socks = [bad_connection(server.port) for _ in range(CONNECTIONS)]
        try:
            send_all_that_goes(socks)
            began_ns = SystemClock.monotonic_ns()
            server.deliver()
            took_s = (SystemClock.monotonic_ns() - began_ns) / NS_PER_S
            statm = Path(f"/proc/{server.pid}/statm").read_text().split()
            resident_octets = int(statm[1]) * resource.getpagesize()
            open_descriptors = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        finally:
            for sock in socks:
                sock.close()
        server.end()  # which delivers what was accepted
    print(f"good client {took_s:.3f} s, {resident_octets / 2**20:.0f} MiB, {open_descriptors} fds")
    assert open_descriptors > CONNECTIONS * 9 // 10
    assert resident_octets <= RESIDENT_MAX_OCTETS
    assert took_s < PATIENCE_S  # 0.3 s where nothing else was going on; it was never before
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1
