"""What the kernel knows about this process, for the metrics: names as every exporter has them."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from mailsrv import __version__
from mailsrv.runtime.clock import Clock
from mailsrv.telemetry.metrics import Metrics
from mailsrv.units import NS_PER_S

_STATM = Path("/proc/self/statm")


def read_process_gauges(metrics: Metrics, clock: Clock) -> None:
    """Show version, start, memory, CPU time and the descriptor limit on the page."""
    started_s = clock.realtime_ns() / NS_PER_S
    read = metrics.read
    read("mailsrv_info", "The program that runs.", lambda: 1, version=__version__)
    read(
        "process_start_time_seconds",
        "When the process began, in seconds since 1970.",
        lambda: started_s,
    )
    read(
        "process_resident_memory_bytes",
        "Memory in use, without what is swapped out.",
        resident_octets,
    )
    read(
        "process_cpu_seconds_total",
        "CPU time that was used, by the program and for it.",
        _cpu_s,
        kind="counter",
    )
    read(
        "process_max_fds",
        "Descriptors that the process may have open.",
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def resident_octets() -> int | None:
    """Resident memory; None where there is no /proc."""
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
