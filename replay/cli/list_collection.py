"""``replay list``: the transcripts that come with the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from replay.cli.common import AS_EXPECTED, WRONG_USE, Commands, explain, refuse, write

SCHEMA = 1
"""Of the JSON; a key that goes or changes its meaning makes it another."""

_DESCRIPTION = """\
List the transcripts that come with the package, each with its story. Their
names, with builtin: in front, do wherever a command takes transcripts.

  replay list                         all of them
  replay list attack                  one family
  replay list --json -                all of them, for machines
  replay list | cut -f1               their names: in a pipe a tab follows
  replay run builtin:attack           play a family
  replay run builtin:attack/NAME --target 127.0.0.1:25
"""

_EPILOG = """\
Exit status: 0 listed, 2 wrong use, or a family that is not there.
"""


class Listed(NamedTuple):
    """A transcript of the collection."""

    family: str
    name: str
    story: str
    sessions: int
    path: Path


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("list", help="the transcripts that come with the package")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.add_argument("family", nargs="*", metavar="FAMILY", help="only of these families")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all of it; - prints it alone")
    parser.set_defaults(command=_list)


def _list(options: argparse.Namespace) -> int:
    from replay.transcript import collection
    from replay.transcript.notation import TranscriptError

    try:
        wanted = [one for name in options.family for one in _families(name)]
        listed = [one for family in wanted or _families("") for one in _of_family(family)]
    except (collection.CollectionError, TranscriptError) as error:
        return refuse(str(error))
    if options.json and not write(options.json, _as_json(listed)):
        return WRONG_USE
    if options.json != Path("-"):
        _show(listed)
    return AS_EXPECTED


def _families(name: str) -> list[str]:
    """The families that ``name`` means, which may be typed as where it is played; "" means all.

    Raises CollectionError.
    """
    from replay.transcript import collection

    bare = name.removeprefix(collection.PREFIX).strip("/")
    path = collection.path_of(f"{collection.PREFIX}{bare}")
    if path.is_file():
        raise collection.CollectionError(f"{name}: is a transcript; 'replay list' takes families")
    return [bare] if bare else collection.families()


def _of_family(family: str) -> list[Listed]:
    from replay.transcript import collection, transcript

    found = []
    for path in collection.transcripts(family):
        scenario = transcript.load(path)
        found.append(Listed(family, path.stem, scenario.story, len(scenario.connections), path))
    return found


def _as_json(listed: list[Listed]) -> str:
    transcripts = [{**one._asdict(), "path": str(one.path)} for one in listed]
    return json.dumps({"schema": SCHEMA, "transcripts": transcripts}, indent=2)


def _show(listed: list[Listed]) -> None:
    """A line for each transcript.  On a terminal its story goes on below where that is narrow;
    elsewhere a line is whole, and a tab stands behind the name."""
    from rich.table import Table
    from rich.text import Text

    from replay.report.console import make_console
    from replay.transcript.octets import printable

    console = make_console()
    if not console.is_terminal:
        for one in listed:
            print(f"{one.family}/{one.name}\t{printable(one.story)}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("transcript", no_wrap=True)
    table.add_column("story")
    for one in listed:
        table.add_row(Text(f"{one.family}/{one.name}"), Text(printable(one.story)))
    console.print(table)
