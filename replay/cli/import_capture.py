"""``replay import``: a transcript of a capture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from replay.cli.common import (
    AS_EXPECTED,
    DIFFERS,
    TLS_KEYS_HELP,
    WRONG_USE,
    Commands,
    at_least,
    explain,
    refuse,
    write,
)

KEY_OCTETS = 32
KEY_MIN_OCTETS = 12
"""A shorter key could be found by trying."""
KEY_MAX_OCTETS = 1 << 20

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
  replay import stall.pcap --for-any-server -o captures/mta/stall
      claims what any server must do with it (docs/understand/claims.md)
  replay import --receiver strange-mx.pcap -o captures/next_hop/strange-mx
      the other way round: the server of the capture is played, its replies
      hung on the commands that they answered, and mailsrv delivers to it the
      mail that the recorded client did
  replay import stall.pcap --sanitize --key our.key -o captures/mta/stall
      the same, but with look-alikes for all that is somebody's, in both files;
      of stall.pcap nothing is copied (docs/use/sanitising.md)
"""

_EPILOG = """\
What cannot be used of the capture is told, packet by packet; the rest is used.
Of a capture that is packed with gzip the unpacked one is put on file.

Exit status: 0 written, 1 something would have remained of what --sanitize
replaces, so nothing is written, 2 wrong use, an unreadable capture, no SMTP in
it, or files in the way.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("import", help="make a transcript of a capture")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "file", type=Path, metavar="FILE.pcap", help="the capture; - reads from a pipe"
    )
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
        "--receiver",
        action="store_true",
        help="play the server of the capture: a test of how mailsrv delivers to it",
    )
    parser.add_argument(
        "--for-any-server",
        action="store_true",
        help="claim what any server must do with this sender, in place of what this one answered",
    )
    parser.add_argument("--tls-keys", type=Path, metavar="FILE", help=TLS_KEYS_HELP)
    parser.add_argument(
        "--anchor",
        choices=("reply", "recorded"),
        default="reply",
        help="hang departures on the replies they waited for (default), or on the recorded times, "
        "at which mailsrv must then answer too",
    )
    parser.add_argument(
        "--sanitize",
        action="store_true",
        help="replace addresses, names, credentials, ids and message text by look-alikes of the "
        "same length, and write the capture anew",
    )
    parser.add_argument(
        "--key",
        metavar="FILE|TEXT",
        help="what the look-alikes hang on: with the same key they are the same ones; without, "
        "they are this once's",
    )
    parser.add_argument(
        "--replaced",
        type=Path,
        metavar="FILE",
        help='write as JSON what --sanitize replaced; "-" prints it',
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from replay.capture.oddity import CaptureError, Oddity, told
    from replay.capture.source import plain_file
    from replay.capture.tls.tshark import keys_beside
    from replay.convert.evidence_files import FilingError

    if not options.sanitize and (options.key is not None or options.replaced):
        return refuse("--key and --replaced go with --sanitize")
    if options.receiver and options.delayed:
        return refuse("--delayed is about a sender's waits; leave it out with --receiver")
    if options.for_any_server and (options.receiver or options.anchor == "recorded"):
        return refuse("--for-any-server claims nothing of instants, nor of the recorded server")
    packing: list[Oddity] = []
    options.tls_keys = options.tls_keys or keys_beside(options.file)
    try:
        with plain_file(options.file, packing) as options.file, ExitStack() as stack:
            if options.delayed:
                options.delayed = stack.enter_context(plain_file(options.delayed, packing))
            for oddity in packing:
                print(f"odd: {told(oddity)}", file=_for_people(options))
            if options.sanitize:
                return _import_sanitized(options)
            if options.session is None:
                _file(options, options.file, options.delayed)
            else:
                _import_session(options)
    except (CaptureError, FilingError) as error:
        return refuse(str(error))
    return AS_EXPECTED


def _import_session(options: argparse.Namespace) -> None:
    """Import one session, and file its packets alone.  Raises CaptureError and FilingError."""
    import tempfile

    from replay.capture.reader import read_capture
    from replay.convert.importer import chosen, source_of
    from replay.convert.session_cut import cut_session

    with tempfile.TemporaryDirectory() as folder:
        cuts: list[Path] = []
        takes = (
            (options.file, options.output.stem, options.tls_keys),
            (options.delayed, "delayed", None),
        )
        for original, stem, keys in takes:
            if original is None:
                continue
            capture = read_capture(original, keys=keys)
            session = options.session if not cuts or len(capture.conversations) > 1 else None
            found = chosen(capture, session)
            if not cuts:
                source = source_of(capture, found, session)
            cut = original
            if capture.flows > 1:
                cut = Path(folder) / f"{stem}.pcap"
                cut_session(original, found[0], cut, keys)
            cuts.append(cut)
        options.session = None  # it is the only one that is filed
        options.source = options.source or source
        _file(options, cuts[0], cuts[1] if len(cuts) > 1 else None)


def _for_people(options: argparse.Namespace) -> TextIO:
    """Where sentences go: not into a pipe that receives the JSON."""
    return sys.stderr if options.replaced == Path("-") else sys.stdout


def _import_sanitized(options: argparse.Namespace) -> int:
    """Import a capture made anew, with nothing of the original in it."""
    import json
    import tempfile
    from contextlib import redirect_stdout

    from replay.capture.reader import read_capture
    from replay.convert.importer import chosen
    from replay.sanitize.sanitizer import LeftOver, sanitize

    captures = [read_capture(options.file, keys=options.tls_keys)]
    sessions = [chosen(captures[0], options.session)]
    if options.delayed:
        captures.append(read_capture(options.delayed))
        again = options.session if len(captures[1].conversations) > 1 else None
        sessions.append(chosen(captures[1], again))
    options.session = None  # it is the only one that is written
    try:
        clean = sanitize(list(zip(captures, sessions, strict=True)), _key(options.key))
        for text, where in ((options.story, "--story"), (options.source, "--source")):
            clean.check_text(text or "", where)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{options.output.stem}.pcap", Path(folder) / "delayed.pcap"]
            for path, octets in zip(paths, clean.captures, strict=False):
                path.write_bytes(octets)
            delayed = paths[1] if options.delayed else None
            with redirect_stdout(_for_people(options)):
                _file(options, paths[0], delayed, clean.check_transcript)
    except LeftOver as error:
        print(f"replay: {error}; nothing is written", file=sys.stderr)
        return DIFFERS
    with redirect_stdout(_for_people(options)):
        _tell(options, clean.report)
    replaced = json.dumps(clean.report, indent=2, ensure_ascii=False)
    if options.replaced and not write(options.replaced, replaced):
        return WRONG_USE
    return AS_EXPECTED


def _key(given: str | None) -> bytes:
    """The octets of the key: of a file, of a text, or random ones.  Raises CaptureError."""
    import random

    from replay.capture.oddity import CaptureError

    if given is None:
        dice = random.SystemRandom()
        return dice.randbytes(KEY_OCTETS)
    path = Path(given)
    try:
        key = path.read_bytes()[:KEY_MAX_OCTETS] if path.is_file() else given.encode()
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}") from None
    if len(key) < KEY_MIN_OCTETS:
        raise CaptureError(
            f"--key has {len(key)} octets; with less than {KEY_MIN_OCTETS} it could be guessed"
        )
    return key


def _tell(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Print what was replaced, and what could not be carried over."""
    places = ", ".join(f"{one['places']} x {kind}" for kind, one in report["replaced"].items())
    print(f"replaced: {places or 'nothing'}")
    left = {name.replace("_", " "): n for name, n in report["not_carried_over"].items() if n}
    if left:
        print("not carried over: " + ", ".join(f"{n} {name}" for name, n in left.items()))
    looked = report["looked_for"]
    print(
        f"looked for {looked['words']} words and {looked['addresses_and_host_names']} addresses "
        f"and host names of the original: none remains"
    )
    if options.key is None:
        print("the key is thrown away: other captures get other look-alikes (--key keeps them)")


def _file(
    options: argparse.Namespace,
    capture: Path,
    delayed: Path | None,
    check: Callable[[str], None] = lambda text: None,
) -> None:
    """Import, write, and print a summary.  Raises CaptureError and FilingError."""
    from replay.capture.oddity import told
    from replay.convert.evidence_files import evidence, file_capture, settles
    from replay.convert.for_any_server import for_any_server
    from replay.convert.importer import import_capture
    from replay.convert.receiver_importer import import_receiver

    recorded_times = options.anchor == "recorded"
    keys = None if options.sanitize else options.tls_keys
    session = options.session
    if options.receiver:
        imported = import_receiver(
            capture, session=session, recorded_times=recorded_times, keys=keys
        )
    else:
        imported = import_capture(
            capture, session=session, delayed=delayed, recorded_times=recorded_times, keys=keys
        )
    if options.for_any_server:
        imported.scenario = for_any_server(imported.scenario)
    written = file_capture(
        imported,
        options.output,
        capture,
        delayed,
        keys,
        story=options.story,
        source=options.source,
        force=options.force,
        check=check,
    )
    for oddity in imported.oddities + [o for one in imported.connections for o in one.oddities]:
        print(f"odd: {told(oddity)}")
    if delayed and not settles(imported):
        print(f"odd: {options.delayed} settles nothing: is it the same sender, held back?")
    print(f"departures: {evidence(imported)}")
    print("wrote " + ", ".join(map(str, written)))
    if options.for_any_server:
        print(f"next: replay check HOST:PORT --from {written[0]}")
    else:
        print(f"next: replay run {written[0]}")
