"""The command line of ``replay``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from mailsrv import __version__
from mailsrv.command_line import CommandLineParser
from replay.cli import (
    check,
    diff,
    export,
    import_capture,
    list_collection,
    load,
    record,
    run,
    show,
    shrink,
)
from replay.cli.common import INTERRUPTED, READER_GONE, refuse

_EPILOG = """\
From a tcpdump of a sender to a test:

  replay record --upstream HOST:25 --listen ...           make a capture, without root
  replay show FILE.pcap                                   what is in it
  replay import FILE.pcap -o captures/FAMILY/NAME         make a transcript of it
  replay run captures/FAMILY/NAME.smtp                    where does mailsrv differ?
  replay run --update captures/FAMILY/NAME.smtp           make what it does now the expectation
  replay check HOST:25 --recipient ADDRESS                does any server do what it must?

'replay COMMAND --help' tells about each.

Exit status: 0 all as expected, 1 something differs, 2 wrong use or unreadable
input, 130 after Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has an arrow
    try:
        try:
            options = _parser().parse_args(arguments)
            command: Callable[[argparse.Namespace], int] = options.command
            return command(options)
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, where an error is still reported
    except KeyboardInterrupt as interrupt:
        print("; ".join(["replay: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return READER_GONE
    except OSError as error:
        _forget_output()
        return refuse(f"{error.filename or 'the output'}: {error.strerror or error}")
    except ModuleNotFoundError as error:
        extra = "report" if error.name in ("jinja2", "pygal") else "replay"
        return refuse(f"needs {error.name}, which is not installed: pip install 'mailsrv[{extra}]'")


def _forget_output() -> None:
    """What was not written yet cannot be: keep Python from trying again on its way out."""
    with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _parser() -> CommandLineParser:
    parser = CommandLineParser(
        prog="replay",
        description="Turns captured senders into exact tests, and into load.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"replay {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        *(show, import_capture, export, record),
        *(run, check, shrink, diff, load, list_collection),
    ):
        command.add(commands)
    return parser
