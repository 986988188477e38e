"""``replay export``: a transcript, or a run of it, as a capture for Wireshark."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from replay.cli.common import AS_EXPECTED, DIFFERS, Commands, explain, refuse, transcript_path

if TYPE_CHECKING:
    from replay.verify.suite import ScenarioResult

_DESCRIPTION = """\
Write a .smtp transcript as a pcapng that Wireshark and tshark open: made-up
packets around what the sender does, to the octet, boundary and virtual
nanosecond, and around the replies that are expected.

  replay export captures/mta/stall.smtp
      writes stall.pcapng, with what the transcript expects
  replay export --observed captures/mta/stall.smtp
      plays it first; the replies are those of mailsrv, and each difference is
      a comment on the packet where it shows (in Wireshark: pkt_comment)
  replay export captures/mta/stall.smtp -o - | tshark -r -
      writes to a pipe
"""

_EPILOG = """\
Time begins at 2026-01-01 00:00:00 UTC. Clients have their own addresses, the
server is 198.51.100.25 or 2001:db8::25, port 25. Each packet of a sender
acknowledges just the replies it had seen, so that 'replay import' of the file
gives the departures, anchors and replies of the transcript again; names of
connections, comments, the header and stop-reading are not in it. A reply whose
time is open (*) stands at the instant of what is above it; one of which only
the code is expected says what was recorded, or else nothing but the code. What
goes through TLS is shown in plaintext, behind a comment. A send of more than
65,495 octets takes several packets.

Exit status: 0 written, 1 written and something differs (--observed), 2 wrong
use, an unreadable transcript, or a file in the way.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("export", help="write a transcript as a capture for Wireshark")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.add_argument("file", type=transcript_path, metavar="FILE.smtp", help="the transcript")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.pcapng",
        help="where to put it (default: FILE.pcapng in this folder); - prints",
    )
    parser.add_argument(
        "--observed",
        action="store_true",
        help="play it against mailsrv, and write what was observed and what differs",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> int:
    from mailsrv.runtime.clock import SystemClock
    from replay.convert.exporter import export
    from replay.transcript import transcript
    from replay.verify import suite

    path: Path = options.file
    if path.is_dir():
        return refuse(f"{path}: is a folder; one transcript becomes one capture")
    result: ScenarioResult | None = None
    try:
        suite.find([path])  # its complaint names what other files are
        if options.observed:
            result = suite.run_file(path, SystemClock(), keep=True)
            scenario = result.scenario or transcript.load(path)
        else:
            scenario = transcript.load(path)
    except (suite.InputError, transcript.TranscriptError) as error:
        return refuse(str(error))
    if result and result.verdict == suite.BROKEN:
        return refuse(f"{path}: {result.complaint}")
    target = options.output or Path(f"{path.stem}.pcapng")
    if target == Path("-") and sys.stdout.isatty():
        return refuse("packets are not for a terminal: give -o FILE.pcapng, or a pipe")
    run, differences = (result.observed, result.differences) if result else (None, ())

    def write(file: BinaryIO) -> int:
        return export(file, scenario, run, differences)

    if target == Path("-"):
        write(sys.stdout.buffer)
    else:
        try:
            packets = _put(target, write, replacing=options.force)
        except FileExistsError:
            return refuse(f"{target}: is there already; --force replaces it")
        told = f", {_counted(len(differences))}" if result else ""
        print(f"wrote {target}: {packets} packets{told}")
    return DIFFERS if differences else AS_EXPECTED


def _counted(differences: int) -> str:
    return f"{differences} difference{'' if differences == 1 else 's'}"


def _put(target: Path, write: Callable[[BinaryIO], int], *, replacing: bool) -> int:
    """Write a file whole or not at all; returns as ``write`` does.  Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            packets = write(file)
        if replacing:
            beside.replace(target)
        else:
            os.link(beside, target)  # unlike a rename it never replaces
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return packets
