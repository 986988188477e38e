"""The least that a Python server can do for smtp-source: the floor under every number measured.

One epoll loop, a reply for each verb, a search for the end of data, and nothing else: no grammar,
no state, no limits, no timers, no bounds.  It is a yardstick and no server.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

UTTERANCES = {
    b"EHLO": b"250-localhost\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    b"HELO": b"250 localhost\r\n",
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"DATA": b"354 End data with <CR><LF>.<CR><LF>\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
TAKEN = b"250 2.0.0 Ok: queued\r\n"
END = b"\r\n.\r\n"


class Connection:
    __slots__ = ("in_content", "kept", "recv", "send", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.recv: Callable[[int], bytes] = sock.recv
        self.send: Callable[[bytes], int] = sock.send
        self.kept = b""
        self.in_content = False

    def take(self) -> bool:
        """Read a chunk and answer it; False at the end."""
        chunk = self.recv(65536)
        if not chunk:
            return False
        chunk = self.kept + chunk
        out = b""
        while chunk:
            if self.in_content:
                end = chunk.find(END)
                if end < 0:
                    chunk = chunk[-len(END) + 1 :]
                    break
                chunk = chunk[end + len(END) :]
                self.in_content = False
                out += TAKEN
                continue
            end = chunk.find(b"\r\n")
            if end < 0:
                break
            verb = chunk[:4].upper()
            chunk = chunk[end + 2 :]
            out += UTTERANCES[verb]
            self.in_content = verb == b"DATA"
        self.kept = chunk
        if out:
            self.send(out)
        return True


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=512)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, Connection] = {}
    while True:
        for number, _ in poll.poll():
            if number in connections:
                alive = False
                with suppress(ConnectionError):
                    alive = connections[number].take()
                if not alive:
                    connections.pop(number).sock.close()
                continue
            sock, _ = listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[sock.fileno()] = Connection(sock)
            poll.register(sock.fileno(), select.EPOLLIN)
            with suppress(ConnectionError):
                sock.send(b"220 localhost ESMTP\r\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
