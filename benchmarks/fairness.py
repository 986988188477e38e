"""A well-behaved client beside ten connections that flood: mailsrv, and Postfix in the same run.

Run as ``python -m benchmarks.fairness``.  For each kind of flood the servers take turns: first the
client's whole session is timed in calm, then beside the flood.  Shown are medians, as a multiple of
calm too, and the CPU of one pass of our loop.  Postfix takes part where it is installed and this is
root's process; without it the table says so.  Floods and client share the machine with the server,
so what the client waits for is partly the floods' own work: figures are good on a quiet machine.
"""

from __future__ import annotations

import json
import signal
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import command
from benchmarks.contenders import UnavailableError, comes_up, free_port, server_environment
from benchmarks.fair_server import percentile
from benchmarks.floods import ALL, LINE
from benchmarks.postfix import DISCARDING, WITH_TLS, started

MESSAGE = b"Subject: good\r\n\r\n" + LINE * 16
CALM_S = 0.5
FLOOD_S = 2.0
SETTLE_S = 0.3
"""A flood needs a moment to open its connections."""
REST_S = 0.005
GUARD_S = 30
STORED = ("messages",)
"""Floods whose messages are really stored: into a Maildir, or Postfix's queue."""


@dataclass(frozen=True)
class Contender:
    """A server that runs: its port, and what its end has to say."""

    name: str
    port: int
    process: subprocess.Popen[str] | None
    pid: int = 0
    """Of the process whose children, if it has any, do the work."""


@contextmanager
def mailsrv(delivery: str) -> Iterator[Contender]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.fair_server", str(port), delivery, folder]
        environment = server_environment()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            if not comes_up(process, port):
                raise UnavailableError("mailsrv does not start")
            yield Contender("mailsrv", port, process, process.pid)
        finally:
            process.kill()
            process.wait()


@contextmanager
def postfix(more_main: str = "", more_services: str = "") -> Iterator[Contender]:
    """It relays nothing and keeps nothing, unless there is more in its configuration."""
    port = free_port()
    main = f"{DISCARDING}{WITH_TLS}smtpd_junk_command_limit = 1000000000\n{more_main}"
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        with started(port, folder, main, more_services) as pid:
            yield Contender("Postfix", port, None, pid)


@contextmanager
def flooding(kind: str, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.floods", kind, str(port)]
    environment = server_environment()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        time.sleep(SETTLE_S)
        yield
        if process.poll() is not None:
            raise UnavailableError(f"the flood {kind!r} has ended by itself")
    finally:
        process.kill()
        process.wait()


def good_session_s(port: int) -> float:
    """One whole session's time, from connecting to the end."""
    began_s = time.monotonic()
    with smtplib.SMTP("127.0.0.1", port, "good.example.org", timeout=GUARD_S) as client:
        client.sendmail("good@example.org", ["you@example.org"], MESSAGE)
    return time.monotonic() - began_s


def sessions_us(port: int, duration_s: float) -> list[int]:
    """Times of the sessions of one client that comes again and again."""
    until_s = time.monotonic() + duration_s
    found: list[int] = []
    while time.monotonic() < until_s or not found:
        found.append(int(good_session_s(port) * 1_000_000))
        time.sleep(REST_S)
    return found


@dataclass(frozen=True)
class Row:
    """One kind of flood at one server, times in microseconds."""

    kind: str
    server: str
    calm_us: float
    median_us: float
    p90_us: float
    max_us: float
    passes: dict[str, int] | None

    def line(self) -> str:
        shown = [f"{us / 1000:.1f}" for us in (self.calm_us, self.median_us, self.p90_us)]
        cost = f"{self.passes['p99_us'] / 1000:.2f}" if self.passes else ""
        return (
            f"| {self.kind} | {self.server} | {shown[0]} | {shown[1]}"
            f" ({self.median_us / self.calm_us:.1f} x) | {shown[2]} | {self.max_us / 1000:.1f}"
            f" | {cost} |"
        )


def measure(kind: str, contender: Contender, flood_s: float) -> Row:
    calm = sessions_us(contender.port, CALM_S)
    with flooding(kind, contender.port):
        times = sessions_us(contender.port, flood_s)
    passes = None
    if contender.process is not None:
        contender.process.send_signal(signal.SIGTERM)
        said, _ = contender.process.communicate(timeout=GUARD_S)
        passes = json.loads(said)
    return Row(
        kind,
        contender.name,
        median(calm),
        median(times),
        percentile(times, 90),
        max(times),
        passes,
    )


def compare(kinds: list[str], flood_s: float = FLOOD_S) -> Iterator[Row | str]:
    """A row for each kind and server, as they come; text where a server takes no part."""
    with ExitStack() as stack:
        other: Contender | None = None
        try:
            other = stack.enter_context(postfix())
        except (UnavailableError, subprocess.SubprocessError) as reason:
            yield f"Postfix took no part: {reason}"
        for kind in kinds:
            with mailsrv("maildir" if kind in STORED else "discard") as ours:
                yield measure(kind, ours, flood_s)
            if other is not None:
                yield measure(kind, other, flood_s)


def main() -> int:
    arguments = command.parser(__doc__)
    arguments.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(ALL)}")
    arguments.add_argument("--seconds", type=command.multiple, default=FLOOD_S, help="of a flood")
    options = arguments.parse_args()
    heads = "| ten connections of | server | calm, ms | median, ms | p90 | max | pass p99, ms CPU |"
    for row in compare(command.chosen(arguments, options.kinds, ALL), options.seconds):
        if isinstance(row, str):
            print(f"{row}\n")
            continue
        if heads:
            print(f"{heads}\n|---|---|---|---|---|---|---|")
            heads = ""
        print(row.line(), flush=True)
    return 0


if __name__ == "__main__":
    command.run(main)
