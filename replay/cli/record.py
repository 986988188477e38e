"""``replay record``: captures without root, by a proxy or from inside mailsrv."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli.common import (
    AS_EXPECTED,
    WRONG_USE,
    Commands,
    at_least,
    explain,
    output_trouble,
    refuse,
    write,
)
from replay.counted import counted

if TYPE_CHECKING:
    from replay.record.proxy import RecordingResult

_DESCRIPTION = """\
Record senders without root. As a proxy, between them and any server:

  replay record --listen 127.0.0.1:2526 --upstream 127.0.0.1:25 -o stall.pcap
      passes every octet on as it came, in both directions, and writes
      stall.pcap            what the senders' side looks like, as if it had been
                            captured at the server; this is what you import
      stall.upstream.pcap   what the server's side looks like
  replay import stall.pcap -o captures/FAMILY/stall

Or with mailsrv itself as the server, which sees what TLS hides from a proxy:

  replay record --serve mailsrv.toml -o recorded/
      serves as 'mailsrv serve --config mailsrv.toml' does, and writes a capture
      of each session into recorded/: the last ones, and the last of those that
      ended badly (see --keep and --keep-bad). What is said under TLS is written
      as plaintext, into files that are named ...plaintext.pcap.

Ctrl-C or SIGTERM ends it when the connections that are there have ended; a
second one cuts them off. A kill loses nothing that was written before.
"""

_EPILOG = """\
What is recorded: octets in the pieces in which they were read, to the
nanosecond of the read, and with each read how much of the server's output the
sender's system had acknowledged. So an import can prove who spoke too early,
as from a capture. Pieces that a sender sends faster than they are read come
together, as they would at any server.

--delay 200ms holds back what the server says. A second recording with it
settles which departures wait for a reply and which follow the sender's clock:
  replay import take1.pcap --delayed take2.pcap -o captures/FAMILY/NAME

--terminate-tls CERT.pem ends TLS in the proxy, behind STARTTLS or from the
first octet on: the senders shake hands with that certificate, the proxy with
the server (whatever its certificate), and what is said stands in the capture as
plaintext, each TLS record by itself. A sender that verifies certificates needs
one that it trusts. Without it TLS passes through as it is.

If the server cannot be reached, the sender gets a 421 that says why, and that
is recorded. If a file reaches its bound or the disk is full, mail goes on and
the recording ends, with a word. The files belong to you alone (mode 600): there
is mail in them.

Exit status: 0 after an orderly stop, 1 if something is missing in the files, 2
for wrong use.
"""

SIZE_MAX = 1 << 50
_SIZE = re.compile(r"(\d{1,15})([KMGT]?)i?B?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("record", help="record senders without root, into captures")
    explain(parser, _DESCRIPTION, _EPILOG)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--upstream", metavar="HOST:PORT", help="pass connections on to this server")
    how.add_argument("--serve", type=Path, metavar="CONFIG", help="be mailsrv, so configured")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE.pcap|DIR",
        help="where the capture goes; with --serve the folder of captures",
    )
    proxy = parser.add_argument_group("with --upstream")
    proxy.add_argument("--listen", metavar="HOST:PORT", help="where senders connect (required)")
    proxy.add_argument(
        "--delay", type=_duration, metavar="TIME", help="hold replies back: 200ms, 1s"
    )
    proxy.add_argument(
        "--max-size",
        type=_size,
        metavar="SIZE",
        help="bound of each file: 500M, 2G (default: 1G)",
    )
    proxy.add_argument("--sessions", type=at_least(1), metavar="N", help="end after so many")
    proxy.add_argument(
        "--proxy-protocol",
        action="store_true",
        help="tell the server the sender's address, with a PROXY header (version 1)",
    )
    proxy.add_argument(
        "--terminate-tls",
        type=Path,
        metavar="CERT.pem",
        help="end TLS here, with this certificate, and record what is in it as plaintext",
    )
    proxy.add_argument(
        "--tls-key", type=Path, metavar="KEY.pem", help="its key; left out, it stands in CERT.pem"
    )
    proxy.add_argument("--force", action="store_true", help="replace files that are there")
    proxy.add_argument("--json", type=Path, metavar="FILE", help="a summary for machines; - prints")
    inside = parser.add_argument_group("with --serve")
    inside.add_argument(
        "--keep", type=at_least(1), metavar="N", help="keep the last N sessions (default: 100)"
    )
    inside.add_argument(
        "--keep-bad",
        type=at_least(0),
        metavar="M",
        help="beside them the last M that ended badly: refused, timed out, reset (default: 100)",
    )
    inside.add_argument(
        "--disk", type=_size, metavar="SIZE", help="bound of all together (default: 1G)"
    )
    parser.set_defaults(command=_record)


_ONLY_PROXY = (
    *("listen", "delay", "max_size", "sessions", "proxy_protocol", "terminate_tls", "tls_key"),
    *("force", "json"),
)
_ONLY_INSIDE = ("keep", "keep_bad", "disk")
SIZE_DEFAULT = 1 << 30
KEEP_DEFAULT = 100


def _record(options: argparse.Namespace) -> int:
    inside = options.serve is not None
    for name in _ONLY_PROXY if inside else _ONLY_INSIDE:
        if getattr(options, name) not in (None, False):
            other = "--upstream" if inside else "--serve"
            return refuse(f"--{name.replace('_', '-')} goes with {other}")
    return _serve(options) if inside else _proxy(options)


def _serve(options: argparse.Namespace) -> int:
    from mailsrv.runtime.clock import SystemClock
    from replay.record.capture_ring import RingLimits
    from replay.record.server_tap import ServeError, serve

    keeping = RingLimits(
        options.output,
        KEEP_DEFAULT if options.keep is None else options.keep,
        KEEP_DEFAULT if options.keep_bad is None else options.keep_bad,
        SIZE_DEFAULT if options.disk is None else options.disk,
    )
    try:
        return serve(options.serve, keeping, SystemClock(), _say)
    except ServeError as error:
        return refuse(str(error))


def _proxy(options: argparse.Namespace) -> int:
    from mailsrv.runtime.clock import SystemClock
    from replay.play.target import TargetError, resolve
    from replay.record.proxy import (
        RecordError,
        RecordingOptions,
        listen,
        own_tls,
        record,
        upstream_path,
    )

    if options.listen is None:
        return refuse("--upstream goes with --listen: where shall the senders connect?")
    if options.tls_key is not None and options.terminate_tls is None:
        return refuse("--tls-key goes with --terminate-tls")
    if complaint := output_trouble(options.json):
        return refuse(complaint)
    path: Path = options.output
    if path.suffix != ".pcap":
        return refuse(f"{path}: takes a name that ends in .pcap")
    for existing in (path, upstream_path(path)):
        if options.force:
            existing.unlink(missing_ok=True)
        elif existing.exists():
            return refuse(f"{existing}: is there already; --force replaces it")
    try:
        target = resolve(options.upstream)
        certificate = options.terminate_tls
        tls = own_tls(certificate, options.tls_key or certificate) if certificate else None
        wanted = RecordingOptions(
            listen=listen(options.listen),
            upstream=target,
            path=path,
            octets_max=options.max_size or SIZE_DEFAULT,
            delay_ns=options.delay or 0,
            tells_client=options.proxy_protocol,
            sessions=options.sessions or 0,
            tls=tls,
        )
        outcome = record(wanted, SystemClock(), _say)
    except (RecordError, TargetError) as error:
        return refuse(str(error))
    if options.json and not write(options.json, json.dumps(_as_json(outcome), indent=2)):
        return WRONG_USE
    return _sum_up(outcome)


def _sum_up(outcome: RecordingResult) -> int:
    senders, _ = outcome.recorders
    for recorder in outcome.recorders:
        _say(
            f"wrote {recorder.file.path}: {recorder.packets} packets, {recorder.file.octets} octets"
        )
    for sentence in outcome.incomplete:
        _say(sentence)
    _say(f"{counted(outcome.count, 'connection')}, {outcome.octets} octets")
    if outcome.count:
        _say(f"next: replay show {senders.file.path}")
    return 1 if outcome.incomplete else AS_EXPECTED


def _as_json(outcome: RecordingResult) -> dict[str, object]:
    return {
        "files": [
            {
                "path": str(recorder.file.path),
                "packets": recorder.packets,
                "octets": recorder.file.octets,
                "missing_packets": recorder.missing,
                "failure": recorder.file.failure,
            }
            for recorder in outcome.recorders
        ],
        "connections": outcome.count,
        "sessions": [
            {
                "number": one.number,
                "client": one.client[0],
                "client_port": one.client[1],
                "client_octets": one.client_octets,
                "server_octets": one.server_octets,
                "real_duration_ns": one.duration_ns,
                "ended": one.how,
            }
            for one in outcome.sessions
        ],
    }


def _say(line: str) -> None:
    """A line for people, if there is still a terminal."""
    try:
        print(f"replay: {line}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def _duration(text: str) -> int:
    from replay.transcript.duration import parse

    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    octets = int(match[1]) << _UNITS[match[2].upper()] if match else 0
    if not 4096 <= octets <= SIZE_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: takes a size from 4K to 1024T, such as 500M")
    return octets
