"""How far a long file has been read: a bar on a terminal, and nothing where nobody looks.

Who ends ``tcpdump -w - | replay show -`` with Ctrl-C means tcpdump: what it wrote until then is to
be shown.  So the first interrupt ends nothing while standard input is read; tcpdump, which gets it
as well, ends the input.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from replay.capture.source import STANDARD_INPUT, Watch
from replay.capture.source import ReadProgress as Reached
from replay.report import console as report

SMALL_OCTETS = 16 << 20
"""A file so small is read before anyone looks."""


@contextmanager
def watching(path: str | Path) -> Iterator[Watch | None]:
    """What to give ``read_capture`` as ``watch``, for as long as it reads ``path``."""
    with ExitStack() as stack:
        if str(path) == STANDARD_INPUT:
            stack.enter_context(_first_interrupt_is_for_the_writer())
        console = report.console(stderr=True)
        if not console.is_terminal or console.color_system is None:
            yield None
            return
        bar = Progress(
            TextColumn("reading"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        task = bar.add_task("reading", total=None)
        begun = False

        def watch(reached: Reached) -> None:
            nonlocal begun
            if not begun and reached.read_octets > SMALL_OCTETS:
                begun = True
                stack.enter_context(bar)
            if begun:
                bar.update(task, completed=reached.read_octets, total=reached.total_octets or None)

        yield watch


@contextmanager
def _first_interrupt_is_for_the_writer() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)

    def wait(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)

    try:
        signal.signal(signal.SIGINT, wait)
    except ValueError:  # not the main thread: it gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
