"""A crowd that says nothing: each of thousands ends at its own tick, and not one before."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from conversing import HOSTNAME

from mailsrv.settings import Settings
from mailsrv.units import NS_PER_MS, NS_PER_S, seconds_to_ns
from replay.play.mailsrv_harness import MailsrvHarness

CROWD = 9000
DESCRIPTORS = 2 * CROWD + 500
"""Both ends of each connection are in this process."""
GAP_NS = 7_654_321
"""From one to the next: no whole number of milliseconds, and all are here before one ends."""
IDLE_S = 300
GREETING = f"220 {HOSTNAME} ESMTP mailsrv\r\n".encode()
FAREWELL = f"421 4.4.2 {HOSTNAME} Error: timeout exceeded: no command for {IDLE_S} s\r\n".encode()


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many descriptors as it takes, if this process may have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"a process may hold {hard} descriptors here; {DESCRIPTORS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Idler:
    """Connects at its instant and says nothing; closes once it is told to go."""

    def __init__(self, run: MailsrvHarness, number: int) -> None:
        self._run = run
        self._client = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        self.opened_ns = number * GAP_NS
        self.heard: list[tuple[int, bytes]] = []
        self.ended_ns = -1
        run.at(self.opened_ns, self._open)

    def _open(self) -> None:
        self._link = self._run.connect(self._client, self._hear, self._end)

    def _hear(self, octets: bytes) -> None:
        self.heard.append((self._run.now_ns, octets))

    def _end(self, how: str) -> None:
        self.ended_ns = self._run.now_ns
        self._link.close()
        self._run.touch(self._link)


def tick_ns(due_ns: int) -> int:
    """The first whole millisecond that is not before ``due_ns``."""
    return -(-due_ns // NS_PER_MS) * NS_PER_MS


@pytest.mark.usefixtures("descriptors")
def test_of_nine_thousand_idle_connections_each_ends_at_its_exact_tick() -> None:
    settings = Settings(
        hostname=HOSTNAME, idle_timeout_s=IDLE_S, connections=CROWD, stress_percent=0
    )
    with MailsrvHarness(settings) as run:
        crowd = [Idler(run, number) for number in range(CROWD)]
        run.run_until(IDLE_S * NS_PER_S)
        assert len(run.server.connections) == CROWD
        run.run_until((CROWD * GAP_NS) + (IDLE_S + 1) * NS_PER_S)
        assert not run.server.connections
        for one in crowd:
            due_ns = tick_ns(one.opened_ns + seconds_to_ns(IDLE_S))
            assert one.heard == [(one.opened_ns, GREETING), (due_ns, FAREWELL)]
            assert one.ended_ns == due_ns
