"""What all sender sockets share: how one is made, half-closed, reset; what its kernel holds.

Linux's queues are asked by ioctl (linux/sockios.h): SIOCINQ for what was received and not read,
SIOCOUTQ for what was written and not acknowledged, SIOCOUTQNSD for what was not even sent.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
import termios

LISTEN_HOST = "127.0.2.1"
"""Where servers and receivers listen: a loopback address of our own, so that no other program
reaches them that means what had the port before."""

_SIOCOUTQNSD = 0x894B
_LINGER_RESET = struct.pack("ii", 1, 0)
_ALERT = b"\x15\x03"


def sender_socket(family: int = socket.AF_INET) -> socket.socket:
    """A TCP socket that holds nothing back (TCP_NODELAY): each write leaves as it was made.

    Raises OSError.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def half_close(sock: socket.socket) -> None:
    """Send a FIN; nothing where the other end has reset the connection already."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def hold_back(sock: socket.socket) -> None:
    """From here on what is sent waits for a FIN, to leave in one flight with it (TCP_CORK)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)


def reset_on_close(sock: socket.socket) -> None:
    """From here on closing ``sock`` sends a reset, and drops what is unsent."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def holds_alert(octets: bytes) -> bool:
    """Whether ``octets`` may hold a TLS alert (RFC 8446 section 6): no reply looks like one."""
    return _ALERT in octets


def unread_octets(sock: socket.socket) -> int:
    """Octets that the kernel has received and that were not read; a FIN does not show."""
    return _queued(sock, termios.FIONREAD)


def unsent_octets(sock: socket.socket, fin: bool) -> int:
    """Octets that were written and that the kernel has not sent.

    A ``fin`` behind them has a sequence number, which the kernel counts and this does not.
    """
    queued = _queued(sock, _SIOCOUTQNSD)
    return queued - 1 if fin and queued else queued


def unacknowledged_octets(sock: socket.socket) -> int:
    """Octets that were written and that the other end has not acknowledged, a FIN among them as
    one; 0 where the kernel does not tell."""
    try:
        return _queued(sock, termios.TIOCOUTQ)
    except OSError:
        return 0


def _queued(sock: socket.socket, what: int) -> int:
    number = array.array("i", (0,))
    fcntl.ioctl(sock.fileno(), what, number)
    return number[0]
