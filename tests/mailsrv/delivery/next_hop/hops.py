"""Next hops on real loopback sockets, and the way out to them in virtual time, in one thread."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from mailsrv.config.deliveries import Host, ToExchangers, ToHosts
from mailsrv.config.routes import Route
from mailsrv.delivery.job import Job
from mailsrv.delivery.next_hop.connection import OutgoingContext
from mailsrv.delivery.next_hop.lookup import LookupRules
from mailsrv.delivery.next_hop.next_hops import NextHops, NextHopWay
from mailsrv.delivery.spool.rows import StoredMessage
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.descriptor_budget import DescriptorBudget
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.memory_budget import MemoryBudget
from mailsrv.runtime.poll import Handler
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.options import TlsPolicy
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.transport.tls_context import client_context, server_context
from mailsrv.units import NS_PER_S
from replay.play.fakes.world import FakeResolver
from replay.play.mailsrv_harness import VirtualPoll
from replay.play.tls_client import CERTIFICATE, KEY

QUIET_ROUNDS = 3
ROUNDS_MAX = 200_000
STEPS_MAX = 20_000
RECIPIENT = MailPath("b", "d.test")
_RESET = struct.pack("ii", 1, 0)

CLOSE, RESET, HANG = "close", "reset", "hang"
"""What a next hop may do instead of a reply."""
Answer = bytes | str | None


@cache
def certificate() -> ssl.SSLContext:
    return server_context(CERTIFICATE, KEY)


@dataclass
class Received:
    """A message that a next hop took."""

    mail: bytes = b""
    recipients: list[bytes] = field(default_factory=list)
    content: bytes = b""


class Peer:
    """One connection at a next hop."""

    def __init__(self, hop: Hop, sock: socket.socket, number: int) -> None:
        self.hop = hop
        self.sock = sock
        self.number = number
        self.input = b""
        self.out = b""
        self.lines: list[bytes] = []
        self.received = Received()
        self.in_content = False
        self.chunk_left = 0
        self.last_chunk = False
        self.hangs = False
        self.tls: ssl.SSLObject | None = None
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.shaking = False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def open(self) -> bool:
        return self.sock.fileno() >= 0

    def begin(self) -> None:
        self.act(self.hop.answer(self, b"GREETING"))

    def serve(self) -> bool:
        """Read and answer; True if anything happened."""
        if not self.open:
            return False
        moved = self.flush()
        if self.hop.stops_reading:
            return moved
        try:
            octets = self.sock.recv(1 << 18)
        except BlockingIOError:
            return moved
        except OSError:
            self.sock.close()
            return True
        if not octets:
            self.sock.close()
            return True
        if self.tls is not None:
            octets = self.decrypt(octets)
        self.input += octets
        while self.open and not self.hangs and not self.shaking and self.take():
            pass
        return True

    def take(self) -> bool:
        if self.chunk_left:
            piece, self.input = self.input[: self.chunk_left], self.input[self.chunk_left :]
            self.received.content += piece
            self.chunk_left -= len(piece)
            if self.chunk_left:
                return False
            self.act(self.hop.answer(self, b"."))
            return True
        if self.in_content:
            if self.input.startswith(b".\r\n") and not self.received.content:
                content, self.input = b"", self.input[3:]
            else:
                end = self.input.find(b"\r\n.\r\n")
                if end < 0:
                    return False
                content, self.input = self.input[: end + 2], self.input[end + 5 :]
            self.received.content = content.replace(b"\r\n.", b"\r\n").removeprefix(b".")
            self.in_content = False
            self.act(self.hop.answer(self, b"."))
            return True
        line, found, rest = self.input.partition(b"\r\n")
        if not found:
            return False
        self.input = rest
        self.lines.append(line)
        self.act(self.hop.answer(self, line))
        return True

    def act(self, answer: Answer) -> None:
        if answer is HANG:
            self.hangs = True
        elif answer is CLOSE or answer is RESET:
            if answer is RESET:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()
        elif isinstance(answer, bytes):
            self.say(answer)

    def say(self, octets: bytes) -> None:
        if self.tls is not None and not self.shaking:
            self.tls.write(octets)
            octets = self.outgoing.read()
        self.out += octets
        self.flush()

    def flush(self) -> bool:
        if not self.out or not self.open:
            return False
        try:
            sent = self.sock.send(self.out)
        except BlockingIOError:
            return False
        except OSError:
            self.sock.close()
            return True
        self.out = self.out[sent:]
        return bool(sent)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.shaking = True

    def decrypt(self, octets: bytes) -> bytes:
        assert self.tls is not None
        self.incoming.write(octets)
        plain = b""
        try:
            if self.shaking:
                self.tls.do_handshake()
                self.shaking = False
            while piece := self.tls.read(1 << 16):
                plain += piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.out += self.outgoing.read()
            self.flush()
            self.sock.close()
        self.out += self.outgoing.read()
        self.flush()
        return plain


Script = Callable[[Peer, bytes], Answer]


class Hop:
    """A next hop that takes all mail, but where ``script`` says otherwise: it is asked first, with
    the command line, ``GREETING``, or ``.`` at the end of the content."""

    def __init__(
        self, script: Script | None = None, *, extensions: Sequence[str] = ("PIPELINING",)
    ) -> None:
        self.script = script
        self.extensions = extensions
        self.tls = certificate
        self.stops_reading = False
        self.peers: list[Peer] = []
        self.taken: list[Received] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.listener.setblocking(False)

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def open_peers(self) -> int:
        return sum(peer.open for peer in self.peers)

    def serve(self) -> bool:
        moved = False
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                self.peers.append(Peer(self, sock, len(self.peers)))
                self.peers[-1].begin()
                moved = True
        for peer in self.peers:
            moved |= peer.serve()
        return moved

    def close(self) -> None:
        for peer in self.peers:
            peer.sock.close()
        self.listener.close()

    def answer(self, peer: Peer, line: bytes) -> Answer:
        scripted = self.script(peer, line) if self.script is not None else None
        if scripted is not None:
            return scripted
        return self.usual(peer, line)

    def usual(self, peer: Peer, line: bytes) -> Answer:
        verb = line.split(b" ")[0].split(b":")[0].upper()
        if verb in (b"EHLO", b"LHLO"):
            names = ["hop.test", *self.extensions]
            return "".join(
                f"250{'-' if n < len(names) - 1 else ' '}{name}\r\n" for n, name in enumerate(names)
            ).encode()
        if verb == b"STARTTLS":
            peer.say(b"220 go\r\n")
            peer.start_tls(self.tls())
            return None
        if verb == b"MAIL":
            peer.received = Received(line)
        elif verb == b"RCPT":
            peer.received.recipients.append(line.partition(b":")[2].split(b" ")[0])
        elif verb == b"DATA":
            peer.in_content = peer.last_chunk = True
            return b"354 go\r\n"
        elif verb == b"BDAT":
            words = line.split(b" ")
            peer.chunk_left, peer.last_chunk = int(words[1]), len(words) > 2
            return None if peer.chunk_left else self.answer(peer, b".")
        elif verb == b"QUIT":
            peer.say(b"221 bye\r\n")
            return CLOSE
        elif verb == b"GREETING":
            return b"220 hop.test ESMTP\r\n"
        if verb == b".":
            if not peer.last_chunk:
                return b"250 chunk\r\n"
            self.taken.append(peer.received)
            peer.received = Received()
        return b"250 2.0.0 fine\r\n"


class World:
    """The way out, its clock, and the next hops by the IP address at which they are met."""

    def __init__(self, *, descriptors: int = 0, rules: LookupRules | None = None) -> None:
        self.clock = FakeClock(1_000_003)
        self.faults: list[Exception] = []
        self.poll = VirtualPoll()
        self.loop = Loop(self.clock, self.poll, self._on_fault)
        self.memory = MemoryBudget(128 * 1024 * 1024)
        self.resolver = FakeResolver(self._call_later)
        self.hops: dict[str, Hop | int | None] = {}
        self.dialled: list[str] = []
        self.log: list[tuple[str, dict[str, object]]] = []
        self.outcomes: list[list[Outcome]] = []
        self.silent: list[socket.socket] = []
        self.start_ns = self.loop.now_ns
        self.next_hops = NextHops(
            OutgoingContext(
                self.loop,
                self._dial,
                self.memory,
                DescriptorBudget(descriptors) if descriptors else None,
            ),
            self.resolver,
            random.Random(1),
            hostname="mx.our.test",
            tls_contexts=_tls_context,
            rules=rules,
            note=lambda event, **values: self.log.append((event, values)),
        )

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.end()
        finally:
            for hop in self.hops.values():
                if isinstance(hop, Hop):
                    hop.close()
            for sock in self.silent:
                sock.close()
            self.poll.close()

    def end(self) -> None:
        """Shut down, and see that nothing is left."""
        self.next_hops.close(0)
        for _ in range(STEPS_MAX):
            self.settle()
            if self.next_hops.done or not self.step():
                break
        assert not self.faults, self.faults
        left = (self.next_hops.active, self.next_hops.waiting, len(self.next_hops.pool))
        assert left == (0, 0, 0), left
        assert self.poll.watched == 0
        assert self.memory.held_octets == 0
        assert len(self.loop.timers) == 0

    def _on_fault(self, handler: Handler | None, fault: Exception) -> None:
        self.faults.append(fault)

    def _call_later(self, delay_ns: int, act: Callable[[], None]) -> None:
        if delay_ns:
            self.loop.timers.schedule(self.loop.now_ns + delay_ns, act)
        else:
            act()

    def _dial(self, ip: str, port: int) -> socket.socket:
        """To the hop at ``ip``; an error number raises it, None never answers."""
        self.dialled.append(ip)
        hop = self.hops.get(ip, errno.ECONNREFUSED)
        if isinstance(hop, int):
            raise OSError(hop, os.strerror(hop))
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hop is None:
            full = socket.create_server(("127.0.0.1", 0), backlog=0)
            self.silent += [full, *_fill(full)]
            target = full.getsockname()
        else:
            target = ("127.0.0.1", hop.port)
        with contextlib.suppress(BlockingIOError):
            sock.connect(target)
        return sock

    # -- time -------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return (self.loop.now_ns - self.start_ns) / NS_PER_S

    def settle(self) -> None:
        """Let both sides do all they can at this instant."""
        quiet = 0
        for _ in range(ROUNDS_MAX):
            self.loop.dispatch(None)
            moved = self.poll.found > 0 or bool(self.loop.backlog)
            for hop in list(self.hops.values()):
                if isinstance(hop, Hop):
                    moved |= hop.serve()
            quiet = 0 if moved else quiet + 1
            if quiet >= QUIET_ROUNDS:
                return
        raise AssertionError("it never comes to rest")

    def step(self) -> bool:
        """Let the next timer go off; False if there is none."""
        wake_ns = self.loop.timers.next_wake_ns
        if wake_ns is None:
            return False
        self.clock.advance_to_ns(max(wake_ns, self.clock.monotonic_ns()))
        self.loop.expire()
        self.settle()
        return True

    def advance(self, seconds: float) -> None:
        """Let this time pass."""
        until_ns = self.clock.monotonic_ns() + round(seconds * NS_PER_S)
        self.settle()
        while True:
            wake_ns = self.loop.timers.next_wake_ns
            if wake_ns is None or wake_ns > until_ns:
                break
            self.step()
        self.clock.advance_to_ns(until_ns)
        self.loop.dispatch(None)
        self.settle()

    # -- mail -------------------------------------------------------------------------------------

    def deliver(self, route: Route, job: Job) -> list[list[Outcome]]:
        """Hand a job over, by the way of its first recipient; the list gets its outcomes."""
        told: list[list[Outcome]] = []
        way = self.way(route, job.envelope.forward_paths[job.places[0]])
        way.deliver(job, lambda outcomes: told.append(list(outcomes)))
        return told

    def way(self, route: Route, recipient: MailPath = RECIPIENT) -> NextHopWay:
        return self.next_hops.way(route, recipient)

    def send(self, route: Route, job: Job | None = None) -> list[Outcome]:
        """Hand a job over and let things happen until its outcomes are known."""
        told = self.deliver(route, job or message())
        self.settle()
        for _ in range(STEPS_MAX):
            if told or not self.step():
                break
        (outcomes,) = told
        return outcomes


def _fill(full: socket.socket) -> Iterator[socket.socket]:
    """Connections that fill the accept queue: the kernel drops the SYN of those that follow."""
    for _ in range(2):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(full.getsockname())
        yield sock


@cache
def _tls_context(policy: TlsPolicy) -> ssl.SSLContext:
    return client_context(verified=policy is TlsPolicy.VERIFIED, authorities=CERTIFICATE)


def message(
    *recipients: str, content: bytes = b"Subject: x\r\n\r\nhello\r\n", head: bytes = b"R: y\r\n"
) -> Job:
    """A job for one message."""
    paths = [MailPath(*one.split("@")) for one in recipients or ("b@d.test",)]
    envelope = Envelope("192.0.2.1", "c.test", "ESMTP", "ID1", MailPath("a", "s.test"), paths)
    stored = StoredMessage(1, "ID1", 0, "mx.our.test", len(content), "{}", in_file=False)
    return Job(stored, envelope, tuple(range(len(paths))), head, lambda: pieces(content))


def pieces(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), 256 * 1024):
        yield content[at : at + 256 * 1024]


def relay(*ips: str, **more: object) -> Route:
    """A route to hosts at these addresses, in the clear unless it is said otherwise."""
    hosts = tuple(Host(ip, 25) for ip in ips or ("192.0.2.1",))
    return Route(ToHosts("smtp", hosts), **{"tls": TlsPolicy.NEVER, **more})  # type: ignore[arg-type]


def lmtp(*ips: str) -> Route:
    hosts = tuple(Host(ip, 24) for ip in ips or ("192.0.2.1",))
    return Route(ToHosts("lmtp", hosts), tls=TlsPolicy.NEVER)


def mx(domain: str = "", **more: object) -> Route:
    return Route(ToExchangers(domain), **{"tls": TlsPolicy.NEVER, **more})  # type: ignore[arg-type]
