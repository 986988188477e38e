"""``replay run --cuts`` and ``--timer-edges``: a transcript played in many variants."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from replay.cli.common import AS_EXPECTED, DIFFERS, WRONG_USE, refuse, write

if TYPE_CHECKING:
    from replay.play.virtual_run import Play


class _Swept(NamedTuple):
    """What came of one transcript: ``summary`` for the JSON, ``lines`` for people."""

    good: bool
    summary: dict[str, Any]
    lines: Iterable[str]


def run_cuts(options: argparse.Namespace, paths: Sequence[Path], play: Play | None = None) -> int:
    """Cut the senders' octets in every way; ``play`` is the virtual driver if left out."""
    from replay.verify import segmentation

    def sweep(path: Path, play: Play) -> _Swept:
        found = segmentation.sweep_file(path, play=play)
        return _Swept(found.good, segmentation.summary(path, found), segmentation.describe(found))

    return _sweep_all(options, paths, play, sweep)


def run_timer_edges(
    options: argparse.Namespace, paths: Sequence[Path], play: Play | None = None
) -> int:
    """Approach the server's deadlines; ``play`` is the virtual driver if left out."""
    from replay.verify import timer_edges

    def sweep(path: Path, play: Play) -> _Swept:
        found = timer_edges.approach_file(path, play=play)
        return _Swept(found.good, timer_edges.summary(path, found), timer_edges.describe(found))

    return _sweep_all(options, paths, play, sweep)


def _sweep_all(
    options: argparse.Namespace,
    paths: Sequence[Path],
    play: Play | None,
    sweep: Callable[[Path, Play], _Swept],
) -> int:
    from replay.play.virtual_run import VirtualDriver

    with VirtualDriver() as driver:
        return _swept_by(options, paths, lambda path: sweep(path, play or driver))


def _swept_by(
    options: argparse.Namespace, paths: Sequence[Path], sweep: Callable[[Path], _Swept]
) -> int:
    from replay.report.console import SCHEMA
    from replay.verify.suite import InputError

    status = AS_EXPECTED
    results: list[dict[str, Any]] = []
    for path in paths:
        try:
            swept = sweep(path)
        except InputError as error:
            status = refuse(str(error))
            continue
        except KeyboardInterrupt:
            counted = f"{len(results)} of {len(paths)} transcripts were played"
            raise KeyboardInterrupt(counted) from None
        results.append(swept.summary)
        if not swept.good:
            status = max(status, DIFFERS)
        if options.json != Path("-") and not (options.failed and swept.good):
            print(f"{path}: " + "\n".join(swept.lines), flush=True)
    document = {"schema": SCHEMA, "scenarios": results}
    if options.json and not write(options.json, json.dumps(document, indent=2)):
        return WRONG_USE
    return status
