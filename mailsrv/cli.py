"""The command line of ``mailsrv``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mailsrv import __version__
from mailsrv.command_line import CommandLineParser
from mailsrv.config import file
from mailsrv.config.file import Config
from mailsrv.config.validation import ConfigError
from mailsrv.daemon.check_config import inspect
from mailsrv.operate import queue_options
from mailsrv.runtime.clock import SystemClock

WRONG_USE = 2
READER_GONE = 141
"""As shells report a program whose reader has gone (128 + SIGPIPE)."""

_EPILOG = """\
Without options mailsrv listens on 127.0.0.1:2525 and delivers to the Maildir "mail" in the
working directory.  Try it:

  mailsrv serve &
  curl smtp://127.0.0.1:2525 --mail-from me@example.org --mail-rcpt you@example.org \\
       --crlf -T letter.txt
  ls mail/new

SIGTERM or Ctrl-C stops it: idle clients get 421, transactions in flight may finish; a second one
ends those too.  SIGHUP reads the configuration file, the certificate and the recipient table anew
and opens the log file anew; nobody is disconnected.  docs/run/operate.md has the rest.

Exit status: 0 after an orderly stop, 2 for wrong use or a port in use.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command != "serve":
            return _tell(options)
        from mailsrv.daemon.service import ServeOptions, serve  # the server, to check no file

        serve_options = ServeOptions(partial(_config_of, options), options.config)
        return serve(serve_options, SystemClock(), os.environ)
    except ConfigError as error:
        for complaint in error.complaints:
            print(f"mailsrv: {complaint}", file=sys.stderr)
        return WRONG_USE


def _tell(options: argparse.Namespace) -> int:
    """Run a command that prints and ends.  Raises ConfigError."""
    try:
        if options.command == "check-config":
            print("\n".join(inspect(options.file, ask_nameservers=options.probe)))
            status = 0
        else:
            from mailsrv.operate import queue_command  # with SQLite

            status = queue_command.run(options, SystemClock())
        sys.stdout.flush()  # here, where an error is still reported
        return status
    except OSError as error:  # everything else that fails is a ConfigError
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        raise ConfigError(f"the output: {error.strerror}") from None


def _parser() -> CommandLineParser:
    parser = CommandLineParser(
        prog="mailsrv",
        description="An SMTP server that receives mail from an internet that ignores the rules.",
    )
    parser.add_argument("--version", action="version", version=f"mailsrv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="receive mail",
        description="Receive mail.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings, in TOML; docs/run/configure.md has them all",
    )
    serve.add_argument(
        "--listen",
        action="append",
        metavar="HOST:PORT",
        help="where to listen; may be given several times; port 0 takes any free port "
        f"(default: {file.LISTEN_DEFAULT[0]})",
    )
    serve.add_argument(
        "--delivery",
        metavar="HOW",
        help="where accepted mail goes: maildir=DIR, relay=HOST[:PORT] or lmtp=HOST:PORT (of "
        "these several, with commas between them), mx, or discard, which throws it away "
        f"(default: {file.DELIVERY_DEFAULT})",
    )
    serve.add_argument(
        "--spool",
        metavar="DIR",
        help="where accepted mail waits for its delivery "
        f"(default: the Maildir's name with {file.SPOOL_SUFFIX} behind it, or {file.SPOOL_DEFAULT} "
        "where there is no Maildir)",
    )
    check = commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Say what a configuration file means, or what is wrong with it, with key and "
        "what is allowed.  Tries what serve would do: the ports, the certificate, the user, and "
        "what the user may read and write; run it as root to try all of that.  Exit status: 0 "
        "good, 2 not.",
    )
    check.add_argument(
        "--probe",
        action="store_true",
        help="send a question to each name server",
    )
    check.add_argument("file", type=Path, metavar="FILE")
    queue_options.add_parser(commands)
    return parser


def _config_of(options: argparse.Namespace) -> Config:
    loaded = file.load(options.config) if options.config else Config()
    told = {"listen": options.listen, "delivery": options.delivery, "spool": options.spool}
    given = {key: value for key, value in told.items() if value is not None}
    loaded = file.with_options(loaded, given)
    file.check(loaded)
    return loaded
