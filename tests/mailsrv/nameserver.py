"""A small name server on real loopback sockets, and a resolver in virtual time that asks it.

All of it lives in one thread: what a datagram causes has happened when ``Net.settle`` returns.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from mailsrv.policy.lookups import DnsAnswer
from mailsrv.resolver.stub import StubResolver
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.loop import Loop
from mailsrv.units import NS_PER_MS
from replay.play.mailsrv_harness import VirtualPoll

START_S = 1_000_003
BINDS_MAX = 16


@dataclass(frozen=True)
class Asked:
    """A question that reached a name server."""

    octets: bytes
    name: str
    rtype: str
    over: str
    source: tuple[str, int]

    @property
    def id(self) -> int:
        return int.from_bytes(self.octets[:2], "big")

    def reply(
        self,
        *records: str,
        rcode: str = "NOERROR",
        authority: tuple[str, ...] = (),
        flags: int = dns.flags.RA,
        question: str | None = None,
    ) -> bytes:
        """A reply with ``records``, each "OWNER TTL TYPE DATA"."""
        query = dns.message.from_wire(self.octets)
        if question is not None:
            query = dns.message.make_query(question, self.rtype, id=query.id)
        message = dns.message.make_response(query)
        message.set_rcode(dns.rcode.from_text(rcode))
        message.flags |= flags
        message.answer = rrsets(records)
        message.authority = rrsets(authority)
        return message.to_wire(max_size=65_535)


def rrsets(records: tuple[str, ...]) -> list[dns.rrset.RRset]:
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        owner, ttl, rtype, data = record.split(maxsplit=3)
        found.setdefault((owner, f"{ttl} {rtype}"), []).append(data)
    return [
        dns.rrset.from_text(owner, int(kind.split()[0]), "IN", kind.split()[1], *data)
        for (owner, kind), data in found.items()
    ]


Behaviour = Callable[[Asked], list[bytes]]
"""What to send back for a question: nothing, a datagram, several."""


def silent(asked: Asked) -> list[bytes]:
    return []


def failing(asked: Asked) -> list[bytes]:
    return [asked.reply(rcode="SERVFAIL")]


def zone(**records: str) -> Behaviour:
    """Answers from a table: type to "TTL DATA", for every name; no data for the others."""

    def answer(asked: Asked) -> list[bytes]:
        if asked.rtype not in records:
            return [asked.reply()]
        ttl, data = records[asked.rtype].split(maxsplit=1)
        return [asked.reply(f"{asked.name} {ttl} {asked.rtype} {data}")]

    return answer


class NameServer:
    """Listens on UDP and TCP at one port of loopback and does as ``behaviour`` says.

    ``stream`` makes the octets for TCP out of the framed replies; None from it hangs up.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.stream: Callable[[bytes], bytes | None] = lambda framed: framed
        self.asked: list[Asked] = []
        self.udp, self.tcp = _pair()
        self.udp.setblocking(False)
        self.tcp.setblocking(False)
        self.streams: list[socket.socket] = []

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.udp.getsockname()
        return host, port

    def serve(self) -> int:
        """Answer all that has come; give the number of things done."""
        done = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                octets, source = self.udp.recvfrom(4096)
                done += 1
                for reply in self.behaviour(self.note(octets, "UDP", source)):
                    self.udp.sendto(reply, source)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self.tcp.accept()
                sock.setblocking(False)
                self.streams.append(sock)
                done += 1
        for sock in self.streams[:]:
            with contextlib.suppress(BlockingIOError):
                done += self._serve_stream(sock)
        return done

    def _serve_stream(self, sock: socket.socket) -> int:
        try:
            octets = sock.recv(4096)
        except ConnectionResetError:
            octets = b""
        if not octets:
            sock.close()
            self.streams.remove(sock)
            return 1
        assert len(octets) == 2 + int.from_bytes(octets[:2], "big")
        for reply in self.behaviour(self.note(octets[2:], "TCP", sock.getpeername())):
            framed = self.stream(len(reply).to_bytes(2, "big") + reply)
            if framed is None:
                sock.close()
                self.streams.remove(sock)
            else:
                sock.sendall(framed)
        return 1

    def note(self, octets: bytes, over: str, source: tuple[str, int]) -> Asked:
        """Write a question down."""
        (question,) = dns.message.from_wire(octets).question
        rtype = dns.rdatatype.to_text(question.rdtype)
        asked = Asked(octets, question.name.to_text(), rtype, over, source)
        self.asked.append(asked)
        return asked

    def refuse_tcp(self) -> None:
        """Listen no more on TCP."""
        self.tcp.close()
        self.tcp = socket.create_server(("127.0.0.1", 0))  # where nobody comes
        self.tcp.setblocking(False)

    def close(self) -> None:
        for sock in (self.udp, self.tcp, *self.streams):
            sock.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket at the same port."""
    for _ in range(BINDS_MAX):
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            return udp, tcp
    raise AssertionError("no port is free on both")


class Net:
    """A resolver, its loop, its clock and its name servers."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.clock = FakeClock(START_S)
        self.poll = VirtualPoll()
        self.loop = Loop(self.clock, self.poll, self._on_fault)
        self.servers = [NameServer(behaviour) for behaviour in behaviours]
        self.noted: list[tuple[str, str, str]] = []
        self.faults: list[Exception] = []
        self.resolver = StubResolver(
            [server.address for server in self.servers],
            random.Random(1),
            lambda *what: self.noted.append(what),
        )
        self.resolver.attach(self.loop)
        self._start_ns = self.clock.monotonic_ns()

    def _on_fault(self, handler: object, fault: Exception) -> None:
        self.faults.append(fault)

    @property
    def now_ns(self) -> int:
        return self.clock.monotonic_ns() - self._start_ns

    def ask(self, name: str, rtype: str = "A") -> list[DnsAnswer]:
        """Ask, and let happen what happens at this instant; the answer comes into the list."""
        answers: list[DnsAnswer] = []
        self.resolver.lookup(name, rtype, answers.append)
        self.settle()
        return answers

    def settle(self) -> None:
        while True:
            done = sum(server.serve() for server in self.servers)
            self.loop.dispatch(None)
            if not done and not self.poll.found:
                return

    def advance_to_ms(self, at_ms: float) -> None:
        """Go to an instant since the start; timers due by then fire each at its own."""
        at_ns = self._start_ns + round(at_ms * NS_PER_MS)
        while (wake_ns := self.loop.timers.next_wake_ns) is not None and wake_ns <= at_ns:
            self.clock.advance_to_ns(max(wake_ns, self.clock.monotonic_ns()))
            self.loop.expire()
            self.settle()
        self.clock.advance_to_ns(at_ns)
        self.loop.dispatch(None)  # the loop reads the clock once a pass

    def close(self) -> None:
        for server in self.servers:
            server.close()
        self.poll.close()


@contextlib.contextmanager
def net(*behaviours: Behaviour) -> Iterator[Net]:
    """A net that must end without a fault, and with nothing left once it is closed."""
    one = Net(*behaviours)
    try:
        yield one
        one.resolver.close()
        assert one.faults == []
        assert (one.poll.watched, len(one.loop.timers), one.resolver.under_way) == (0, 0, 0)
    finally:
        one.close()
