"""``replay run``: its options, and which of its five ways they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from replay.cli import run_target
from replay.cli.common import (
    AS_EXPECTED,
    DIFFERS,
    Commands,
    at_least,
    explain,
    output_trouble,
    refuse,
    report_is_missing,
    transcript_path,
)
from replay.cli.run_virtual import run_virtual
from replay.cli.sweeps import run_cuts, run_timer_edges

JOBS_MAX = 64
"""Processes that play side by side."""

_DESCRIPTION = """\
Play .smtp transcripts against the real mailsrv, on real sockets, in virtual
time, and tell every reply, end, instant and accepted message that is not as
the transcript expects: what was expected and when, what was observed and when,
at which line of the transcript and in which packet of the capture.

  replay run captures/                        all of them
  replay run captures/mta/stall.smtp          one
  replay run builtin:attack                   a family of the package
  replay run --update captures/mta/stall.smtp
      make what mailsrv does now the expectation, to the octet and nanosecond;
      each change is shown: read the fixes before you commit them
  replay run captures/ --failed               show only what is not as expected
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
*, a connection without expectations, a file that does not say what was
accepted. --update=create says what is open and takes nothing back.
--update=fix changes or drops what was said and does not hold, and leaves open
what is open; on a connection that is exact throughout, one reply more is a fix
too. What another server said (was:) stays as a comment where something else is
expected now. A script that could not go on to its end is left as it is. Each
file is replaced whole. Where the variable CI is set (other than to false, no,
off or 0) nobody reads the changes: --update is refused.

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
    parser.add_argument(
        "paths",
        nargs="+",
        type=transcript_path,
        metavar="PATH",
        help=".smtp file, folder, or builtin:NAME",
    )
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
    parser.add_argument(
        "--jobs",
        type=at_least(1, JOBS_MAX),
        default=1,
        metavar="N",
        help="processes that play in virtual time (1); results are the same",
    )
    parser.add_argument("--failed", action="store_true", help="show only what is not as expected")
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


def _run(options: argparse.Namespace) -> int:
    from replay.verify import suite

    if complaint := _misuse(options):
        return refuse(complaint)
    try:
        paths = suite.find(options.paths)
    except suite.InputError as error:
        return refuse(str(error))
    return _branch(options)(options, paths)


Branch = Callable[[argparse.Namespace, Sequence[Path]], int]
"""One way of running transcripts: returns the exit status."""


def _branch(options: argparse.Namespace) -> Branch:
    """The way that the options ask for."""
    if options.unused:
        return _list_unused
    if options.target or options.listen:
        return run_target.run_target
    if options.cuts:
        return run_cuts
    return run_timer_edges if options.timer_edges else run_virtual


def _misuse(options: argparse.Namespace) -> str:
    """What does not go together, as a sentence; empty if all does."""
    from replay.transcript.collection import is_installed
    from replay.verify.suite import under_ci

    if complaint := run_target.misuse(options):
        return complaint
    if options.update and under_ci():
        return (
            "--update is refused where CI is set: nobody reads there what it changes; "
            "update at your desk, read the fixes, and commit them"
        )
    if options.update and (shipped := next(filter(is_installed, options.paths), None)):
        return f"{shipped}: comes with the package; copy it, and update the copy"
    if options.jobs > 1 and (options.target or options.cuts or options.timer_edges):
        return "--jobs is for transcripts as they are written, at mailsrv; leave it out here"
    if Path("-") == options.html == options.json:
        return "--json - and --html - would both print; give one of them a file"
    if options.html and (complaint := report_is_missing()):
        return complaint
    if complaint := output_trouble(options.json, options.html):
        return complaint
    if options.html and (options.cuts or options.timer_edges):
        return "--html shows runs of transcripts as they are written; leave it out here"
    return ""


def _list_unused(options: argparse.Namespace, paths: Sequence[Path]) -> int:
    """Print the files that no test uses, in the folders that were named."""
    from replay.transcript.octets import printable
    from replay.verify.unused import find_unused

    unused = find_unused(options.paths)
    for one in unused:
        print(printable(str(one)))
    return DIFFERS if unused else AS_EXPECTED
