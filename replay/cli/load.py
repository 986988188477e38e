"""``replay load``: transcripts at a server, as fast as it can or at a rate."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli.common import (
    AS_EXPECTED,
    DIFFERS,
    INTERRUPTED,
    WRONG_USE,
    Commands,
    at_least,
    explain,
    output_trouble,
    refuse,
    report_is_missing,
    seconds,
    transcript_path,
    write,
)

if TYPE_CHECKING:
    from replay.load.arrivals import Rate
    from replay.load.condition import Condition, Verdict
    from replay.load.job import LoadJob, LoadOptions
    from replay.load.result import LoadResult

CONCURRENCY = 10
LATE_MAX_S = 0.01

_DESCRIPTION = """\
Play the sender side of .smtp transcripts at a server over real sockets, and
measure how long it takes to answer. Replies are compared by their codes.

  replay load captures/ --target 127.0.0.1:2525 --concurrency 50
      a closed loop: 50 sessions are in progress at all times, and each that
      ends is followed by the next transcript in turn
  replay load captures/ --target 127.0.0.1:2525 --rate 200
      an open loop: 200 sessions begin in a second, whether the server has
      answered the others or not
  replay load captures/ --target 127.0.0.1:2525 --rate 200 \\
      --fail-if 'p99(dot) > 50ms' --fail-if 'failed > 1%' --html load.html
  replay load captures/ --target 127.0.0.1:2525 --find-limit 'p99(dot) <= 10ms'
      the highest rate at which that holds

The pauses of the capture are left out: what a sender said goes out as soon as
all replies that stand above it in the transcript have arrived. Connections of
one file are independent sessions. Left out, with a word: a transcript in which
the server's own timers do something after more than 5 s, in which the sender
stops reading, whose world is faked, or which needs settings of its own (in its
header, other than hostname); without --tls also one that speaks TLS. A reply
of another class than expected ends its session, which has then failed.
"""

_EPILOG = """\
--rate takes N, evenly; A-B, rising or falling over the run; a list of these
with commas, each for an equal part of it; poisson: before any of them, for
arrivals independent of each other; or captures, the instants at which the
transcripts' connections were opened, captures*4 four times as fast.

In an open loop response times run from the instant at which a session was due
by its schedule, so that a server that makes others wait does not look better
for it; service times run from when something was really sent. How late
sessions began is told; where one of a hundred began more than --late-max late,
or some never, the run has failed: its figures are of another load.

Conditions of --fail-if and --find-limit: pN(STEP) or max(STEP), with STEP one
of connect, tls, greeting, a command such as EHLO or RCPT, dot (the reply to a
whole message), session, or late; pN(STEP, service) for service times; failed,
a number or with %; sessions/s, messages/s. Then <, <=, > or >= and a number,
for durations in us, ms or s. A percentile, or a percentage, takes samples of
which some lie beyond it: p99 300, p99.9 and 0.1% 3000, anything else 20. Where
there are fewer and the condition of --fail-if did not come true, it cannot be
judged, and the exit status is 1: without evidence nothing has passed. Counts,
max and rates are judged however few they are of.

Sessions/s and messages/s are of an open loop what ended well, from the
beginning until the last good session ended, which may be long after the last
was begun; of a closed loop what ended well while sessions were begun.

--find-limit takes an upper bound and begins at --rate N (50, left out): it
doubles the rate until the bound breaks and halves the gap until it is a
twentieth, in at most 40 steps. Each begins sessions for --duration, or longer
until there are enough samples, but 60 s at most: lower rates are not tried. It
has no page and no histograms: --html, --hgrm, --fail-if and --sessions do not
go with it. Ctrl-C, or a target that dies, ends it with what was found so far.

--tls starttls lets every session ask for STARTTLS first, --tls implicit speaks
TLS from the first octet (port 465); transcripts that do so by themselves are
played as they are. Certificates are not verified.

Idle connections are opened first, a hundred at a time; each says EHLO and then
nothing more. They are held until the end and are lost when the server ends
them or says anything. When the target is on this machine (127.0.0.0/8),
clients come from 127.0.1.1 and its neighbours. Ctrl-C ends the run and shows
what there is so far.

Exit status: 0 all as expected, 1 sessions failed, idle connections were lost,
the schedule was not kept, a condition of --fail-if came true or could not be
judged, or no rate was found at which --find-limit holds, 2 wrong use or no
connection to the target, 130 after Ctrl-C.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("load", help="play transcripts at a server, to load it")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.usage = "%(prog)s PATH... --target HOST:PORT [OPTION]..."
    parser.add_argument(
        "paths", nargs="+", type=transcript_path, metavar="PATH", help=".smtp file or folder"
    )
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="any SMTP server")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--concurrency",
        type=at_least(1),
        metavar="N",
        help=f"sessions in progress at all times (default: {CONCURRENCY})",
    )
    how.add_argument("--rate", metavar="RATE", help="sessions begun in a second; see below")
    parser.add_argument(
        "--open-max",
        type=at_least(1),
        metavar="N",
        help="with --rate: connections open at one time (default: 10000, or what may be open)",
    )
    parser.add_argument(
        "--late-max",
        type=seconds,
        metavar="S",
        help=f"with --rate: lateness of 99 in 100 that is let pass (default: {LATE_MAX_S})",
    )
    number = at_least(0)
    for name, kind, metavar, default, meaning in (
        ("--idle", number, "M", 0, "connections held beside them"),
        ("--duration", seconds, "S", 10, "seconds in which sessions are begun"),
        ("--timeout", seconds, "S", 30, "seconds a session may take"),
        ("--sessions", number, "K", 0, "end after so many sessions; 0: only after --duration"),
        ("--workers", at_least(1), "N", 1, "processes that make the load; more than 64 are 64"),
        ("--clients", at_least(1), "N", 1000, "client addresses, where the target is on 127/8"),
    ):
        text = f"{meaning} (default: {default})"
        parser.add_argument(name, type=kind, metavar=metavar, default=default, help=text)
    parser.add_argument("--tls", choices=("starttls", "implicit"), help="speak TLS")
    _add_lists(parser)
    parser.add_argument(
        "--find-limit",
        metavar="COND",
        help="search the highest --rate at which this holds; see below",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results for machines; - prints")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page for people; - prints")
    parser.add_argument("--hgrm", type=Path, metavar="FOLDER", help="histograms as .hgrm files")
    parser.set_defaults(command=_load)


def _add_lists(parser: argparse.ArgumentParser) -> None:
    for name, metavar, meaning in (
        ("--weight", "PATTERN=N", "play transcripts of such names N times as often; repeatable"),
        ("--fail-if", "COND", "exit with 1 where this comes true; repeatable"),
    ):
        parser.add_argument(name, action="append", default=[], metavar=metavar, help=meaning)


@dataclass(frozen=True)
class _Task:
    """What the options ask for, checked."""

    job: LoadJob
    skipped: list[str]
    conditions: list[Condition]
    limit: Condition | None


def _load(options: argparse.Namespace) -> int:
    from replay.load.plan import LoadError
    from replay.play.target import TargetError
    from replay.verify import suite

    if complaint := _misuse(options):
        return refuse(complaint)
    try:
        task = _task(options)
        if task.limit:
            return _find_limit(options, task, task.limit)
        return _conclude(options, task, _play(options, task.job))
    except (suite.InputError, LoadError, TargetError) as error:
        return refuse(str(error))


def _misuse(options: argparse.Namespace) -> str:
    if Path("-") == options.html == options.json:
        return "--json - and --html - would both print; give one of them a file"
    if options.find_limit and (options.html or options.hgrm or options.fail_if or options.sessions):
        return "--find-limit makes many runs; --html, --hgrm, --fail-if and --sessions are of one"
    if options.find_limit and options.concurrency:
        return "--find-limit makes runs at a rate; --concurrency is of a closed loop"
    if not (options.rate or options.find_limit) and (options.open_max or options.late_max):
        given = "--open-max" if options.open_max else "--late-max"
        return f"{given} is of an open loop; it goes with --rate or --find-limit"
    if options.html and (complaint := report_is_missing()):
        return complaint
    if options.hgrm and (complaint := _folder_trouble(options.hgrm)):
        return complaint
    return output_trouble(options.json, options.html)


def _folder_trouble(folder: Path) -> str:
    """Why histograms cannot be written there; the rule is that of results in one file."""
    if folder.is_dir():
        return ""
    if folder.exists():
        return f"{folder}: histograms are many files; name a folder"
    return output_trouble(folder)


def _task(options: argparse.Namespace) -> _Task:
    """Raises LoadError, TargetError, InputError."""
    from replay.load import arrivals, condition, mix
    from replay.load.job import LoadJob
    from replay.load.plan import LoadError, read_plans
    from replay.play.target import resolve
    from replay.verify import suite

    conditions = [condition.parse(text) for text in options.fail_if]
    limit = condition.parse(options.find_limit) if options.find_limit else None
    rate = arrivals.parse(options.rate) if options.rate else None
    if limit and rate and (len(rate.segments) != 1 or rate.segments[0][0] != rate.segments[0][1]):
        raise LoadError("--find-limit begins at a --rate that is one number")
    weights = [mix.parse_weight(text) for text in options.weight]
    target = resolve(options.target)
    plans, skipped = read_plans(suite.find(options.paths), options.tls or "")
    if not plans:
        raise LoadError(f"nothing to play: {_left_out(skipped)}")
    job = LoadJob(mix.mixed(plans, weights), target, _amounts(options, rate))
    return _Task(job, skipped, conditions, limit)


def _left_out(skipped: Sequence[str]) -> str:
    """That all was, and why, as far as a sentence tells."""
    if len(skipped) == 1:
        return f"left out: {skipped[0]}"
    return f"{len(skipped):,} transcripts or connections were left out, the first: {skipped[0]}"


def _amounts(options: argparse.Namespace, rate: Rate | None) -> LoadOptions:
    from mailsrv.units import seconds_to_ns
    from replay.load.job import OPEN_MAX, LoadOptions
    from replay.load.runner import connections_allowed

    return LoadOptions(
        concurrency=options.concurrency or CONCURRENCY,
        idle=options.idle,
        duration_ns=seconds_to_ns(options.duration),
        timeout_ns=seconds_to_ns(options.timeout),
        sessions=options.sessions,
        rate=rate,
        open_limit=options.open_max or connections_allowed(options.idle, OPEN_MAX),
        tls=options.tls or "",
        clients=options.clients,
        lateness_max_ns=seconds_to_ns(options.late_max or LATE_MAX_S),
    )


def _play(options: argparse.Namespace, job: LoadJob) -> LoadResult:
    """Run the load in processes, and show on a terminal how it goes.  Raises LoadError."""
    from mailsrv.runtime.clock import SystemClock
    from replay.load import workers
    from replay.report.console import can_redraw, make_console

    errors = make_console(stderr=True)
    with ExitStack() as stack:
        watcher = workers.LoadWatcher()
        if can_redraw(errors):
            from replay.report.load_live import LoadView

            watcher = stack.enter_context(LoadView(errors, job.interval_ns))
        return workers.play(job, SystemClock(), options.workers, watcher)


def _conclude(options: argparse.Namespace, task: _Task, outcome: LoadResult) -> int:
    """Show and write what came of a run; returns the exit status.  Raises LoadError for one in
    which no session was due."""
    from replay.load import condition
    from replay.load.plan import LoadError
    from replay.report import console, load

    if not (outcome.tally.begun or outcome.unbegun or outcome.interrupted):
        raise LoadError("nothing was played: no session was due in this --duration at this --rate")
    verdicts = condition.verdicts(task.conditions, outcome)
    documents: list[tuple[Path | None, Callable[[], str]]] = [
        (options.json, lambda: load.as_json(outcome, task.skipped, verdicts)),
        (options.html, lambda: _page(outcome, task.skipped, verdicts)),
    ]
    written = [write(path, make()) for path, make in documents if path]
    if Path("-") not in (options.json, options.html):
        output = console.make_console()
        load.show(outcome, task.skipped, output, verdicts)
    if options.hgrm:
        load.write_hgrm(outcome.tally, options.hgrm)
    if not all(written):
        return WRONG_USE
    if outcome.interrupted:
        return INTERRUPTED
    passed = all(verdict.passes for verdict in verdicts)
    return AS_EXPECTED if outcome.all_well and passed else DIFFERS


def _page(outcome: LoadResult, skipped: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    from replay.report.html.load_page import page

    return page(outcome, skipped, verdicts)


def _find_limit(options: argparse.Namespace, task: _Task, condition: Condition) -> int:
    """Search the highest rate at which ``condition`` holds.  Raises LoadError."""
    from replay.load import arrivals, limit
    from replay.report import console, load, load_words

    output = console.make_console(stderr=options.json == Path("-"))
    amounts = task.job.options

    search = limit.search_for(condition, task.job.plans, amounts.duration_ns)
    first = search.first_rate(amounts.rate.segments[0][0] if amounts.rate else None)

    def run_at(per_s: float) -> LoadResult:
        rate, step_ns = arrivals.constant(per_s), search.step_ns(per_s)
        at_rate = replace(amounts, rate=rate, duration_ns=step_ns)
        return _play(options, replace(task.job, options=at_rate))

    def tell(sentence: str, style: str = "") -> None:
        output.print(sentence, style=style, soft_wrap=True, highlight=False, markup=False)

    tell(load_words.limit_begin(search, first))
    found = limit.find(search, run_at, first, lambda step: tell(load_words.limit_step(step)))
    tell(load_words.limit_sum(found), "bold")
    document = load.as_json(found.best.result, task.skipped, (), found) if options.json else ""
    if options.json and not write(options.json, document):
        return WRONG_USE
    if found.trouble:
        return refuse(found.trouble)
    if found.interrupted:
        return INTERRUPTED
    return AS_EXPECTED if found.rate_per_s else DIFFERS
