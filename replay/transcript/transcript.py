"""The transcript notation (``.smtp``): text <-> script.  Grammar: docs/understand/notation.md.

    scenario = transcript.parse(text, "stall.smtp")
    text = transcript.write(scenario)
    text = transcript.rewrite(text, observed, "stall.smtp")

``parse(write(scenario))`` equals ``scenario``, and ``write(parse(text))`` equals ``text`` where
``write`` made the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from replay.transcript import notation
from replay.transcript.notation import CONNECTION_NAME_DEFAULT, TranscriptError
from replay.transcript.reader import read
from replay.transcript.rewriter import rewrite_text
from replay.transcript.script import Scenario
from replay.transcript.writer import write_text

__all__ = [
    "CONNECTION_NAME_DEFAULT",
    "TranscriptError",
    "load",
    "parse",
    "read_text",
    "remarks",
    "rewrite",
    "write",
]

_PIECE_OCTETS = 64 * 1024


def parse(text: str, path: str) -> Scenario:
    """The scenario that ``text`` describes; ``path`` is for messages.  Raises TranscriptError."""
    document = read(text, path)
    header = document.header
    return Scenario(
        header.story,
        tuple(document.connections.values()),
        header.source,
        header.server,
        header.world,
        document.accepted,
        document.claims,
        header.needs,
        header.target,
    )


def write(scenario: Scenario, remarks: Mapping[tuple[str, int], str] | None = None) -> str:
    """The canonical text of ``scenario``.

    ``remarks`` are comments, by connection name and number of the step (from 0) they stand
    above.  Raises ValueError for a scenario that breaks the rules of ``wellformed`` or the
    bounds of ``notation``.
    """
    return write_text(scenario, remarks or {})


def rewrite(text: str, observed: Scenario, path: str) -> str:
    """``text`` with the expectations of ``observed`` (accepted messages too) in place of its own.

    Everything else stays as it is to the character: header, comments, blank lines, departures,
    and expectations that did not change.  ``observed`` has the same connections with the same
    departures, else ValueError; its header does not matter.  Raises TranscriptError for a text
    that cannot be read.
    """
    return rewrite_text(read(text, path), observed)


def read_text(path: Path) -> str:
    """The text of a transcript file.  Raises TranscriptError, and OSError as it comes."""
    octets_max = 4 * notation.TEXT_CHARACTERS_MAX
    octets = _read(path, octets_max + 1)
    if len(octets) > octets_max:
        raise TranscriptError(str(path), 1, 1, f"longer than the {octets_max} octets allowed")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        before = octets[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = r"a transcript is UTF-8 text; other octets are written as \xNN"
        raise TranscriptError(str(path), line, column, message) from None


def _read(path: Path, octets_max: int) -> bytes:
    """The octets of a file, so many at most; asked for piece by piece, since room for all that is
    asked for is made before it is known how much comes."""
    pieces = []
    with path.open("rb", buffering=0) as file:
        while octets_max and (piece := file.read(min(octets_max, _PIECE_OCTETS))):
            pieces.append(piece)
            octets_max -= len(piece)
    return b"".join(pieces)


def load(path: Path) -> Scenario:
    """``parse`` of a file.  Raises TranscriptError, and OSError as it comes."""
    return parse(read_text(path), str(path))


def remarks(text: str, path: str) -> dict[int, str]:
    """The comments that stand right above a step on lines of their own, by the step's line (from
    1).  Raises TranscriptError."""
    document = read(text, path)
    found: dict[int, str] = {}
    for name in document.connections:
        for placed in document.placed(name):
            above = placed.lines[0] - 1
            while document.lines[above].startswith("#"):
                above -= 1
            lines = document.lines[above + 1 : placed.lines[0]]
            if lines:
                found[placed.step.line] = "\n".join(line.lstrip("#").strip() for line in lines)
    return found
