"""Which reply answered what: a sender's octets beside the replies it got.

A server answers each command once, in order, but for two things: the greeting, and what it says
unasked when its patience ends.  An unasked reply is known by time: nothing that had been sent
whole by then was left to answer.  So replies find their commands against any server; where one
takes the end of the data elsewhere than RFC 5321 section 4.1.1.4 says, the labels shift, and no
more than the labels.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from replay.play.observed import ObservedConnection
from replay.smtp.commands import Command, command_at, content_end
from replay.smtp.proxy_header import header_octets
from replay.smtp.replies import ReceivedReply
from replay.transcript.octets import to_text
from replay.transcript.script import ScriptedConnection, SendOctets

ASKED_MAX_CHARACTERS = 80
"""Of a command, as it is shown."""
GREETING, CONTENT, UNASKED = "the greeting", "to the message", "unasked"
"""Of a reply that answers no command, in place of one."""

_PATH = re.compile(rb"(?:MAIL FROM|RCPT TO):[ \t]*(<[^>\r\n]*>|[^ \t\r\n]+)", re.IGNORECASE)


class Exchange(NamedTuple):
    """A reply and what it answered.

    ``number`` counts replies from 1; ``asked`` is "to QUIT", or says what else it is;
    ``transaction`` mail transactions; 0 is before the first.
    ``follows`` is True where nothing but an earlier refusal is behind a refusal: 503, or DATA
    without a recipient.  ``awry`` is True where no sender would go on as its script does: for a
    DATA that was not answered 354, behind which the message is said as commands, and for chunks
    of a message that has no recipient.
    """

    number: int
    asked: str
    reply: ReceivedReply
    transaction: int
    follows: bool = False
    awry: bool = False


class Delivery(NamedTuple):
    """One message accepted for one recipient; ``content`` is a digest of it."""

    reverse_path: bytes
    forward_path: bytes
    content: bytes


class Accepted(NamedTuple):
    """A delivery, and the exchange in which it was made."""

    delivery: Delivery
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Exchanges:
    """One connection's replies, and the messages that were accepted on it."""

    exchanges: tuple[Exchange, ...]
    accepted: tuple[Accepted, ...]
    messages: int


def dialogue(connection: ScriptedConnection, observed: ObservedConnection) -> Exchanges:
    """Pair what the sender of ``connection`` said in a run with what it heard."""
    return _Walk(connection, observed).run(observed.replies)


class _Walk:
    """Goes through the replies, and takes for each what it must have answered."""

    def __init__(self, connection: ScriptedConnection, observed: ObservedConnection) -> None:
        octets, self._ends, self._departed_ns = bytearray(), list[int](), list[int]()
        for departure, at_ns in zip(connection.departures(), observed.departed_ns, strict=True):
            if at_ns is not None and isinstance(departure.action, SendOctets):
                octets += departure.action.octets
                self._ends.append(len(octets))
                self._departed_ns.append(at_ns)
        self._octets = bytes(octets)
        self._at = header_octets(self._octets)  # it gets no reply
        self._in_content = False
        self._transaction = 0
        self._reverse_path = b""
        self._forward_paths: list[bytes] = []
        self._chunks = hashlib.sha256()
        self._accepted: list[Accepted] = []
        self._messages = 0

    def run(self, replies: list[ReceivedReply]) -> Exchanges:
        exchanges = tuple(self._exchange(number, one) for number, one in enumerate(replies, 1))
        return Exchanges(exchanges, tuple(self._accepted), self._messages)

    def _exchange(self, number: int, reply: ReceivedReply) -> Exchange:
        if number == 1:
            return Exchange(number, GREETING, reply, 0)
        if self._in_content:
            end = content_end(self._octets, self._at)
            if not end or self._sent_ns(end) > reply.at_ns:
                return Exchange(number, UNASKED, reply, self._transaction)
            self._in_content = False
            self._chunks.update(self._octets[self._at : end])
            self._at = end
            return self._message(Exchange(number, CONTENT, reply, self._transaction))
        command = command_at(self._octets, self._at)
        end = command.end + max(command.chunk_octets, 0)
        if not command.is_whole or end > len(self._octets) or self._sent_ns(end) > reply.at_ns:
            return Exchange(number, UNASKED, reply, self._transaction)
        self._at = end
        if command.chunk_octets >= 0:
            return self._chunk(number, command, reply)
        return self._command(number, command.line, reply)

    def _command(self, number: int, line: bytes, reply: ReceivedReply) -> Exchange:
        verb, positive = line[:4].upper(), 200 <= reply.code < 400
        follows, awry = reply.code == 503, False
        if verb == b"MAIL":
            self._transaction += 1
            if positive:
                self._forget()
                self._reverse_path = _path(line)
        elif verb == b"RCPT":
            if positive:
                self._forward_paths.append(_path(line))
        elif verb == b"DATA":
            self._in_content = reply.code == 354
            awry = not self._in_content
            follows |= awry and not self._forward_paths
        elif verb in (b"RSET", b"EHLO", b"HELO", b"STAR") and positive:
            self._forget()
        return Exchange(number, _shown(line), reply, self._transaction, follows, awry)

    def _chunk(self, number: int, command: Command, reply: ReceivedReply) -> Exchange:
        self._chunks.update(self._octets[command.end : self._at])
        follows = reply.code >= 500 and not self._forward_paths
        shown = _shown(command.line)
        exchange = Exchange(number, shown, reply, self._transaction, follows, awry=follows)
        return self._message(exchange) if command.is_last_chunk else exchange

    def _message(self, exchange: Exchange) -> Exchange:
        """A message has come to its end; whether it was accepted, the reply says."""
        if 200 <= exchange.reply.code < 300:
            self._messages += 1
            content = self._chunks.digest()
            self._accepted += [
                Accepted(Delivery(self._reverse_path, path, content), exchange)
                for path in self._forward_paths
            ]
        self._forget()
        return exchange

    def _forget(self) -> None:
        """The transaction is over."""
        self._forward_paths.clear()
        self._chunks = hashlib.sha256()

    def _sent_ns(self, end: int) -> int:
        """When the octet before ``end`` had been sent."""
        return self._departed_ns[bisect_left(self._ends, end)]


def _path(line: bytes) -> bytes:
    match = _PATH.match(line)
    return match[1].strip(b"<>").lower() if match else b""


def _shown(line: bytes) -> str:
    text = to_text(line[: 4 * ASKED_MAX_CHARACTERS].rstrip(b"\r\n"))
    if len(text) > ASKED_MAX_CHARACTERS:
        text = text[: ASKED_MAX_CHARACTERS - 1] + "…"
    return f"to {text}"
