"""The two interfaces of systemd: socket activation, and notices of the service's state.

Sockets: sd_listen_fds(3), the descriptors from 3 on, with their names.  Notices: sd_notify(3), a
datagram of VARIABLE=value lines; without a service manager nothing is sent, and a notice that
cannot be sent is no reason to stop mail.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from functools import partial

from mailsrv.runtime.loop import Loop

FIRST_DESCRIPTOR = 3
DESCRIPTORS_MAX = 64
STATUS_MAX_CHARACTERS = 200
DIGITS_MAX = 18
NS_PER_US = 1000
Environment = MutableMapping[str, str]


class ActivationError(Exception):
    """An inherited socket cannot be used; the message says why."""


def listening_sockets(environment: Environment) -> list[tuple[str, socket.socket]]:
    """The sockets that this process inherits, each with its name, ready for use.

    The variables are removed from ``environment``: they concern this process alone.  Raises
    ActivationError.
    """
    pid, count, names = [
        environment.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    ]
    if pid != str(os.getpid()):
        return []
    number = _number(count)
    if number is None or number > DESCRIPTORS_MAX:
        raise ActivationError(f"LISTEN_FDS: takes a number up to {DESCRIPTORS_MAX}")
    named = [*names.split(":"), *[""] * number]
    return [
        (name, _listening_socket(descriptor))
        for descriptor, name in enumerate(named[:number], FIRST_DESCRIPTOR)
    ]


def _listening_socket(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ActivationError(f"descriptor {descriptor}: {error.strerror}") from None
    if (
        sock.family not in (socket.AF_INET, socket.AF_INET6)
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sock.detach()
        raise ActivationError(f"descriptor {descriptor}: is no listening TCP socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


class Notifier:
    """Reports our state to the service manager; silent if there is none."""

    def __init__(self, address: str = "", watchdog_ns: int = 0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_ns = watchdog_ns
        self._sock: socket.socket | None = None
        if address.startswith(("/", "@")):  # others are for virtual machines
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.setblocking(False)

    @classmethod
    def of(cls, environment: Environment) -> Notifier:
        """For this process, as ``environment`` says; the variables are removed from it."""
        address, every_us, pid = [
            environment.pop(key, "") for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        ]
        watchdog_us = _number(every_us) if pid in ("", str(os.getpid())) else None
        return cls(address, (watchdog_us or 0) * NS_PER_US)

    def ready(self, status: str) -> None:
        """We serve, or serve again after ``reloading``."""
        self._send("READY=1", _status(status))

    def reloading(self, now_ns: int) -> None:
        """We read our configuration anew, since ``now_ns`` of the monotonic clock."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_ns // NS_PER_US}")

    def stopping(self, status: str) -> None:
        """We accept no more connections and end soon."""
        self._send("STOPPING=1", _status(status))

    def watch(self, loop: Loop) -> None:
        """Report on ``loop`` that it still turns, twice as often as asked for."""
        if self._sock is not None and self._watchdog_ns:
            self._beat(loop, max(self._watchdog_ns // 2, 1))

    def _beat(self, loop: Loop, every_ns: int) -> None:
        if self._sock is not None:
            self._send("WATCHDOG=1")
            loop.timers.schedule(loop.now_ns + every_ns, partial(self._beat, loop, every_ns))

    def close(self) -> None:
        """Send no more; harmless when closed."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, *lines: str) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.sendto("\n".join(lines).encode(), self._address)


def _number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX
    return int(text) if is_number else None


def _status(text: str) -> str:
    return f"STATUS={text[:STATUS_MAX_CHARACTERS]}".replace("\n", " ")
