"""``replay check``: what must hold of any SMTP server, held against one."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replay.cli.common import (
    AS_EXPECTED,
    DIFFERS,
    WRONG_USE,
    Commands,
    at_least,
    explain,
    output_trouble,
    refuse,
    report_is_missing,
    seconds,
    write,
)
from replay.counted import counted

if TYPE_CHECKING:
    from replay.verify.check.duration import Plan
    from replay.verify.check.prepared import Introduction
    from replay.verify.check.runner import Check, CheckOptions, CheckResult
    from replay.verify.check.selection import NamedScenario
    from replay.verify.check.verdict import Verdict

_DESCRIPTION = """\
Play senders of every kind at an SMTP server, and tell where it does not hold
what any server must. Only what transcripts claim of any server is judged
(docs/understand/claims.md), never what mailsrv does.

  replay check 127.0.0.1:25 --recipient me@mx.example
      all that comes with the package; the server must take that recipient
  replay check mx.example:587 --tls starttls --user me --password-file FILE
  replay check 127.0.0.1:25 --family attack --only 'smuggle-*'
  replay check 127.0.0.1:25 --section 5321/4.5.3 --dry-run
  replay check 127.0.0.1:25 --delivered maildir=/home/me/Maildir
      look at what was delivered, too
  replay check 127.0.0.1:25 --known known.txt --junit report.xml
      for CI: fail on what is new

A verdict is one of

  holds           all claims that could be judged hold
  violates        one that says MUST does not
  departs         one that says SHOULD does not
  does not apply  the server offers none of it, or no claim is made
  could not tell  the session did not come to it; the reason is told
"""

_EPILOG = """\
What does not hold is told as stricter (refused what should be taken), laxer
(taken what should be refused), other code, hang (nothing came), close (the end
came), too late, too early, stays open, one too many (a reply that nothing asked
for), handshake, content. No instant is compared unless a claim is about time.

A session that a server ends of right says nothing about what was to come: with
a 421; and with --error-limit N, --junk-limit N, --closes-after-refusal also
without one, after so many refusals, so many replies, or any refusal.

Scenarios that wait for the server's timeout, which is 300 s or what
--idle-timeout says, are played all at once beside the others. Clients of a
server in 127.0.0.0/8 have addresses there, another network for each scenario.

--known FILE has a line for each verdict that is known: a scenario's name, its
verdict, and a # before a remark. --delivered takes maildir=DIR, mbox=FILE,
command=COMMAND (prints an mbox) or http=URL (mailpit); each message carries a
mark in its reverse-path and its subject.

Exit status: 0 nothing new is violated, 1 something is, 2 wrong use, no SMTP
server there, or one that went away; 130 after Ctrl-C, which shows what there is
so far.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="hold any SMTP server to what it must do")
    explain(parser, _DESCRIPTION, _EPILOG)
    parser.usage = "%(prog)s HOST:PORT [OPTION]..."
    parser.add_argument("target", metavar="HOST:PORT", help="the server")
    which = parser.add_argument_group("which scenarios")
    which.add_argument(
        "--from",
        type=str,
        action="append",
        dest="paths",
        metavar="PATH",
        default=None,
        help=".smtp file, folder or builtin:FAMILY (default: all that comes with the package)",
    )
    which.add_argument("--family", action="append", default=[], metavar="F", help="of this family")
    which.add_argument("--only", action="append", default=[], metavar="NAME", help="NAME, FAMILY/*")
    which.add_argument(
        "--section",
        action="append",
        default=[],
        metavar="S",
        help="with a claim on this RFC (5321), section (5321/4.5.3) or CVE",
    )
    which.add_argument("--dry-run", action="store_true", help="list them, and play nothing")
    _add_introduction(parser)
    _add_ways(parser)
    output = parser.add_argument_group("results")
    output.add_argument("--known", type=Path, metavar="FILE", help="verdicts that are known")
    output.add_argument("--json", type=Path, metavar="FILE", help="for machines; - prints")
    output.add_argument("--html", type=Path, metavar="FILE", help="a page for people; - prints")
    output.add_argument("--junit", type=Path, metavar="FILE", help="JUnit XML; - prints")
    parser.set_defaults(command=_check)


def _add_introduction(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the senders introduce themselves")
    group.add_argument("--helo", default="", metavar="NAME", help="in EHLO")
    group.add_argument("--sender", default="", metavar="A", help="in MAIL")
    group.add_argument(
        "--recipient", default="", metavar="A", help="in RCPT, for each address of example.test"
    )
    group.add_argument(
        "--tls", default="", choices=("starttls", "implicit"), help="before the mail"
    )
    group.add_argument("--user", default="", metavar="NAME", help="AUTH before the mail")
    group.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="its first line; without it the variable SMTP_PASSWORD",
    )
    group.add_argument("--auth", default="PLAIN", choices=("PLAIN", "LOGIN"), help="the mechanism")
    group.add_argument("--proxy", choices=("v1", "v2"), help="tell the client by PROXY protocol")


def _add_ways(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how they are played and judged")
    group.add_argument(
        "--jobs", type=at_least(1), default=20, metavar="N", help="side by side (default: 20)"
    )
    group.add_argument(
        "--timeout", type=seconds, default=20, metavar="S", help="wait so long for a reply (20)"
    )
    group.add_argument(
        "--idle-timeout",
        type=seconds,
        default=300,
        metavar="S",
        help="the server's timeout for a command (300)",
    )
    group.add_argument(
        "--longest", type=seconds, metavar="S", help="leave out what may wait for longer"
    )
    group.add_argument(
        "--cuts", action="store_true", help="play what holds again, its octets cut in other ways"
    )
    group.add_argument("--delivered", metavar="KIND=PLACE", help="look at what was delivered")
    group.add_argument("--error-limit", type=at_least(1), default=0, metavar="N", help="see below")
    group.add_argument("--junk-limit", type=at_least(1), default=0, metavar="N", help="see below")
    group.add_argument("--closes-after-refusal", action="store_true", help="see below")


class _UseError(Exception):
    """Options that cannot be used; each argument is a sentence that says why."""

    def __str__(self) -> str:
        return "\nreplay: ".join(map(str, self.args))


def _check(options: argparse.Namespace) -> int:
    from mailsrv.runtime.clock import SystemClock
    from replay.play.target import TargetError, resolve
    from replay.transcript.collection import CollectionError
    from replay.verify.check.delivered import Delivered, DeliveredError, mailbox
    from replay.verify.check.known import KnownError, load_known
    from replay.verify.check.offer import ask
    from replay.verify.check.runner import Check
    from replay.verify.suite import InputError

    try:
        scenarios = _scenarios(options)
        if options.dry_run:
            return _list(scenarios)
        _check_outputs(options)
        known = load_known(options.known) if options.known else {}
        clock, how = SystemClock(), _how(options)
        delivered = Delivered(mailbox(options.delivered)) if options.delivered else None
        if delivered is not None:
            delivered.pass_over()
        target = resolve(options.target)
        offer = ask(target, how.how, how.introduction, clock)
        check = Check(target, offer, how, clock, delivered)
        began_ns = clock.monotonic_ns()
        results, interrupted = _collect(options, check, scenarios, known)
    except (
        CollectionError,
        InputError,
        KnownError,
        TargetError,
        DeliveredError,
        _UseError,
    ) as error:
        return refuse(str(error))
    return _conclude(options, check, results, known, clock.monotonic_ns() - began_ns, interrupted)


def _collect(
    options: argparse.Namespace,
    check: Check,
    scenarios: Sequence[NamedScenario],
    known: dict[str, Verdict],
) -> tuple[list[CheckResult], bool]:
    """The results, each shown as it comes, and whether Ctrl-C ended the run."""
    from replay.report import console
    from replay.report.check import show_doubt, show_plan, show_result
    from replay.verify.check.delivered import DeliveredError
    from replay.verify.check.verdict import Verdict

    output = console.make_console(stderr=_prints_a_document(options))
    results: list[CheckResult] = []

    def told(plan: Plan) -> None:
        show_plan(plan, output)

    show_doubt(check.offer.doubt, output)
    try:
        for result in check.results(scenarios, told):
            results.append(result)
            if not _prints_a_document(options):
                show_result(result, known, output)
        for result in check.recut_results(list(results), told) if options.cuts else ():
            check.variants += 1
            if result.verdict in (Verdict.VIOLATES, Verdict.DEPARTS):
                results.append(result)
                if not _prints_a_document(options):
                    show_result(result, known, output)
    except KeyboardInterrupt:
        return results, True
    except DeliveredError as error:
        check.ended = str(error)
    return results, False


def _conclude(
    options: argparse.Namespace,
    check: Check,
    results: Sequence[CheckResult],
    known: dict[str, Verdict],
    real_ns: int,
    interrupted: bool,
) -> int:
    from replay.report import console
    from replay.report.check import as_json, show_summary
    from replay.report.html.check import check_page
    from replay.report.junit import as_junit
    from replay.verify.check.known import is_new
    from replay.verify.check.verdict import Verdict

    documents: list[tuple[Path | None, Callable[[], str]]] = [
        (options.json, lambda: as_json(check, results, known, real_ns)),
        (options.junit, lambda: as_junit(check, results, known, real_ns)),
        (options.html, lambda: check_page(check, results, known)),
    ]
    written = [write(path, make()) for path, make in documents if path]
    if not _prints_a_document(options):
        show_summary(check, results, known, real_ns, console.make_console())
    if interrupted:
        raise KeyboardInterrupt(f"judged: {counted(len(results), 'scenario')}")
    if check.ended:
        left = f"; not played: {counted(check.not_played, 'scenario')}" if check.not_played else ""
        return refuse(check.ended + left)
    if not all(written):
        return WRONG_USE
    bad = any(
        one.verdict is Verdict.VIOLATES and is_new(one.name, one.verdict, known) for one in results
    )
    return DIFFERS if bad else AS_EXPECTED


def _prints_a_document(options: argparse.Namespace) -> bool:
    return Path("-") in (options.json, options.html, options.junit)


def _check_outputs(options: argparse.Namespace) -> None:
    """Raises _UseError for results that could not be written, or would replace what nothing can
    make again."""
    outputs = [options.json, options.html, options.junit]
    if outputs.count(Path("-")) > 1:
        raise _UseError("only one of --json, --html and --junit can print")
    if options.html and (complaint := report_is_missing()):
        raise _UseError(complaint)
    if complaint := output_trouble(*outputs):
        raise _UseError(complaint)


def _scenarios(options: argparse.Namespace) -> list[NamedScenario]:
    """What is asked for.  Raises InputError, CollectionError and _UseError."""
    from replay.transcript.collection import PREFIX, path_of
    from replay.verify.check.selection import Selection, is_section, named_scenarios

    for section in options.section:
        if not is_section(section):
            raise _UseError(f"{section}: takes an RFC (5321), a section (5321/4.5.3) or a CVE")
    there = named_scenarios([path_of(text) for text in options.paths or [PREFIX]])
    selection = Selection(options.family, options.only, options.section)
    if complaints := selection.complaints(there):
        hint = "; 'replay check HOST:PORT --dry-run' lists them all"
        raise _UseError(*(f"{complaint}{hint}" for complaint in complaints))
    return list(filter(selection.has, there))


def _list(scenarios: Sequence[NamedScenario]) -> int:
    from replay.transcript.octets import printable
    from replay.verify.check.selection import bases

    for one in scenarios:
        on = ", ".join(bases(one.scenario)) or "no claims"
        print(printable(f"{one.name}: {one.scenario.story} [{on}]"))
    print(counted(len(scenarios), "scenario"), file=sys.stderr)
    return AS_EXPECTED


def _how(options: argparse.Namespace) -> CheckOptions:
    """Raises _UseError."""
    from mailsrv.units import seconds_to_ns
    from replay.play.conditions import Patience
    from replay.play.realtime_player import RealtimeOptions
    from replay.transcript.duration import DURATION_NS_MAX
    from replay.verify.check.delivered import run_of
    from replay.verify.check.profile import Profile
    from replay.verify.check.runner import CheckOptions

    return CheckOptions(
        introduction=_introduction(options),
        patience=Patience(seconds_to_ns(options.timeout), seconds_to_ns(options.idle_timeout)),
        playing=RealtimeOptions(proxy=int(options.proxy[1:]) if options.proxy else 0),
        profile=Profile(options.error_limit, options.junk_limit, options.closes_after_refusal),
        jobs=options.jobs,
        longest_ns=seconds_to_ns(options.longest) if options.longest else DURATION_NS_MAX,
        run=run_of(random.SystemRandom()),
    )


def _introduction(options: argparse.Namespace) -> Introduction:
    """Raises _UseError."""
    from replay.verify.check.prepared import Introduction

    for name, text in (
        ("--helo", options.helo),
        ("--sender", options.sender),
        ("--recipient", options.recipient),
    ):
        if not text.isascii() or not text.isprintable() or any(one in text for one in " <>"):
            raise _UseError(f"{name} {text!r}: takes a name or an address in ASCII")
    password = ""
    if options.user:
        password = _password(options.password_file)
    elif options.password_file:
        raise _UseError("--password-file goes with --user")
    return Introduction(
        options.helo,
        options.sender,
        options.recipient,
        options.tls,
        options.user,
        password,
        options.auth,
    )


def _password(path: Path | None) -> str:
    if path is None:
        password = os.environ.get("SMTP_PASSWORD", "")
        if not password:
            raise _UseError("--user needs --password-file FILE, or the variable SMTP_PASSWORD")
        return password
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(1024).rstrip("\r\n")
    except UnicodeDecodeError:
        raise _UseError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise _UseError(f"{path}: {error.strerror}") from None
