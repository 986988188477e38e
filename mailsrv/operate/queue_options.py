"""The command line of ``mailsrv queue``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mailsrv.command_line import CommandLineParser
from mailsrv.config.file import DELIVERY_DEFAULT, SPOOL_DEFAULT, SPOOL_SUFFIX
from mailsrv.delivery.queue.commands import Verb
from mailsrv.operate.queued_message import STATES

LIMIT_DEFAULT = 100
SPOOL_DEFAULTS = (Path(f"{DELIVERY_DEFAULT.root}{SPOOL_SUFFIX}"), SPOOL_DEFAULT)
"""What ``serve`` names its spool without a configuration: with its Maildir, and without one."""
_DEFAULT = " or ".join(map(str, SPOOL_DEFAULTS))
_HELP = {
    "retry": "try messages now, but for those that are held",
    "hold": "do not try messages until they are released",
    "release": "hold messages no more, and try them now",
    "drop": "forget messages for ever; nobody is told",
}


def add_parser(commands: argparse._SubParsersAction[CommandLineParser]) -> None:
    """Add ``queue`` and its commands to those of the program."""
    queue = commands.add_parser(
        "queue",
        help="show what waits for its delivery, and change that",
        description="Show what waits for its delivery, and change that; the server may be running. "
        f"Without --config and --spool the spool is {_DEFAULT} in this folder, whichever is there: "
        "what serve makes with its usual Maildir, or with a next hop. "
        "Exit status: 0 done, 1 a message is not there, is held or is being delivered, or the "
        "server has not answered, 2 wrong use or a spool that cannot be read.",
    )
    verbs = queue.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    listed = verbs.add_parser("list", help="list the messages", description="List the messages.")
    _add_spool(listed)
    _add_filters(listed)
    listed.add_argument(
        "--limit",
        type=int,
        default=LIMIT_DEFAULT,
        metavar="N",
        help="messages at most; 0: all (default: %(default)s)",
    )
    shown = verbs.add_parser(
        "show", help="show all about messages", description="Show all about messages."
    )
    shown.add_argument("ids", nargs="+", metavar="ID")
    shown.add_argument(
        "--content", action="store_true", help="write the content of one message, as it is"
    )
    _add_spool(shown)
    for verb in Verb:
        text = _HELP[verb.value]
        one = verbs.add_parser(verb.value, help=text, description=f"{text.capitalize()}.")
        one.add_argument("ids", nargs="*", metavar="ID")
        one.add_argument("--all", action="store_true", help="every message")
        _add_filters(one)
        _add_spool(one)
        if verb is Verb.DROP:
            one.add_argument("--yes", action="store_true", help="do not ask")


def _add_spool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the server's configuration")
    parser.add_argument(
        "--spool",
        type=Path,
        metavar="DIR",
        help="the spool, whatever the configuration says "
        f"(default: {_DEFAULT}, whichever is there)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", metavar="A", help="with this recipient, or one in this domain")
    parser.add_argument(
        "--from", dest="sender", metavar="A", help='from this sender or domain; "" for notices'
    )
    parser.add_argument("--state", choices=STATES, help="in this state")
