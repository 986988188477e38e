"""Messages relayed a second, each of them on the disk before its 250: mailsrv beside Postfix.

Run as ``python -m benchmarks.relaying``.  Both hand on to the same ``smtp-sink``; the time runs
from the first message that ``smtp-source`` sends to the last that the sink has taken.  The
contenders take turns, round after round; beside them are printed the disk's time for one lone sync,
and the CPU time of all processes of a server, which depends less on who else uses the machine.
Postfix keeps connections to the sink as well, with its connection cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import command
from benchmarks.contenders import (
    Running,
    UnavailableError,
    Workload,
    comes_up,
    free_port,
    postfix_program,
    server_environment,
    work,
)
from benchmarks.durable_accept import CONTENT_OCTETS, ROUNDS, SESSIONS, main, sync_ms
from benchmarks.fairness import Contender, postfix

MESSAGES = 1000
GUARD_S = 120
LOOK_S = 0.002
_COUNTED = re.compile(rb"mesg=(\d+)")
_COUNT_OCTETS = 64
"""More than the last count that smtp-sink writes."""

POSTFIX_MAIN = """
mydestination =
relayhost = [127.0.0.1]:{port}
relay_transport = smtp
default_transport = smtp
smtp_connection_cache_destinations = [127.0.0.1]:{port}
smtp_dns_support_level = disabled
smtpd_tls_security_level = none
smtp_tls_security_level = none
"""
POSTFIX_MASTER = """smtp unix - - n - - smtp
scache unix - - n - 1 scache
retry unix - - n - - error
"""


@dataclass(frozen=True, slots=True)
class Sink:
    """An ``smtp-sink`` and where it writes what it has counted."""

    port: int
    counts: Path

    def taken(self) -> int:
        """Messages so far."""
        with self.counts.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _COUNT_OCTETS))
            found = _COUNTED.findall(file.read())
        return int(found[-1]) if found else 0

    def wait_for(self, messages: int) -> None:
        """Raises TimeoutError."""
        until_s = time.monotonic() + GUARD_S
        while self.taken() < messages:
            if time.monotonic() > until_s:
                raise TimeoutError(f"the sink has {self.taken()} of {messages} messages")
            time.sleep(LOOK_S)


@contextmanager
def smtp_sink(folder: Path) -> Iterator[Sink]:
    sink = Sink(free_port(), folder / "counts")
    as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = [postfix_program("smtp-sink"), "-c", *as_nobody, f"127.0.0.1:{sink.port}", "512"]
    with sink.counts.open("wb") as counts:
        process = subprocess.Popen(command, cwd=folder, stdout=counts, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        yield sink
    finally:
        process.kill()
        process.wait()


@contextmanager
def mailsrv_relay(sink: Sink) -> Iterator[Contender]:
    """The shipped daemon; only the cap on transactions is out of the way of long sessions."""
    port = free_port()
    with tempfile.TemporaryDirectory() as text, tempfile.TemporaryFile("w+") as log:
        folder = Path(text)
        config = folder / "mailsrv.toml"
        config.write_text("transactions = 1_000_000_000\n")
        command = [sys.executable, "-m", "mailsrv", "serve", "--config", str(config)]
        command += ["--listen", f"127.0.0.1:{port}", "--spool", str(folder / "spool")]
        command += ["--delivery", f"relay=127.0.0.1:{sink.port}"]
        environment = server_environment()
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, text=True, env=environment
        )
        try:
            if not comes_up(process, port):
                raise UnavailableError("mailsrv does not start")
            yield Contender("mailsrv", port, process, process.pid)
        finally:
            process.kill()
            process.wait()


def tree_cpu_ns(pid: int) -> int:
    """User and system time of a process, of its children, and of those that have ended, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(fields[place]) for place in range(11, 15))  # utime, stime, cutime, cstime
    own_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with suppress(OSError):  # it has ended since: it is among those of its parent next time
            own_ns += tree_cpu_ns(int(child))
    return own_ns


def relayed_a_second(
    contender: Contender, sink: Sink, messages: int, sessions: int
) -> tuple[float, float, float]:
    """Messages accepted a second, messages taken by the sink a second, and microseconds of CPU for
    each of them."""
    before, cpu_ns = sink.taken(), tree_cpu_ns(contender.pid)
    workload = Workload("relaying", messages, CONTENT_OCTETS, kept=True)
    began_ns = time.perf_counter_ns()
    work(Running(contender.name, 0, contender.port), workload, sessions)
    accepted_ns = time.perf_counter_ns() - began_ns
    sink.wait_for(before + messages)
    relayed_ns = time.perf_counter_ns() - began_ns
    cpu_us = (tree_cpu_ns(contender.pid) - cpu_ns) / messages / 1000
    return messages * 1e9 / accepted_ns, messages * 1e9 / relayed_ns, cpu_us


def compare(messages: int, rounds: int) -> Iterator[str]:
    """The lines of the table, and first whoever takes no part."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        sink = stack.enter_context(smtp_sink(folder))
        contenders = []
        try:
            main = POSTFIX_MAIN.format(port=sink.port)
            contenders.append(stack.enter_context(postfix(main, POSTFIX_MASTER)))
        except UnavailableError as reason:
            yield f"Postfix took no part: {reason}"
        contenders.append(stack.enter_context(mailsrv_relay(sink)))
        for sessions in SESSIONS:
            accepted: dict[str, list[float]] = {one.name: [] for one in contenders}
            relayed: dict[str, list[float]] = {one.name: [] for one in contenders}
            costs: dict[str, list[float]] = {one.name: [] for one in contenders}
            syncs_ms = []
            for _ in range(rounds):
                syncs_ms.append(sync_ms(folder))
                for one in contenders:
                    rates = relayed_a_second(one, sink, messages, sessions)
                    accepted[one.name].append(rates[0])
                    relayed[one.name].append(rates[1])
                    costs[one.name].append(rates[2])
            yield f"{sessions} sessions, a lone sync takes {median(syncs_ms):.2f} ms"
            first = relayed[contenders[0].name]
            for name, found in relayed.items():
                ratio = median(own / other for own, other in zip(found, first, strict=True))
                yield (
                    f"  {name:10} {median(found):6.0f} messages/s through to the sink"
                    f" ({min(found):.0f} to {max(found):.0f}), {ratio:.1f} times"
                    f" {contenders[0].name}; accepted {median(accepted[name]):.0f}/s;"
                    f" CPU {median(costs[name]):.0f} us a message"
                )


if __name__ == "__main__":
    command.run(lambda: main(compare, __doc__, MESSAGES, ROUNDS))
