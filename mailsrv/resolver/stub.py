"""The production resolver: a stub on the server's loop that asks recursive name servers.

Theory of operation.  A question is first looked up in the cache, then among the questions that
are under way: a second caller for the same question waits with the first.  Otherwise it becomes
an *inquiry*, which puts it to one server after the other, each time in a fresh ``DnsExchange``:

* silence for ``ATTEMPT_TIMEOUT_NS`` moves on to the next server, round and round;
* a server that fails (SERVFAIL, nonsense, a closed port) is not asked this question again;
* after ``ATTEMPTS_MAX`` attempts the answer is TIMEOUT, with no server left SERVFAIL.

A server that was silent goes to the end of the list for the questions that follow, so that a dead
one costs each of them nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.resolver.cache import DnsCache, Key
from mailsrv.resolver.exchange import DnsExchange, ServerAddress, failure
from mailsrv.resolver.message import ID_BITS, DnsQuery, DnsResponse, Name, NoSuchName, parse_name
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_S

ATTEMPT_TIMEOUT_NS = 2 * NS_PER_S
"""How long one server may take, UDP and TCP together."""
ATTEMPTS_MAX = 4
"""Eight seconds in all: less than the ten that a decision waits (``lookup_timeout_s``)."""
INQUIRIES_MAX = 128
"""Questions under way, each with one socket out of the server's reserve of descriptors."""
WAITING_MAX = 4096
"""Callers that may wait for one question."""
FIRST_NUMBER = 1 << 60
"""Exchanges are handled after every connection that is ready in the same pass."""

Answer = Callable[[DnsAnswer], None]
Note = Callable[[str, str, str], object]
"""Told of a failure: name, type, and what failed: each server that was asked, with its port, and
what came of it."""

_SERVFAIL = DnsAnswer(DnsStatus.SERVFAIL)
_TIMEOUT = DnsAnswer(DnsStatus.TIMEOUT)
_NXDOMAIN = DnsAnswer(DnsStatus.NXDOMAIN)


class StubResolver:
    """Asks ``servers``, at least one.  ``random`` must be unpredictable: it makes the ids.
    ``exchange`` makes what carries a question to a server, from what ``DnsExchange`` takes.

    ``attach`` it to a loop before the first lookup, and ``close`` it when the loop ends.
    """

    def __init__(
        self,
        servers: Sequence[ServerAddress],
        random: Random,
        note: Note = lambda *_: None,
        exchange: Callable[..., DnsExchange] = DnsExchange,
    ) -> None:
        self._servers = deque(servers)
        self._random = random
        self._note = note
        self._exchange = exchange
        self._loop: Loop  # given by ``attach``
        self._cache = DnsCache()
        self._inquiries: dict[Key, _Inquiry] = {}
        self._exchanges = 0
        self._busy = False

    def attach(self, loop: Loop) -> None:
        """Work on ``loop`` from now on."""
        self._loop = loop

    def lookup(self, name: str, rtype: str, answer: Answer) -> None:
        """Ask for the ``rtype`` records of ``name`` and call ``answer`` once; at once if it is
        known, if ``name`` can be no name (NXDOMAIN) or if too much is being asked (SERVFAIL).
        """
        key = name.lower().removesuffix("."), rtype
        inquiry = self._inquiries.get(key)
        if inquiry is not None:
            if len(inquiry.waiting) < WAITING_MAX:
                inquiry.waiting.append(answer)
            else:
                answer(self._too_busy(key))
            return
        known = self._cache.get(key, self._loop.now_ns)
        if known is not None:
            answer(known)
        elif len(self._inquiries) < INQUIRIES_MAX:
            self._busy = False
            self._inquire(key, answer)
        else:
            answer(self._too_busy(key))

    @property
    def under_way(self) -> int:
        """The number of questions that wait for a server."""
        return len(self._inquiries)

    def close(self) -> None:
        """Forget all questions; their callers get no answer."""
        for inquiry in self._inquiries.values():
            inquiry.close()
        self._inquiries.clear()

    def _inquire(self, key: Key, answer: Answer) -> None:
        try:
            name = parse_name(key[0])
        except NoSuchName:
            answer(_NXDOMAIN)
            return
        inquiry = self._inquiries[key] = _Inquiry(self, key, name)
        inquiry.waiting.append(answer)
        inquiry.proceed()

    def _too_busy(self, key: Key) -> DnsAnswer:
        """Refuse; noted when it begins, not each time."""
        if not self._busy:
            self._busy = True
            self._note(*key, "too many questions")
        return _SERVFAIL

    def _next_number(self) -> int:
        self._exchanges += 1
        return FIRST_NUMBER + self._exchanges

    def _was_silent(self, server: ServerAddress) -> None:
        """Ask others first from now on."""
        if self._servers[0] == server:
            self._servers.rotate(-1)

    def _finished(self, inquiry: _Inquiry, response: DnsResponse) -> None:
        """Answer every caller.  An exception of one is kept from the others."""
        del self._inquiries[inquiry.key]
        self._cache.put(inquiry.key, response.answer, response.ttl_s, self._loop.now_ns)
        if response.answer.status in (DnsStatus.SERVFAIL, DnsStatus.TIMEOUT):
            self._note(*inquiry.key, inquiry.failures or response.answer.status)
        fault: Exception | None = None
        for answer in inquiry.waiting:
            try:
                answer(response.answer)
            except Exception as one:
                fault = fault or one
        if fault is not None:
            raise fault


class _Inquiry:
    """One question, put to one server after the other until one answers."""

    __slots__ = (
        "_attempts",
        "_exchange",
        "_failures",
        "_name",
        "_resolver",
        "_servers",
        "_timer",
        "key",
        "waiting",
    )

    def __init__(self, resolver: StubResolver, key: Key, name: Name) -> None:
        self._resolver = resolver
        self._name = name
        self._servers = deque(resolver._servers)
        self._attempts = 0
        self._failures: dict[str, None] = {}  # each said once
        self._exchange: DnsExchange | None = None
        self._timer: Timer | None = None
        self.key = key
        self.waiting: list[Answer] = []

    def proceed(self) -> None:
        """Ask the next server; without one, or after ``ATTEMPTS_MAX``, fail."""
        resolver = self._resolver
        while self._servers and self._attempts < ATTEMPTS_MAX:
            self._attempts += 1
            query = DnsQuery(self._name, self.key[1], resolver._random.getrandbits(ID_BITS))
            exchange = resolver._exchange(
                resolver._loop.poll, resolver._next_number(), self._servers[0], query, self._done
            )
            try:
                exchange.begin()
            except OSError as error:  # no route, no descriptor
                self._failed(failure(error))
                self._servers.popleft()
                continue
            self._exchange = exchange
            deadline_ns = resolver._loop.now_ns + ATTEMPT_TIMEOUT_NS
            self._timer = resolver._loop.timers.schedule(deadline_ns, self._silence)
            return
        resolver._finished(self, DnsResponse(_TIMEOUT if self._servers else _SERVFAIL, 0))

    def close(self) -> None:
        """Stop asking."""
        if self._exchange is not None and self._timer is not None:
            self._exchange.close()
            self._resolver._loop.timers.cancel(self._timer)
            self._exchange = self._timer = None  # both of which refer to this

    @property
    def failures(self) -> str:
        """What each server did that was asked and did not answer."""
        return ", ".join(self._failures)

    def _failed(self, how: str) -> None:
        address, port = self._servers[0]
        self._failures[f"{address} port {port}: {how}"] = None

    def _silence(self) -> None:
        self.close()
        self._failed("no answer")
        self._resolver._was_silent(self._servers[0])
        self._servers.rotate(-1)
        self.proceed()

    def _done(self, outcome: DnsResponse | str) -> None:
        self.close()
        if isinstance(outcome, DnsResponse):
            self._resolver._finished(self, outcome)
            return
        self._failed(outcome)
        self._servers.popleft()
        self.proceed()
