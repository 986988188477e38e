"""``replay show``: what is in a capture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from replay.cli.common import (
    AS_EXPECTED,
    TLS_KEYS_HELP,
    WRONG_USE,
    Commands,
    at_least,
    explain,
    refuse,
    write,
)

_DESCRIPTION = """\
Show what is in a capture (pcap or pcapng, packed with gzip or not): its SMTP
sessions, and all that is odd about them, by packet. With --session, draw one
as a ladder: who said what, when, in which packet; silences are drawn, and what
was sent before a reply could have been seen is marked as proven early.

  replay show stall.pcap                  the sessions
  replay show stall.pcap --session 2      the ladder of the second
  tcpdump -w - port 25 | replay show -    until Ctrl-C
  replay show stall.pcap --json all.json  all octets, segments, times, oddities
"""

_EPILOG = """\
A capture of which only a part is usable is shown for that part, and says so.
Its sender becomes a test with "replay import", its receiver with "replay
import --receiver".

Exit status: 0 shown, 2 wrong use, an unreadable file, or no SMTP session in
it.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("show", help="show what is in a capture")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE", help="a capture; - reads from a pipe")
    parser.add_argument("--session", type=at_least(1), metavar="N", help="draw this one, from 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all of it; - prints it alone")
    parser.add_argument("--tls-keys", type=Path, metavar="FILE", help=TLS_KEYS_HELP)
    parser.set_defaults(command=_show)


def _show(options: argparse.Namespace) -> int:
    from replay.capture.oddity import CaptureError
    from replay.capture.reader import read_capture
    from replay.report import capture as show
    from replay.report import console
    from replay.report.capture_json import summary
    from replay.report.progress import watching

    try:
        with watching(options.file) as watch:
            capture = read_capture(options.file, watch, keys=options.tls_keys)
    except CaptureError as error:
        return refuse(str(error))
    found = len(capture.conversations)
    if options.session is not None and options.session > found:
        return refuse(f"{options.file}: there is no session {options.session}; it has {found}")
    if options.json and not write(options.json, json.dumps(summary(capture), indent=2)):
        return WRONG_USE
    if options.json == Path("-"):
        return AS_EXPECTED
    if options.session is None:
        show.show_sessions(capture, console.make_console())
    else:
        show.show_ladder(capture.conversations[options.session - 1], console.make_console())
    if not found:
        return refuse(f"{options.file}: no SMTP session is in it")
    return AS_EXPECTED
