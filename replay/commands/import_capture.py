"""``replay import``: a transcript of a capture."""

from __future__ import annotations

import argparse
from pathlib import Path

from replay.commands.common import AS_EXPECTED, Commands, at_least, explain, refuse

_DESCRIPTION = """\
Make a .smtp transcript of a capture, and put a copy of the capture beside it
as the evidence.

What the sender did is kept octet by octet, each act hung on the reply it
waited for. What is expected is what the recorded server answered: by reply
code, or to the octet where it was mailsrv, queue ids aside; at any time.

  replay import stall.pcap -o captures/mta/stall
      writes captures/mta/stall.smtp and captures/mta/stall.pcap
  replay run captures/mta/stall.smtp
      then tells where mailsrv answers otherwise
"""

_EPILOG = """\
What cannot be used of the capture is told, packet by packet; the rest is used.

Exit status: 0 written, 2 wrong use, an unreadable capture, no SMTP in it, or
files in the way.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("import", help="make a transcript of a capture")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE.pcap", help="the capture (or pcapng)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="captures/FAMILY/NAME",
        required=True,
        help="where to put NAME.smtp and NAME.pcap",
    )
    parser.add_argument("--session", type=at_least(1), metavar="N", help="this one only, from 1")
    parser.add_argument("--story", metavar="TEXT", help="what it shows, in one line")
    parser.add_argument("--source", metavar="TEXT", help="where it came from, in one line")
    parser.add_argument(
        "--delayed",
        type=Path,
        metavar="FILE.pcap",
        help="the same sender recorded again, with each reply held back: what moved with the "
        "replies waited for them",
    )
    parser.add_argument(
        "--anchor",
        choices=("reply", "recorded"),
        default="reply",
        help="hang departures on the replies they waited for (default), or on the recorded times, "
        "at which mailsrv must then answer too",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> int:
    from replay.filing import FilingError, evidence, file_capture, settles
    from replay.importer import import_capture
    from replay.oddity import CaptureError, told

    recorded_times = options.anchor == "recorded"
    try:
        imported = import_capture(
            options.file,
            session=options.session,
            delayed=options.delayed,
            recorded_times=recorded_times,
        )
        written = file_capture(
            imported,
            options.output,
            options.file,
            options.delayed,
            story=options.story,
            source=options.source,
            force=options.force,
        )
    except (CaptureError, FilingError) as error:
        return refuse(str(error))
    for oddity in imported.oddities + [o for one in imported.connections for o in one.oddities]:
        print(f"odd: {told(oddity)}")
    if options.delayed and not settles(imported):
        print(f"odd: {options.delayed} settles nothing: is it the same sender, held back?")
    print(f"departures: {evidence(imported)}")
    print("wrote " + ", ".join(map(str, written)))
    print(f"next: replay run {written[0]}")
    return AS_EXPECTED
