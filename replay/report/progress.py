"""How far a long file has been read: a bar on a terminal, and nothing elsewhere.

Ctrl-C in ``tcpdump -w - | replay show -`` is meant for tcpdump: what it wrote until then is to be
shown.  So the first interrupt ends nothing while standard input is read; tcpdump, which receives it
as well, ends the input.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from replay.capture.source import STANDARD_INPUT, ReadProgress, Watch
from replay.report.console import can_redraw, make_console

SMALL_OCTETS = 16 << 20
"""Up to this size a file is read before a bar would be seen."""


@contextmanager
def watching(path: str | Path) -> Iterator[Watch | None]:
    """``read_capture``'s argument ``watch``, for as long as it reads ``path``."""
    with ExitStack() as stack:
        if str(path) == STANDARD_INPUT:
            stack.enter_context(_first_interrupt_is_for_the_writer())
        console = make_console(stderr=True)
        if not can_redraw(console):
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

        def watch(reached: ReadProgress) -> None:
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
