"""Fifteen thousand idle connections in real time: does each end at its deadline, and is new mail
served meanwhile?

The clients live in this process, the server in another, the mail comes from a third.  A client
opens its connection, says EHLO, and says nothing more.  Its deadline is counted from the instant at
which it sent that: so what is told as lateness holds the reply's way, the way of the 421 and the
client's own delay too, and is an upper bound of the server's; and what is told as early is early.
"""

from __future__ import annotations

import resource
import selectors
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hdrh.histogram import HdrHistogram

from benchmarks import command
from mailsrv.runtime.clock import Clock, SystemClock
from mailsrv.units import NS_PER_MS, NS_PER_S, seconds_to_ns

CONNECTIONS = 15_000
OPENED_PER_S = 500
DESCRIPTORS_SPARE = 500
MAIL_PER_S = 50
SOURCES = 64
"""Loopback addresses that clients come from: 28,000 ports each."""
LATE_MAX_US = 60 * 1_000_000
GUARD_S = 15
"""After the last deadline; who is still there then has not ended."""
HELLO = b"EHLO idle.example\r\n"
MESSAGE = "Subject: beside the crowd\r\n\r\n" + "One line among twenty others.\r\n" * 20


@dataclass(slots=True)
class Client:
    """One idle connection; ``due_ns`` is when it should end, once it has ``said`` EHLO."""

    sock: socket.socket
    due_ns: int = 0
    said: bool = False


@dataclass(slots=True)
class Crowd:
    """What became of all of them, in microseconds of lateness."""

    late_us: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, LATE_MAX_US, 3))
    early: int = 0
    other: int = 0

    def ended(self, late_ns: int) -> None:
        if late_ns < 0:
            self.early += 1
        self.late_us.record_value(max(1, late_ns // 1000))


@contextmanager
def server(folder: Path, idle_timeout_s: int) -> Iterator[tuple[str, int, int]]:
    """A mailsrv that throws mail away; its host, port and process number."""
    config = folder / "mailsrv.toml"
    config.write_text(
        f'delivery = "discard"\nlisten = ["127.0.0.1:0"]\nidle_timeout_s = {idle_timeout_s}\n'
        "transactions = 1000000\nstress_percent = 0\n"
    )
    command = [sys.executable, "-m", "mailsrv", "serve", "--config", str(config)]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            host, _, port = said.split()[-1].rpartition(":")
            yield host, int(port), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)


@contextmanager
def mail(target: tuple[str, int], duration_s: float) -> Iterator[subprocess.Popen[str]]:
    """New mail beside the crowd, from a process of its own, which prints what it found."""
    host, port = target
    command = [sys.executable, "-m", "benchmarks.idle_crowd", "--mail", f"{host}:{port}"]
    with subprocess.Popen(
        [*command, "--duration", str(duration_s)], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def send_mail(clock: Clock, target: str, duration_s: float) -> str:
    """Send a message on a connection of its own, again and again; what it took, in words."""
    host, _, port = target.rpartition(":")
    took_us, last_ns = HdrHistogram(1, LATE_MAX_US, 3), clock.monotonic_ns()
    last_ns += seconds_to_ns(duration_s)
    pace = threading.Event()
    while clock.monotonic_ns() < last_ns:
        begun_ns = clock.monotonic_ns()
        with smtplib.SMTP(host, int(port), local_hostname="client.example") as client:
            client.sendmail("a@example.org", ["b@example.test"], MESSAGE)
        took_us.record_value((clock.monotonic_ns() - begun_ns) // 1000)
        pace.wait(1 / MAIL_PER_S)
    return (
        f"{took_us.get_total_count():,} messages beside them, each on a connection of its own: "
        f"p50 {took_us.get_value_at_percentile(50) / 1000:.2f} ms, "
        f"p99 {took_us.get_value_at_percentile(99) / 1000:.2f} ms, "
        f"at most {took_us.get_max_value() / 1000:.2f} ms"
    )


def hold(
    clock: Clock, address: tuple[str, int], connections: int, per_s: int, timeout_s: int
) -> Crowd:
    """Open the connections at an even pace, hold them, and measure how each ends."""
    crowd, poll = Crowd(), selectors.DefaultSelector()
    begun_ns, opened, ended = clock.monotonic_ns(), 0, 0
    last_ns = begun_ns + seconds_to_ns(connections / per_s + timeout_s + GUARD_S)
    while ended < connections and clock.monotonic_ns() < last_ns:
        due = (clock.monotonic_ns() - begun_ns) * per_s // NS_PER_S
        while opened < min(due, connections):
            client = Client(socket.socket())
            client.sock.bind((f"127.0.2.{1 + opened % SOURCES}", 0))
            client.sock.connect(address)
            client.sock.setblocking(False)
            poll.register(client.sock, selectors.EVENT_READ, client)
            opened += 1
        for key, _ in poll.select(NS_PER_MS / NS_PER_S if opened < connections else 1):
            ended += _hear(key.data, clock.monotonic_ns(), seconds_to_ns(timeout_s), crowd, poll)
    crowd.other += connections - ended
    return crowd


def _hear(
    client: Client, now_ns: int, timeout_ns: int, crowd: Crowd, poll: selectors.BaseSelector
) -> int:
    """Take what came; 1 if the connection is over."""
    heard = client.sock.recv(4096)
    if heard.startswith(b"220") and not client.said:
        client.said = True
        client.due_ns = now_ns + timeout_ns
        client.sock.send(HELLO)
        return 0
    if heard.startswith(b"250"):
        return 0
    if heard.startswith(b"421") and client.said:
        crowd.ended(now_ns - client.due_ns)
    else:
        crowd.other += 1
    poll.unregister(client.sock)
    client.sock.close()
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print what was found; 1 if anybody did not end as it should."""
    parser = command.parser(__doc__)
    number = command.positive
    parser.add_argument("--connections", type=number, default=CONNECTIONS, help="at a time")
    parser.add_argument("--per-s", type=number, default=OPENED_PER_S, help="opened in a second")
    parser.add_argument("--timeout", type=number, default=40, help="the server's idle_timeout_s")
    parser.add_argument("--mail", metavar="HOST:PORT", help="only send mail there")
    parser.add_argument("--duration", type=command.multiple, help="for how many seconds")
    options = parser.parse_args(arguments)
    if options.mail:
        print(send_mail(SystemClock(), options.mail, options.duration))
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.connections + DESCRIPTORS_SPARE > hard:
        parser.error(f"a process here may hold {hard} descriptors")
    clock = SystemClock()
    lasts_s = options.connections / options.per_s + options.timeout
    with (
        tempfile.TemporaryDirectory() as name,
        server(Path(name), options.timeout) as (host, port, process),
    ):
        before = peak_octets(process)
        with mail((host, port), lasts_s) as beside:
            crowd = hold(clock, (host, port), options.connections, options.per_s, options.timeout)
            held = peak_octets(process)
            assert beside.stdout is not None
            served = beside.stdout.read().strip()
        late = crowd.late_us
        print(
            f"{options.connections:,} idle connections: {crowd.early} early, {crowd.other} "
            f"otherwise; late by p50 {late.get_value_at_percentile(50) / 1000:.2f} ms, "
            f"p99 {late.get_value_at_percentile(99) / 1000:.2f} ms, "
            f"at most {late.get_max_value() / 1000:.2f} ms"
        )
        print(served)
        grown = (held - before) // options.connections
        print(f"the server's memory has grown by {grown:,} octets a connection")
    return 1 if crowd.early or crowd.other else 0


def peak_octets(process: int) -> int:
    """The most memory that a process has had resident."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    command.run(main)
