"""Unused files: what lies beside transcripts and belongs to none of them.

A folder that holds a transcript is a family of captures.  In it, each capture and each note of
where one came from goes with the transcript of its name; what an update that was killed left
behind goes with nothing; and a ``.smtp`` that does not begin as a transcript is collected by no
test.  Other folders, and other kinds of files, are not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

FENCE = b"+++"
FIRST_LINE_MAX_OCTETS = 1024
FOLDERS_MAX = 100_000

_EVIDENCE = re.compile(r"(.+?)(?:\.delayed)?\.(?:(?:pcap|pcapng|cap)(?:\.gz)?|keys)")
_NOTE = re.compile(r"(.+)\.toml")
_LEFT_BEHIND = re.compile(r"\..+\.(?:smtp|pcapng)\.[a-z0-9_]{8}")


class UnusedFile(NamedTuple):
    """A file that no test uses, and why."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def find_unused(paths: Iterable[Path]) -> list[UnusedFile]:
    """What is unused in the folders at and below ``paths``, and beside transcripts among them."""
    folders: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            for folder, below, _ in os.walk(path):
                below[:] = sorted(one for one in below if not one.startswith("."))
                folders[Path(folder)] = None
                if len(folders) >= FOLDERS_MAX:
                    break
        else:
            folders[path.parent] = None
    return [one for folder in folders for one in _unused_in(folder)]


def _unused_in(folder: Path) -> Iterator[UnusedFile]:
    try:
        files = sorted(one for one in folder.iterdir() if one.is_file())
    except OSError:
        return
    transcripts = {one.name.removesuffix(".smtp") for one in files if one.suffix == ".smtp"}
    if not transcripts:
        return
    for file in files:
        if _LEFT_BEHIND.fullmatch(file.name):
            yield UnusedFile(file, "left behind by a program that was killed while it wrote")
        elif file.suffix == ".smtp":
            if not begins_as_transcript(file):
                yield UnusedFile(file, "no test: its first line is not +++")
        elif (match := _EVIDENCE.fullmatch(file.name)) and match[1] not in transcripts:
            yield UnusedFile(file, f"a capture without its transcript {match[1]}.smtp")
        elif (match := _NOTE.fullmatch(file.name)) and match[1] not in transcripts:
            yield UnusedFile(file, f"a note on a capture without its transcript {match[1]}.smtp")


def begins_as_transcript(path: Path) -> bool:
    """Whether the first line is a transcript's: other programs have .smtp files too."""
    try:
        with path.open("rb") as file:
            return file.readline(FIRST_LINE_MAX_OCTETS).rstrip() == FENCE
    except OSError:
        return False
