"""What each reply answers: its label, and which of the sender's acts asked for it.

Commands, the content of messages and the chunks of BDAT are each answered once (RFC 5321 section
4.2, RFC 3030 section 2), in order; what a sender sent in plaintext before a handshake is not
answered behind it (RFC 3207 section 4.2).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, chain, repeat

from replay.smtp.commands import Part, split

CONNECT, TLS, GREETING, DOT, SESSION = "connect", "tls", "greeting", "dot", "session"
"""``DOT`` is the reply to a whole message: to its final dot, or to its last chunk."""
OTHER, UNASKED = "other", "unasked"
"""The reply to a line that is no known command; a reply to nothing."""
VERBS = (
    *("EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP"),
    *("VRFY", "EXPN", "HELP", "ETRN", "QUIT"),
)
STEPS = (CONNECT, TLS, GREETING, *VERBS, DOT, OTHER, UNASKED, SESSION)
"""Everything that is measured, in the order in which it is shown."""


class ReplyLabels:
    """Takes a connection's octets and expected codes as they follow each other."""

    def __init__(self) -> None:
        self._phases: list[_Phase] = [_Phase()]
        self._greeted = False

    def sent(self, act: int, octets: bytes) -> None:
        """The act of this number sends ``octets``."""
        self._phases[-1].acts.append(act)
        self._phases[-1].octets.append(octets)

    def begin_tls(self) -> None:
        """A handshake: what follows is a stream of its own."""
        self._phases.append(_Phase())

    def expected(self, code: int) -> None:
        """The next reply."""
        if self._greeted:
            self._phases[-1].codes.append(code)
        self._greeted = True

    def labels(self) -> Iterator[tuple[str, int | None]]:
        """The label of each reply, and the act that asked for it."""
        if self._greeted:
            yield GREETING, None
        for phase in self._phases:
            yield from phase.labels()


class _Phase:
    """What is sent and expected between two handshakes."""

    def __init__(self) -> None:
        self.acts: list[int] = []
        self.octets: list[bytes] = []
        self.codes: list[int] = []

    def labels(self) -> Iterator[tuple[str, int | None]]:
        ends = list(accumulate(len(octets) for octets in self.octets))
        parts = split(b"".join(self.octets), self.codes)
        answered = (
            (label, self.acts[bisect_left(ends, part.end)])
            for part in parts
            if (label := _label(part))
        )
        unasked: Iterator[tuple[str, int | None]] = repeat((UNASKED, None))
        for _, found in zip(self.codes, chain(answered, unasked), strict=False):
            yield found


def _label(part: Part) -> str:
    """What the reply to ``part`` is called; empty where none follows."""
    command = part.command
    if part.kind == "content" or (part.kind == "chunk" and command.is_last_chunk):
        return DOT
    if part.kind == "command" and command.chunk_octets > 0:
        return ""  # its chunk is answered
    if command.is_last_chunk:
        return DOT  # BDAT 0 LAST
    return command.verb if command.verb in VERBS else OTHER
