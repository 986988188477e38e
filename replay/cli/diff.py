"""``replay diff``: the same senders at two configurations, or at two servers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli.common import (
    AS_EXPECTED,
    DIFFERS,
    WRONG_USE,
    Commands,
    explain,
    output_trouble,
    refuse,
    seconds,
    transcript_path,
    write,
)

if TYPE_CHECKING:
    from replay.play.virtual_run import Play
    from replay.report.diff import Comparison
    from replay.transcript.script import Scenario
    from replay.verify.diff_runs import ComparedPolicy
    from replay.verify.divergence import Divergence

SPEED_MAX = 1_000_000.0
TOLERANCE_S_DEFAULT = 0.1
"""Real servers differ by so much from one moment to the next."""

_DESCRIPTION = """\
Play the same senders twice and tell where replies, codes or timing part, and
whom that hurts: who loses mail, who would have to come again, who is slower.
What the transcripts expect is not looked at.

Two configurations of mailsrv, in virtual time:

  replay diff captures/ --policy now.toml --policy tighter.toml
  replay diff captures/ --policy 'idle_timeout_s = 60'

A policy is a configuration file of mailsrv, or settings written out. What it
says is laid over the settings that each transcript brings along, also where a
transcript is about that very setting (--keep-own: it keeps those); what it does
not say stays as the transcript has it. With one --policy, B, A is each
transcript as it is. Host name and keys about the process, such as listen, are
left out. The world (DNS, reputation, delivery) is the transcript's: a name
that is not scripted there does not exist.

Two servers, in real time, one after the other:

  replay diff captures/mta --target 127.0.0.1:2525 --target mx.example.org:25

Host names, queue ids and dates in replies are not compared there; texts and
times otherwise are.

A capture (FILE.pcap) is imported as it is played. A sender does each thing
when the reply it waited for has come, but it cannot change its mind: what
stands behind a refusal after which no sender would go on so counts for nothing.
"""

_EPILOG = """\
Exit status: 0 no difference, 1 something differs, 2 wrong use, or input that
cannot be read, 130 after Ctrl-C, which shows what there is so far.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("diff", help="whom another configuration or server would hurt")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "paths",
        nargs="+",
        type=transcript_path,
        metavar="PATH",
        help=".smtp file, folder, or capture",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="FILE|SETTINGS",
        help="A and B, or B alone: a configuration of mailsrv, or 'key = value'",
    )
    which.add_argument(
        "--target", action="append", default=[], metavar="HOST:PORT", help="A and B: any servers"
    )
    parser.add_argument(
        "--keep-own", action="store_true", help="a transcript's own settings win over a policy's"
    )
    parser.add_argument(
        "--tolerance",
        type=seconds,
        metavar="S",
        help="seconds that replies may lie apart (default: 0 for policies, "
        f"{TOLERANCE_S_DEFAULT:g} for servers)",
    )
    parser.add_argument(
        "--speed", type=_speed, default=1, metavar="X", help="of the senders at real servers"
    )
    parser.add_argument(
        "--patience", type=seconds, default=30, metavar="S", help="with a real server (default: 30)"
    )
    parser.add_argument(
        "--max-wait", type=seconds, metavar="S", help="the longest that a sender waits by itself"
    )
    parser.add_argument("--all", action="store_true", help="show every parting and every sender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results for machines; - prints")
    parser.set_defaults(command=_diff)


def _speed(text: str) -> float:
    number = seconds(text)
    if number > SPEED_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: takes a number from 0.001 to {SPEED_MAX:g}")
    return number


Differ = Callable[[str, "Scenario"], "list[Divergence]"]
"""Plays one scenario twice."""


def _diff(options: argparse.Namespace) -> int:
    from replay.play.target import TargetError
    from replay.play.virtual_run import VirtualDriver
    from replay.report import console, diff
    from replay.verify.diff_runs import PolicyError
    from replay.verify.suite import InputError

    if complaint := _misuse(options) or output_trouble(options.json):
        return refuse(complaint)
    partings: list[Divergence] = []
    complaints: list[str] = []
    interrupted = False
    try:
        paths = _find(options.paths)
        with VirtualDriver() as driver:
            differ, a, b, notes = (
                _servers(options) if options.target else _policies(options, driver)
            )
            try:
                for found in _all(paths, differ, complaints, at_servers=bool(options.target)):
                    partings += found
            except KeyboardInterrupt:
                interrupted = True
    except (InputError, PolicyError, TargetError) as error:
        return refuse(str(error).replace("\n", "\nreplay: "))
    comparison = diff.Comparison(a, b, partings, notes)
    if options.json and not write(options.json, diff.as_json(comparison)):
        return WRONG_USE
    if options.json != Path("-") and partings:
        diff.show(comparison, console.make_console(), every=options.all)
    for complaint in complaints:
        refuse(complaint)
    if interrupted:
        raise KeyboardInterrupt
    return _status(comparison, complaints)


def _status(comparison: Comparison, complaints: Sequence[str]) -> int:
    if complaints:
        return WRONG_USE
    return DIFFERS if comparison.differs else AS_EXPECTED


def _misuse(options: argparse.Namespace) -> str:
    if options.target and len(options.target) != 2:
        return "diff takes --target twice: A and B"
    if len(options.policy) > 2:
        return "diff takes --policy once or twice: A and B, or B alone"
    if options.target and options.keep_own:
        return "--keep-own is about --policy: a real server has its own settings"
    if options.policy and (options.speed != 1 or options.max_wait is not None):
        return "--speed and --max-wait are about --target: virtual time takes no time"
    return ""


def _find(paths: Sequence[Path]) -> list[Path]:
    """Transcripts, those in folders included, and captures that are named.  Raises InputError."""
    from replay.verify import suite

    found: list[Path] = []
    for path in paths:
        if path.is_file() and path.suffix != ".smtp":
            found.append(path)
        else:
            found += suite.find([path])
    return list(dict.fromkeys(found))


def _all(
    paths: Sequence[Path], differ: Differ, complaints: list[str], *, at_servers: bool
) -> Iterator[list[Divergence]]:
    """The divergences of each file in turn; a file that cannot be used adds a complaint."""
    from rich.progress import track

    from replay.capture.oddity import CaptureError
    from replay.load.plan import RECEIVES
    from replay.play.fakes.world import WorldError
    from replay.report import console
    from replay.transcript.notation import TranscriptError

    errors = console.make_console(stderr=True)
    hidden = not console.can_redraw(errors)
    watched = track(paths, "playing twice", console=errors, transient=True, disable=hidden)
    for path in watched:
        try:
            name = "/".join(path.with_suffix("").parts[-2:])
            scenario = _read(path)
            if at_servers and scenario.plays_receivers:
                print(f"replay: {path}: left out: {RECEIVES}", file=sys.stderr)
                continue
            yield differ(name, scenario)
        except (TranscriptError, CaptureError) as error:
            complaints.append(str(error))
        except WorldError as error:
            complaints.append(f"{path}: {error}")
        except OSError as error:
            complaints.append(f"{path}: {error.strerror or error}")


def _read(path: Path) -> Scenario:
    """A transcript's or a capture's scenario.  Raises TranscriptError, CaptureError or OSError."""
    from replay.transcript import transcript

    if path.suffix == ".smtp":
        return transcript.parse(transcript.read_text(path), str(path))
    from replay.convert.importer import import_capture

    return import_capture(path).scenario


def _policies(options: argparse.Namespace, play: Play) -> tuple[Differ, str, str, list[str]]:
    """A function that has ``play`` play one scenario under both, their names, and notes on them.

    Raises PolicyError.
    """
    from mailsrv.units import seconds_to_ns
    from replay.verify import diff_runs

    read = [diff_runs.read_policy(text) for text in options.policy]
    a, b = read if len(read) == 2 else (diff_runs.OWN, read[0])
    tolerance_ns = seconds_to_ns(options.tolerance or 0)

    def differ(name: str, scenario: Scenario) -> list[Divergence]:
        return diff_runs.diff_policies(
            *(name, scenario, a, b),
            keep_own=options.keep_own,
            tolerance_ns=tolerance_ns,
            play=play,
        )

    return differ, a.described(b), b.described(a), _policy_notes(a, b)


def _policy_notes(a: ComparedPolicy, b: ComparedPolicy) -> list[str]:
    notes = []
    if ignored := list(dict.fromkeys([*a.ignored, *b.ignored])):
        notes.append(f"left out, since senders here meet nothing of it: {', '.join(ignored)}")
    if asking := list(dict.fromkeys([*a.asks_dns, *b.asks_dns])):
        notes.append(
            f"{', '.join(asking)}: DNS is each transcript's own; what is not scripted there does "
            "not exist"
        )
    return notes


def _servers(options: argparse.Namespace) -> tuple[Differ, str, str, list[str]]:
    """As ``_policies``, for two servers.  Raises TargetError."""
    from mailsrv.runtime.clock import SystemClock
    from mailsrv.units import seconds_to_ns
    from replay.play.realtime_player import RealtimeOptions
    from replay.play.target import resolve
    from replay.verify import diff_runs

    first, second = (resolve(text) for text in options.target)
    playing = RealtimeOptions(
        speed=options.speed,
        wait_max_ns=None if options.max_wait is None else seconds_to_ns(options.max_wait),
        patience_ns=seconds_to_ns(options.patience),
    )
    clock = SystemClock()
    tolerance_s = TOLERANCE_S_DEFAULT if options.tolerance is None else options.tolerance

    def differ(name: str, scenario: Scenario) -> list[Divergence]:
        return diff_runs.diff_targets(
            name,
            scenario,
            (first, second),
            playing,
            clock,
            tolerance_ns=seconds_to_ns(tolerance_s),
        )

    return differ, first.name, second.name, []
