"""Puts an imported capture on file: the evidence, and the transcript beside it."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from replay.convert.importer import ImportedCapture
from replay.transcript import transcript
from replay.transcript.script import Evidence

COPY_MAX_OCTETS = 64 * 1024 * 1024
"""A larger capture is no test case; cut out the session that matters."""

FIGURES = "[evidence]"
"""A table of a note: what the marks of a transcript rest on, by packet of the capture."""
_OWN_SUFFIXES = (".smtp", ".toml", ".keys")
"""Of what is filed beside a capture, which must not be overwritten by that."""
_CAPTURE_SUFFIX = ".pcap"
_FIGURES_TABLE = re.compile(r"^\[evidence\]\n(?:[^\[\n][^\n]*\n|\n)*", re.MULTILINE)


class FilingError(Exception):
    """The set of files cannot be written; the message names the file and why."""


def file_capture(
    imported: ImportedCapture,
    stem: Path,
    capture: Path,
    delayed: Path | None = None,
    keys: Path | None = None,
    *,
    story: str | None = None,
    source: str | None = None,
    force: bool = False,
    check: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write ``STEM.smtp`` and, beside it, the captures it was made of and a note ``STEM.toml`` with
    the figures that its marks rest on; return what was written.

    ``story`` and ``source`` take the place of the imported ones.  ``check`` is given the text of
    the transcript before anything is written, and may raise.
    Raises FilingError; existing files are kept unless ``force``.
    """
    stem = stem.with_suffix("") if stem.suffix == ".smtp" else stem
    if not stem.name or stem.name == "..":
        raise FilingError(f"{stem}: names a folder; a transcript needs a name, as in folder/name")
    target = stem.with_name(f"{stem.name}.smtp")
    originals = [(capture, "")] + ([(delayed, ".delayed")] if delayed else [])
    copies = [
        (original, stem.with_name(f"{stem.name}{kind}{_suffix(original)}"))
        for original, kind in originals
    ]
    if keys is not None:
        copies.append((keys, stem.with_name(f"{stem.name}.keys")))
    copies = [(one, copy) for one, copy in copies if not (copy.exists() and copy.samefile(one))]
    for existing in (target, *(copy for _, copy in copies)):
        if existing.exists() and not force:
            raise FilingError(f"{existing}: is there already; --force replaces it")
    for original, _ in copies:
        if not original.is_file():
            raise FilingError(f"{original}: not a regular file, so no copy of it can be kept")
        if original.stat().st_size > COPY_MAX_OCTETS:
            raise FilingError(
                f"{original}: larger than the {COPY_MAX_OCTETS >> 20} MiB kept on file; --session "
                f"files one session alone"
            )
    scenario = imported.scenario
    scenario = dataclasses.replace(
        scenario, story=story or scenario.story, source=source or scenario.source
    )
    try:
        text = transcript.write(scenario, imported.remarks)
    except ValueError as error:
        raise FilingError(f"{target}: {error}") from None
    check(text)
    note = stem.with_name(f"{stem.name}.toml")
    noted = _with_figures(note, figures(imported))
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for original, copy in copies:
            shutil.copyfile(original, copy)
        target.write_text(text, encoding="utf-8")
        if noted is not None:
            note.write_text(noted, encoding="utf-8")
    except OSError as error:
        raise FilingError(f"{error.filename}: {error.strerror}") from None
    return [target, *(copy for _, copy in copies), *([] if noted is None else [note])]


def _suffix(capture: Path) -> str:
    return _CAPTURE_SUFFIX if capture.suffix in _OWN_SUFFIXES else capture.suffix


def figures(imported: ImportedCapture) -> dict[int, str]:
    """What a departure's mark rests on, by its packet, where an acknowledgement or a second
    recording decided."""
    return {
        one.act.packet: f"{one.evidence.value}: {one.because}"
        for connection in imported.connections
        for one in connection.evidence.values()
        if one.is_settled or one.evidence in (Evidence.PROVEN_EARLY, Evidence.CONFIRMED)
    }


def _with_figures(note: Path, by_packet: Mapping[int, str]) -> str | None:
    """The text of ``note`` with that table made anew, at its end; all else stays.  None where
    there is nothing to change.  Raises FilingError."""
    try:
        before = note.read_text(encoding="utf-8") if note.exists() else ""
    except OSError as error:
        raise FilingError(f"{note}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FilingError(f"{note}: is not UTF-8, so no figures can be put in it") from None
    above, tables = _FIGURES_TABLE.subn("", f"{before}\n")
    if not by_packet and not tables:
        return None
    lines = [f'{packet} = "{sentence}"' for packet, sentence in sorted(by_packet.items())]
    parts = [above.rstrip("\n"), "\n".join([FIGURES, *lines]) if lines else ""]
    return "\n\n".join(filter(None, parts)) + "\n"


def settles(imported: ImportedCapture) -> bool:
    """Whether a second recording, with replies held back, told anything about the first."""
    return any(
        one.is_settled
        for connection in imported.connections
        for one in connection.evidence.values()
    )


def evidence(imported: ImportedCapture) -> str:
    """How many departures rest on what, in a line."""
    counted = Counter(
        one.evidence.value
        for connection in imported.connections
        for one in connection.evidence.values()
    )
    return ", ".join(f"{count} {name}" for name, count in counted.items()) or "none"
