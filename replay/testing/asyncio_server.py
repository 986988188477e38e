"""Somebody's own server, written with asyncio, in virtual time.

async def start(loop):
    return await loop.create_server(MyServer, "localhost", 25)

with AsyncioServer(start) as server:
    sender = server.sender("192.0.2.1")
    sender.expect(220)
    assert sender.expect_close() == 300 * NS_PER_S
"""

from __future__ import annotations

from replay.play.virtual_asyncio.event_loop import VirtualLoop
from replay.play.virtual_asyncio.harness import AsyncioHarness, AsyncioTarget
from replay.testing.virtual_server import ServerInVirtualTime


class AsyncioServer(ServerInVirtualTime):
    """The server that ``target`` starts: ``async def start(loop)`` that returns an
    ``asyncio.Server``, an async context manager that yields one, or a function that returns an
    ``UnthreadedController`` of aiosmtpd.

    ``clocks`` looks for reads of real clocks, too.  Leaving it shuts the server down, and raises
    NotVirtual if it did what virtual time cannot hold, ServerFault for an exception that nothing
    caught, Leaked if anything is left.  Raises TargetFault for a target that starts no server.
    """

    harness: AsyncioHarness

    def __init__(self, target: AsyncioTarget, *, clocks: bool = False) -> None:
        super().__init__(AsyncioHarness(target, clocks=clocks))

    @property
    def loop(self) -> VirtualLoop:
        """Its event loop; to move its clock, use ``advance``."""
        return self.harness.loop
