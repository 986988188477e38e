"""The least that a scripted sender needs: send octets as they are, read whole replies."""

from __future__ import annotations

import socket

TIMEOUT_S = 30


class Dialogue:
    """A connection to the server under test."""

    def __init__(self) -> None:
        self.socket = socket.create_connection(("mx.example.test", 25), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self.socket.makefile("rb")

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def reply(self) -> str:
        """Read one reply, all its lines; "" where the server has closed."""
        lines = []
        while line := self._lines.readline():
            lines.append(line.decode())
            if line[3:4] != b"-":
                break
        return "".join(lines)

    def ask(self, command: str) -> str:
        """Send a command and read its reply."""
        self.send(command.encode() + b"\r\n")
        return self.reply()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()
