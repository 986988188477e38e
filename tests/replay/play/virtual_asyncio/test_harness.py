"""asyncio servers in virtual time: aiosmtpd, and small ones written for one question each."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import math
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from asyncio_servers import (
    Handler,
    aiosmtpd,
    codes,
    connection,
    pause,
    play,
    scenario,
    streams,
    turns,
)

from mailsrv.units import NS_PER_S
from replay.play.tls_client import CERTIFICATE, KEY
from replay.play.virtual_asyncio.harness import AsyncioHarness, AsyncioTarget
from replay.play.virtual_run import play_at
from replay.play.virtual_time import Leaked, ServerFault, Stalled
from replay.transcript import collection, transcript

MESSAGE = r"""
+++
notation = 2
story = "A message."
+++
@0       open from 192.0.2.10
*        S? 220
reply+1s C: EHLO client.example\r\n
*        S? 250
reply+1s C: MAIL FROM:<a@example.org>\r\n
*        S? 250
reply+1s C: RCPT TO:<b@example.test>\r\n
*        S? 250
reply+1s C: DATA\r\n
*        S? 354
reply+1s C: Subject: x\r\n
         C: \r\n
         C: .\r\n
*        S? 250
reply+1s C: QUIT\r\n
*        S? 221
+0       until-closed
*        S eof
"""


# -- a session ------------------------------------------------------------------------------------


def test_a_message_comes_to_the_handler_at_the_instants_of_its_sender() -> None:
    handler = Handler()
    run = play(MESSAGE, aiosmtpd(handler))
    replies = run.connections[0].replies
    assert [(one.code, one.at_ns // NS_PER_S) for one in replies] == [
        *((220, 0), (250, 1), (250, 2), (250, 3), (354, 4), (250, 5), (221, 6)),
    ]
    assert [one.content for one in handler.messages] == [b"Subject: x\r\n\r\n"]


def test_the_server_sees_the_client_s_captured_address() -> None:
    handler = Handler()
    play(MESSAGE, aiosmtpd(handler))
    assert handler.peers == ["192.0.2.10"]


def test_what_a_handler_waits_for_takes_virtual_time_and_no_other() -> None:
    run = play(MESSAGE, aiosmtpd(Handler(lambda: pause(100))))
    assert run.connections[0].replies[5].at_ns == 105 * NS_PER_S


def test_a_silent_client_is_closed_at_the_timeout_to_the_nanosecond() -> None:
    run = play(connection("* S? 220", "+0 until-closed"), aiosmtpd(timeout=300))
    assert (run.connections[0].end, run.connections[0].end_at_ns) == ("eof", 300 * NS_PER_S)


def test_tls_ends_with_the_answer_to_close_notify_and_not_thirty_seconds_later() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    run = play(
        connection(
            *("* S? 220", r"reply+0 C: EHLO me\r\n", "* S? 250", r"reply+0 C: STARTTLS\r\n"),
            *("* S? 220", "reply+0 starttls", "* S tls", r"+0 C: EHLO me\r\n", "* S? 250"),
            *(r"reply+0 C: QUIT\r\n", "* S? 221", "+0 until-closed"),
        ),
        aiosmtpd(tls_context=context),
    )
    assert codes(run) == [220, 250, 220, 250, 221]
    assert run.connections[0].handshake == "done"
    assert run.virtual_ns == 0


IN_ONE_FLIGHT = [
    r"* S? 220",
    r"reply+0 C: HELO me\r\n",
    "* S? 250",
    r"reply+0 C: MAIL FROM:<a@example.org>\r\n",
    "* S? 250",
    r"reply+0 C: RCPT TO:<b@example.test>\r\n",
    "* S? 250",
    r"reply+0 C: DATA\r\n",
    "* S? 354",
    r"reply+0 C: Subject: x\r\n",
    r"   C: \r\n",
    r"   C: .\r\n",
]
"""A message whose last octets stand here; its sender half-closes behind them."""


@pytest.mark.parametrize(("half_close", "messages"), [("half-close", 1), ("half-close-at-once", 0)])
def test_aiosmtpd_loses_a_message_that_comes_with_its_half_close_where_a_handler_awaits(
    half_close: str, messages: int
) -> None:
    """Found in one flight, the end cancels the handler; found later, the reply is out before."""
    handler = Handler(turns)
    text = connection(*IN_ONE_FLIGHT, f"+0 {half_close}", "+0 until-closed")
    run = play(text, aiosmtpd(handler))
    assert len(handler.messages) == messages
    assert codes(run).count(250) == 3 + messages


# -- the same every time --------------------------------------------------------------------------


def test_every_transcript_has_the_same_hash_under_any_hash_seed() -> None:
    """Two processes with hash seeds of their own, and this one."""
    hashes = {"here": hash_of_all()}
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, Path(__file__)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes[seed] = done.stdout.strip()
    assert len(set(hashes.values())) == 1, hashes


def hash_of_all() -> str:
    """The hash over the trace hashes of all transcripts, played at aiosmtpd."""
    hashes = hashlib.sha256()
    for family in collection.families():
        for path in collection.transcripts(family):
            run = play_at(AsyncioHarness(aiosmtpd()), transcript.load(path))
            hashes.update(run.trace_hash.encode())
    return hashes.hexdigest()


def test_a_plaintext_server_s_answers_to_a_client_hello_are_no_part_of_the_hash() -> None:
    text = connection("* S? 220", r"reply+0 C: STARTTLS\r\n", "* S? 500", "reply+0 starttls")
    text += "\n+1s C: NOOP\\r\\n\n+1s close\n"
    runs = [play(text, aiosmtpd()) for _ in range(30)]
    assert len({run.trace_hash for run in runs}) == 1


def test_how_a_plaintext_server_ends_a_client_hello_is_no_part_of_the_hash_either() -> None:
    """How many lines it finds in one decides what it does, and when."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        octets = await reader.read(10_000)
        await pause(octets.count(b"\n"))
        writer.write(b"220 me\r\n" * (octets[20] % 2))
        await pause(octets[21])
        writer.close()

    text = connection("+0 starttls", "+1h C: NOOP\\n", "+0 until-closed")
    assert len({play(text, streams(serve)).trace_hash for _ in range(10)}) == 1


# -- ties -----------------------------------------------------------------------------------------


def timed(*at_s: float) -> AsyncioTarget:
    """A server that says ``n`` at the instants ``at_s`` after the connection came."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        for number, seconds in enumerate(at_s, 1):
            loop.call_later(seconds, writer.write, b"25%d x\r\n" % number)
        while line := await reader.readline():
            writer.write(b"299 " + line)
        writer.close()

    return streams(serve)


def test_at_one_instant_the_departure_comes_before_the_timer() -> None:
    run = play(connection(r"@5s C: A\r\n", "+1s close"), timed(5))
    assert codes(run) == [299, 251]
    assert {one.at_ns for one in run.connections[0].replies} == {5 * NS_PER_S}


def test_timers_fire_by_deadline_and_then_in_the_order_in_which_they_were_made() -> None:
    assert codes(play(connection("@9s close"), timed(3, 2, 3, 2, 1))) == [255, 252, 254, 251, 253]


def test_an_instant_is_no_float_that_was_rounded_up() -> None:
    seconds = 0.1 + 0.2  # 0.30000000000000004
    run = play(connection("@9s close"), timed(seconds, 1e-9))
    assert [one.at_ns for one in run.connections[0].replies] == [1, 300_000_000]


def test_many_cancelled_timers_are_not_kept() -> None:
    left: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10_000):
            loop.call_later(3600, writer.close).cancel()
        left.append(sum(isinstance(one, asyncio.TimerHandle) for one in gc.get_objects()))
        writer.close()

    play(connection("+0 until-closed"), streams(serve))
    assert left[0] < 1000


def test_a_timer_that_is_cancelled_by_another_of_its_instant_does_not_fire() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        doomed: list[asyncio.TimerHandle] = []
        loop.call_later(1, lambda: doomed[0].cancel())
        doomed.append(loop.call_later(1, writer.write, b"250 too late\r\n"))
        loop.call_later(2, writer.close)

    assert codes(play(connection("+0 until-closed"), streams(serve))) == []


# -- ends -----------------------------------------------------------------------------------------


def test_a_server_with_a_heartbeat_is_not_waited_for_without_end() -> None:
    async def beat() -> None:
        while True:
            await pause(1)

    async def start(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        server = await asyncio.start_server(serve, "localhost", 25)
        loop.beat = loop.create_task(beat())  # type: ignore[attr-defined]
        return server

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    run = play(connection("+0 until-closed"), start)
    assert run.connections[0].waits_for == "the server to close"
    assert 3600 * NS_PER_S <= run.virtual_ns < 3602 * NS_PER_S


def test_a_departure_days_ahead_is_waited_for_through_heartbeats() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def beat() -> None:
            while not reader.at_eof():
                await pause(60)

        task = asyncio.create_task(beat())
        while line := await reader.readline():
            writer.write(b"250 " + line)
        writer.close()
        await task

    run = play(connection(r"@24h C: A\r\n", "* S? 250", "reply+0 close"), streams(serve))
    assert run.connections[0].replies[0].at_ns == 86_400 * NS_PER_S


def test_a_server_that_never_comes_to_rest_fails_the_run() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            again = loop.create_future()
            loop.call_soon(again.set_result, None)
            await again

    with pytest.raises(Stalled, match="does not come to rest"):
        play(connection("+0 until-closed"), streams(serve))


def test_an_exception_that_nothing_catches_fails_the_run() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_soon(lambda: {}["missing"])
        writer.close()

    with pytest.raises(ServerFault, match="KeyError: 'missing'"):
        play(connection("+0 until-closed"), streams(serve))


def test_that_a_client_has_gone_is_no_fault_of_the_server() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    harness = AsyncioHarness(streams(serve))
    play_at(harness, scenario(connection("+1s reset")))
    assert any("ConnectionResetError" in line for line in harness.log)


def test_a_connection_that_the_server_leaves_open_fails_the_run() -> None:
    kept: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]

    with pytest.raises(Leaked, match="1 connections that the server has not closed"):
        play(connection("+1s reset"), streams(serve))
    kept.clear()
    gc.collect()


def test_what_an_application_opens_and_keeps_is_no_leak() -> None:
    kept: list[int] = []
    play(MESSAGE, aiosmtpd(Handler(lambda: kept.append(os.open("/dev/null", os.O_RDONLY)))))
    os.close(kept[0])


def test_octets_that_the_client_does_not_read_stay_in_the_kernel_and_in_asyncio() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        line = b"250-" + b"x" * 1000 + b"\r\n"
        for _ in range(7_000):
            writer.write(line)
            await writer.drain()
        writer.write(b"250 end\r\n")
        writer.close()

    text = connection(
        "@0 stop-reading", r"@0 C: GO\r\n", "@1s resume-reading", "+0 until-closed", "* S eof"
    )
    run = play(text, streams(serve))
    assert run.connections[0].end_at_ns == NS_PER_S


def test_a_server_that_sends_without_end_is_disconnected_from() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"250 x\r\n" * 10_000)
                await writer.drain()
        writer.close()

    run = play(connection("+0 until-closed"), streams(serve))
    assert run.connections[0].waits_for.startswith("an end of what the server says")


def test_a_connection_that_is_refused_is_told_and_the_others_go_on() -> None:
    async def start(loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.close()
            while line := await reader.readline():
                writer.write(b"250 " + line)
            writer.close()

        server = await asyncio.start_server(serve, "localhost", 25)
        return server

    text = """+++
notation = 2
story = "x"
+++
@0  a| open from 192.0.2.1
@2s a| C: x\\n
*   a| S? 250
+0  a| close
@1s b| open from 192.0.2.1
+0  b| until-closed
"""
    a, b = play(text, start).connections
    assert [one.code for one in a.replies] == [250]
    assert b.waits_for == "a connection: Connection refused"


def test_a_timer_at_infinity_never_fires_and_keeps_nothing_waiting() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_later(math.inf, writer.close)
        await reader.read(1)
        writer.close()

    run = play(connection("+0 until-closed"), streams(serve))
    assert (run.connections[0].waits_for, run.virtual_ns) == ("the server to close", 0)


if __name__ == "__main__":
    print(hash_of_all())
