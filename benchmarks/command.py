"""The command line of a benchmark: what its options take, and how it ends."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.contenders import UnavailableError
from replay.capture.oddity import CaptureError
from replay.cli.common import INTERRUPTED, NUMBER_MAX, at_least, output_trouble

FAILED, UNAVAILABLE = 1, 2
positive = at_least(1)
"""The type of an option that counts."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Paragraphs stay as they are, and defaults are shown where there are some."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def parser(description: str) -> argparse.ArgumentParser:
    """For the docstring of the module that is run."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        description=description.replace("``", "").replace("::\n", ":\n"),
        formatter_class=_Help,
    )


def chosen(
    arguments: argparse.ArgumentParser, names: Sequence[str], known: Iterable[str]
) -> list[str]:
    """The names that were given, or all that are known; ends the process if one is not."""
    for name in names:
        if name not in known:
            arguments.error(f"{name!r} is none of {', '.join(known)}")
    return list(names or known)


def multiple(text: str) -> float:
    """The type of an option that is a part or a multiple of something, or seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number <= NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: takes a number above 0")
    return number


def result_file(text: str) -> Path:
    """The type of an option that names where results go: told before the work, not behind it."""
    path = Path(text)
    if complaint := output_trouble(path):
        raise argparse.ArgumentTypeError(complaint)
    return path


def tell(text: str) -> None:
    """How far a benchmark has come: on a terminal in place of what was told before."""
    live = sys.stderr.isatty()
    print(
        f"\r\x1b[K{text}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True
    )


def told_all() -> None:
    """Take away what was told last, on a terminal."""
    if sys.stderr.isatty():
        tell("")


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with the status of ``main``: UNAVAILABLE and a sentence where a program is
    missing, FAILED and a sentence where one failed, INTERRUPTED by Ctrl-C or SIGTERM, which stop
    the servers first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = main()
    except KeyboardInterrupt:
        status = INTERRUPTED
        print("interrupted", file=sys.stderr)
    except UnavailableError as reason:
        status = UNAVAILABLE
        print(reason, file=sys.stderr)
    except (OSError, subprocess.SubprocessError, CaptureError) as error:
        status = FAILED
        print(error, file=sys.stderr)
    sys.exit(status)
