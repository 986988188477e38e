"""Begins connections to next hops: all that this has to do with the network itself."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

Dial = Callable[[str, int], socket.socket]
"""Takes an IP address and a port; returns a non-blocking socket whose connect has begun.  Raises
OSError."""


def dial(ip: str, port: int) -> socket.socket:
    """Begin a connection.  TCP_NODELAY: what we write is whole when we write it."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            sock.connect((ip, port))
    except OSError:
        sock.close()
        raise
    return sock
