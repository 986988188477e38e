"""A server in virtual time, somebody's own in virtual time, and one that is there: same senders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asyncio_servers import Handler, aiosmtpd
from real_server import HOST, mailsrv

from mailsrv.units import NS_PER_S
from replay.play.virtual_time import ServerFault
from replay.testing import (
    AsyncioServer,
    Expect,
    RealServer,
    ReceivedReply,
    Send,
    Unexpected,
    VirtualServer,
)

Server = AsyncioServer | RealServer | VirtualServer


@pytest.fixture(params=["virtual", "asyncio", "real"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "virtual":
        with VirtualServer() as virtual:
            yield virtual
    elif request.param == "asyncio":
        with AsyncioServer(aiosmtpd()) as foreign:
            yield foreign
    else:
        with mailsrv(2) as target, RealServer(HOST, int(target.address[1]), timeout_s=10) as real:
            yield real


def hello(expect: Expect, send: Send) -> None:
    expect(220)
    send("HELO me")
    expect(250)
    send("QUIT")
    expect(221)


def codes(replies: list[ReceivedReply]) -> list[int]:
    return [reply.code for reply in replies]


def test_a_script_and_a_sender_have_the_same_words_at_each(server: Server) -> None:
    assert codes(server.session([hello], "192.0.2.7")) == [220, 250, 221]
    sender = server.sender("192.0.2.8")
    sender.play([hello])
    sender.expect_close()
    assert codes(sender.replies) == [220, 250, 221]


@pytest.mark.parametrize("client", ["nowhere", "", "192.0.2.256"])
def test_what_is_no_client_is_refused_by_each(client: str) -> None:
    with VirtualServer() as virtual, AsyncioServer(aiosmtpd()) as foreign:
        for server in (virtual, foreign, RealServer(HOST, 1)):
            with pytest.raises(ValueError, match="a sender comes from"):
                server.sender(client)


def test_a_server_on_loopback_sees_clients_apart(server: Server) -> None:
    first, second = server.sender("192.0.2.7"), server.sender("192.0.2.8")
    for sender in (first, second):
        sender.expect(220)
        sender.send("QUIT")
        sender.expect(221)


def test_time_passes_at_an_asyncio_server_when_it_is_told_to() -> None:
    with AsyncioServer(aiosmtpd(timeout=60)) as server:
        sender = server.sender()
        sender.expect(220)
        server.advance(59)
        assert server.now_ns == 59 * NS_PER_S
        assert sender.expect_close() == 60 * NS_PER_S


def test_a_sender_that_waits_for_nothing_fails_though_the_server_ticks() -> None:
    def tick() -> None:
        server.loop.call_later(1, tick)

    with AsyncioServer(aiosmtpd(timeout=100_000)) as server:
        server.loop.call_soon(tick)
        sender = server.sender()
        sender.expect(220)
        with pytest.raises(Unexpected, match="nothing can ever happen again"):
            sender.expect(250)
        assert 3600 * NS_PER_S <= server.now_ns < 3700 * NS_PER_S


def test_a_fault_of_an_asyncio_server_fails_the_test_at_its_end() -> None:
    def act() -> None:
        server.loop.call_soon(lambda: [].pop())

    with (
        pytest.raises(ServerFault, match="pop from empty list"),
        AsyncioServer(aiosmtpd(Handler(act))) as server,
    ):
        sender = server.sender()
        for command, code in (
            *(("", 220), ("HELO me", 250), ("MAIL FROM:<a@b.example>", 250)),
            *(("RCPT TO:<c@d.example>", 250), ("DATA", 354), (".", 250)),
        ):
            if command:
                sender.send(command)
            sender.expect(code)
