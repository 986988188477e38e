"""Puts an imported capture on file: the evidence, and the transcript beside it."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

from replay import transcript
from replay.importer import Imported

COPY_MAX_OCTETS = 64 * 1024 * 1024
"""A larger capture is no test case; cut out the session that matters."""


class FilingError(Exception):
    """The set of files cannot be written; the message names the file and why."""


def file_capture(
    imported: Imported,
    stem: Path,
    capture: Path,
    delayed: Path | None = None,
    *,
    story: str | None = None,
    source: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Write ``STEM.smtp`` and, beside it, the captures it was made of; give what was written.

    ``story`` and ``source`` take the place of the imported ones.
    Raises FilingError; an existing transcript is kept unless ``force``.
    """
    target = stem.with_name(f"{stem.name}.smtp")
    if target.exists() and not force:
        raise FilingError(f"{target}: is there already; --force replaces it")
    if capture.stat().st_size > COPY_MAX_OCTETS:
        raise FilingError(f"{capture}: larger than the {COPY_MAX_OCTETS} octets kept on file")
    scenario = imported.scenario
    scenario = dataclasses.replace(
        scenario, story=story or scenario.story, source=source or scenario.source
    )
    try:
        text = transcript.write(scenario, imported.remarks)
    except ValueError as error:
        raise FilingError(f"{target}: {error}") from None
    written = [target]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        for original, kind in ((capture, ""), (delayed, ".delayed")):
            if original is not None:
                copy = stem.with_name(f"{stem.name}{kind}{original.suffix}")
                if not (copy.exists() and copy.samefile(original)):
                    shutil.copyfile(original, copy)
                    written.append(copy)
    except OSError as error:
        raise FilingError(f"{error.filename}: {error.strerror}") from None
    return written


def evidence(imported: Imported) -> str:
    """How many departures rest on what, in a line."""
    counted = Counter(
        one.evidence.value
        for connection in imported.connections
        for one in connection.evidence.values()
    )
    return ", ".join(f"{count} {name}" for name, count in counted.items()) or "none"
