"""The log as a file that the usual tools may rotate.

A tool that renames the file and makes a new one (logrotate's ``create``) is noticed by looking,
at most once a second, whether the path still leads to the file that is open.  One that copies and
truncates is no trouble, because every write appends.  ``reopen`` is for SIGHUP.

A log that cannot be written must not stop mail: lines are lost and counted, and the watcher is
called when that begins and when it ends.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_S

LOOK_EVERY_NS = NS_PER_S
FILE_MODE = 0o640
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
"""Without waiting: a FIFO that nobody reads must hold up the loop neither when it is opened nor
when it is written to."""


class Watcher(Protocol):
    """Is called when lines begin to be lost, and when no more are."""

    def __call__(self, error: OSError | None, lost: int) -> None:
        """``error`` keeps lines from the log, or the file from being reopened, from now on; None:
        it does no more, and ``lost`` lines are missing."""


class LogFile:
    """Appends to the file ``path``, which is made if it is not there; ``lost`` counts lines.

    Raises OSError if it cannot be opened at first.
    """

    __slots__ = (
        *("_clock", "_descriptor", "_full", "_inode", "_looked_ns", "_lost_now", "_stuck"),
        *("_torn", "_watcher", "lost", "path"),
    )

    def __init__(self, path: Path, clock: Clock, watcher: Watcher) -> None:
        self.path = path
        self.lost = 0
        self._clock = clock
        self._watcher = watcher
        self._looked_ns = clock.monotonic_ns()
        self._lost_now = 0
        self._torn = False  # the last line in the file has no end
        self._full = False  # the watcher knows that lines are lost
        self._stuck = False  # the watcher knows that the path leads nowhere
        self._descriptor = -1
        self._open()

    def write(self, text: str) -> None:
        """Append ``text``, whole lines."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns >= LOOK_EVERY_NS:
            self._looked_ns = now_ns
            self._look()
        octets = text.encode("ascii", "backslashreplace")
        try:
            self._append(octets)
        except OSError as error:
            if not self._full:
                self._full = True
                self._watcher(error, 0)
        else:
            if self._full:
                self._full = False
                lost, self._lost_now = self._lost_now, 0
                self._watcher(None, lost)

    def reopen(self) -> None:
        """Open the file anew, wherever the path leads now; it stays as it is where that fails."""
        try:
            self._open()
        except OSError as error:
            if not self._stuck:
                self._stuck = True
                self._watcher(error, 0)
        else:
            if self._stuck:
                self._stuck = False
                self._watcher(None, 0)

    def close(self) -> None:
        """Close the file; harmless when closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        descriptor = os.open(self.path, _FLAGS, FILE_MODE)
        self.close()
        self._descriptor = descriptor
        self._torn = False
        status = os.fstat(descriptor)
        self._inode = status.st_dev, status.st_ino

    def _look(self) -> None:
        """See whether the path still leads to the open file."""
        try:
            status = os.stat(self.path)
            if (status.st_dev, status.st_ino) == self._inode:
                return
        except OSError:
            pass  # gone, most likely: opening makes a new one, or says what is wrong
        self.reopen()

    def _append(self, octets: bytes) -> None:
        rest = b"\n" + octets if self._torn else octets
        try:
            while rest:  # ends: the system takes an octet at least, or fails
                taken = os.write(self._descriptor, rest)
                self._torn = rest[taken - 1 : taken] != b"\n"
                rest = rest[taken:]
        except OSError:
            lines = min(rest.count(b"\n"), octets.count(b"\n"))  # without the one of before
            self.lost += lines
            self._lost_now += lines
            raise
