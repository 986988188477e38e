"""The command line of ``mailsrv``."""

from __future__ import annotations

import argparse
import dataclasses
import random
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mailsrv import __version__, config
from mailsrv.clock import Clock, SystemClock
from mailsrv.config import Config, ConfigError
from mailsrv.discard import DiscardCourier
from mailsrv.journal import Journal
from mailsrv.listener import bind
from mailsrv.maildir import MaildirCourier
from mailsrv.poll import SelectorPoll
from mailsrv.resolvconf import read_nameservers
from mailsrv.seams import Courier
from mailsrv.server import Edges, Server
from mailsrv.unwired import NoResolver

if TYPE_CHECKING:
    from mailsrv.resolver import StubResolver

WRONG_USE = 2

_EPILOG = """\
Without options mailsrv listens on 127.0.0.1:2525 and delivers to the Maildir "mail" in the
working directory.  Try it:

  mailsrv serve &
  curl smtp://127.0.0.1:2525 --mail-from me@example.org --mail-rcpt you@example.org \\
       --crlf -T letter.txt
  ls mail/new

SIGTERM, SIGHUP or Ctrl-C stops it: idle clients get 421, transactions in flight may finish; a
second one ends those too.  It logs to standard error, one event a line.

Exit status: 0 after an orderly stop, 2 for wrong use or a port in use.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; gives its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "check-config":
            config.load(options.file)
            print(f"{options.file}: good")
            return 0
        return _serve(_config_of(options))
    except ConfigError as error:
        for complaint in error.complaints:
            print(f"mailsrv: {complaint}", file=sys.stderr)
        return WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
        help="settings, in TOML; docs/configuration.md has them all",
    )
    serve.add_argument(
        "--listen",
        action="append",
        metavar="HOST:PORT",
        help="where to listen; may be given several times; port 0 takes any free port "
        f"(default: {config.LISTEN_DEFAULT[0]})",
    )
    serve.add_argument(
        "--delivery",
        metavar="HOW",
        help="maildir=DIR, or discard, which throws accepted mail away "
        f"(default: {config.DELIVERY_DEFAULT})",
    )
    check = commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Say what is wrong with a configuration file, with its key and what is "
        "allowed.  Exit status: 0 good, 2 not.",
    )
    check.add_argument("file", type=Path, metavar="FILE")
    return parser


def _config_of(options: argparse.Namespace) -> Config:
    loaded = config.load(options.config) if options.config else Config()
    if options.listen:
        loaded = dataclasses.replace(loaded, listen=tuple(options.listen))
    if options.delivery is not None:
        loaded = dataclasses.replace(loaded, delivery=options.delivery)
    config.check(loaded)
    return loaded


def _serve(loaded: Config) -> int:
    clock = SystemClock()
    journal = Journal(clock, sys.stderr.write if sys.stderr else len)  # closed: nobody reads it
    sockets = [_bind(address) for address in loaded.listen]
    courier, delivery = _courier_of(loaded, clock, journal)
    resolver = _resolver_of(loaded, journal)
    server = Server(
        loaded.settings,
        Edges(resolver=resolver or NoResolver(), courier=courier),
        clock=clock,
        poll=SelectorPoll(clock),
        random=random.Random(),  # seeded by the system; an id need not be secret
        journal=journal,
    )
    if resolver is not None:
        resolver.attach(server.loop)
    doorbell = _Doorbell(server)  # before the first word: who reads it may ring at once
    for sock in sockets:
        host, port = server.listen(sock).address
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _say(f"listening on {shown}")
    _say(delivery)
    server.run()
    if resolver is not None:
        resolver.close()
    doorbell.close()
    return 0


def _say(text: str) -> None:
    try:
        print(f"mailsrv: {text}", flush=True)
    except OSError as error:
        raise ConfigError(f"cannot write to standard output: {error.strerror}") from None


def _bind(address: str) -> socket.socket:
    try:
        return bind(*config.parse_address(address))
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror}") from None


def _courier_of(loaded: Config, clock: Clock, journal: Journal) -> tuple[Courier, str]:
    how, where = config.parse_delivery(loaded.delivery)
    if how == "discard":
        return DiscardCourier(), "accepted mail is thrown away (--delivery discard)"
    try:
        courier = MaildirCourier(
            where,
            loaded.settings.hostname,
            clock,
            random.SystemRandom(),
            on_failure=lambda error: journal.note("storage failed", error=error.strerror),
        )
    except OSError as error:
        raise ConfigError(f"delivery maildir={where}: {error.strerror}") from None
    return courier, f"mail goes to the Maildir {Path(where).resolve()}"


def _resolver_of(loaded: Config, journal: Journal) -> StubResolver | None:
    """The resolver, if a check needs one: dnspython takes 7 MB, which a first try can spare."""
    servers = config.parse_resolvers(loaded.resolvers)
    if loaded.settings.sender_domain_check == "off":
        return None
    from mailsrv.resolver import StubResolver

    return StubResolver(
        servers or read_nameservers(),
        random.SystemRandom(),
        lambda name, rtype, why: journal.note("lookup failed", name=name, type=rtype, why=why),
    )


class _Doorbell:
    """Brings signals into the loop: the first stops, the second hurries."""

    def __init__(self, server: Server) -> None:
        self.number = -1  # before everybody
        self._server = server
        self._rung = 0
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        server.loop.poll.watch(self._reader, 1, self)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def ready(self, events: int) -> None:
        self._rung += len(self._reader.recv(64))
        self._server.stop()
        if self._rung > 1:
            self._server.end_all()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._server.loop.poll.forget(self._reader)
        self._reader.close()
        self._writer.close()
