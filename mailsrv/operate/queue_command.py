"""``mailsrv queue``: shows what waits in the spool, and has something done with it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mailsrv.config import file
from mailsrv.config.validation import ConfigError
from mailsrv.delivery.queue.commands import Verb
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.operate.listing import SCHEMA, Listing, as_json, escaped
from mailsrv.operate.queue_options import SPOOL_DEFAULTS
from mailsrv.operate.queued_message import QueuedMessage
from mailsrv.operate.spool_reader import SpoolReader
from mailsrv.operate.spool_writer import SpoolWriter
from mailsrv.runtime.clock import Clock
from mailsrv.telemetry.event_log import EventLog

LIMIT_MAX = 1_000_000_000
ID_SHOWN_MAX = 100
"""Characters of an id that names no message."""
_DONE = {"retry": "to be tried now", "hold": "held", "release": "released", "drop": "dropped"}


def run(options: argparse.Namespace, clock: Clock) -> int:
    """Do what the command line says; returns the exit status.  Raises ConfigError."""
    folder = _folder(options)
    try:
        return _run(options, folder, clock)
    except SpoolError as error:
        raise ConfigError(f"spool: {error}") from None
    except KeyboardInterrupt:
        return 1


def _run(options: argparse.Namespace, folder: Path, clock: Clock) -> int:
    reader = SpoolReader(folder, clock.realtime_ns())
    try:
        if options.verb == "list":
            return _list(options, reader, clock)
        if options.verb == "show":
            return _show(options, reader, clock)
        numbers, unknown = _chosen(options, reader)
        verb = Verb(options.verb)
        if verb is Verb.DROP and numbers and not options.yes and not _is_sure(len(numbers)):
            print("nothing was dropped", file=sys.stderr)
            return 1
        journal = EventLog(clock, lambda text: None)
        answered = not numbers or SpoolWriter(folder, clock, journal).carry_out(verb, numbers)
        not_yet = _not_yet(verb, reader, numbers) if answered else len(numbers)
    finally:
        reader.close()
    return _tell(options, _Result(len(numbers), not_yet, answered, unknown))


def _folder(options: argparse.Namespace) -> Path:
    if options.spool is not None:
        return Path(options.spool)
    if options.config is None:
        return _default_folder()
    folder = file.load(options.config).spool_folder
    if folder is None:
        raise ConfigError("spool: there is none, accepted mail is thrown away")
    return folder


def _default_folder() -> Path:
    """The spool of a server that was started here without a configuration.  Raises ConfigError."""
    names = " and ".join(map(str, SPOOL_DEFAULTS))
    there = [one for one in SPOOL_DEFAULTS if one.is_dir()]
    if len(there) == 1:
        return there[0]
    if there:
        raise ConfigError(f"spool: {names} are both here; --spool DIR says which one is meant")
    raise ConfigError(
        f"spool: there is none here, of {names}; --config FILE or --spool DIR says where it is"
    )


# -- showing --------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, reader: SpoolReader, clock: Clock) -> int:
    if not 0 <= options.limit <= LIMIT_MAX:
        raise ConfigError(f"--limit: takes a number up to {LIMIT_MAX}, 0 for all")
    found = _filtered(options, reader.messages())
    limited = islice(found, options.limit) if options.limit else found
    if options.json:
        _print_json(limited)
        return 0
    listing = _listing(clock)
    number = 0
    for one in limited:
        if not number:
            print(listing.heading())
        number += 1
        print("\n".join(listing.message(one)))
    messages, _ = reader.totals()
    if number == options.limit != 0 and messages > number:
        is_known = (options.to, options.sender, options.state) == (None, None, None)
        many = f"of {_messages(messages)}" if is_known else "shown, there may be more"
        print(f"{number:,} {many}; --limit 0 shows all")
    elif number < messages:
        print(f"{number:,} of {_messages(messages)}")
    else:
        print(_messages(number) if number else "the queue is empty")
    return 0


def _messages(number: int) -> str:
    return "1 message" if number == 1 else f"{number:,} messages"


def _show(options: argparse.Namespace, reader: SpoolReader, clock: Clock) -> int:
    found = reader.find(options.ids)
    known = _known(found)
    if options.content:
        return _write_content(found, known, reader)
    if options.json:
        _print_json(known)
    elif known:
        listing = _listing(clock)
        print("\n\n".join("\n".join(listing.details(one)) for one in known))
    return _told_unknown(id_ for id_, one in found.items() if one is None)


def _write_content(
    found: dict[str, QueuedMessage | None], known: list[QueuedMessage], reader: SpoolReader
) -> int:
    if len(found) != 1:
        raise ConfigError("--content: takes one message")
    if sys.stdout.isatty():
        raise ConfigError("--content: does not write to a terminal, which content might control")
    for one in known:
        for piece in reader.content(one):
            sys.stdout.buffer.write(piece)
    return _told_unknown(id_ for id_, one in found.items() if one is None)


def _listing(clock: Clock) -> Listing:
    is_terminal = sys.stdout.isatty()
    colour = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size().columns if is_terminal else None
    return Listing(clock.realtime_ns(), width=width, colour=colour)


def _print_json(messages: Iterable[QueuedMessage]) -> None:
    """One object, written message by message: there may be many."""
    print(f'{{"schema": {SCHEMA}, "messages": [', end="")
    before = "\n"
    for one in messages:
        print(f"{before}{json.dumps(as_json(one))}", end="")
        before = ",\n"
    print("\n]}")


def _told_unknown(ids: Iterable[str]) -> int:
    status = 0
    for id_ in ids:
        print(f"mailsrv: {escaped(id_[:ID_SHOWN_MAX])}: there is no such message", file=sys.stderr)
        status = 1
    return status


# -- choosing -------------------------------------------------------------------------------------


def _chosen(options: argparse.Namespace, reader: SpoolReader) -> tuple[list[int], list[str]]:
    """The numbers of the messages that are meant, and the ids that name none."""
    by_filter = (options.to, options.sender, options.state) != (None, None, None)
    if bool(options.ids) + (options.all or by_filter) != 1:
        raise ConfigError(
            f"queue {options.verb}: takes IDs, or --all, or some of --to, --from and --state"
        )
    if not options.ids:
        return [one.number for one in _filtered(options, reader.messages())], []
    found = reader.find(options.ids)
    numbers = [one.number for one in _known(found)]
    return numbers, [id_ for id_, one in found.items() if one is None]


def _known(found: dict[str, QueuedMessage | None]) -> list[QueuedMessage]:
    """The messages that are there, each once: its id may be typed in several ways."""
    by_number = {one.number: one for one in found.values() if one is not None}
    return list(by_number.values())


def _filtered(
    options: argparse.Namespace, messages: Iterable[QueuedMessage]
) -> Iterator[QueuedMessage]:
    for one in messages:
        if options.state is not None and one.state != options.state:
            continue
        if options.sender is not None and not _matches(one.sender, options.sender):
            continue
        addresses = [each.address for each in one.recipients]
        if options.to is not None and not any(_matches(each, options.to) for each in addresses):
            continue
        yield one


def _matches(address: str, wanted: str) -> bool:
    """Whether an address is the one that is wanted, or lies in that domain."""
    address, wanted = address.lower(), wanted.lower()
    return address == wanted or ("@" not in wanted and address.rpartition("@")[2] == wanted)


# -- changing -------------------------------------------------------------------------------------


class _Result(NamedTuple):
    """How many messages were asked about, to how many of them it could not be done yet, whether
    the server answered, and the ids that name none."""

    asked: int
    not_yet: int
    answered: bool
    unknown: list[str]


def _not_yet(verb: Verb, reader: SpoolReader, numbers: list[int]) -> int:
    """How many messages are being delivered, and could not be held or dropped; or are held, and
    not to be tried."""
    if verb is Verb.RELEASE:
        return 0
    still_held = verb is Verb.RETRY
    return sum(1 for one in reader.with_numbers(numbers) if (one.state == "held") is still_held)


def _tell(options: argparse.Namespace, result: _Result) -> int:
    done = result.asked - result.not_yet
    if options.json:
        told = {"schema": SCHEMA, "verb": options.verb, "asked": result.asked, "done": done}
        print(json.dumps({**told, "unknown": result.unknown, "answered": result.answered}))
    elif result.answered:
        print(f"{_DONE[options.verb]}: {done:,}")
    if not result.answered:
        complaint = "the server has not answered; it is asked, and may do it yet"
        print(f"mailsrv: {complaint}", file=sys.stderr)
    elif result.not_yet:
        later = f"what is not delivered then will be {_DONE[options.verb]}"
        complaint = f"being delivered right now; {later}"
        if options.verb == Verb.RETRY.value:
            they_are = "it is" if result.not_yet == 1 else "they are"
            complaint = f"held, and not tried before {they_are} released"
        print(f"mailsrv: {result.not_yet:,} {complaint}", file=sys.stderr)
    is_told_alone = options.verb == Verb.RETRY.value and options.all  # held ones are to be expected
    is_short = result.not_yet > 0 and not is_told_alone
    return max(_told_unknown(result.unknown), int(is_short))


def _is_sure(number: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("queue drop: needs --yes where nobody can be asked")
    try:
        return input(f"drop {_messages(number)} for ever? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
