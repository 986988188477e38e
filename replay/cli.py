"""The command line of ``replay``."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replay.cuts import Play

AS_EXPECTED, DIFFERS, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
READER_GONE = 141
"""What a shell says of a program whose reader has left (128 + SIGPIPE)."""

_EPILOG = """\
From a tcpdump of a sender to a test:

  replay show FILE.pcap                                   what is in it
  replay import FILE.pcap -o captures/FAMILY/NAME         make a transcript of it
  replay run captures/FAMILY/NAME.smtp                    where does mailsrv differ?
  replay run --update captures/FAMILY/NAME.smtp           make what it does now the expectation

'replay COMMAND --help' tells about each.

Exit status: 0 all as expected, 1 something differs, 2 wrong use or unreadable
input, 130 after Ctrl-C.
"""

_SHOW_DESCRIPTION = """\
Show what is in a capture (pcap or pcapng): its SMTP sessions, and all that is
odd about them, by packet. With --session, draw one as a ladder: who said what,
when, in which packet; silences are drawn, and what was sent before a reply
could have been seen is marked as proven early.

  replay show stall.pcap                  the sessions
  replay show stall.pcap --session 2      the ladder of the second
  replay show stall.pcap --json all.json  all octets, segments, times, oddities
"""

_SHOW_EPILOG = """\
A capture of which only a part is usable is shown for that part, and says so.

Exit status: 0 shown, 2 wrong use, an unreadable file, or no SMTP session in
it.
"""

_IMPORT_DESCRIPTION = """\
Make a .smtp transcript of a capture, and put a copy of the capture beside it
as the evidence.

What the sender did is kept octet by octet, each act hung on the reply it
waited for. What is expected is what the recorded server answered: by reply
code, or to the octet where it was mailsrv, queue ids aside; at any time.

  replay import stall.pcap -o captures/mta/stall
      writes captures/mta/stall.smtp and captures/mta/stall.pcap
  replay run captures/mta/stall.smtp
      then tells where mailsrv answers otherwise
"""

_IMPORT_EPILOG = """\
What cannot be used of the capture is told, packet by packet; the rest is used.

Exit status: 0 written, 2 wrong use, an unreadable capture, no SMTP in it, or
files in the way.
"""

_RUN_DESCRIPTION = """\
Play .smtp transcripts against the real mailsrv, on real sockets, in virtual
time, and tell every reply, end and instant that is not as the transcript
expects: what was expected and when, what was observed and when, at which line
of the transcript and in which packet of the capture.

  replay run captures/                        all of them
  replay run captures/mta/stall.smtp          one
  replay run --update captures/mta/stall.smtp
      make what mailsrv does now the expectation, to the octet and nanosecond;
      each change is shown: read it before you commit it
  replay run captures/ --json results.json    for machines
  replay run --cuts captures/mta/stall.smtp
      play each with its octets cut otherwise: all at once, one by one, and in
      two at every place; what mailsrv says, how it ends and which messages it
      accepts must not depend on it
"""

_RUN_EPILOG = """\
--update touches expectations alone: header, comments and departures stay as
they are. A script that could not go on to its end is left as it is.

--cuts compares with the same sender as written, without its pauses, and tells
the first way of cutting that differs, with both sides. Early talking and
unsolicited pipelining are let pass in these runs, without a greet wait: such
policies are about segmentation. Of more than 4,096 places, as many are taken
at even distances. Of several connections one at a time is cut. Left out, with
a word: a sender that stops reading; one that acts at the very instant at which
another does.

Exit status: 0 all as expected (or updated), 1 something differs, 2 wrong use
or a transcript that cannot be read, 130 after Ctrl-C, which shows what there
is so far.
"""

NUMBER_MAX = 1_000_000_000
"""For counts and seconds on the command line."""

_LOAD_DESCRIPTION = """\
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has an arrow
    try:
        try:
            options = _parser().parse_args(arguments)
            command: Callable[[argparse.Namespace], int] = options.command
            return command(options)
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, where failing is still told well
    except KeyboardInterrupt:
        print("replay: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return READER_GONE
    except OSError as error:
        _forget_output()
        return _refuse(f"{error.filename or 'the output'}: {error.strerror or error}")
    except ModuleNotFoundError as error:
        print(
            f"replay: needs {error.name}, which is not installed: pip install 'mailsrv[replay]'",
            file=sys.stderr,
        )
        return WRONG_USE


def _forget_output() -> None:
    """What was not written yet cannot be: keep Python from trying again on its way out."""
    with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay",
        description="Turns captured senders into exact tests, and into load.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_show(commands.add_parser("show", help="show what is in a capture"))
    _add_import(commands.add_parser("import", help="make a transcript of a capture"))
    _add_run(commands.add_parser("run", help="play transcripts against mailsrv in virtual time"))
    _add_load(commands.add_parser("load", help="play transcripts at a server, as fast as it can"))
    return parser


def _explain(parser: argparse.ArgumentParser, description: str, epilog: str = "") -> None:
    """Texts that are laid out already."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = description, epilog


def _add_show(parser: argparse.ArgumentParser) -> None:
    _explain(parser, _SHOW_DESCRIPTION, _SHOW_EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE", help="a capture: pcap or pcapng")
    parser.add_argument("--session", type=_at_least(1), metavar="N", help="draw this one, from 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all of it; - prints it alone")
    parser.set_defaults(command=_show)


def _show(options: argparse.Namespace) -> int:
    from replay import report, show
    from replay.conversation import read_capture
    from replay.oddity import CaptureError
    from replay.summary import summary

    try:
        capture = read_capture(options.file)
    except CaptureError as error:
        return _refuse(str(error))
    found = len(capture.conversations)
    if options.session is not None and options.session > found:
        return _refuse(f"{options.file}: there is no session {options.session}; it has {found}")
    if options.json and not _write(options.json, json.dumps(summary(capture), indent=2)):
        return WRONG_USE
    if options.json == Path("-"):
        return AS_EXPECTED
    if options.session is None:
        show.show_sessions(capture, report.console())
    else:
        show.show_ladder(capture.conversations[options.session - 1], report.console())
    if not found:
        return _refuse(f"{options.file}: no SMTP session is in it")
    return AS_EXPECTED


def _add_import(parser: argparse.ArgumentParser) -> None:
    _explain(parser, _IMPORT_DESCRIPTION, _IMPORT_EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE.pcap", help="the capture (or pcapng)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="captures/FAMILY/NAME",
        required=True,
        help="where to put NAME.smtp and NAME.pcap",
    )
    parser.add_argument("--session", type=_at_least(1), metavar="N", help="this one only, from 1")
    parser.add_argument("--story", metavar="TEXT", help="what it shows, in one line")
    parser.add_argument("--source", metavar="TEXT", help="where it came from, in one line")
    parser.add_argument(
        "--delayed",
        type=Path,
        metavar="FILE.pcap",
        help="the same sender recorded again, with each reply held back: what moved with the "
        "replies waited for them",
    )
    parser.add_argument(
        "--anchor",
        choices=("reply", "recorded"),
        default="reply",
        help="hang departures on the replies they waited for (default), or on the recorded times, "
        "at which mailsrv must then answer too",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> int:
    from replay.filing import FilingError, evidence, file_capture, settles
    from replay.importer import import_capture
    from replay.oddity import CaptureError, told

    recorded_times = options.anchor == "recorded"
    try:
        imported = import_capture(
            options.file,
            session=options.session,
            delayed=options.delayed,
            recorded_times=recorded_times,
        )
        written = file_capture(
            imported,
            options.output,
            options.file,
            options.delayed,
            story=options.story,
            source=options.source,
            force=options.force,
        )
    except (CaptureError, FilingError) as error:
        return _refuse(str(error))
    for oddity in imported.oddities + [o for one in imported.connections for o in one.oddities]:
        print(f"odd: {told(oddity)}")
    if options.delayed and not settles(imported):
        print(f"odd: {options.delayed} settles nothing: is it the same sender, held back?")
    print(f"departures: {evidence(imported)}")
    print("wrote " + ", ".join(map(str, written)))
    print(f"next: replay run {written[0]}")
    return AS_EXPECTED


def _refuse(sentence: str) -> int:
    print(f"replay: {sentence}", file=sys.stderr)
    return WRONG_USE


def _add_run(parser: argparse.ArgumentParser) -> None:
    _explain(parser, _RUN_DESCRIPTION, _RUN_EPILOG)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=".smtp file or folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--update",
        action="store_true",
        help="write what was observed into the transcripts, and tell each change for review",
    )
    what.add_argument(
        "--cuts",
        action="store_true",
        help="cut what the senders say in every other way: the same must come of it",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results for machines; - prints")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.progress import track

    from mailsrv.clock import SystemClock
    from replay import report, runs

    try:
        paths = runs.find(options.paths)
    except runs.InputError as error:
        return _refuse(str(error))
    if options.cuts:
        return run_cuts(paths, options.json)
    playing = runs.run_all(paths, SystemClock(), updating=options.update)
    errors = report.console(stderr=True)
    plain = not errors.is_terminal or errors.color_system is None
    results: list[runs.Result] = []
    interrupted = False
    watched = track(playing, "playing", len(paths), console=errors, transient=True, disable=plain)
    try:
        results.extend(watched)
    except KeyboardInterrupt:
        interrupted = True  # what has been changed by then must still be told
    if options.json and not _write(options.json, report.as_json(results)):
        return WRONG_USE
    unreadable = [result for result in results if result.verdict == runs.UNREADABLE]
    if options.json != Path("-") and len(results) > len(unreadable):
        report.show(results, report.console())
    for result in unreadable:
        _refuse(result.complaint)
    if interrupted:
        raise KeyboardInterrupt
    if unreadable:
        return WRONG_USE
    return AS_EXPECTED if all(result.good for result in results) else DIFFERS


def run_cuts(paths: Sequence[Path], json_file: Path | None, play: Play | None = None) -> int:
    """``replay run --cuts``; ``play`` stands in for the virtual driver."""
    from replay import cuts, virtual

    status = AS_EXPECTED
    results = []
    for path in paths:
        try:
            found = cuts.sweep_file(path, play=play or virtual.play)
        except cuts.CutsError as error:
            status = _refuse(str(error))
            continue
        results.append(cuts.summary(path, found))
        if not found.good:
            status = max(status, DIFFERS)
        if json_file != Path("-"):
            print(f"{path}: " + "\n".join(cuts.told(found)), flush=True)
    if json_file and not _write(json_file, json.dumps({"scenarios": results}, indent=2)):
        return WRONG_USE
    return status


def _add_load(parser: argparse.ArgumentParser) -> None:
    _explain(parser, _LOAD_DESCRIPTION)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=".smtp file or folder")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="any SMTP server")
    number, seconds = _at_least(0), _seconds
    for name, kind, metavar, default, meaning in (
        ("--concurrency", _at_least(1), "N", 10, "sessions in progress at all times"),
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
    from mailsrv.clock import SystemClock
    from mailsrv.units import seconds_to_ns
    from replay import load, load_report, report, runs
    from replay.load_plan import LoadError, read_plans

    amounts = load.Options(
        concurrency=options.concurrency,
        idle=options.idle,
        duration_ns=seconds_to_ns(options.duration),
        timeout_ns=seconds_to_ns(options.timeout),
        sessions=options.sessions,
    )
    live = load_report.LiveLine(sys.stderr) if load_report.is_live(sys.stderr) else None
    try:
        plans, skipped = read_plans(runs.find(options.paths))
        target = load.resolve(options.target)
        outcome = load.play(plans, target, amounts, SystemClock(), live)
    except (runs.InputError, LoadError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return WRONG_USE
    finally:
        if live:
            live.clear()
    if options.json and not _write(options.json, load_report.as_json(outcome, skipped)):
        return WRONG_USE
    if options.json != Path("-"):
        load_report.show(outcome, skipped, report.console())
    if outcome.interrupted:
        return INTERRUPTED
    return AS_EXPECTED if outcome.all_well else DIFFERS


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= NUMBER_MAX):
            raise argparse.ArgumentTypeError(
                f"{text!r}: takes a whole number from {least} to {NUMBER_MAX}"
            )
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.001 <= seconds <= NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: takes seconds from 0.001 to {NUMBER_MAX}")
    return seconds


def _write(path: Path, text: str) -> bool:
    if path == Path("-"):
        print(text)
        return True
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        print(f"replay: {path}: {error.strerror}", file=sys.stderr)
        return False
    return True
