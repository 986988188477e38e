"""What the parts of the transcript notation share: its words, its bounds and its error.

The grammar is in docs/understand/notation.md.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from replay.transcript import script

TEXT_CHARACTERS_MAX = 64 * 1024 * 1024
"""Length of a file: a capture of hours of mail stays far below."""
LINES_MAX = 1_000_000
CONNECTIONS_MAX = 10_000
OCTETS_MAX = 128 * 1024 * 1024
"""Octets that all lines of a file stand for together: ``C*N:`` must not fill the memory."""
PACKET_MAX = 10**15

VERSION, VERSION_WITHOUT_CLAIMS = 3, 2
"""Of the notation, as the header tells it: 2 knows accepted messages, the marks of evidence, the
word ``S ehlo`` and played receivers, 3 knows claims; none told is 1.  A text without claims is
written as 2."""

CONNECTION_NAME = re.compile(r"[a-z0-9-]{1,32}")
CONNECTION_NAME_DEFAULT = "1"
"""The name of the connection in a file whose lines carry no names."""

PlainAction = (
    script.StartTls
    | script.HalfClose
    | script.HalfCloseAtOnce
    | script.Close
    | script.Reset
    | script.StopReading
    | script.ResumeReading
    | script.UntilClosed
    | script.Abandon
)
"""An action that is a word and nothing more."""

PLAIN_VERBS: dict[str, type[PlainAction]] = {
    "starttls": script.StartTls,
    "half-close": script.HalfClose,
    "half-close-at-once": script.HalfCloseAtOnce,
    "close": script.Close,
    "reset": script.Reset,
    "stop-reading": script.StopReading,
    "resume-reading": script.ResumeReading,
    "until-closed": script.UntilClosed,
    "abandon": script.Abandon,
}
VERBS = ("open", "listen", *PLAIN_VERBS)
EHLO_WORD = "ehlo"
"""``S ehlo``: the reply to EHLO that the settings demand."""
MARKS: dict[str, dict[type[script.Anchor], script.Evidence]] = {
    "?": {script.AfterArrival: script.Evidence.PRESUMED},
    "!": {
        script.AfterArrival: script.Evidence.CONFIRMED,
        script.After: script.Evidence.OWN_CLOCK,
    },
    "^": {script.After: script.Evidence.PROVEN_EARLY},
}
"""What stands behind a departure's time, by the kind of time: how sure its anchor is."""
MARK_OF = {
    (kind, evidence): mark for mark, kinds in MARKS.items() for kind, evidence in kinds.items()
}

PlainOutcome = (
    script.PeerOpens | script.PeerCloses | script.PeerResets | script.TlsDone | script.TlsRefused
)
"""An outcome that is a word and nothing more."""

PEER_VERBS: dict[str, type[PlainOutcome]] = {
    "open": script.PeerOpens,
    "eof": script.PeerCloses,
    "reset": script.PeerResets,
    "tls": script.TlsDone,
    "tls-refused": script.TlsRefused,
}
VERB_OF: dict[type, str] = {action: verb for verb, action in PLAIN_VERBS.items()}
PEER_VERB_OF: dict[type, str] = {outcome: verb for verb, outcome in PEER_VERBS.items()}


class Actors(NamedTuple):
    """The letters of a connection's two ends, and the word of times that hang on the peer."""

    played: str
    peer: str
    arrival: str


SENDER = Actors("C", "S", "reply")
RECEIVER = Actors("S", "C", "command")


def actors_of(first: script.Step) -> Actors:
    """Those of a connection that begins with this step."""
    return RECEIVER if script.plays_receiver(first) else SENDER


SURROGATE = re.compile(r"[\ud800-\udfff]")


def text_lines(text: str, path: str) -> list[str]:
    """The lines of a file's text.  Raises TranscriptError for what no transcript has."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise TranscriptError(path, 1, 1, f"longer than the {TEXT_CHARACTERS_MAX} allowed")
    lines = text.split("\n")
    if len(lines) > LINES_MAX:
        raise TranscriptError(path, LINES_MAX, 1, f"more than {LINES_MAX} lines")
    surrogate = None if text.isascii() else SURROGATE.search(text)
    for at, message in (
        (surrogate.start() if surrogate else -1, "this is not text that UTF-8 can hold"),
        (text.find("\r"), "lines of a transcript end in LF alone"),
    ):
        if at >= 0:
            line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
            raise TranscriptError(path, line, column, message)
    return lines


class TranscriptError(Exception):
    """A transcript that cannot be read: where (from 1), what is wrong, and what is allowed."""

    def __init__(self, path: str, line: int, column: int, message: str) -> None:
        super().__init__(f"{path}:{line}:{column}: {message}")
        self.path = path
        self.line = line
        self.column = column
        self.message = message
