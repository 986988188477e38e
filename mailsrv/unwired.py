"""What stands at a seam where nothing is configured: answers at once, knows nothing."""

from __future__ import annotations

from collections.abc import Callable

from mailsrv.seams import DnsAnswer, DnsStatus, Rating


class NoResolver:
    """Has no name server to ask."""

    def lookup(self, name: str, rtype: str, answer: Callable[[DnsAnswer], None]) -> None:
        answer(DnsAnswer(DnsStatus.SERVFAIL))


class NoReputation:
    """Has nothing against anybody."""

    def ask(
        self, client: str, helo: str, reverse_path: str, answer: Callable[[Rating], None]
    ) -> None:
        answer(Rating(0))
