"""``replay run``: transcripts against mailsrv."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli import run_target
from replay.cli.common import AS_EXPECTED, DIFFERS, WRONG_USE, Commands, explain, refuse, write
from replay.cli.sweeps import run_cuts, run_edges

if TYPE_CHECKING:
    from replay.verify.suite import ScenarioResult

_DESCRIPTION = """\
Play .smtp transcripts against the real mailsrv, on real sockets, in virtual
time, and tell every reply, end and instant that is not as the transcript
expects: what was expected and when, what was observed and when, at which line
of the transcript and in which packet of the capture.

  replay run captures/                        all of them
  replay run captures/mta/stall.smtp          one
  replay run --update captures/mta/stall.smtp
      make what mailsrv does now the expectation, to the octet and nanosecond;
      each change is shown: read the fixes before you commit them
  replay run captures/ --json results.json    for machines
  replay run captures/ --html report.html
      one page for people: what differs, drawn, expected beside observed
  replay run --cuts captures/mta/stall.smtp
      play each with its octets cut otherwise: all at once, one by one, and in
      two at every place; what mailsrv says, how it ends and which messages it
      accepts must not depend on it
  replay run --timer-edges captures/mta/stall.smtp
      let each departure come one tick before the deadline that then holds, at
      it, and one tick after: mailsrv must give up at that tick and no other
"""

_EPILOG = """\
--update touches expectations alone: header, comments and departures stay as
they are. What says less than octets and instant is open there: S? CODE, a time
*, a connection without expectations. --update=create says what is open and
takes nothing back. --update=fix changes or drops what was said and does not
hold, and leaves open what is open; on a connection that is exact throughout,
one reply more is a fix too. A script that could not go on to its end is left
as it is. Each file is replaced whole. Where the variable CI is set (other than
to false, no, off or 0) nobody reads the changes: --update is refused.

--cuts compares with the same sender as written, without its pauses, and tells
the first way of cutting that differs, with both sides. Early talking and
unsolicited pipelining are let pass in these runs, without a greet wait: such
policies are about segmentation. Of more than 4,096 places, as many are taken
at even distances. Of several connections one at a time is cut. Left out, with
a word: a sender that stops reading; one that acts at the very instant at which
another does.

--unused looks into every folder that holds a transcript, and tells what
belongs to none: captures (NAME.pcap, NAME.delayed.pcap) and notes (NAME.toml)
without NAME.smtp, what a killed update left, and .smtp files that pytest does
not collect, because their first line is not +++. Exit status 1 if there are
any.

Exit status: 0 all as expected (or is now, by an update), 1 something differs
(also after an update that was not allowed to fix it), 2 wrong use, CI refused,
or a transcript that cannot be read, 130 after Ctrl-C, which shows what there
is so far.
"""

_UPDATE_HELP = (
    "write what was observed into the transcripts, and tell each change for review; "
    "--update=create fills in only what is open, --update=fix only puts right what does not hold"
)


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("run", help="play transcripts against mailsrv in virtual time")
    explain(parser, _DESCRIPTION + run_target.DESCRIPTION, run_target.EPILOG + "\n" + _EPILOG)
    parser.usage = "%(prog)s [OPTION]... PATH..."
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=".smtp file or folder")
    what = parser.add_mutually_exclusive_group()
    add_update(what)
    what.add_argument(
        "--unused",
        action="store_true",
        help="play nothing, and list the files that no test uses",
    )
    what.add_argument(
        "--cuts",
        action="store_true",
        help="cut what the senders say in every other way: the same must come of it",
    )
    what.add_argument(
        "--timer-edges",
        action="store_true",
        help="let the senders approach each of the server's deadlines to a tick",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results for machines; - prints")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page for people; - prints")
    run_target.add_target(parser)
    parser.set_defaults(command=_run)


def add_update(group: argparse._ActionsContainer) -> None:
    """``--update``, with kinds only behind "=": what follows a space is a path."""
    for name, kinds, meaning in (
        ("", ("create", "fix"), _UPDATE_HELP),
        ("=create", ("create",), argparse.SUPPRESS),
        ("=fix", ("fix",), argparse.SUPPRESS),
        ("=create,fix", ("create", "fix"), argparse.SUPPRESS),
        ("=fix,create", ("create", "fix"), argparse.SUPPRESS),
    ):
        group.add_argument(
            f"--update{name}",
            action="store_const",
            const=kinds,
            default=(),
            dest="update",
            help=meaning,
        )


def _list_unused(paths: Sequence[Path]) -> int:
    from replay.report.console import printable
    from replay.verify.unused import find_unused

    unused = find_unused(paths)
    for one in unused:
        print(printable(str(one)))
    return DIFFERS if unused else AS_EXPECTED


def _run(options: argparse.Namespace) -> int:
    from rich.progress import track

    from mailsrv.runtime.clock import SystemClock
    from replay.report import console
    from replay.verify import suite

    if complaint := run_target.misused(options):
        return refuse(complaint)
    try:
        paths = suite.find(options.paths)
    except suite.InputError as error:
        return refuse(str(error))
    if options.unused:
        return _list_unused(options.paths)
    if options.update and suite.under_ci():
        return refuse(
            "--update is refused where CI is set: nobody reads there what it changes; "
            "update at your desk, read the fixes, and commit them"
        )
    if Path("-") == options.html == options.json:
        return refuse("--json - and --html - would both print; give one of them a file")
    if options.html and (options.cuts or options.timer_edges):
        return refuse("--html shows runs of transcripts as they are written; leave it out here")
    if options.target:
        return run_target.run_target(options, paths)
    if options.cuts:
        return run_cuts(paths, options.json)
    if options.timer_edges:
        return run_edges(paths, options.json)
    keep = options.html is not None
    playing = suite.run_all(paths, SystemClock(), updating=options.update, keep=keep)
    if keep:
        from replay.report.html.page import without_what_is_not_drawn

        playing = without_what_is_not_drawn(playing)
    errors = console.console(stderr=True)
    plain = not errors.is_terminal or errors.color_system is None
    results: list[suite.ScenarioResult] = []
    interrupted = False
    watched = track(playing, "playing", len(paths), console=errors, transient=True, disable=plain)
    try:
        results.extend(watched)
    except KeyboardInterrupt:
        interrupted = True  # what has been changed by then must still be told
    if options.json and not write(options.json, console.as_json(results)):
        return WRONG_USE
    if options.html and not _write_page(options.html, results):
        return WRONG_USE
    unreadable = [result for result in results if result.verdict == suite.UNREADABLE]
    if Path("-") not in (options.json, options.html) and len(results) > len(unreadable):
        console.show(results, console.console())
    for result in unreadable:
        refuse(result.complaint)
    if interrupted:
        raise KeyboardInterrupt
    if unreadable:
        return WRONG_USE
    return AS_EXPECTED if all(result.good for result in results) else DIFFERS


def _write_page(path: Path, results: Sequence[ScenarioResult]) -> bool:
    from replay.report.html.page import page

    return write(path, page(results))
