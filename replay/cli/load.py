"""``replay load``: transcripts at a server, as fast as it can."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from replay.cli.common import (
    AS_EXPECTED,
    DIFFERS,
    INTERRUPTED,
    WRONG_USE,
    Commands,
    at_least,
    explain,
    seconds,
    transcript_path,
    write,
)

_DESCRIPTION = """\
Play the sender side of .smtp transcripts at a server over real sockets, in a
closed loop: N sessions are in progress at all times, and each that ends is
followed by the next transcript in turn. Replies are compared by their codes.

  replay load captures/ --target 127.0.0.1:2525 --concurrency 50 --duration 30

The pauses of the capture are left out: what a sender said goes out as soon as
all replies that stand above it in the transcript have arrived. Connections of
one file are independent sessions. Left out, with a word: a transcript in which
the server's own timers do something after more than 5 s, in which the sender
stops reading, whose world is faked, or which needs settings of its own (in its
header, other than hostname). A reply of another class than expected
ends its session, which has then failed.

Idle connections are opened first, a hundred at a time; each says EHLO and then
nothing more. They are held until the end and are lost when the server ends
them or says anything.

When the target is on this machine (127.0.0.0/8), clients come from 127.0.1.1
and its neighbours. Latencies run from connect to greeting, from the final dot
to its reply, and from connect to the end. Ctrl-C ends the run and shows what
there is so far.

Exit status: 0 all as expected, 1 sessions failed or idle connections were
lost, 2 wrong use, 130 after Ctrl-C.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("load", help="play transcripts at a server, as fast as it can")
    explain(parser, _DESCRIPTION)
    parser.add_argument(
        "paths", nargs="+", type=transcript_path, metavar="PATH", help=".smtp file or folder"
    )
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="any SMTP server")
    number = at_least(0)
    for name, kind, metavar, default, meaning in (
        ("--concurrency", at_least(1), "N", 10, "sessions in progress at all times"),
        ("--idle", number, "M", 0, "connections held beside them"),
        ("--duration", seconds, "S", 10, "seconds in which sessions are begun"),
        ("--timeout", seconds, "S", 30, "seconds a session may take"),
        ("--sessions", number, "K", 0, "end after so many sessions; 0: only after --duration"),
    ):
        text = f"{meaning} (default: {default})"
        parser.add_argument(name, type=kind, metavar=metavar, default=default, help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="results for machines; - prints")
    parser.set_defaults(command=_load)


def _load(options: argparse.Namespace) -> int:
    from mailsrv.runtime.clock import SystemClock
    from mailsrv.units import seconds_to_ns
    from replay.load import runner
    from replay.load.plan import LoadError, read_plans
    from replay.play.target import TargetError, resolve
    from replay.report import console
    from replay.report import load as load_report
    from replay.verify import suite

    amounts = runner.LoadOptions(
        concurrency=options.concurrency,
        idle=options.idle,
        duration_ns=seconds_to_ns(options.duration),
        timeout_ns=seconds_to_ns(options.timeout),
        sessions=options.sessions,
    )
    live = load_report.LiveLine(sys.stderr) if load_report.is_live(sys.stderr) else None
    try:
        plans, skipped = read_plans(suite.find(options.paths))
        target = resolve(options.target)
        outcome = runner.play(plans, target, amounts, SystemClock(), live)
    except (suite.InputError, LoadError, TargetError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return WRONG_USE
    finally:
        if live:
            live.clear()
    if options.json and not write(options.json, load_report.as_json(outcome, skipped)):
        return WRONG_USE
    if options.json != Path("-"):
        load_report.show(outcome, skipped, console.make_console())
    if outcome.interrupted:
        return INTERRUPTED
    return AS_EXPECTED if outcome.all_well else DIFFERS
