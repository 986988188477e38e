"""Clients that flood a server, a kind each: ten connections in a process of their own.

Run as ``python -m benchmarks.floods KIND PORT``; it floods until it is killed.  A connection that
the server closes is opened anew at once.  Replies are read and thrown away.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

CONNECTIONS = 10
WRITE_OCTETS = 64 * 1024
HELLO = b"EHLO flood.example.org\r\n"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n"
RCPT = b"RCPT TO:<somebody@example.org>\r\n"
LINE = b"0123456789abcdef" * 4 + b"\r\n"
MESSAGE = b"Subject: flood\r\n\r\n" + LINE * 16 + b".\r\n"

Writes = Iterator[bytes]
"""What a connection writes, piece by piece; b"" waits for whatever the server says."""


def full(piece: bytes) -> bytes:
    """As many of ``piece`` as one large write takes."""
    return piece * (WRITE_OCTETS // len(piece))


def repeated(beginning: bytes, piece: bytes) -> Callable[[], Writes]:
    def writes() -> Writes:
        yield b""
        yield beginning
        yield b""
        while True:
            yield piece

    return writes


def messages() -> Writes:
    yield b""
    yield HELLO
    while True:
        yield ENVELOPE + b"DATA\r\n"
        yield b""
        yield MESSAGE
        yield b""


def storm() -> Writes:
    """Connects, and leaves at once."""
    return iter(())


KINDS: dict[str, Callable[[], Writes]] = {
    "RCPT in 64 KiB writes": repeated(HELLO + b"MAIL FROM:<a@example.org>\r\n", full(RCPT)),
    "seven RCPT a write": repeated(HELLO + b"MAIL FROM:<a@example.org>\r\n", RCPT * 7),
    "BDAT 1": repeated(HELLO + ENVELOPE, full(b"BDAT 1\r\nx")),
    "EHLO": repeated(HELLO, full(HELLO)),
    "content in tiny pieces": repeated(HELLO + ENVELOPE + b"DATA\r\n", b"x\r\n"),
    "bulk content": repeated(HELLO + ENVELOPE + b"DATA\r\n", full(LINE)),
    "content of dots": repeated(HELLO + ENVELOPE + b"DATA\r\n", full(b"..\r\n")),
    "messages": messages,
    "connections": storm,
}
TLS_KINDS = ("TLS hellos", "TLS records of one octet")
ALL = (*KINDS, *TLS_KINDS)


class Connection:
    """One connection of a flood, without TLS."""

    def __init__(self, port: int, selector: selectors.BaseSelector, kind: str) -> None:
        self._port = port
        self._selector = selector
        self._kind = kind
        self.open()

    def open(self) -> None:
        self._sock = socket.create_connection(("127.0.0.1", self._port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setblocking(False)
        self._writes = KINDS[self._kind]()
        self._rest = b""
        self._waiting = False
        self._selector.register(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def again(self) -> None:
        self._selector.unregister(self._sock)
        self._sock.close()
        self.open()

    def ready(self, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                if not self._sock.recv(WRITE_OCTETS):
                    self.again()
                    return
                self._waiting = False
                self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)
            elif events & selectors.EVENT_WRITE and not self._waiting:
                self._write()
        except BlockingIOError:
            return
        except OSError:
            self.again()

    def _write(self) -> None:
        if not self._rest:
            piece = next(self._writes, None)
            if piece is None:
                self.again()
                return
            if not piece:
                self._waiting = True
                self._watch(selectors.EVENT_READ)
                return
            self._rest = piece
        self._rest = self._rest[self._sock.send(self._rest) :]

    def _watch(self, events: int) -> None:
        self._selector.modify(self._sock, events, self)


def flood(kind: str, port: int) -> None:
    selector = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        Connection(port, selector, kind)
    while True:
        for key, events in selector.select():
            key.data.ready(events)


def client_hello() -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls, incoming, outgoing


def until_starttls(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.recv(4096)
    for command in (HELLO, b"STARTTLS\r\n"):
        sock.sendall(command)
        sock.recv(4096)
    return sock


def flood_with_hellos(port: int) -> None:
    hello = client_hello()[2].read()
    while True:
        with suppress(OSError):
            socks = [until_starttls(port) for _ in range(CONNECTIONS)]
            for sock in socks:
                sock.sendall(hello)
            for sock in socks:
                sock.recv(WRITE_OCTETS)
                sock.close()


def flood_with_octets(port: int) -> None:
    """Each connection's records are made beforehand, as many as one large write takes."""
    while True:
        with suppress(OSError):
            socks = [_under_tls(port) for _ in range(CONNECTIONS)]
            records = [b"" for _ in socks]
            while True:
                for at, (sock, tls, outgoing) in enumerate(socks):
                    if not records[at]:
                        for _ in range(500):
                            tls.write(b"x")
                        records[at] = outgoing.read()
                    with suppress(BlockingIOError):
                        records[at] = records[at][sock.send(records[at]) :]


def _under_tls(port: int) -> tuple[socket.socket, ssl.SSLObject, ssl.MemoryBIO]:
    sock = until_starttls(port)
    tls, incoming, outgoing = client_hello()
    while True:
        sock.sendall(outgoing.read())
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(sock.recv(WRITE_OCTETS))
    tls.write(HELLO + ENVELOPE + b"DATA\r\n")
    sock.sendall(outgoing.read())
    sock.setblocking(False)
    return sock, tls, outgoing


def main() -> int:
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "TLS hellos":
        flood_with_hellos(port)
    elif kind == "TLS records of one octet":
        flood_with_octets(port)
    else:
        flood(kind, port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
