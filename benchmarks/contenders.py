"""The servers that are set beside one another, the client that works them, and their CPU time.

What is measured is the CPU time of the server, user and system, as the kernel accounts it, over
the whole tree of its processes: unlike elapsed time it says little about who else uses the
machine.  The client is Postfix's ``smtp-source``, so that no client of ours can flatter our server.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mailsrv.units import NS_PER_S

AIOSMTPD_VERSION = "1.4.6"
ROOT = Path(__file__).resolve().parents[1]
AIOSMTPD_FOLDER = ROOT / ".benchmarks" / f"aiosmtpd-{AIOSMTPD_VERSION}"
PYTHONPATH = f"{ROOT}:{AIOSMTPD_FOLDER}"
"""So that any Python can run the servers, without an environment of its own."""
SOURCE_GUARD_S = 600
"""A run of smtp-source that takes longer than this hangs."""
START_TRIES = 500
START_PAUSE_S = 0.02
STOP_WAITS_S = {signal.SIGINT: 3, signal.SIGTERM: 20, signal.SIGKILL: 20}
"""smtp-sink takes no SIGINT where this process was started in the background."""


class UnavailableError(Exception):
    """A contender that cannot run here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What smtp-source is to do.  Costs are told for one ``unit``; a message has ``units``."""

    name: str
    messages: int
    octets: int
    """Payload of a message, without its header."""
    kept: bool
    """Whether the messages share connections; otherwise each has its own."""
    unit: str = "message"
    units: float = 1

    def scaled(self, factor: float) -> Workload:
        """The same work, more or less of it."""
        messages = max(1, round(self.messages * factor))
        return Workload(self.name, messages, self.octets, self.kept, self.unit, self.units)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that accepts connections on 127.0.0.1."""

    name: str
    pid: int
    port: int


Command = Callable[[int, Path, str], list[str]]
"""Makes a command line from the port to listen on, an empty directory and a Python to use."""
Wrap = Callable[[list[str]], list[str]]
"""Turns a command line into one that runs the same program under something else."""


def postfix_program(name: str) -> str:
    """The path of one of Postfix's test programs; they are not on everybody's PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec/postfix")
    if found is None:
        raise UnavailableError(f"{name} is missing: install Debian's postfix package")
    return found


def smtp_sink(port: int, _folder: Path, _python: str) -> list[str]:
    as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [postfix_program("smtp-sink"), *as_nobody, f"127.0.0.1:{port}", "512"]


def aiosmtpd(port: int, _folder: Path, python: str) -> list[str]:
    install_aiosmtpd()
    listen = f"127.0.0.1:{port}"
    return [python, "-m", "aiosmtpd", "-n", "-l", listen, "-c", "aiosmtpd.handlers.Sink"]


def install_aiosmtpd() -> None:
    """Put it into a directory of its own, where it is not there yet."""
    if aiosmtpd_is_installed():
        return
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(AIOSMTPD_FOLDER)]
    done = subprocess.run(
        [*install, f"aiosmtpd=={AIOSMTPD_VERSION}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise UnavailableError(f"aiosmtpd {AIOSMTPD_VERSION} cannot be installed: {last}")


def aiosmtpd_is_installed() -> bool:
    return any(AIOSMTPD_FOLDER.glob("aiosmtpd-*.dist-info"))


def bare_loop(port: int, _folder: Path, python: str) -> list[str]:
    return [python, str(ROOT / "benchmarks" / "bare_loop.py"), str(port)]


def mailsrv(port: int, folder: Path, python: str) -> list[str]:
    """With all limits on; only the cap on transactions is out of the way of long sessions."""
    if find_spec("mailsrv.__main__") is None:
        raise UnavailableError("mailsrv has no command line yet")
    config = folder / "mailsrv.toml"
    config.write_text("transactions = 1_000_000_000\n")
    listen = f"127.0.0.1:{port}"
    options = ["--config", str(config), "--listen", listen, "--delivery", "discard"]
    return [python, "-m", "mailsrv", "serve", *options]


CONTENDERS: dict[str, Command] = {
    "smtp-sink": smtp_sink,
    f"aiosmtpd {AIOSMTPD_VERSION}": aiosmtpd,
    "bare loop": bare_loop,
    "mailsrv": mailsrv,
}


@contextmanager
def running(
    name: str, python: str = sys.executable, wrap: Wrap = list, command: Command | None = None
) -> Iterator[Running]:
    """Start a contender, or what ``command`` says, and in the end stop it.

    Raises ``UnavailableError`` when it does not come up.
    """
    made = command or CONTENDERS[name]
    port = free_port()
    with tempfile.TemporaryDirectory() as text, tempfile.TemporaryFile("w+") as output:
        os.chmod(text, 0o755)  # smtp-sink works as nobody
        arguments = wrap(made(port, Path(text), python))
        environment = server_environment()
        process = subprocess.Popen(
            arguments,
            cwd=text,
            stdout=output,
            stderr=output,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us: we stop it with all that is below it
        )
        try:
            if not comes_up(process, port):
                output.seek(0)
                said = output.read().strip().splitlines() or ["it says nothing"]
                raise UnavailableError(f"{name} does not start: {said[-1]}")
            yield Running(name, process.pid, port)
        finally:
            stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Ask, in each way that a server may know, and then do not ask any more; and let nothing that
    it has started be left."""
    below = [os.pidfd_open(pid) for pid in tree(process.pid)[1:]]
    for number, wait_s in STOP_WAITS_S.items():
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait_s)
            break
    left = below
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in left:
            with suppress(OSError):  # it has ended
                signal.pidfd_send_signal(one, number)
        left = [one for one in left if not select.select([one], [], [], STOP_WAITS_S[number])[0]]
    for one in below:
        os.close(one)


def server_environment() -> dict[str, str]:
    """In which a server finds the modules of this checkout, and keeps them compiled as an installed
    one does: compiling them at its start would leave it memory that hides what connections take."""
    others = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**others, "PYTHONPATH": PYTHONPATH}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def comes_up(process: subprocess.Popen[str], port: int) -> bool:
    """Wait until something greets on ``port``; False when the process ends first, or never."""
    for _ in range(START_TRIES):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as probe:
            greeted = probe.recv(4) == b"220 "
            probe.sendall(b"QUIT\r\n")
            return greeted
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=START_PAUSE_S)
            return False
    return False


def cpu_ns(pid: int) -> int:
    """User and system time so far of a process and all below it, in nanoseconds.

    Those that have ended count by the kernel's ticks, in which their parents account them.
    """
    total = 0
    for one in tree(pid):
        place = Path(f"/proc/{one}")
        with suppress(OSError):  # it has ended meanwhile: its parent has its time
            tasks = [(task / "schedstat").read_text() for task in (place / "task").iterdir()]
            waited = (place / "stat").read_text().rpartition(")")[2].split()[13:15]
            total += sum(int(task.split()[0]) for task in tasks)
            total += sum(map(int, waited)) * NS_PER_S // os.sysconf("SC_CLK_TCK")
    return total


def resident_octets(pid: int) -> int:
    """Memory of a process and all below it; what they share counts once for each."""
    total = 0
    for one in tree(pid):
        with suppress(OSError):
            pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
            total += pages * os.sysconf("SC_PAGE_SIZE")
    return total


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found, known = [pid], {pid}
    for one in found:
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                children = map(int, (task / "children").read_text().split())
                found += [child for child in children if child not in known]
                known.update(found)
    return found


def work(server: Running, workload: Workload, sessions: int) -> None:
    """Let smtp-source do ``workload``; raises CalledProcessError unless every reply is positive."""
    options = ["-s", str(min(sessions, workload.messages)), "-m", str(workload.messages)]
    options += ["-l", str(workload.octets), "-f", "from@example.org", "-t", "to@example.org"]
    options += ["-d"] if workload.kept else []
    command = [postfix_program("smtp-source"), *options, f"127.0.0.1:{server.port}"]
    subprocess.run(command, check=True, timeout=SOURCE_GUARD_S)


def cost_ns(server: Running, workload: Workload, sessions: int) -> float:
    """Server CPU for one unit of ``workload``."""
    before_ns = cpu_ns(server.pid)
    work(server, workload, sessions)
    return (cpu_ns(server.pid) - before_ns) / (workload.messages * workload.units)
