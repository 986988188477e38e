"""``replay run --cuts`` and ``--timer-edges``: a transcript played in many variants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from replay.cli.common import AS_EXPECTED, DIFFERS, WRONG_USE, refuse, write

if TYPE_CHECKING:
    from replay.play.virtual import Play


class _Told(NamedTuple):
    good: bool
    summary: dict[str, Any]
    lines: Iterable[str]


def run_cuts(paths: Sequence[Path], json_file: Path | None, play: Play | None = None) -> int:
    """Cut what the senders say in every way; ``play`` stands in for the virtual driver."""
    from replay.play import virtual
    from replay.verify import segmentation

    def one(path: Path) -> _Told:
        found = segmentation.sweep_file(path, play=play or virtual.play)
        return _Told(found.good, segmentation.summary(path, found), segmentation.told(found))

    return _sweep(paths, json_file, one)


def run_edges(paths: Sequence[Path], json_file: Path | None, play: Play | None = None) -> int:
    """Approach the deadlines; ``play`` stands in for the virtual driver."""
    from replay.play import virtual
    from replay.verify import timer_edges

    def one(path: Path) -> _Told:
        found = timer_edges.approach_file(path, play=play or virtual.play)
        return _Told(found.good, timer_edges.summary(path, found), timer_edges.told(found))

    return _sweep(paths, json_file, one)


def _sweep(paths: Sequence[Path], json_file: Path | None, one: Callable[[Path], _Told]) -> int:
    from replay.verify.suite import InputError

    status = AS_EXPECTED
    results = []
    for path in paths:
        try:
            told = one(path)
        except InputError as error:
            status = refuse(str(error))
            continue
        results.append(told.summary)
        if not told.good:
            status = max(status, DIFFERS)
        if json_file != Path("-"):
            print(f"{path}: " + "\n".join(told.lines), flush=True)
    if json_file and not write(json_file, json.dumps({"scenarios": results}, indent=2)):
        return WRONG_USE
    return status
