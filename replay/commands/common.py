"""What the commands of ``replay`` share: exit statuses, complaints, numbers, output files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What ``add_subparsers`` gives."""

AS_EXPECTED, DIFFERS, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
READER_GONE = 141
"""What a shell says of a program whose reader has left (128 + SIGPIPE)."""

NUMBER_MAX = 1_000_000_000
"""For counts and seconds on the command line."""


def explain(parser: argparse.ArgumentParser, description: str, epilog: str = "") -> None:
    """Texts that are laid out already."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = description, epilog


def refuse(sentence: str) -> int:
    """Complain; gives the exit status that goes with it."""
    print(f"replay: {sentence}", file=sys.stderr)
    return WRONG_USE


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= NUMBER_MAX):
            raise argparse.ArgumentTypeError(
                f"{text!r}: takes a whole number from {least} to {NUMBER_MAX}"
            )
        return int(text)

    return number


def seconds(text: str) -> float:
    """The type of an option that takes a duration."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0.001 <= number <= NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: takes seconds from 0.001 to {NUMBER_MAX}")
    return number


def write(path: Path, text: str) -> bool:
    """Write a result to a file, or print it ("-"); False, and a complaint, if that cannot be."""
    if path == Path("-"):
        print(text)
        return True
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        print(f"replay: {path}: {error.strerror}", file=sys.stderr)
        return False
    return True
