"""A next hop in memory, for tests of the sending side: it parses commands and answers by script."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import SendingOptions
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.smtp.sending.session import SendingSession, Want
from mailsrv.smtp.sending.state_machine import State, Step

STEPS_MAX = 10_000
REMOTE = "hop.example.test"
OPTIONS = SendingOptions("gw.example.test")
BODY = b"Subject: x\r\n\r\nhello\r\n"

CLOSES = b"!closes"
"""Instead of a reply: the next hop closes the connection."""
HANGS = b"!hangs"
"""Instead of a reply: nothing ever comes again."""
FULL = (
    b"250-hop.example.test\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n"
    b"250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n"
)
CHUNKS = FULL.replace(b"DSN", b"CHUNKING")
PLAIN = b"250 hop.example.test\r\n"
REPLIES = {
    "greeting": b"220 hop.example.test ESMTP\r\n",
    "EHLO": PLAIN,
    "LHLO": PLAIN,
    "HELO": PLAIN,
    "MAIL": b"250 2.1.0 Ok\r\n",
    "RCPT": b"250 2.1.5 Ok\r\n",
    "DATA": b"354 go ahead\r\n",
    "end": b"250 2.0.0 Ok: queued\r\n",
    "BDAT": b"250 2.0.0 chunk taken\r\n",
    "RSET": b"250 2.0.0 Ok\r\n",
    "STARTTLS": b"220 2.0.0 Ready\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
}

Reply = bytes | Sequence[bytes]
Chop = Callable[[bytes], Iterable[bytes]]


def path(address: str) -> MailPath:
    local, at, domain = address.rpartition("@")
    return MailPath(local, domain) if at else MailPath(address, "")


def message(
    *recipients: str, sender: str = "a@example.org", octets: int = len(BODY), **more: Any
) -> OutgoingMessage:
    """A message for ``recipients``, or for one; ``more`` is of the envelope, but for ``probe``."""
    probe = more.pop("probe", False)
    envelope = Envelope(
        client="192.0.2.10",
        helo="client.example",
        protocol="ESMTP",
        id="ID1",
        reverse_path=path(sender),
        forward_paths=[path(one) for one in recipients or ("b@example.test",)],
        **more,
    )
    return OutgoingMessage(envelope, tuple(range(len(envelope.forward_paths))), octets, probe)


class Hop:
    """Replies by verb; a list is used up, its last reply stays.

    A key may be a whole line instead of its verb (``"RCPT TO:<b@example.test>"``), or "greeting",
    "end" (of DATA) and "LAST" (of BDAT, by default that of "end").  ``lines`` are the commands that
    came, ``contents`` the messages after DATA (stuffed, with their end) and ``chunks`` those of
    BDAT.
    """

    def __init__(self, *, lmtp: bool = False, **replies: Reply) -> None:
        self._replies: dict[str, Reply] = {**REPLIES, **replies}
        self._input = b""
        self._in_data = False
        self._lmtp = lmtp
        self._taken = 0
        self.lines: list[str] = []
        self.contents: list[bytes] = []
        self.chunks: list[bytes] = []

    def script(self, **replies: Reply) -> Hop:
        self._replies.update(replies)
        return self

    def greet(self) -> bytes:
        return self._reply("greeting")

    def receive(self, octets: bytes) -> Iterator[bytes]:
        """The replies to what has come, one by one."""
        self._input += octets
        while True:
            if self._in_data:
                content, end, rest = self._input.partition(b"\r\n.\r\n")
                if self._input.startswith(b".\r\n"):
                    content, end, rest = b"", b".\r\n", self._input[3:]
                if not end:
                    return
                self._in_data = False
                self.contents.append(content + end)
                self._input = rest
                for _ in range(self._taken if self._lmtp else 1):
                    yield self._reply("end")
                continue
            line, end, rest = self._input.partition(b"\r\n")
            if not end:
                return
            words = line.decode().split(" ")
            if words[0] == "BDAT":
                size = int(words[1])
                if len(rest) < size:
                    return
                self.chunks.append(rest[:size])
                rest = rest[size:]
            self.lines.append(line.decode())
            self._input = rest
            yield from self._answer(words, line.decode())

    def _answer(self, words: list[str], line: str) -> Iterator[bytes]:
        key = line if line in self._replies else words[0]
        if words[-1] == "LAST" and words[0] == "BDAT":
            key = "LAST" if "LAST" in self._replies else "end"
            for _ in range(self._taken if self._lmtp else 1):
                yield self._reply(key)
            return
        reply = self._reply(key)
        if words[0] == "MAIL":
            self._taken = 0
        self._taken += words[0] == "RCPT" and reply.startswith(b"2")
        self._in_data = words[0] == "DATA" and reply.startswith(b"3")
        yield reply

    def _reply(self, key: str) -> bytes:
        scripted = self._replies[key]
        if isinstance(scripted, bytes):
            return scripted
        first, *rest = scripted
        if rest:
            self._replies[key] = rest
        return first


def whole(octets: bytes) -> Iterable[bytes]:
    return [octets] if octets else []


class TracedSession(SendingSession):
    """A session whose steps are kept: state, step and the state that came next."""

    __slots__ = ("steps",)

    def __init__(self, options: SendingOptions, remote: str) -> None:
        self.steps: list[tuple[State, Step, State]] = []
        super().__init__(options, remote)

    def step(self, step: Step) -> None:
        before = self.state
        super().step(step)
        self.steps.append((before, step, self.state))


class Exchange:
    """A session and a next hop that talk, until neither has anything more to do.

    ``chop`` cuts what the next hop says into pieces; ``pieces`` is the content.  A TLS handshake
    succeeds, unless ``handshake`` says how it fails.  ``late``: replies come when no more content
    is wanted.
    """

    def __init__(
        self,
        hop: Hop,
        *messages: OutgoingMessage,
        options: SendingOptions = OPTIONS,
        pieces: Sequence[bytes] = (BODY,),
        chop: Chop = whole,
        handshake: str = "",
        late: bool = False,
    ) -> None:
        self.hop = hop
        self.session = TracedSession(options, REMOTE)
        self.outcomes: list[Sequence[Outcome]] = []
        self._messages = list(messages)
        self._pieces = pieces
        self._content = iter(pieces)
        self._chop = chop
        self._handshake = handshake
        self._late = late
        self._hung = False
        self._coming = deque([hop.greet()])
        self.run()

    def _say(self, reply: bytes) -> None:
        if self._hung or reply == HANGS:
            self._hung = True
        elif reply == CLOSES:
            self._hung = True
            self.session.lost("closed by the peer")
        else:
            for piece in self._chop(reply):
                self.session.receive(piece)

    def give(self, message: OutgoingMessage, *pieces: bytes) -> Exchange:
        """One more message, over the same connection."""
        self._messages.append(message)
        self._pieces = pieces
        return self.run()

    def run(self) -> Exchange:
        for _ in range(STEPS_MAX):
            outcomes = self.session.take_outcomes()
            if outcomes is not None:
                self.outcomes.append(outcomes)
            if not self._act():
                return self
        raise AssertionError("the exchange never comes to rest")

    def _act(self) -> bool:
        """Do what is to be done next; False if that is nothing."""
        session = self.session
        feeding = session.want is Want.CONTENT
        if self._messages and not session.busy and session.want is not Want.CLOSE:
            self._content = iter(self._pieces)
            session.start(self._messages.pop(0))
        elif session.output:
            octets = b"".join(session.output)
            session.output.clear()
            self._coming += self.hop.receive(octets)
        elif self._coming and not (self._late and feeding):
            self._say(self._coming.popleft())
        elif feeding:
            piece = next(self._content, None)
            session.end_content() if piece is None else session.feed(piece)
        elif session.want is not Want.HANDSHAKE:
            return False
        elif self._handshake:
            session.handshake_failed(self._handshake)
        else:
            session.secured("TLSv1.3")
        return True

    @property
    def only(self) -> list[Outcome]:
        """The outcomes of the one message."""
        (outcomes,) = self.outcomes
        return list(outcomes)

    @property
    def summary(self) -> list[tuple[str, str]]:
        """Kind and status for each recipient of the one message."""
        return [(one.kind.value, one.status) for one in self.only]
