"""What a server does that virtual time cannot hold: threads, processes, real peers, real clocks.

Raising would not do: a handler turns exceptions into replies.  So it is written down, each kind of
thing once with the line that did it, and the run is failed at its end.  The interpreter tells by
audit events (PEP 578); clocks are no part of them, and looking for calls of those costs time, so
that is done only when asked for.
"""

from __future__ import annotations

import datetime
import gc
import sys
import sysconfig
import threading
from functools import cache
from types import FrameType
from typing import Any

SEEN_MAX = 20
FRAMES_MAX = 60

_THREAD = "it started a thread"
_PROCESS = "it started a process"
_PEER = "it talks to a real peer"
_EVENTS = {
    "_thread.start_new_thread": _THREAD,
    "_thread.start_joinable_thread": _THREAD,
    "subprocess.Popen": _PROCESS,
    "os.fork": _PROCESS,
    "os.forkpty": _PROCESS,
    "os.posix_spawn": _PROCESS,
    "os.spawn": _PROCESS,
    "os.system": _PROCESS,
    "socket.connect": _PEER,
    "socket.sendto": _PEER,
    "socket.getaddrinfo": "it looked up a name",
    "socket.gethostbyname": "it looked up a name",
    "time.sleep": "it slept in real time",
}
"""Audit events (docs.python.org/3/library/audit_events.html), and what they mean.  Before Python
3.12 nothing tells of threads, nor before 3.13 of sleeping."""
_CLOCKS = {
    *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
    *("process_time", "process_time_ns", "clock_gettime", "clock_gettime_ns", "sleep"),
}
_DATES = {"now", "utcnow", "today"}
_LIBRARY = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
_NO_LIBRARY = ("site-packages", "dist-packages")


class NotVirtualWatch:
    """Watches the server's own doings: use it as a context manager while the server runs.

    ``seen`` says in words what it did that is not virtual, each kind at each place once.
    """

    def __init__(self, *, clocks: bool = False) -> None:
        self._clocks = clocks
        self._collects = False
        self._hook = _audit_hook()
        self._thread = threading.get_ident()
        self._threads = set(threading.enumerate())
        self.seen: dict[str, None] = {}

    def __enter__(self) -> None:
        self._hook.watch = self
        if self._clocks:
            self._collects = gc.isenabled()
            gc.disable()  # what others have hung on the collector is none of the server's
            sys.setprofile(self._look_at_call)

    def __exit__(self, *_: object) -> None:
        self._hook.watch = None
        if self._clocks:
            sys.setprofile(None)
            if self._collects:
                gc.enable()

    def add(self, what: str) -> None:
        """Write down what was done, with the line of the program that did it."""
        if len(self.seen) < SEEN_MAX:
            self.seen[f"{what}{_place(sys._getframe(1))}"] = None

    def look_at_threads(self) -> None:
        """Write down threads that go on, where no audit event tells of their start."""
        if sys.version_info < (3, 12) and threading.active_count() > len(self._threads):
            for thread in set(threading.enumerate()) - self._threads:
                self._threads.add(thread)
                self.seen[f"{_THREAD} ({thread.name})"] = None

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event, of whichever thread."""
        if threading.get_ident() == self._thread:
            told = str(arguments[0]) if event == "time.sleep" else _told(event, arguments)
            self.add(f"{_EVENTS[event]} ({event}{told and ' ' + told})")

    def _look_at_call(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call":
            return
        name, owner = function.__name__, getattr(function, "__self__", None)
        if name in _CLOCKS:
            is_clock = function.__module__ == "time"
        else:
            is_clock = name in _DATES and owner in (datetime.datetime, datetime.date)
        if is_clock and frame.f_globals.get("__name__") != "logging":
            self.add(f"it read a real clock ({name})")


class _AuditHook:
    """The one hook of this process: an audit hook can never be taken out again."""

    def __init__(self) -> None:
        self.watch: NotVirtualWatch | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watch is not None and event in _EVENTS:
            self.watch.audit(event, arguments)


@cache
def _audit_hook() -> _AuditHook:
    hook = _AuditHook()
    sys.addaudithook(hook)
    return hook


def _told(event: str, arguments: tuple[Any, ...]) -> str:
    """What an event is about, in few words."""
    if event in ("socket.connect", "socket.sendto"):
        return str(arguments[1])
    return str(arguments[0]) if event in ("socket.getaddrinfo", "socket.gethostbyname") else ""


def _place(frame: FrameType | None) -> str:
    """Where a program did something: the innermost line that is not of the standard library, and
    not of this package."""
    for _ in range(FRAMES_MAX):
        if frame is None:
            break
        path = frame.f_code.co_filename
        own = str(frame.f_globals.get("__name__", "")).startswith("replay.play.")
        library = path.startswith(_LIBRARY) and not any(one in path for one in _NO_LIBRARY)
        if not (own or library or path.startswith("<")):
            return f" at {path}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
