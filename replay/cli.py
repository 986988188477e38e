"""The command line of ``replay``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

AS_EXPECTED, DIFFERS, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
From a tcpdump of a sender to a test:

  replay show FILE.pcap                                   what is in it
  replay import FILE.pcap -o captures/FAMILY/NAME         make a transcript of it
  replay run captures/FAMILY/NAME.smtp                    where does mailsrv differ?
  replay run --update captures/FAMILY/NAME.smtp           make what it does now the expectation

Exit status: 0 all as expected, 1 something differs, 2 wrong use or unreadable input.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print("replay: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has gone: nothing is left to be said
        return AS_EXPECTED
    except ModuleNotFoundError as error:
        print(
            f"replay: needs {error.name}, which is not installed: pip install 'mailsrv[replay]'",
            file=sys.stderr,
        )
        return WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay",
        description="Turns captured senders into exact tests, and into load.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="play transcripts against mailsrv in virtual time"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Play .smtp transcripts against the real mailsrv, on real sockets, in virtual time, and "
        "tell every reply, end and instant that is not as the transcript expects."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=".smtp file or folder")
    parser.add_argument(
        "--update",
        action="store_true",
        help="write what was observed into the transcripts, and tell each change for review",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results for machines; - prints")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from mailsrv.clock import SystemClock
    from replay import report, runs

    try:
        paths = runs.find(options.paths)
        playing = runs.run_all(paths, SystemClock(), updating=options.update)
        errors = Console(stderr=True)
        watched = track(
            playing,
            "playing",
            len(paths),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        )
        results = list(watched)
    except runs.InputError as error:
        print(f"replay: {error}", file=sys.stderr)
        return WRONG_USE
    to_stdout = options.json == Path("-")
    if options.json and not _write(options.json, report.as_json(results)):
        return WRONG_USE
    if not to_stdout:
        report.show(results, report.console())
    return AS_EXPECTED if all(result.good for result in results) else DIFFERS


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
