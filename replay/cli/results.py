"""What ``replay run`` does with results, in virtual time and at a target: table, files, status."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replay.cli.common import AS_EXPECTED, DIFFERS, WRONG_USE, refuse, write

if TYPE_CHECKING:
    from rich.console import Console

    from replay.verify.suite import ScenarioResult


class Report(NamedTuple):
    """The three forms of results: ``as_json`` and ``as_html`` return a document, ``show`` prints
    what stands below the table of those that could be read."""

    as_json: Callable[[], str]
    as_html: Callable[[], str]
    show: Callable[[Sequence[ScenarioResult]], None]


def collect(
    options: argparse.Namespace,
    playing: Iterable[ScenarioResult],
    paths: Sequence[Path],
    *,
    virtual: bool,
) -> tuple[list[ScenarioResult], str]:
    """All results of ``paths``, each shown as it comes; and, if Ctrl-C ended the run, how many
    there are of how many."""
    from replay.report.console import can_redraw, make_console
    from replay.report.result_table import ResultTable
    from replay.verify.suite import AS_EXPECTED as NOTHING_TO_SEE
    from replay.verify.suite import UNREADABLE

    results: list[ScenarioResult] = []
    output, errors = make_console(), make_console(stderr=True)
    table = ResultTable(output, paths, virtual=virtual)
    shows = Path("-") not in (options.json, options.html)
    bar = _no_bar()
    if can_redraw(errors) and not (shows and output.is_terminal):
        bar = _bar(errors, len(paths))
    with bar as advance:
        try:
            for result in playing:
                advance()
                if result.verdict == UNREADABLE and _has_gone(result.path, options.paths):
                    refuse(f"{result.path}: has gone meanwhile; left out")
                    continue
                results.append(result)
                is_dull = options.failed and result.verdict == NOTHING_TO_SEE
                if shows and result.verdict != UNREADABLE and not is_dull:
                    table.add(result)
        except KeyboardInterrupt:
            counted = f"{len(results)} of {len(paths)} transcripts were played"
            return results, counted  # what has been changed by then must still be shown
    return results, ""


def _has_gone(path: Path, named: Sequence[Path]) -> bool:
    """Whether a transcript was taken out of its folder after that was read."""
    return path not in named and not path.exists()


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Callable[[], None]]:
    """A bar of ``total`` steps, and the function that goes one further.

    Drawn between files only: a thread that draws beside them would hold departures up.
    """
    from rich.progress import Progress  # dear to load, and rarely needed

    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("playing", total=total)
        yield lambda: progress.update(task, advance=1, refresh=True)


@contextmanager
def _no_bar() -> Iterator[Callable[[], None]]:
    yield lambda: None


def conclude(
    options: argparse.Namespace,
    results: Sequence[ScenarioResult],
    report: Report,
    *,
    interrupted: str,
) -> int:
    """Write and show ``results`` as the options ask, and return the exit status.

    Raises KeyboardInterrupt behind all that, for a run that was ``interrupted``, with
    that.
    """
    from replay.verify.suite import UNREADABLE

    if options.json and not write(options.json, report.as_json()):
        return WRONG_USE
    if options.html and not write(options.html, report.as_html()):
        return WRONG_USE
    if Path("-") not in (options.json, options.html):
        report.show([result for result in results if result.verdict != UNREADABLE])
    unreadable = [result for result in results if result.verdict == UNREADABLE]
    for result in unreadable:
        refuse(result.complaint)
    if interrupted:
        raise KeyboardInterrupt(interrupted)
    if unreadable:
        return WRONG_USE
    return AS_EXPECTED if all(result.good for result in results) else DIFFERS
