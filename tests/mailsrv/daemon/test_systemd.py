"""What systemd hands over, and what it is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import high_descriptor

from mailsrv.daemon.systemd import (
    DESCRIPTORS_MAX,
    STATUS_MAX_CHARACTERS,
    ActivationError,
    Notifier,
    listening_sockets,
)
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.poll import SystemPoll

PID = str(os.getpid())


class Manager:
    """The other end of a notice socket."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self.sock.setblocking(False)

    def heard(self) -> list[str]:
        notices = []
        while True:
            try:
                notices.append(self.sock.recv(4096).decode())
            except BlockingIOError:
                return notices


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    if request.param == "path":
        address = shown = str(tmp_path / "notify")
    else:
        address, shown = f"\0mailsrv-test-{PID}", f"@mailsrv-test-{PID}"
    made = Manager(address)
    yield made, shown
    made.sock.close()


def test_notices_are_sent_as_systemd_reads_them(manager: tuple[Manager, str]) -> None:
    ear, address = manager
    environment = {"NOTIFY_SOCKET": address, "HOME": "/"}
    notifier = Notifier.of(environment)
    assert environment == {"HOME": "/"}
    notifier.ready("2 listeners")
    notifier.reloading(5_000_999)
    notifier.stopping("x\n" + "y" * 1000)
    notifier.close()
    notifier.ready("nobody hears")
    ready, reloading, stopping = ear.heard()
    assert ready == "READY=1\nSTATUS=2 listeners"
    assert reloading == "RELOADING=1\nMONOTONIC_USEC=5000"
    assert stopping.startswith("STOPPING=1\nSTATUS=x y")
    assert len(stopping) < STATUS_MAX_CHARACTERS + 30


def test_the_watchdog_is_fed_on_the_loops_timer_twice_as_often_as_asked(
    manager: tuple[Manager, str],
) -> None:
    ear, address = manager
    clock = FakeClock(start=3)
    loop = Loop(clock, SystemPoll(clock), lambda handler, fault: None)
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": PID}
    notifier = Notifier.of(environment)
    notifier.watch(loop)
    assert ear.heard() == ["WATCHDOG=1"]
    clock.advance(4.999)
    loop.expire()
    assert ear.heard() == []
    clock.advance(0.001)
    loop.expire()
    assert ear.heard() == ["WATCHDOG=1"]
    notifier.close()
    clock.advance(5)
    loop.expire()
    assert (ear.heard(), len(loop.timers)) == ([], 0)
    loop.poll.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "10000000"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "ten"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "10000000"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"},
    ],
)
def test_without_a_manager_that_asks_nothing_is_said_or_scheduled(
    environment: dict[str, str],
) -> None:
    clock = FakeClock()
    loop = Loop(clock, SystemPoll(clock), lambda handler, fault: None)
    notifier = Notifier.of(environment)
    notifier.ready("x")
    notifier.watch(loop)
    assert len(loop.timers) == 0
    notifier.close()
    notifier.close()
    loop.poll.close()


def test_a_manager_that_has_gone_or_does_not_read_stops_nothing(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).ready("x")
    address = str(tmp_path / "full")
    manager = Manager(address)
    notifier = Notifier(address)
    for _ in range(10_000):
        notifier.ready("x")
    assert len(manager.heard()) < 10_000
    manager.sock.close()
    notifier.close()


# -- sockets --------------------------------------------------------------------------------------


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    assert listening_sockets({}) == []
    assert listening_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "3"}) == []


@pytest.mark.parametrize("count", ["", "x", "-1", "+1", str(DESCRIPTORS_MAX + 1), "9" * 5000])
def test_an_impossible_number_of_sockets_is_refused(count: str) -> None:
    with pytest.raises(ActivationError, match="LISTEN_FDS"):
        listening_sockets({"LISTEN_PID": PID, "LISTEN_FDS": count})


_CHILD = """
import os, sys
from mailsrv.daemon.systemd import ActivationError, listening_sockets
environment = {**os.environ, "LISTEN_PID": str(os.getpid())}
try:
    for name, sock in listening_sockets(environment):
        print(name, sock.getsockname()[1], sock.getblocking(), sock.get_inheritable())
except ActivationError as error:
    print(error)
print([key for key in environment if key.startswith("LISTEN")])
"""


def child(*socks: socket.socket, names: str = "", count: int | None = None) -> list[str]:
    """What a process says that gets ``socks`` as its descriptors from 3 on."""
    shuffled = [high_descriptor(sock) for sock in socks]
    script = "".join(
        f"os.dup2({descriptor}, {3 + number}); os.close({descriptor})\n"
        for number, descriptor in enumerate(shuffled)
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import os\n" + script + _CHILD],
            env={
                "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
                "LISTEN_FDS": str(len(socks) if count is None else count),
                "LISTEN_FDNAMES": names,
            },
            pass_fds=shuffled,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        for descriptor in shuffled:
            os.close(descriptor)
    return done.stdout.splitlines()


def test_the_sockets_come_with_their_names_ready_for_use() -> None:
    with bind("127.0.0.1", 0) as one, bind("127.0.0.1", 0) as two:
        ports = [sock.getsockname()[1] for sock in (one, two)]
        assert child(one, two, names="smtp:metrics") == [
            f"smtp {ports[0]} False False",
            f"metrics {ports[1]} False False",
            "[]",
        ]
        assert child(one, two, names="smtp")[1] == f" {ports[1]} False False"


def test_what_is_no_listening_tcp_socket_is_refused_by_its_number() -> None:
    with bind("127.0.0.1", 0) as good, socket.socket() as deaf:
        assert "descriptor 4: is no listening TCP socket" in child(good, deaf)
        assert "descriptor 4: Bad file descriptor" in child(good, count=2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        assert "descriptor 3: is no listening TCP socket" in child(datagrams)
