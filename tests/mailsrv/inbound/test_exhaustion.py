"""The machine runs out of something: descriptors, buffers.

Who is here already is served on; who could not come in is let in as soon as there is room.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Caller, Run, codes, harness

from mailsrv.runtime.listener import EXHAUSTED_PAUSE_NS, bind


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open no further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_real_descriptors_the_others_are_served_and_the_next_waits_at_the_door() -> None:
    with harness() as run:
        here = Caller(run)
        heard: list[bytes] = []
        link = run.connect("192.0.2.2", heard.append, lambda how: None)
        with no_more_descriptors():
            run.server.loop.dispatch(None)
            assert link.server is None
            here.link.send(HELLO + MESSAGE)
            run.server.loop.dispatch(None)
            assert len(run.world.courier.accepted) == 1
        assert [line for line in run.log if "event=exhausted" in line] != []
        run.clock.advance_to_ns(run.clock.monotonic_ns() + EXHAUSTED_PAUSE_NS)
        run.server.loop.expire()
        run.settle()
        assert codes(b"".join(heard)) == [220]
        assert codes(here.news) == [220, 250, 250, 250, 354, 250]
        link.close()
        run.touch(link)


class Failing:
    """An accepted socket on which one kind of call fails from some time on."""

    def __init__(self, real: socket.socket, call: str, number: int) -> None:
        self._real = real
        self._call = call
        self._error = OSError(number, os.strerror(number))
        self.broken = False

    def __getattr__(self, name: str) -> object:
        return self._fail_or_do if name == self._call else getattr(self._real, name)

    def _fail_or_do(self, *arguments: object) -> object:
        if self.broken:
            raise self._error
        return getattr(self._real, self._call)(*arguments)


class FailingDoor:
    """A listening socket that gives such sockets."""

    def __init__(self, call: str, number: int) -> None:
        self._real = bind("127.0.0.1", 0)
        self._how = call, number
        self.accepted: list[Failing] = []
        self.fileno, self.close = self._real.fileno, self._real.close
        self.getsockname = self._real.getsockname

    def accept(self) -> tuple[Failing, object]:
        sock, address = self._real.accept()
        self.accepted.append(Failing(sock, *self._how))
        return self.accepted[-1], address


def at(door: FailingDoor, run: Run) -> Caller:
    """A caller who comes in there."""
    listener = run.server.listen(cast(socket.socket, door))
    usual, run.address = run.address, listener.address
    try:
        return Caller(run)
    finally:
        run.address = usual


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EPIPE, errno.ECONNRESET])
@pytest.mark.parametrize("call", ["send", "recv"])
def test_a_socket_that_fails_costs_its_own_connection_and_nothing_else(
    call: str, number: int
) -> None:
    """For want of buffers too: to wait for room on a socket that says it has room is to spin."""
    with harness() as run:
        door = FailingDoor(call, number)
        unlucky, other = at(door, run), Caller(run)
        assert codes(unlucky.say(HELLO + ENVELOPE + b"DATA\r\nhalf")) == [250, 250, 250, 354]
        door.accepted[0].broken = True
        unlucky.say(b" of it\r\n.\r\n")
        assert unlucky.ended in ("eof", "reset")
        assert len(run.server.connections) == 1
        (line,) = (line for line in run.log if "event=disconnect" in line)
        assert f'how="{os.strerror(number)}"' in line
        # What could not be answered may have been accepted: then it comes twice, and is not lost.
        assert len(run.world.courier.messages) == (call == "send")
        assert codes(other.say(HELLO + MESSAGE)) == [250, 250, 250, 354, 250]
        assert codes(at(FailingDoor(call, number), run).say(HELLO)) == [250]
