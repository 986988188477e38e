"""``replay run --target``: transcripts against any SMTP server, in real time."""

from __future__ import annotations

import argparse
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli.common import refuse, seconds
from replay.cli.results import Report, collect, conclude

if TYPE_CHECKING:
    from replay.play.target import Target
    from replay.play.tls_client import Verify
    from replay.transcript.script import MaskedOctets
    from replay.verify.suite import ScenarioResult
    from replay.verify.target_suite import TargetOptions, TargetRun

DESCRIPTION = """\
  replay run captures/client --target 127.0.0.1:25
      play them against any SMTP server, in real time
  replay run captures/next_hop/tarpit.smtp --listen 127.0.0.1:2526
      play its receivers for any client that delivers there, in real time
"""

EPILOG = """\
--target plays the senders over real sockets, at the times of the transcript,
and tells how late departures were. Replies, ends and handshakes are compared
as in virtual time, but an instant counts from the departure that it hangs on,
and may be missed by the tolerance: 100ms, or what --tolerance says; with a
percentage too, whichever is more.

What another server may vary is masked in the transcript (S~, see
docs/understand/notation.md), or in a file for all of them: --masks FILE has
lines such as
  220 <*> ESMTP <*>
  250 2.0.0 Ok: queued as <:[0-9A-Z]+>
and a line of a reply may be another one if the same mask fits both it and what
is expected. --codes-only compares no texts; instants are held to the tolerance
still.

The server gets --timeout seconds more than the transcript says for whatever is
waited for. Left out, with a word, unless --all is given: a transcript whose
world is faked, which needs settings of its own, or in which the server's own
timers do something after more than 5 s. A server on this machine
(127.0.0.0/8) sees each captured address as one of 127/8, always the same:
192.0.2.10 as 127.X.2.10; with --proxy, any server is told the captured address
by the PROXY protocol, if it trusts us with that.

--listen plays the receivers of the transcripts, one file after another; each
takes one connection of whatever client delivers there, and what that says is
compared as above (--codes-only: by its verbs alone). A client that does not
come is waited for as long as the transcript says, and --timeout longer.
"""

_OPTIONS = {
    "speed": "--speed",
    "max_wait": "--max-wait",
    "tolerance": "--tolerance",
    "codes_only": "--codes-only",
    "masks": "--masks",
    "timeout": "--timeout",
    "proxy": "--proxy",
    "ca": "--ca",
    "all": "--all",
}
"""Options that go with --target only, by the names of their values."""

_PERCENT = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)%")


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add ``--target`` and what goes with it."""
    group = parser.add_argument_group("any server, in real time")
    group.add_argument("--target", metavar="HOST:PORT", help="the server")
    group.add_argument(
        "--listen", metavar="HOST:PORT", help="instead of a server: play receivers for a client"
    )
    group.add_argument("--speed", type=_speed, metavar="X", help="the senders wait X times shorter")
    group.add_argument(
        "--max-wait", type=seconds, metavar="S", help="no sender keeps all silent for longer"
    )
    group.add_argument(
        "--tolerance",
        type=_tolerance,
        action="append",
        metavar="TIME|%",
        help="how far instants may lie off: 250ms, 5%%, or both one after the other",
    )
    group.add_argument(
        "--codes-only",
        action="store_true",
        default=None,
        help="compare no texts, only codes; instants are compared still, see --tolerance",
    )
    group.add_argument(
        "--masks",
        type=Path,
        metavar="FILE",
        help="what may differ in texts, a line of a reply each",
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="wait so much longer than the transcript says (default: 30)",
    )
    group.add_argument("--proxy", choices=("v1", "v2"), help="tell the captured address")
    group.add_argument(
        "--ca", type=Path, metavar="FILE", help="verify certificates by these (default: trust all)"
    )
    group.add_argument(
        "--all", action="store_true", default=None, help="leave out nothing, whatever comes of it"
    )


def misuse(options: argparse.Namespace) -> str:
    """What does not go together, as a sentence; empty if all does."""
    if options.target and options.listen:
        return "--target plays senders and --listen receivers; give one of them"
    if options.listen and (options.proxy or options.ca):
        return "--proxy and --ca are about a server; leave them out with --listen"
    if options.target or options.listen:
        for name, given in (
            ("--update", options.update),
            ("--cuts", options.cuts),
            ("--timer-edges", options.timer_edges),
            ("--unused", options.unused),
        ):
            if given:
                how = "--target" if options.target else "--listen"
                return f"{name} is about mailsrv in virtual time; leave out {how}"
        return ""
    for name, option in _OPTIONS.items():
        if getattr(options, name) is not None:
            return f"{option} goes with --target: virtual time needs none of it"
    return ""


def run_target(options: argparse.Namespace, paths: Sequence[Path]) -> int:
    """Play each transcript at the target, or for the client, and report."""
    from mailsrv.runtime.clock import SystemClock
    from replay.play.target import TargetError, resolve
    from replay.transcript.notation import TranscriptError
    from replay.verify.target_suite import ClientRun, TargetRun

    try:
        target = resolve(options.target or options.listen)
        how = _how(options, target.host)
        with ExitStack() as stack:
            run = TargetRun(target, how, SystemClock())
            if options.listen:
                listener = stack.enter_context(_listen(target))
                run = ClientRun(target, listener, how, SystemClock())
                print(f"listening on {options.listen}", file=sys.stderr)
            results, interrupted = collect(options, run.run_all(paths), paths, virtual=False)
    except (TargetError, TranscriptError, _FileError) as error:
        return refuse(str(error))
    status = conclude(options, results, _report(options, run, results), interrupted=interrupted)
    if not results:
        return refuse("nothing was played: every transcript was left out; --all plays them")
    return status


def _listen(target: Target) -> socket.socket:
    """A socket that listens at ``target``.  Raises _FileError."""
    try:
        host, port = str(target.address[0]), int(target.address[1])
        return socket.create_server((host, port), family=target.family)
    except OSError as error:
        raise _FileError(f"cannot listen on {target.name}: {error.strerror or error}") from None


def _report(
    options: argparse.Namespace, run: TargetRun, results: Sequence[ScenarioResult]
) -> Report:
    from replay.report import console
    from replay.report import target as target_report

    def as_html() -> str:
        from replay.report.html.page import page

        where = f"against {options.target}" if options.target else f"at {options.listen}"
        return page(results, title=f"Replay {where}")

    def show(readable: Sequence[ScenarioResult]) -> None:
        if readable or run.left_out:
            target_report.show(run, readable, console.make_console())

    return Report(lambda: target_report.as_json(run, results), as_html, show)


class _FileError(Exception):
    """A file of the command line that cannot be used; the message names it."""


def _how(options: argparse.Namespace, host: str) -> TargetOptions:
    """How to play and to judge, by the options.  Raises _FileError and TranscriptError for files
    that cannot be used."""
    from mailsrv.units import seconds_to_ns
    from replay.play.realtime_player import PATIENCE_NS, RealtimeOptions
    from replay.verify.target_suite import TOLERANCE, TargetOptions

    tolerance = TOLERANCE
    for given in options.tolerance or ():
        tolerance = tolerance._replace(**given)
    return TargetOptions(
        RealtimeOptions(
            speed=options.speed or 1,
            wait_max_ns=None if options.max_wait is None else seconds_to_ns(options.max_wait),
            patience_ns=PATIENCE_NS if options.timeout is None else seconds_to_ns(options.timeout),
            proxy=int(options.proxy[1:]) if options.proxy else 0,
            verify=_verify(options.ca, host) if options.ca else None,
        ),
        tolerance,
        codes_only=bool(options.codes_only),
        line_masks=_masks(options.masks) if options.masks else (),
        forced=bool(options.all),
    )


def _verify(authorities: Path, host: str) -> Verify:
    from replay.play.tls_client import verify_by

    try:
        return verify_by(authorities, host)
    except OSError as error:
        raise _FileError(f"{authorities}: {error.strerror or error}") from None


def _masks(path: Path) -> tuple[MaskedOctets, ...]:
    from replay.transcript import masks, transcript

    try:
        return tuple(masks.read_lines(transcript.read_text(path), str(path)))
    except OSError as error:
        raise _FileError(f"{path}: {error.strerror}") from None


def _speed(text: str) -> float:
    from replay.play.realtime import SPEED_MAX, SPEED_MIN

    try:
        number = float(text)
    except ValueError:
        number = 0
    if not SPEED_MIN <= number <= SPEED_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r}: takes a number from {SPEED_MIN:g} to {SPEED_MAX:g}"
        )
    return number


def _tolerance(text: str) -> dict[str, float]:
    """A field of ``expectations.Tolerance``."""
    from replay.transcript import duration

    if match := _PERCENT.fullmatch(text):
        return {"percent": float(match[1])}
    try:
        return {"ns": duration.parse(text)}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; or a percentage, as in 5%") from None
