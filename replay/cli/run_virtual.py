"""``replay run``: transcripts against mailsrv, in virtual time."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli.common import refuse
from replay.cli.results import Report, collect, conclude

if TYPE_CHECKING:
    from replay.verify.suite import ScenarioResult


def run_virtual(options: argparse.Namespace, paths: Sequence[Path]) -> int:
    """Play each transcript, bring it up to date where asked to, and report."""
    from mailsrv.runtime.clock import SystemClock
    from replay.report import console
    from replay.verify import suite

    # What is loaded by now is never garbage: no collection need look at it, and none of a process
    # that plays beside others copies it by writing to it.
    gc.freeze()
    keep = options.html is not None
    if options.jobs > 1:
        from replay.verify.side_by_side import run_side_by_side

        playing = run_side_by_side(paths, options.jobs, updating=options.update, keep=keep)
    else:
        playing = suite.run_all(paths, SystemClock(), updating=options.update, keep=keep)
    if keep:
        from replay.report.html.page import without_what_is_not_drawn

        playing = without_what_is_not_drawn(playing)
    results, interrupted = collect(options, playing, paths, virtual=True)
    report = Report(
        lambda: console.as_json(results),
        lambda: _page(results),
        lambda readable: _show(results, readable),
    )
    status = conclude(options, results, report, interrupted=interrupted)
    return status if results else refuse("nothing was played: every transcript has gone")


def _page(results: Sequence[ScenarioResult]) -> str:
    from replay.report.html.page import page

    return page(results)


def _show(results: Sequence[ScenarioResult], readable: Sequence[ScenarioResult]) -> None:
    from replay.report import console

    if readable:
        console.show(results, console.make_console())
