"""What the commands of ``replay`` share: exit statuses, complaints, numbers, output files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The result of ``add_subparsers``."""

AS_EXPECTED, DIFFERS, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
READER_GONE = 141
"""The status of a program whose reader has gone, as shells report it (128 + SIGPIPE)."""

NUMBER_MAX = 1_000_000_000
"""For counts and seconds on the command line."""

TLS_KEYS_HELP = (
    "the key log (SSLKEYLOGFILE) that opens its TLS, with tshark; left out, FILE.keys if it is "
    "there, or the secrets in a pcapng"
)

_CAPTURE_MAGICS = ("a1b2c3d4", "a1b23c4d", "a1b2cd34", "0a0d0d0a")
_EVIDENCE = {
    b"+++": "transcript",
    b"\x1f\x8b": "packed file",
    **{bytes.fromhex(magic): "capture" for magic in _CAPTURE_MAGICS},
    **{bytes.fromhex(magic)[::-1]: "capture" for magic in _CAPTURE_MAGICS},
}
"""The first octets of files that results must not replace."""


def explain(parser: argparse.ArgumentParser, description: str, epilog: str = "") -> None:
    """Set texts whose lines are broken already."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = description, epilog


def refuse(sentence: str) -> int:
    """Print a complaint, which may quote a file, and return the exit status that goes with it."""
    from replay.transcript.octets import printable

    for line in f"replay: {sentence}".split("\n"):
        print(printable(line), file=sys.stderr)
    return WRONG_USE


def transcript_path(text: str) -> Path:
    """The type of an argument that takes transcripts: a path, or a name as ``builtin:attack``."""
    from replay.transcript.collection import CollectionError, path_of

    try:
        return path_of(text)
    except CollectionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def report_is_missing(needed: Sequence[str] = ("jinja2", "pygal")) -> str:
    """A complaint where pages cannot be made, said before a run and not behind it."""
    missing = [name for name in needed if find_spec(name) is None]
    if not missing:
        return ""
    return f"--html needs {' and '.join(missing)}: pip install 'mailsrv[report]'"


def at_least(least: int, most: int = NUMBER_MAX) -> Callable[[str], int]:
    """The type of an option that takes a whole number, ``most`` at most."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
            raise argparse.ArgumentTypeError(
                f"{text!r}: takes a whole number from {least} to {most}"
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


def write(path: Path, text: str, *, over_evidence: bool = False) -> bool:
    """Write a result to a file, or print it ("-"); False, and a complaint, if that cannot be.

    Earlier results are replaced.  Transcripts and captures are not, whatever they are called: a
    shell that spreads ``--html captures/*.smtp`` names one as the page.
    """
    if path == Path("-"):
        print(text)
        return True
    try:
        if not over_evidence and (complaint := replaces_evidence(path)):
            print(f"replay: {complaint}", file=sys.stderr)
            return False
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        print(f"replay: {path}: {error.strerror}", file=sys.stderr)
        return False
    return True


def output_trouble(*paths: Path | None) -> str:
    """Why results cannot be written to one of ``paths`` ("-" prints, None is not asked for), said
    before a run and not behind it; empty if they can, as far as can be seen."""
    return next(filter(None, map(_output_trouble, filter(None, paths))), "")


def _output_trouble(path: Path) -> str:
    if path == Path("-"):
        return ""
    try:
        if path.is_dir():
            return f"{path}: is a folder; results are a file"
        if not path.parent.is_dir():
            return f"{path}: there is no folder {path.parent}"
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            return f"{path}: cannot be written"
        return replaces_evidence(path)
    except OSError as error:
        return f"{path}: {error.strerror}"


def replaces_evidence(path: Path) -> str:
    """Why results cannot be written to ``path``: what lies there, nothing can make again.  Empty if
    they can.  Raises OSError."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        beginning = file.read(4)
    for magic, what in _EVIDENCE.items():
        if beginning.startswith(magic):
            return f"{path}: is a {what}; results do not replace it"
    return ""
