"""Known verdicts, in a file: so that a run in CI fails on what is new alone.

attack/smuggle-lf-dot-crlf    violates    # until we have version 3.9
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from replay.verify.check.verdict import Verdict

FILE_OCTETS_MAX = 1024 * 1024
_BAD = (Verdict.VIOLATES, Verdict.DEPARTS)
_WORDS = {verdict.value: verdict for verdict in Verdict}


class KnownError(Exception):
    """A file of known verdicts that cannot be read; the message says where and why."""


def load_known(path: Path) -> dict[str, Verdict]:
    """Verdicts by the names of scenarios.  Raises KnownError."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_OCTETS_MAX + 1).decode("utf-8")
    except OSError as error:
        raise KnownError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KnownError(f"{path}: not UTF-8 text") from None
    if len(text) > FILE_OCTETS_MAX:
        raise KnownError(f"{path}: longer than the {FILE_OCTETS_MAX} octets allowed")
    known: dict[str, Verdict] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, verdict = line.partition("#")[0].strip().partition(" ")
        if not name:
            continue
        if verdict.strip() not in _WORDS:
            allowed = ", ".join(_WORDS)
            raise KnownError(f"{path}:{number}: expected a scenario and one of {allowed}")
        known[name] = _WORDS[verdict.strip()]
    return known


def is_new(name: str, verdict: Verdict, known: dict[str, Verdict]) -> bool:
    """Whether a verdict is worse than what is known."""
    if verdict is Verdict.VIOLATES:
        return known.get(name) is not Verdict.VIOLATES
    return verdict is Verdict.DEPARTS and known.get(name) not in _BAD


def gone(verdicts: Iterable[tuple[str, Verdict]], known: dict[str, Verdict]) -> list[str]:
    """The scenarios that are known as bad and hold now: their lines can go."""
    return [
        name for name, verdict in verdicts if verdict is Verdict.HOLDS and known.get(name) in _BAD
    ]
