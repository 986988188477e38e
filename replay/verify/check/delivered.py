"""Looking at what a server delivered: a Maildir, an mbox, a command's output, mailpit's HTTP API,
or a function of a test's own.  A message belongs to the scenario whose mark stands in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import BinaryIO, Protocol

MESSAGE_OCTETS_MAX = 64 * 1024 * 1024
MESSAGES_MAX = 10_000
"""In one run; more is not looked at."""
COMMAND_TIMEOUT_S = 30
HTTP_TIMEOUT_S = 10
NO_MBOX = "is no mbox: it does not begin with 'From '"
_LISTED_MAX = 500
"""Of the newest messages, how many mailpit lists at a time."""

_MARK = re.compile(rb"rp[0-9a-f]{8}x[0-9]{1,6}z")
_MESSAGE_ID = re.compile(rb"(?im)^Message-ID:[^\r\n]*")
_REPORT = re.compile(rb"(?im)^Content-Type:[ \t]*multipart/report")  # RFC 3462
_FROM_LINE = re.compile(rb"^From [^\r\n]*\r?\n", re.MULTILINE)


class DeliveredError(Exception):
    """What was delivered cannot be looked at; the message says why."""


class Mailbox(Protocol):
    """Where a server delivers to."""

    def look(self) -> Iterable[bytes]:
        """The messages that have come since the last look.  Raises DeliveredError."""


def run_of(dice: Random) -> str:
    """What tells the marks of one run from those of others."""
    return f"{dice.getrandbits(32):08x}"


def mark_of(run: str, number: int) -> str:
    """The mark of a scenario: ``run`` is eight hexadecimal digits, the same for a whole run."""
    return f"rp{run}x{number}z"


class Delivered:
    """What has come to ``mailbox`` so far, by mark."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._contents: dict[str, dict[bytes, bytes]] = {}
        self._count = 0

    def pass_over(self) -> None:
        """Leave out what is there by now.  Raises DeliveredError."""
        for _ in self._mailbox.look():
            pass

    def look(self) -> None:
        """Take in what is new.  Raises DeliveredError."""
        for message in self._mailbox.look():
            self._count += 1
            if self._count > MESSAGES_MAX:
                raise DeliveredError(f"more than {MESSAGES_MAX} messages; that is not looked at")
            message = message if b"\r\n" in message else message.replace(b"\n", b"\r\n")
            head, _, body = message.partition(b"\r\n\r\n")
            if _REPORT.search(head):  # to the sender about its message, whose marks it repeats
                continue
            told = b"".join(_MESSAGE_ID.findall(head)[:1])
            digest = hashlib.sha256(told + body).digest()  # one for two recipients is one
            for mark in set(_MARK.findall(message)):
                self._contents.setdefault(mark.decode(), {}).setdefault(digest, message)

    def contents(self, mark: str) -> list[bytes]:
        """The messages in which ``mark`` stands, a message for several recipients once."""
        return list(self._contents.get(mark, {}).values())


class Maildir:
    """A folder with ``new`` and ``cur``, or of several Maildirs, which may come later.

    A folder of many messages is read through only while its names change: after each change twice,
    since names may come and go within one tick of the file system's clock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._changed_ns: dict[Path, list[int]] = {}
        """When the names in a folder had changed last, as it was the last times it was read."""

    def look(self) -> Iterable[bytes]:
        if not self._folder.is_dir():
            raise DeliveredError(f"maildir={self._folder}: there is no such folder")
        if not os.access(self._folder, os.R_OK | os.X_OK):
            raise DeliveredError(f"maildir={self._folder}: cannot be read")
        # What a reader moves from new to cur meanwhile is found in the one or the other.
        for place in sorted(self._places(), key=lambda one: one.name != "new"):
            if not self._is_known(place):
                yield from self._new_in(place)

    def _places(self) -> Iterator[Path]:
        """Every ``new`` and ``cur``; what lies within those of a Maildir is not looked through."""
        for parent, folders, _ in os.walk(self._folder):
            own = [name for name in ("new", "cur") if name in folders]
            yield from (Path(parent, name) for name in own)
            if len(own) == 2:
                folders[:] = sorted(set(folders) - {"new", "cur", "tmp"})

    def _is_known(self, place: Path) -> bool:
        """Whether nothing was added to a folder since it was read."""
        try:
            changed_ns = place.stat().st_mtime_ns
        except OSError:
            return True  # it has gone, or cannot be reached
        before = self._changed_ns.get(place, [])
        if before == [changed_ns] * 2:
            return True
        self._changed_ns[place] = [*before, changed_ns][-2:]
        return False

    def _new_in(self, place: Path) -> Iterator[bytes]:
        for path in sorted(place.glob("*")):
            name = path.name.partition(":")[0]
            if name not in self._seen and path.is_file():
                self._seen.add(name)
                yield _read(path)


class Mbox:
    """One file of messages, each below a line that begins with "From ".

    It is read on from where it ended, in pieces; a message at its end that does not end in a line
    is not whole yet.
    """

    def __init__(self, path: Path, piece_octets: int = MESSAGE_OCTETS_MAX) -> None:
        self._path = path
        self._piece_octets = piece_octets
        self._read_octets = 0

    def look(self) -> Iterable[bytes]:
        if not self._path.parent.is_dir():
            raise DeliveredError(f"mbox={self._path}: there is no folder {self._path.parent}")
        try:
            if self._path.stat().st_size < self._read_octets:
                self._read_octets = 0  # it was emptied
            with self._path.open("rb") as file:
                while piece := self._next_piece(file):
                    yield from from_mbox(piece)
        except FileNotFoundError:
            return  # nothing has been delivered yet
        except OSError as error:
            raise DeliveredError(f"{self._path}: {error.strerror}") from None

    def _next_piece(self, file: BinaryIO) -> bytes:
        """The next whole messages; b"" if there are none.  Before them stands the end of what was
        read, since an empty line has to."""
        before = min(self._read_octets, len(b"\n\r\n"))
        file.seek(self._read_octets - before)
        octets = file.read(before + self._piece_octets)
        is_last = len(octets) < before + self._piece_octets
        if not self._read_octets and octets[:5] != b"From "[: len(octets)]:
            raise DeliveredError(f"mbox={self._path}: {NO_MBOX}")
        if is_last and not octets.endswith(b"\n"):
            return b""
        if not is_last:
            places = [one.start() for one in _FROM_LINE.finditer(octets) if one.start() > before]
            ends = [place for place in places if _begins(octets, place)]
            octets = octets[: ends[-1]] if ends else octets  # else one message is larger than that
        self._read_octets += len(octets) - before
        return octets if len(octets) > before else b""


class Command:
    """A command that prints all messages so far in the form of an mbox."""

    def __init__(self, command: str) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise DeliveredError(f"command={command}: {error}") from None
        if not self._words:
            raise DeliveredError("command= names a command")
        self._seen = 0

    def look(self) -> Iterable[bytes]:
        name = self._words[0]
        try:
            done = subprocess.run(
                self._words, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
            )
        except OSError as error:
            raise DeliveredError(f"{name}: {error.strerror or error}") from None
        except subprocess.TimeoutExpired:
            raise DeliveredError(f"{name}: took longer than {COMMAND_TIMEOUT_S} s") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:200]
            why = f": {said}" if said else ""
            raise DeliveredError(f"command={name}: exit status {done.returncode}{why}")
        if done.stdout and not done.stdout.startswith(b"From "):
            raise DeliveredError(f"command={name}: what it prints {NO_MBOX}")
        messages = from_mbox(done.stdout)
        yield from messages[self._seen :]
        self._seen = len(messages)


class Mailpit:
    """The HTTP API of mailpit (github.com/axllent/mailpit) at its base address."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise DeliveredError(f"http={url}: takes an address such as http://127.0.0.1:8025")
        self._url = url.rstrip("/")
        self._seen: set[str] = set()

    def look(self) -> Iterable[bytes]:
        try:
            listed = json.loads(self._get(f"api/v1/messages?limit={_LISTED_MAX}"))
            ids = [str(one["ID"]) for one in listed["messages"]]
        except (ValueError, KeyError, TypeError):
            raise DeliveredError(f"{self._url}: not the API of mailpit") from None
        for one in ids:
            if one not in self._seen:
                self._seen.add(one)
                yield self._get(f"api/v1/message/{urllib.parse.quote(one, safe='')}/raw")

    def _get(self, place: str) -> bytes:
        try:
            with urllib.request.urlopen(f"{self._url}/{place}", timeout=HTTP_TIMEOUT_S) as answer:
                octets: bytes = answer.read(MESSAGE_OCTETS_MAX)
                return octets
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            why = getattr(reason, "strerror", None) or reason
            raise DeliveredError(f"{self._url}/{place}: {why}") from None


class Called:
    """A function that returns all messages so far, in any order."""

    def __init__(self, function: Callable[[], Iterable[bytes]]) -> None:
        self._function = function
        self._seen: Counter[bytes] = Counter()

    def look(self) -> Iterable[bytes]:
        messages = Counter(self._function())
        yield from (messages - self._seen).elements()
        self._seen = messages


_KINDS: dict[str, Callable[[str], Mailbox]] = {
    "maildir": lambda text: Maildir(Path(text)),
    "mbox": lambda text: Mbox(Path(text)),
    "command": Command,
    "http": Mailpit,
}


def mailbox(text: str) -> Mailbox:
    """The mailbox that ``maildir=DIR``, ``mbox=FILE``, ``command=COMMAND`` or ``http=URL`` names.
    Raises DeliveredError."""
    kind, equals, place = text.partition("=")
    if kind not in _KINDS or not equals or not place:
        raise DeliveredError(
            f"{text}: takes maildir=DIR, mbox=FILE, command=COMMAND or http=URL (mailpit)"
        )
    return _KINDS[kind](place)


def from_mbox(octets: bytes) -> list[bytes]:
    """The messages of an mbox, without their "From " lines."""
    places = [found for found in _FROM_LINE.finditer(octets) if _begins(octets, found.start())]
    ends = [*(found.start() for found in places[1:]), len(octets)][: len(places)]
    messages = [octets[one.end() : end] for one, end in zip(places, ends, strict=True)]
    return [one.removesuffix(b"\n") if one.endswith(b"\n\n") else one for one in messages]


def _begins(octets: bytes, at: int) -> bool:
    """A "From " line begins a message at the beginning, or below an empty line."""
    return at == 0 or octets.endswith((b"\n\n", b"\n\r\n"), 0, at)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MESSAGE_OCTETS_MAX)
    except OSError as error:
        raise DeliveredError(f"{path}: {error.strerror}") from None
