"""A scripted name server at the level of messages, for the real resolver in virtual time.

``world`` fakes the seam: what the resolver would have answered.  Here the production resolver
runs, with its ids, retries, timeouts, servers, cache and parser, and so does all of an exchange
but the socket: a ``_Line`` stands for that, which takes the question's octets and delivers the
octets that the script has for them, each after its delay of virtual time.
"""

from __future__ import annotations

import random
import socket
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from mailsrv.resolver.exchange import DnsExchange, ServerAddress
from mailsrv.resolver.message import DnsQuery, DnsResponse
from mailsrv.resolver.stub import StubResolver
from mailsrv.runtime.poll import READ, WRITE, Handler, Poll, Ready
from replay.play.fakes.tables import (
    ENTRIES_MAX,
    SILENCE,
    CallLater,
    WorldError,
    canonical_name,
    check_keys,
    delay_ns,
    question_of,
    table_of,
    texts_of,
)

SERVERS_MAX = 4
PORT = 53
TTL_S_DEFAULT = 300
TTL_S_MAX = 2**31 - 1
MESSAGES_MAX = 64
"""Messages scripted for one question."""
ID_OCTETS = 2
"""At the front of a message (RFC 1035 section 4.1.1)."""
ENCODED_KEPT = 256
"""Messages that need not be encoded again: each is tried before a run, and sent more than once."""
_NO_ID = bytes(ID_OCTETS)

_KEYS = """
    records status ttl_s delay_s truncated tcp answers_for wrong_id from lost
"""
_TCP = ("answers", SILENCE, "refused", "hangs up", "stalls")
_STATUSES = ("NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", "FORMERR", "NOTIMP")


class ScriptedMessage(NamedTuple):
    """One scripted message.

    ``sender`` is the server that sends it, 0 any; ``lost`` counts the first questions, of those
    that would get it, that are lost on their way.
    """

    records: tuple[str, ...]
    status: str
    ttl_s: int
    delay_ns: int
    truncated: bool
    tcp: str
    answers_for: str
    wrong_id: bool
    sender: int
    lost: int

    def octets(self, query: bytes, over_tcp: bool) -> bytes:
        """The message as it answers ``query``.  Raises DNSException for what cannot be one."""
        id_, question = query[:ID_OCTETS], query[ID_OCTETS:]
        if self.wrong_id:
            id_ = bytes((id_[0], id_[1] ^ 1))
        return id_ + _encoded(self, question, self.truncated and not over_tcp)


@lru_cache(ENCODED_KEPT)
def _encoded(scripted: ScriptedMessage, question: bytes, is_cut: bool) -> bytes:
    """A message behind its id, as it answers a query that is ``question`` behind its own."""
    query = dns.message.from_wire(_NO_ID + question)
    rtype = query.question[0].rdtype
    if scripted.answers_for:
        query = dns.message.make_query(scripted.answers_for, rtype)
    message = dns.message.make_response(query)
    message.flags |= dns.flags.RA
    message.set_rcode(dns.rcode.from_text(scripted.status))
    if is_cut:
        message.flags |= dns.flags.TC
    elif scripted.records:
        name, ttl_s = query.question[0].name, scripted.ttl_s
        shown_rtype = dns.rdatatype.to_text(rtype)
        message.answer = [dns.rrset.from_text(name, ttl_s, "IN", shown_rtype, *scripted.records)]
    elif scripted.status in ("NOERROR", "NXDOMAIN"):  # how long that holds (RFC 2308)
        message.authority = [_start_of_authority(scripted.ttl_s)]
    return message.to_wire(max_size=65_535)[ID_OCTETS:]


@lru_cache(ENCODED_KEPT)
def _start_of_authority(ttl_s: int) -> dns.rrset.RRset:
    """The record that says for how long an answer without records holds."""
    soa = f"ns.example. host.example. 1 7200 900 1209600 {ttl_s}"
    return dns.rrset.from_text(".", ttl_s, "IN", "SOA", soa)


@lru_cache(ENCODED_KEPT)
def _name_and_type(question: bytes) -> tuple[str, str]:
    """What a query asks that is ``question`` behind its id."""
    asked = dns.message.from_wire(_NO_ID + question).question[0]
    return canonical_name(asked.name.to_text()), dns.rdatatype.to_text(asked.rdtype)


class NameServer:
    """Up to four name servers with one script.  A name that is not there does not exist
    (NXDOMAIN); one that is there with other types only has no records."""

    def __init__(self, servers: int, call_later: CallLater) -> None:
        self.addresses: list[ServerAddress] = [
            (f"192.0.2.{53 + number}", PORT) for number in range(servers)
        ]
        self.call_later = call_later
        self._script: dict[tuple[str, str], tuple[ScriptedMessage, ...]] = {}
        self._existing: set[str] = set()
        self._lost: Counter[tuple[str, str, ScriptedMessage]] = Counter()
        self.questions: list[tuple[int, str, str, str]] = []
        """Each question that came: server (from 1), "UDP" or "TCP", name, type."""

    def __setitem__(self, question: str, answer: object) -> None:
        """Script what comes back for ``"NAME TYPE"``.  Raises WorldError."""
        key = f'world.nameserver."{question}"'
        name, rtype = question_of(key, question)
        messages = _messages(key, answer, len(self.addresses))
        _check_encodable(key, name, rtype, messages)
        self._script[name, rtype] = messages
        if not messages or any(one.status != "NXDOMAIN" for one in messages):
            self._existing.add(name)

    def resolver(self, seed: int, note: Callable[..., None]) -> StubResolver:
        """The production resolver, with these servers to ask and ``note`` for its log."""
        return StubResolver(
            self.addresses,
            random.Random(f"resolver {seed}"),
            lambda name, rtype, why: note("lookup failed", name=name, type=rtype, why=why),
            partial(_ScriptedExchange, self),
        )

    def received(
        self, server: ServerAddress, over: str, octets: bytes
    ) -> list[tuple[ScriptedMessage, bytes]]:
        """What comes back for a question, with the octets of each message."""
        name, rtype = _name_and_type(octets[ID_OCTETS:])
        number = self.addresses.index(server) + 1
        self.questions.append((number, over, name, rtype))
        scripted = self._script.get((name, rtype))
        if scripted is None:
            status = "NOERROR" if name in self._existing else "NXDOMAIN"
            scripted = (_message("", {"status": status}, 0),)
        return [
            (message, message.octets(octets, over == "TCP"))
            for message in scripted
            if message.sender in (0, number)
            and not (message.wrong_id and over == "TCP")  # where nobody forges
            and not self._loses(name, rtype, message)
        ]

    def _loses(self, name: str, rtype: str, message: ScriptedMessage) -> bool:
        key = name, rtype, message
        self._lost[key] += 1
        return self._lost[key] <= message.lost


class _NoPoll:
    """Lines are not watched: what arrives on them is told by the clock."""

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None: ...

    def change(self, sock: socket.socket, events: int, handler: Handler) -> None: ...

    def forget(self, sock: socket.socket) -> None: ...

    def wait(self, until_ns: int | None) -> Ready:
        return []

    def close(self) -> None: ...


class _ScriptedExchange(DnsExchange):
    """An exchange whose sockets are lines to a scripted server."""

    def __init__(
        self,
        nameserver: NameServer,
        poll: Poll,
        number: int,
        server: ServerAddress,
        query: DnsQuery,
        done: Callable[[DnsResponse | str], None],
    ) -> None:
        super().__init__(_NoPoll(), number, server, query, done)
        self._nameserver = nameserver

    def _connect(self, kind: socket.SocketKind) -> socket.socket:
        line = _Line if kind == socket.SOCK_DGRAM else _StreamLine
        return cast(socket.socket, line(self._nameserver, self._server, self.ready))


class _Line:
    """What a socket for datagrams is to an exchange."""

    type = socket.SOCK_DGRAM

    def __init__(
        self, nameserver: NameServer, server: ServerAddress, ready: Callable[[int], None]
    ) -> None:
        self._nameserver = nameserver
        self._server = server
        self._ready = ready
        self._inbox: deque[bytes] = deque()
        self._closed = False

    def getpeername(self) -> ServerAddress:
        return self._server

    def send(self, octets: bytes) -> int:
        for message, reply in self._nameserver.received(self._server, "UDP", octets):
            self._later(message.delay_ns, partial(self._arrive, reply))
        return len(octets)

    def recvfrom(self, size: int) -> tuple[bytes, ServerAddress]:
        if not self._inbox:
            raise BlockingIOError
        return self._inbox.popleft()[:size], self._server

    def close(self) -> None:
        self._closed = True

    def _later(self, delay_ns: int, act: Callable[[], None]) -> None:
        """An act of the network: never within the call that leads to it."""
        self._nameserver.call_later(delay_ns, act)

    def _arrive(self, octets: bytes) -> None:
        if not self._closed:  # else the port is another's by now
            self._inbox.append(octets)
            self._ready(READ)


class _StreamLine(_Line):
    """What a socket over TCP is to an exchange."""

    type = socket.SOCK_STREAM

    def __init__(
        self, nameserver: NameServer, server: ServerAddress, ready: Callable[[int], None]
    ) -> None:
        super().__init__(nameserver, server, ready)
        self._later(0, self._connected)

    def _connected(self) -> None:
        if not self._closed:
            self._ready(WRITE)

    def send(self, octets: bytes) -> int:
        """The question, with its length before it."""
        for message, reply in self._nameserver.received(self._server, "TCP", octets[2:]):
            framed = len(reply).to_bytes(2, "big") + reply
            if message.tcp == "refused":
                raise ConnectionRefusedError
            if message.tcp == "hangs up":
                self._later(message.delay_ns, partial(self._arrive, b""))
            elif message.tcp == "stalls":
                self._later(message.delay_ns, partial(self._arrive, framed[: len(framed) // 2]))
            elif message.tcp != SILENCE:
                self._later(message.delay_ns, partial(self._arrive, framed))
        return len(octets)

    def recv(self, size: int) -> bytes:
        if not self._inbox:
            raise BlockingIOError
        octets = self._inbox.popleft()
        if len(octets) > size:
            self._inbox.appendleft(octets[size:])
        return octets[:size]


# -- the script -----------------------------------------------------------------------------------


def nameserver_from(value: object, call_later: CallLater) -> NameServer:
    """The name servers of a header's [world.nameserver] table.  Raises WorldError."""
    table = dict(table_of("world.nameserver", value))
    servers = table.pop("servers", 1)
    if not _is_number(servers, 1, SERVERS_MAX):
        raise WorldError("world.nameserver.servers", f"a number from 1 to {SERVERS_MAX}")
    nameserver = NameServer(cast(int, servers), call_later)
    for question, answer in table.items():
        nameserver[question] = answer
    return nameserver


def _messages(key: str, answer: object, servers: int) -> tuple[ScriptedMessage, ...]:
    """An answer is a list of records, a status, "silence", a table, or a list of tables: several
    messages to one question."""
    if answer == SILENCE:
        return ()
    if isinstance(answer, str):
        return (_message(key, {"status": answer}, servers),)
    if isinstance(answer, Mapping):
        return (_message(key, answer, servers),)
    if isinstance(answer, list | tuple) and len(answer) <= min(MESSAGES_MAX, ENTRIES_MAX):
        if answer and all(isinstance(one, Mapping) for one in answer):
            return tuple(_message(key, one, servers) for one in answer)
        return (_message(key, {"records": answer}, servers),)
    raise WorldError(
        key,
        f'a list of records, a status, "{SILENCE}", a table, or a list of at most '
        f"{MESSAGES_MAX} tables, one for each message",
    )


def _message(key: str, table: Mapping[str, object], servers: int) -> ScriptedMessage:
    check_keys(key, table, _KEYS.split())
    records = texts_of(f"{key}.records", table.get("records", ()))
    status, tcp = table.get("status", "NOERROR"), table.get("tcp", _TCP[0])
    if status not in _STATUSES:
        raise WorldError(f"{key}.status", f"one of {', '.join(_STATUSES)}")
    if tcp not in _TCP:
        raise WorldError(f"{key}.tcp", f"one of {', '.join(_TCP)}")
    answers_for = table.get("answers_for", "")
    if not isinstance(answers_for, str):
        raise WorldError(f"{key}.answers_for", 'a name, as in "other.example"')
    numbers = {"ttl_s": (TTL_S_DEFAULT, TTL_S_MAX), "from": (0, servers), "lost": (0, ENTRIES_MAX)}
    for name, (_, most) in numbers.items():
        if name in table and not _is_number(table[name], 0, most):
            raise WorldError(f"{key}.{name}", f"a number from 0 to {most}")
    ttl_s, sender, lost = (
        cast(int, table.get(name, default)) for name, (default, _) in numbers.items()
    )
    return ScriptedMessage(
        records,
        str(status),
        ttl_s,
        delay_ns(key, table),
        _flag(key, table, "truncated"),
        str(tcp),
        answers_for,
        _flag(key, table, "wrong_id"),
        sender,
        lost,
    )


def _flag(key: str, table: Mapping[str, object], name: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise WorldError(f"{key}.{name}", "true or false")
    return value


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_encodable(
    key: str, name: str, rtype: str, messages: tuple[ScriptedMessage, ...]
) -> None:
    """See now that each message can be made, and not in the middle of a run."""
    try:
        query = dns.message.make_query(name, rtype).to_wire()
        for message in messages:
            message.octets(query, over_tcp=True)
    except (dns.exception.DNSException, ValueError, UnicodeError) as error:
        raise WorldError(key, f"cannot be a DNS message: {error}") from None
