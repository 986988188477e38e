"""Small asyncio servers for tests in virtual time, and what plays at them.  No test itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import SMTP, Envelope, Session

from replay.play.virtual_asyncio.harness import AsyncioHarness, AsyncioTarget
from replay.play.virtual_run import VirtualRun, play_at
from replay.transcript import transcript
from replay.transcript.script import Scenario

HOSTNAME = "mx.example.test"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Start = Callable[[asyncio.AbstractEventLoop], Any]
Act = Callable[[], Awaitable[object] | None]


class Handler:
    """Accepts every message; ``act`` happens before its 250."""

    def __init__(self, act: Act | None = None) -> None:
        self._act = act
        self.messages: list[Envelope] = []
        self.peers: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self._act is not None and (waiting := self._act()) is not None:
            await waiting
        self.messages.append(envelope)
        assert session.peer is not None
        self.peers.append(session.peer[0])
        return "250 OK"


def aiosmtpd(handler: Handler | None = None, **options: Any) -> Start:
    """aiosmtpd as a target; ``options`` are its own."""

    def start(loop: asyncio.AbstractEventLoop) -> Any:
        named = {"server_hostname": HOSTNAME, **options}
        return UnthreadedController(handler or Handler(), loop=loop, **named)

    return start


def streams(serve: Serve) -> Start:
    """A target that serves each connection by ``serve``."""

    async def start(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        return await asyncio.start_server(serve, "localhost", 25)

    return start


async def pause(seconds: float) -> None:
    """Let virtual time pass."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


async def turns() -> None:
    """Let the loop turn ten times, as for a store that is asked: no time passes."""
    loop = asyncio.get_running_loop()
    for _ in range(10):
        turned = loop.create_future()
        loop.call_soon(lambda turned=turned: turned.done() or turned.set_result(None))
        await turned


# -- playing a few lines at one --------------------------------------------------------------------


def scenario(text: str) -> Scenario:
    return transcript.parse(text.lstrip(), "x.smtp")


def play(text: str, target: AsyncioTarget) -> VirtualRun:
    return play_at(AsyncioHarness(target), scenario(text))


def connection(*lines: str, client: str = "192.0.2.10") -> str:
    header = ["+++", "notation = 2", 'story = "x"', "+++"]
    return "\n".join([*header, f"@0 open from {client}", *lines])


def codes(run: VirtualRun) -> list[int]:
    return [reply.code for reply in run.connections[0].replies]
