"""The transcripts that come with the package, by name: ``builtin:attack``, ``builtin:attack/NAME``.

They are the project's own captures without the packets.  An installed package has them in a folder
of its own; in a checkout they are where they are written.
"""

from __future__ import annotations

import difflib
from pathlib import Path

PREFIX = "builtin:"
SUFFIX = ".smtp"

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "collection"
_CHECKOUT = _PACKAGE.parent / "captures"


class CollectionError(Exception):
    """There is nothing of that name in the collection; the message says what there is."""


def path_of(text: str) -> Path:
    """The path that is meant by what a person typed: a name of the collection where ``text`` begins
    with ``builtin:`` (of a family, of a transcript, or nothing for all), else ``text`` itself.

    Raises CollectionError.
    """
    if not text.startswith(PREFIX):
        return Path(text)
    name = text.removeprefix(PREFIX).strip("/").removesuffix(SUFFIX)
    if not name:
        return folder()
    family, slash, transcript = name.partition("/")
    if family not in families():
        raise CollectionError(f"{text}: {_nothing(family, families(), 'family', PREFIX)}")
    if not slash:
        return folder() / family
    inside = [path.stem for path in transcripts(family)]
    if transcript not in inside:
        said = _nothing(transcript, inside, "transcript", f"{PREFIX}{family}/")
        raise CollectionError(f"{text}: {said}")
    return folder() / family / f"{transcript}{SUFFIX}"


def folder() -> Path:
    """Where the collection is.  Raises CollectionError where it was not installed."""
    for place in (_INSTALLED, _CHECKOUT):
        if place.is_dir():
            return place
    raise CollectionError(f"the collection is not there: neither {_INSTALLED} nor {_CHECKOUT}")


def is_installed(path: Path) -> bool:
    """Whether ``path`` lies in an installed package, where nothing is to be written."""
    return path.resolve().is_relative_to(_INSTALLED)


def families() -> list[str]:
    """The families of transcripts, in order."""
    return sorted(one.name for one in folder().iterdir() if any(one.glob(f"*{SUFFIX}")))


def transcripts(family: str) -> list[Path]:
    """The transcripts of one family, in order; none for a name that is no family."""
    return sorted((folder() / family).glob(f"*{SUFFIX}"))


def _nothing(name: str, there: list[str], what: str, prefix: str) -> str:
    """That there is no such thing, and what there is: the nearest names, or a few of them."""
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    if near or len(there) > 20:
        named = ", ".join(f"{prefix}{one}" for one in near)
        return f"no such {what}" + (f"; there is {named}" if near else "; see 'replay list'")
    return f"no such {what}; there are {', '.join(there)}"
