"""``replay shrink``: the smallest transcript that still fails."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli.common import (
    AS_EXPECTED,
    WRONG_USE,
    Commands,
    explain,
    output_trouble,
    refuse,
    transcript_path,
    write,
)
from replay.counted import counted

if TYPE_CHECKING:
    from replay.verify.shrink import Size

_DESCRIPTION = """\
Make the smallest transcript that still fails in the same way: fewer
connections, commands, octets, pauses, settings. Everything expected before the
failure holds in it, and nothing stands behind the failure.

  replay run captures/tickets/4711.smtp       differs
  replay shrink captures/tickets/4711.smtp -o captures/tickets/4711-small.smtp
"""

_EPILOG = """\
A failure is the first difference that "replay run" tells, or the leak, stall
or fault that it names. Expected instants are given up on the way, unless the
failure is about one. The transcript given is not touched.

Exit status: 0 written, 2 wrong use, or a transcript that does not fail.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("shrink", help="make the smallest transcript that still fails")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "file", type=transcript_path, metavar="FILE.smtp", help="a transcript that fails"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="SMALL.smtp",
        help="where to write it (default: FILE-small.smtp beside it)",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what was done; - prints it")
    parser.set_defaults(command=_shrink)


def _shrink(options: argparse.Namespace) -> int:
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from replay.play.fakes.world import WorldError
    from replay.report.console import make_console
    from replay.transcript import transcript
    from replay.transcript.collection import is_installed
    from replay.transcript.notation import TranscriptError
    from replay.verify import shrink, suite

    path: Path = options.file
    try:
        suite.find([path])  # its complaint names what other files are
    except suite.InputError as error:
        return refuse(str(error))
    beside = Path() if is_installed(path) else path.parent
    output: Path = options.output or beside / f"{path.stem}-small.smtp"
    if output.exists() and not options.force:
        return refuse(f"{output}: is there already; --force replaces it")
    if complaint := output_trouble(options.json, None if output.exists() else output):
        return refuse(complaint)
    console = make_console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}")
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("playing it as it is")
        try:
            scenario = transcript.load(path)
            found = shrink.shrink(
                scenario,
                path,
                on_success=lambda runs, now: bar.update(
                    task, description=f"{_words(now)}, after {runs} runs"
                ),
            )
        except TranscriptError as error:
            return refuse(str(error))
        except (shrink.NothingToShrink, WorldError) as error:
            return refuse(f"{path}: {error}")
    small = transcript.write(found.scenario).rstrip("\n")
    if not write(output, small, over_evidence=options.force):
        return WRONG_USE
    before, after = shrink.size(scenario), shrink.size(found.scenario)
    summary = {
        "path": str(path),
        "written": str(output),
        "failure": found.failure,
        "runs": found.runs,
        "whole_search": found.whole,
        "before": dataclasses.asdict(before),
        "after": dataclasses.asdict(after),
    }
    if options.json and not write(options.json, json.dumps(summary, indent=2)):
        return WRONG_USE
    if options.json == Path("-"):
        return AS_EXPECTED
    print(f"fails with: {found.failure}")
    print(f"before: {_words(before)}")
    print(f"after:  {_words(after)}, in {found.runs} runs")
    if not found.whole:
        print(f"the search ended after {shrink.RUNS_MAX} runs: shrink what it wrote once more")
    print(f"wrote {output}")
    print(f"next: replay run {output}")
    return AS_EXPECTED


def _words(size: Size) -> str:
    from replay.transcript.duration import format_ns

    counts = (size.connections, "connection"), (size.steps, "step"), (size.octets, "octet")
    told = ", ".join(counted(number, noun) for number, noun in counts)
    return f"{told}, {format_ns(size.pauses_ns)} of pauses"
