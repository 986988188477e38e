"""Servers that are killed at a point of their own work, which a test chooses.

A process has loaded the program once and forks for each server, so that a thousand of them start
in minutes.  A profile function of the interpreter sees the calls that the program makes and kills
it at one of them: there is nothing for it in the program.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from process import PATIENCE_S, ROOT, Lines

RUNNING = {
    "before the commit": ("call", "SpoolDatabase.write"),
    "after the commit": ("return", "SpoolDatabase.write"),
    "before the replies": ("call", "_answer_all"),
    "after the replies": ("return", "_answer_all"),
    "before a file is synced": ("call", "SpoolSink.sync"),
    "after a file is synced": ("return", "SpoolSink.sync"),
    "before a delivery": ("call", "Queue._begin"),
    "before an outcome is known": ("call", "Queue._done"),
    "after an outcome is known": ("return", "Queue._done"),
    "before a notice is made": ("call", "Notifier.__call__"),
    "after a notice is made": ("return", "Notifier.__call__"),
    "before a file is removed": ("call", "Spool._remove_content"),
}
STARTING = {
    "before the folder is taken": ("call", "take_folder"),
    "before the database is opened": ("call", "SpoolDatabase._prepare"),
    "after the database is opened": ("return", "SpoolDatabase._prepare"),
    "before the sweep": ("call", "Spool._sweep"),
    "after the sweep": ("return", "Spool._sweep"),
    "before the queue works": ("call", "Queue.attach"),
    "before the first delivery": ("call", "Queue._begin"),
    "before the first commit": ("call", "SpoolDatabase.write"),
}
WITHIN = "SpoolDatabase.write"
WITHIN_MAX_S = 0.003


class Doom(NamedTuple):
    """Kill at the ``nth`` time that an ``event`` ("call", "return") of a function comes; then
    ``after_s``, by a timer of the kernel that waits for nothing, not even for a system call."""

    event: str
    function: str
    nth: int = 1
    after_s: float = 0.0


def within_a_commit(dice: random.Random) -> Doom:
    """Anywhere in the transaction: soon after it began."""
    return Doom("call", WITHIN, dice.randrange(1, 6), dice.random() ** 2 * WITHIN_MAX_S + 1e-6)


class Doomed:
    """One server.  ``port`` is that of its listener, 0 if it did not come so far."""

    def __init__(self, lines: Lines, pid: int) -> None:
        self._lines = lines
        self._descriptor = os.pidfd_open(pid)
        self.port = 0
        self._ended: int | None = None

    def await_port(self) -> bool:
        """False if it ended first."""
        line = self._lines.until(": listening on ", or_begins="ended ")
        if line.startswith("ended "):
            self._ended = int(line.split()[1])
        else:
            self.port = int(line.rpartition(":")[2])
        return self.port != 0

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def is_gone(self, within_s: float = 0) -> bool:
        """Whether it has ended, or does."""
        return bool(select.select([self._descriptor], [], [], within_s)[0])

    def wait(self) -> int:
        """Its exit status; that of a signal is negative."""
        if self._ended is None:
            self._ended = int(self._lines.until("ended ").split()[1])
        return self._ended

    def close(self) -> None:
        self.kill()
        self.wait()
        os.close(self._descriptor)


class Nursery:
    """Starts servers, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._lines = Lines(self._process.stdout)

    def start(self, folder: Path, options: Sequence[str], doom: Doom | None = None) -> Doomed:
        assert self._process.stdin is not None
        print(json.dumps([str(folder), options, doom]), file=self._process.stdin, flush=True)
        server = Doomed(self._lines, int(self._lines.until("pid ").split()[1]))
        self._process.stdin.write("\n")  # it may go on, and end
        self._process.stdin.flush()
        return server

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)


def _watch(doom: Doom) -> None:
    """Have the interpreter carry it out."""
    left = doom.nth

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        if event != doom.event or frame.f_code.co_qualname != doom.function:
            return
        left -= 1
        if left:
            return
        if doom.after_s:
            sys.setprofile(None)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends it, and runs nothing
            signal.setitimer(signal.ITIMER_REAL, doom.after_s)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(look)


def _serve(folder: str, options: Sequence[str], doom: Sequence[Any] | None) -> int:
    from mailsrv.cli import main

    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 2)
    if doom is not None:
        _watch(Doom(*doom))
    return main(["serve", *options])


def _nurse() -> None:
    import mailsrv.cli
    import mailsrv.daemon.outgoing
    import mailsrv.daemon.service  # noqa: F401 - loaded once for all

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = 70
            print(f"pid {os.getpid()}", flush=True)
            os.read(0, 1)  # until the test has it by a descriptor
            try:
                status = _serve(*json.loads(line))
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    _nurse()
