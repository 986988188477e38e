"""What ``replay run`` does with results, in virtual time and at a target: files, table, status."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replay.cli.common import AS_EXPECTED, DIFFERS, WRONG_USE, refuse, write

if TYPE_CHECKING:
    from replay.verify.suite import ScenarioResult


class Report(NamedTuple):
    """The three forms of results: ``as_json`` and ``as_html`` return a document, ``show`` prints
    those that could be read."""

    as_json: Callable[[], str]
    as_html: Callable[[], str]
    show: Callable[[Sequence[ScenarioResult]], None]


def conclude(
    options: argparse.Namespace,
    results: Sequence[ScenarioResult],
    report: Report,
    *,
    interrupted: bool,
) -> int:
    """Write and show ``results`` as the options ask, and return the exit status.

    Raises KeyboardInterrupt behind all that, for a run that was ``interrupted``.
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
        raise KeyboardInterrupt
    if unreadable:
        return WRONG_USE
    return AS_EXPECTED if all(result.good for result in results) else DIFFERS
