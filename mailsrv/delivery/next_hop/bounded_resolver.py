"""The resolver as delivery uses it: so many lookups at once, and each has an answer in time.

The receiving side asks the same resolver and waits for it with a client on the line.  A domain
whose name servers are silent must not take its room, so only a part of it is used here; what is
beyond waits its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mailsrv.policy.lookups import DnsAnswer, DnsStatus, Resolver
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.timer_wheel import Timer
from mailsrv.units import NS_PER_S

LOOKUPS_MAX = 48
"""Lookups under way, of the 128 that the server's resolver takes."""
WAITING_MAX = 1024
"""Lookups that wait for one to end; beyond it the answer is SERVFAIL."""
LOOKUP_NS = 20 * NS_PER_S
"""How long one may take.  The server's resolver is done within 8 s; one that is replaced never
answers."""

Answer = Callable[[DnsAnswer], None]

_SERVFAIL = DnsAnswer(DnsStatus.SERVFAIL)
_TIMEOUT = DnsAnswer(DnsStatus.TIMEOUT)


class BoundedResolver:
    """Asks ``resolver``, which may be exchanged while lookups are under way."""

    def __init__(self, resolver: Resolver, loop: Loop) -> None:
        self.resolver = resolver
        self._loop = loop
        self._under_way: dict[_Lookup, None] = {}
        self._beginning = False
        self._waiting: deque[tuple[str, str, Answer]] = deque()

    def lookup(self, name: str, rtype: str, answer: Answer) -> None:
        """Ask for the ``rtype`` records of ``name`` and call ``answer`` once."""
        if len(self._under_way) < LOOKUPS_MAX:
            self._begin(name, rtype, answer)
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append((name, rtype, answer))
        else:
            answer(_SERVFAIL)

    def close(self) -> None:
        """Forget all lookups; their callers get no answer."""
        self._waiting.clear()
        for lookup in self._under_way:
            self._loop.timers.cancel(lookup.timer)
        self._under_way.clear()

    def _begin(self, name: str, rtype: str, answer: Answer) -> None:
        lookup = _Lookup(self, answer)
        self._under_way[lookup] = None
        lookup.timer = self._loop.timers.schedule(self._loop.now_ns + LOOKUP_NS, lookup.expire)
        self.resolver.lookup(name, rtype, lookup.answered)

    def _ended(self, lookup: _Lookup) -> None:
        self._loop.timers.cancel(lookup.timer)
        del lookup.timer  # which refers to it
        self._under_way.pop(lookup, None)
        if self._beginning:
            return  # an answer came at once: the loop below goes on
        self._beginning = True
        try:
            while self._waiting and len(self._under_way) < LOOKUPS_MAX:
                self._begin(*self._waiting.popleft())
        finally:
            self._beginning = False


class _Lookup:
    """One lookup under way."""

    __slots__ = ("_answer", "_owner", "timer")

    timer: Timer

    def __init__(self, owner: BoundedResolver, answer: Answer) -> None:
        self._owner = owner
        self._answer: Answer | None = answer

    def answered(self, answer: DnsAnswer) -> None:
        """The resolver's answer; one that comes too late changes nothing."""
        waiting, self._answer = self._answer, None
        if waiting is not None:
            try:
                waiting(answer)
            finally:
                self._owner._ended(self)

    def expire(self) -> None:
        """It has taken too long."""
        self.answered(_TIMEOUT)
