"""Carries a check's wishes to the resolver and the reputation, and the answers back.

An answer that comes within the call is used within the call: a verdict that is known at once
costs no trip through the loop.
"""

from __future__ import annotations

from collections.abc import Callable

from mailsrv.policy import Deliberation, Lookup, Verdict, Wanted
from mailsrv.seams import DnsAnswer, Rating, Reputation, Resolver

Answer = DnsAnswer | Rating


class Panel:
    """Who is asked."""

    __slots__ = ("_reputation", "_resolver")

    def __init__(self, resolver: Resolver, reputation: Reputation) -> None:
        self._resolver = resolver
        self._reputation = reputation

    def ask(self, wanted: Wanted, answer: Callable[[Answer], None]) -> None:
        """Pass ``wanted`` on to whom it concerns."""
        if isinstance(wanted, Lookup):
            self._resolver.lookup(wanted.name, wanted.rtype, answer)
        else:
            self._reputation.ask(wanted.client, wanted.helo, wanted.reverse_path, answer)


def run(deliberation: Deliberation, panel: Panel, decided: Callable[[Verdict], None]) -> None:
    """Run ``deliberation`` to its end and call ``decided`` once, now or later."""
    _Run(deliberation, panel, decided).proceed(None)


class _Run:
    __slots__ = ("_asking", "_decided", "_deliberation", "_early", "_panel")

    def __init__(
        self, deliberation: Deliberation, panel: Panel, decided: Callable[[Verdict], None]
    ) -> None:
        self._deliberation = deliberation
        self._panel = panel
        self._decided = decided
        self._asking = False
        self._early: Answer | None = None

    def proceed(self, answer: Answer | None) -> None:
        """Go on with ``answer`` (None: begin) for as long as answers come at once."""
        try:
            while True:
                if answer is None:
                    wanted = next(self._deliberation)
                else:
                    wanted = self._deliberation.send(answer)
                self._asking, self._early = True, None
                self._panel.ask(wanted, self._answered)
                self._asking = False
                if self._early is None:
                    return
                answer = self._early
        except StopIteration as stop:
            self._decided(stop.value)

    def _answered(self, answer: Answer) -> None:
        if self._asking:
            self._early = answer
        else:
            self.proceed(answer)
