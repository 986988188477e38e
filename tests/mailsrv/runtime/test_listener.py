"""The listener: bounded passes, and what happens when descriptors run out."""

from __future__ import annotations

import errno
import socket
from typing import cast

import pytest
from conversing import HELLO, NS_PER_S, Caller, codes, harness

from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import ACCEPTS_MAX, EXHAUSTED_PAUSE_NS, Listener, bind
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import READ, Handler, Ready


class BookPoll:
    """A poll that keeps the books as strictly as the real one."""

    def __init__(self) -> None:
        self.watched: dict[object, Handler] = {}

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        assert sock not in self.watched
        self.watched[sock] = handler

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None:
        assert sock in self.watched

    def forget(self, sock: socket.socket) -> None:
        del self.watched[sock]

    def wait(self, until_ns: int | None) -> Ready:
        return []

    def close(self) -> None: ...


class Accepted:
    """What accept gives."""

    def __init__(self) -> None:
        self.blocking = True

    def setblocking(self, flag: bool) -> None:
        self.blocking = flag


class FakeSocket:
    """A listening socket whose accept does what it was told, one outcome a call."""

    def __init__(self, *outcomes: OSError | Accepted) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0
        self.open = True

    def accept(self) -> tuple[Accepted, tuple[str, int]]:
        self.calls += 1
        if not self.outcomes:
            raise BlockingIOError
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome, ("192.0.2.1", 1024 + self.calls)

    def fileno(self) -> int:
        return 7 if self.open else -1

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 2525

    def close(self) -> None:
        self.open = False


class Door:
    """A listener at a fake socket."""

    def __init__(self, *outcomes: OSError | Accepted) -> None:
        self.clock = FakeClock(start=11)
        self.poll = BookPoll()
        self.loop = Loop(self.clock, self.poll, self._fault)
        self.sock = FakeSocket(*outcomes)
        self.entered: list[tuple[str, int]] = []
        self.exhausted: list[OSError] = []
        self.listener = Listener(
            self.loop,
            cast(socket.socket, self.sock),
            lambda sock, address: self.entered.append(address),
            self.exhausted.append,
        )

    def _fault(self, handler: Handler | None, fault: Exception) -> None:
        raise fault

    @property
    def watching(self) -> bool:
        return self.sock in self.poll.watched

    def pass_ns(self, duration_ns: int) -> None:
        self.clock.advance_to_ns(self.clock.monotonic_ns() + duration_ns)
        self.loop.expire()


def out_of_descriptors() -> OSError:
    return OSError(errno.EMFILE, "Too many open files")


def test_everybody_at_the_door_comes_in_without_blocking() -> None:
    guests = [Accepted(), Accepted()]
    door = Door(*guests)
    door.listener.ready(READ)
    assert door.entered == [("192.0.2.1", 1025), ("192.0.2.1", 1026)]
    assert not any(guest.blocking for guest in guests)


def test_one_pass_takes_a_bounded_number() -> None:
    door = Door(*(Accepted() for _ in range(ACCEPTS_MAX + 3)))
    door.listener.ready(READ)
    assert len(door.entered) == ACCEPTS_MAX
    door.listener.ready(READ)
    assert len(door.entered) == ACCEPTS_MAX + 3


def test_who_has_gone_again_does_not_keep_out_the_next() -> None:
    door = Door(OSError(errno.ECONNABORTED, "gone"), Accepted())
    door.listener.ready(READ)
    assert len(door.entered) == 1
    assert door.exhausted == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_out_of_descriptors_the_listener_rests_a_second_instead_of_spinning(number: int) -> None:
    door = Door(OSError(number, "none left"), Accepted())
    door.listener.ready(READ)
    assert (door.sock.calls, len(door.exhausted), door.watching) == (1, 1, False)
    door.pass_ns(EXHAUSTED_PAUSE_NS - 1)
    assert not door.watching
    door.pass_ns(1)
    assert door.watching
    door.listener.ready(READ)
    assert len(door.entered) == 1


def test_a_listener_closes_once_and_for_all() -> None:
    door = Door()
    door.listener.close()
    door.listener.close()
    assert (door.watching, door.sock.open) == (False, False)
    door.listener.ready(READ)  # the poll's word from before the close
    assert door.entered == []


def test_a_listener_can_be_closed_while_it_rests() -> None:
    door = Door(out_of_descriptors())
    door.listener.ready(READ)
    door.listener.close()
    assert not door.sock.open
    assert len(door.loop.timers) == 0
    door.pass_ns(2 * EXHAUSTED_PAUSE_NS)
    assert not door.watching


def test_a_server_out_of_descriptors_goes_on_serving_and_stops_when_told() -> None:
    with harness() as run:
        caller = Caller(run)
        resting = FakeSocket(out_of_descriptors())
        listener = run.server.listen(cast(socket.socket, _Registrable(resting)))
        listener.ready(READ)
        assert codes(caller.say(HELLO)) == [250]
        assert any("event=exhausted" in line for line in run.log)
        run.run_until(NS_PER_S // 2)
        run.server.stop()
        run.settle()
        assert caller.ended == "eof"


class _Registrable:
    """A fake listening socket with a descriptor that a selector can watch."""

    def __init__(self, fake: FakeSocket) -> None:
        self._real = bind("127.0.0.1", 0)
        self.accept = fake.accept
        self.fileno = self._real.fileno
        self.close = self._real.close
        self.getsockname = self._real.getsockname


def test_a_port_in_use_is_an_error_and_leaves_nothing_open() -> None:
    first = bind("127.0.0.1", 0)
    with first, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", first.getsockname()[1])


def test_what_it_accepts_sends_at_once() -> None:
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_ipv6_address_is_shown_as_it_is() -> None:
    try:
        sock = bind("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with harness() as run:
        assert run.server.listen(sock).address[0] == "::1"


def test_who_waits_when_the_door_closes_comes_in_first() -> None:
    door = Door(Accepted(), Accepted())
    door.listener.close()
    assert len(door.entered) == 2
    assert not door.listener.open
    door.listener.close()
    assert len(door.entered) == 2


def test_a_paused_listener_leaves_clients_in_the_queue_until_it_resumes() -> None:
    door = Door(Accepted(), Accepted(), Accepted())
    door.listener.pause()
    door.listener.pause()
    assert not door.watching
    door.listener.resume()
    door.listener.resume()
    assert door.watching
    door.listener.ready(READ)
    assert len(door.entered) == 3


def test_a_listener_that_is_paused_by_a_client_takes_none_behind_it() -> None:
    door = Door(Accepted(), Accepted())
    listener = Listener(
        door.loop,
        cast(socket.socket, FakeSocket(Accepted(), Accepted())),
        lambda sock, address: (door.entered.append(address), listener.pause())[0],
        door.exhausted.append,
    )
    listener.ready(READ)
    assert len(door.entered) == 1


def test_a_pause_within_a_rest_outlasts_it_and_a_rest_outlasts_a_pause_within_it() -> None:
    door = Door(out_of_descriptors(), out_of_descriptors())
    door.listener.ready(READ)
    door.listener.pause()
    door.pass_ns(EXHAUSTED_PAUSE_NS)
    assert not door.watching
    door.listener.resume()
    assert door.watching
    door.listener.ready(READ)
    door.listener.pause()
    door.listener.resume()
    assert not door.watching
    door.pass_ns(EXHAUSTED_PAUSE_NS)
    assert door.watching


def test_a_paused_listener_closes_without_accepting_anybody() -> None:
    door = Door(Accepted())
    door.listener.pause()
    door.listener.close()
    door.listener.resume()
    assert (door.entered, door.watching, door.sock.open) == ([], False, False)
