"""What starts a server written with asyncio, and what does not."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiosmtpd.controller import Controller, UnthreadedController
from aiosmtpd.smtp import SMTP
from asyncio_servers import Handler, codes, connection, pause, play

from mailsrv.units import NS_PER_S
from replay.play.tls_client import CERTIFICATE, KEY
from replay.play.virtual_asyncio.harness import AsyncioHarness
from replay.play.virtual_time import TargetFault


@asynccontextmanager
async def managed(loop: asyncio.AbstractEventLoop) -> AsyncIterator[asyncio.Server]:
    await pause(3)  # such as a store that opens
    controller = UnthreadedController(Handler(), loop=loop)
    server = await controller._create_server()
    try:
        yield server
    finally:
        await pause(2)


def test_a_target_may_be_an_async_context_manager_that_takes_its_time() -> None:
    with AsyncioHarness(managed) as harness:
        assert harness.now_ns == 3 * NS_PER_S
        harness.settle()
    assert harness.now_ns == 5 * NS_PER_S


def test_a_threaded_controller_is_declined_by_the_name_of_the_one_that_fits() -> None:
    with pytest.raises(TargetFault, match="UnthreadedController with loop=loop"):
        AsyncioHarness(lambda loop: Controller(Handler()))  # type: ignore[arg-type, return-value]


def test_a_target_that_takes_another_loop_is_declined() -> None:
    with pytest.raises(TargetFault, match="another event loop"):
        AsyncioHarness(lambda loop: UnthreadedController(Handler(), port=0))


def test_a_server_may_listen_at_a_socket_of_its_own() -> None:
    async def start(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        return await loop.create_server(
            lambda: SMTP(Handler(), hostname="x"), sock=socket.create_server(("127.0.0.1", 0))
        )

    assert codes(play(connection("* S? 220", "+0 close"), start)) == [220]


def test_a_server_may_speak_tls_from_the_first_octet_on() -> None:
    async def start(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        factory = lambda: SMTP(Handler(), hostname="x")  # noqa: E731
        return await loop.create_server(factory, "localhost", 465, ssl=context)

    run = play(
        connection("+0 starttls", "* S tls", "* S? 220", r"reply+0 C: QUIT\r\n", "+0 until-closed"),
        start,
    )
    assert codes(run) == [220, 221]
    assert (run.connections[0].handshake, run.virtual_ns) == ("done", 0)


def test_a_target_may_return_a_server_that_it_has_started_on_the_loop() -> None:
    def start(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        factory = lambda: SMTP(Handler(), hostname="x")  # noqa: E731
        return loop.run_until_complete(loop.create_server(factory, "localhost", 25))

    assert codes(play(connection("* S? 220", "+0 close"), start)) == [220]


def test_a_target_that_starts_no_server_is_declined() -> None:
    async def nothing(loop: asyncio.AbstractEventLoop) -> None:
        return None

    for target in (lambda loop: 25, lambda loop: None, nothing):
        with pytest.raises(TargetFault):
            AsyncioHarness(target)  # type: ignore[arg-type]


def test_a_target_that_waits_for_what_never_comes_is_declined() -> None:
    async def stuck(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        await loop.create_future()
        raise AssertionError

    with pytest.raises(TargetFault, match="never comes"):
        AsyncioHarness(stuck)


def test_what_a_target_raises_while_it_starts_reaches_its_author() -> None:
    async def broken(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        raise ZeroDivisionError("mine")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError, match="mine"):
        AsyncioHarness(broken)
    assert len(os.listdir("/proc/self/fd")) == before
