"""Make transcripts of recorded senders: ``python captures/record/transcribe.py FILE.toml...``

Each is written anew from its two captures, with the story and the source of its provenance file,
and expects what was recorded.  ``replay run --update`` then makes the expectations exact; read
what it tells before it is committed.
"""

from __future__ import annotations

import dataclasses
import sys
import tomllib
from pathlib import Path

from recipe import RecipeError, load

from replay.capture.oddity import CaptureError
from replay.convert.evidence_files import FilingError, evidence, file_capture
from replay.convert.importer import ImportedCapture, import_capture
from replay.transcript.ehlo import with_word

FAULTS = (CaptureError, FilingError, RecipeError, OSError, KeyError, tomllib.TOMLDecodeError)


def transcribe(note_path: Path) -> str:
    """Write the transcript beside ``note_path``; says what its departures rest on."""
    note = tomllib.loads(note_path.read_text(encoding="utf-8"))
    capture = note_path.with_suffix(".pcap")
    delayed = note_path.with_suffix(".delayed.pcap")
    imported, why = _imported(capture, delayed)
    recipe = load(Path(note["recipe"]).stem)
    scenario = dataclasses.replace(
        imported.scenario, server=dict(recipe.server), world={"tls": True} if recipe.tls else {}
    )
    imported = dataclasses.replace(imported, scenario=with_word(scenario))
    file_capture(
        imported,
        note_path.with_suffix(""),
        capture,
        story=note["story"],
        source=note["source"],
        force=True,
    )
    return f"{evidence(imported)}{why}"


def _imported(capture: Path, delayed: Path) -> tuple[ImportedCapture, str]:
    """With the delayed take where it tells of the same connections, else without."""
    try:
        return import_capture(capture, delayed=delayed), ""
    except CaptureError as error:
        return import_capture(capture), f" (without the second take: {error})"


def main(paths: list[str]) -> int:
    failed = False
    for path in map(Path, paths):
        try:
            print(f"{path}: {transcribe(path)}")
        except (
            CaptureError,
            FilingError,
            RecipeError,
            OSError,
            KeyError,
            tomllib.TOMLDecodeError,
        ) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
