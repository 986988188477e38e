"""A sender's octets taken apart: commands, the content of messages, the chunks of BDAT.

A command is a line.  Content follows a DATA that was answered 354 and ends with a dot that stands
alone in its line (RFC 5321 section 4.1.1.4); a chunk follows a BDAT at once, as long as it says
(RFC 3030 section 2).  Which DATA was answered 354, only the replies tell: ``split`` takes their
codes, as far as they are known; a user that pairs replies itself calls ``command_at`` and
``content_end``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import NamedTuple

VERBS_MAX = 100_000
"""Commands listed of one session."""
OUTLINE_MAX = 12
"""Groups of equal commands in an outline; the middle of more is left out."""

CHUNK_MAX_OCTETS = 1 << 40
"""A BDAT that announces more is refused by any server: what follows it is commands."""

RECEIVED_LINE_MAX = 64 * 1024
RECEIVED_CONTENT_MAX = 128 * 1024 * 1024
"""What is longer is cut here: what does not end must still be shown."""

END_OF_CONTENT = b"\r\n.\r\n"
_START_MAIL_INPUT = 354
_LONE_DOT = b".\r\n"  # where it is the first line of the content

_INVITATION = re.compile(rb"(?m)^354(?:[ \r]|$)")
_INVITATION_OCTETS = 4
_VERB = re.compile(rb"[A-Za-z]{4,12}(?=[ \t:\r\n]|$)")
_DATA = re.compile(rb"(?i)DATA[ \t]*\r?\n")
_CHUNK = re.compile(rb"(?i)BDAT[ \t]+([0-9]{1,20})([ \t]+LAST)?[ \t]*\r?\n")
_COMMAND = re.compile(
    rb"(?i)(?:(?:EHLO|HELO|LHLO|VRFY|EXPN|HELP|NOOP|AUTH|ETRN|XCLIENT|XFORWARD)(?:[ \t]|\r?\n)"
    rb"|(?:MAIL|SEND|SOML|SAML)[ \t]+FROM[ \t]*:|RCPT[ \t]+TO[ \t]*:"
    rb"|BDAT[ \t]+[0-9]+(?:[ \t]+LAST)?[ \t]*\r?\n|(?:DATA|RSET|QUIT|STARTTLS|TURN)[ \t]*\r?\n)"
)


class Command(NamedTuple):
    """One line of commands: ``line`` with its end, where it has one, and the place after it.

    ``verb`` is in capitals; "?" for a line that begins with none.  ``chunk_octets`` is what a BDAT
    announces, -1 for any other command; ``is_last_chunk`` that it says LAST.
    """

    line: bytes
    end: int
    verb: str
    chunk_octets: int = -1
    is_last_chunk: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the line has its end."""
        return self.line.endswith(b"\n")


class Part(NamedTuple):
    """A stretch of a sender's octets; ``kind`` is command, content or chunk.

    ``command`` is the one that it is, or that it follows.
    """

    kind: str
    start: int
    end: int
    command: Command


def command_at(sent: bytes, at: int) -> Command:
    """The line at ``at``, taken as a command."""
    end = sent.find(b"\n", at) + 1 or len(sent)
    line = sent[at:end]
    found = _VERB.match(line)
    verb = found[0].decode("ascii").upper() if found else "?"
    if verb == "BDAT" and (chunk := _CHUNK.fullmatch(line)):
        octets = int(chunk[1])
        if octets <= CHUNK_MAX_OCTETS:
            return Command(line, end, verb, octets, bool(chunk[2]))
    return Command(line, end, verb)


def content_end(sent: bytes, at: int) -> int:
    """The place after the content that begins at ``at``; 0 if its end is not there."""
    if sent.startswith(_LONE_DOT, at):
        return at + len(_LONE_DOT)
    found = sent.find(END_OF_CONTENT, at)
    return found + len(END_OF_CONTENT) if found >= 0 else 0


def looks_like_command(sent: bytes, at: int = 0) -> bool:
    """Whether what begins at ``at`` is a command by its verb and what must stand beside it."""
    return _COMMAND.match(sent, at) is not None


def split(
    sent: bytes,
    codes: Iterable[int] = (),
    at: int = 0,
    *,
    begins_within_content: bool = False,
) -> Iterator[Part]:
    """All of ``sent`` from ``at`` on in order, without a gap between.

    ``codes`` are those of the replies behind the greeting, one for each command, content and
    chunk: content follows each DATA that was answered 354.  Where they are not known or come to
    their end, it follows each DATA behind which no command stands.
    """
    answers = iter(codes)
    if begins_within_content:
        end = content_end(sent, at) or len(sent)
        yield Part("content", at, end, Command(b"", at, "DATA"))
        at = end
    while at < len(sent):
        command = command_at(sent, at)
        yield Part("command", at, command.end, command)
        at, code = command.end, next(answers, 0)
        if command.chunk_octets > 0:
            end = min(at + command.chunk_octets, len(sent))
        elif _content_follows(command, code, looks_like_command(sent, at)):
            next(answers, 0)
            end = content_end(sent, at) or len(sent)
        else:
            continue
        if end > at:
            yield Part("content" if command.verb == "DATA" else "chunk", at, end, command)
            at = end


def _content_follows(command: Command, code: int, command_follows: bool) -> bool:
    if command.verb != "DATA":
        return False
    return (
        code == _START_MAIL_INPUT
        if code
        else bool(_DATA.fullmatch(command.line) and not command_follows)
    )


def verbs(parts: Iterable[Part]) -> Iterator[str]:
    """The verbs of a sender's commands, in order."""
    return (part.command.verb for part in parts if part.kind == "command")


def outline(verbs: Iterable[str]) -> str:
    """ "EHLO MAIL RCPT*3 DATA QUIT": equal commands in a row are counted."""
    first = islice(verbs, VERBS_MAX)
    groups = [(verb, sum(1 for _ in same)) for verb, same in groupby(first)]
    words = [verb if count == 1 else f"{verb}*{count}" for verb, count in groups]
    left_out = len(words) - OUTLINE_MAX
    if left_out > 0:
        half = OUTLINE_MAX // 2
        words[half:-half] = [f"…{left_out} more…"]
    return " ".join(words)


class ReceivedCommand(NamedTuple):
    """One whole command, content with its final dot, or chunk behind its BDAT, and the instant at
    which its last octet arrived."""

    at_ns: int
    octets: bytes
    verb: str
    """In capitals; ``CONTENT`` for content, "?" for a line that begins with none."""


CONTENT = "content"


class CommandReader:
    """Takes what arrives from a client, in pieces of any size, and returns the commands that are
    whole.  Content follows a DATA that was answered 354: ``replied`` is told of all that is sent
    to the client."""

    __slots__ = ("_after_data", "_invited", "_looked_at", "_rest", "_sent")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._looked_at = 0
        self._after_data = self._invited = False
        self._sent = b""

    def replied(self, octets: bytes) -> None:
        """These octets are sent to the client."""
        sent = self._sent + octets
        self._sent = sent[sent.rfind(b"\n") + 1 :][:_INVITATION_OCTETS]
        if _INVITATION.search(sent):
            self._invited = True
            self._sent = b""  # the rest of its line invites to nothing more

    def feed(self, octets: bytes, at_ns: int) -> list[ReceivedCommand]:
        """Take what arrived at ``at_ns``."""
        self._rest += octets
        commands = []
        while end := self._whole():
            is_content = self._after_data and self._invited
            command = bytes(self._rest[:end])
            del self._rest[:end]
            self._looked_at = 0
            self._invited = self._invited and not is_content
            verb = CONTENT if is_content else command_at(command, 0).verb
            self._after_data = verb == "DATA"
            commands.append(ReceivedCommand(at_ns, command, verb))
        return commands

    @property
    def rest(self) -> bytes:
        """What has come of a command that is not whole."""
        return bytes(self._rest)

    def _whole(self) -> int:
        """The place after the first command, if it is whole; else 0."""
        rest, looked_at = self._rest, self._looked_at
        self._looked_at = max(0, len(rest) - len(END_OF_CONTENT) + 1)
        if self._after_data and self._invited:
            if rest.startswith(_LONE_DOT):
                return len(_LONE_DOT)
            found = rest.find(END_OF_CONTENT, looked_at)
            whole = found + len(END_OF_CONTENT) if found >= 0 else 0
            return whole or (RECEIVED_CONTENT_MAX if len(rest) > RECEIVED_CONTENT_MAX else 0)
        line = rest.find(b"\n", 0, RECEIVED_LINE_MAX) + 1
        if not line:
            return RECEIVED_LINE_MAX if len(rest) > RECEIVED_LINE_MAX else 0
        whole = line + max(0, command_at(bytes(rest[:line]), 0).chunk_octets)
        return min(whole, RECEIVED_CONTENT_MAX) if len(rest) >= whole else 0
