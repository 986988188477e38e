"""Where a server's CPU time goes while smtp-source works it.

Run as ``python -m benchmarks.profile_server [SERVER]``.  Each view is a run of its own, because
looking costs time: user and system time undisturbed; cProfile by function (Python servers, this
interpreter); system calls a message (strace); machine code and kernel (perf).
"""

from __future__ import annotations

import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import command
from benchmarks.contenders import CONTENDERS, Workload, running, work
from benchmarks.server_cpu import SESSIONS, WORKLOADS

FUNCTIONS_SHOWN = 35
SYMBOLS_SHOWN = 40
STRACE_SCALE = 0.1
"""strace slows a server down tenfold."""
ATTACH_S = 0.5
"""perf needs a moment to attach and does not say when it has."""


def user_and_system_ns(pid: int) -> tuple[int, int]:
    """From the kernel's account, in steps of a clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return int(fields[11]) * tick_ns, int(fields[12]) * tick_ns


def show_split(name: str, python: str, workload: Workload, sessions: int) -> None:
    with running(name, python) as server:
        work(server, workload.scaled(0.05), sessions)
        before = user_and_system_ns(server.pid)
        work(server, workload, sessions)
        after = user_and_system_ns(server.pid)
    units = workload.messages * workload.units
    user_us, system_us = ((after[side] - before[side]) / units / 1000 for side in (0, 1))
    print(f"user {user_us:.1f} us, system {system_us:.1f} us a {workload.unit}")


def show_functions(name: str, python: str, workload: Workload, sessions: int) -> None:
    """Own time by function.  Calls of builtins are counted too, and dear to count."""
    with tempfile.NamedTemporaryFile(suffix=".prof") as file:

        def under_cprofile(command: list[str]) -> list[str]:
            return [command[0], "-m", "cProfile", "-o", file.name, *command[1:]]

        with running(name, python, under_cprofile) as server:
            work(server, workload, sessions)
        statistics = pstats.Stats(file.name)
        statistics.strip_dirs().sort_stats("tottime").print_stats(FUNCTIONS_SHOWN)


@contextmanager
def observer(command: list[str], attached: str = "") -> Iterator[None]:
    """Run ``command`` beside the server until the block ends; it says ``attached`` when ready."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        if attached:
            while (line := process.stderr.readline()) and attached not in line:
                pass
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=ATTACH_S)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def show_system_calls(name: str, python: str, workload: Workload, sessions: int) -> None:
    workload = workload.scaled(STRACE_SCALE)
    with running(name, python) as server, tempfile.NamedTemporaryFile("r") as file:
        command = ["strace", "-c", "-f", "-o", file.name, "-p", str(server.pid)]
        with observer(command, attached="attached"):
            work(server, workload, sessions)
        rows = [line.split() for line in file.read().splitlines()]
    counts = {row[-1]: int(row[3]) for row in rows if len(row) > 4 and row[3].isdigit()}
    units = workload.messages * workload.units
    for call, count in sorted(counts.items(), key=lambda item: -item[1]):
        if count > units / 100:
            print(f"{count / units:8.2f} {call} a {workload.unit}")


def show_symbols(name: str, python: str, workload: Workload, sessions: int) -> None:
    with running(name, python) as server, tempfile.NamedTemporaryFile() as file:
        with observer(["perf", "record", "-q", "-p", str(server.pid), "-o", file.name]):
            work(server, workload, sessions)
        report = ["perf", "report", "-i", file.name, "--stdio", "-q", "--sort"]
        for keys, shown in (("dso", 8), ("dso,symbol", SYMBOLS_SHOWN)):
            done = subprocess.run([*report, keys], capture_output=True, text=True, check=False)
            lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
            print("\n".join(lines[:shown]), end="\n\n")


VIEWS = {
    "split": (show_split, ""),
    "functions": (show_functions, ""),
    "calls": (show_system_calls, "strace"),
    "symbols": (show_symbols, "perf"),
}


def main() -> int:
    parser = command.parser(__doc__)
    parser.add_argument("server", nargs="?", default="mailsrv", help=f"of {', '.join(CONTENDERS)}")
    works = "; ".join(f"{number}: {one.name}" for number, one in enumerate(WORKLOADS))
    numbers = range(len(WORKLOADS))
    parser.add_argument("--workload", type=int, choices=numbers, action="append", help=works)
    parser.add_argument("--view", choices=VIEWS, action="append", help="all of them, if left out")
    many = "connections at a time"
    parser.add_argument("--sessions", type=command.positive, default=SESSIONS, help=many)
    parser.add_argument("--python", default=sys.executable, help="what runs a Python server")
    parser.add_argument("--scale", type=command.multiple, default=1, help="of the messages")
    options = parser.parse_args()
    command.chosen(parser, [options.server], CONTENDERS)
    for number in options.workload or range(len(WORKLOADS)):
        workload = WORKLOADS[number].scaled(options.scale)
        for name in options.view or VIEWS:
            show, tool = VIEWS[name]
            if name == "functions" and options.server == "smtp-sink":
                continue
            print(f"\n== {options.server}: {workload.name}: {name}", flush=True)
            if tool and shutil.which(tool) is None:
                print(f"{tool} is not installed")
                continue
            show(options.server, options.python, workload, options.sessions)
    return 0


if __name__ == "__main__":
    command.run(main)
