"""The virtual driver by claims: when a sender goes on, how long it waits, and when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncio_servers import pause, streams

from mailsrv.units import NS_PER_S
from replay.play.conditions import Patience
from replay.play.virtual_asyncio.harness import AsyncioHarness
from replay.play.virtual_run import VirtualRun, play_at
from replay.transcript import transcript

HEADER = '+++\nnotation = 3\nstory = "s"\n+++\n@0 open from 192.0.2.1\n* S? 220\n'

Answer = Callable[[bytes], bytes]


def play(body: str, answer: Answer, *, closes_after_s: float = 3000) -> tuple[VirtualRun, bytes]:
    """Play at a server that answers each line so; returns all that it received, too."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_later(closes_after_s, writer.close)
        writer.write(b"220 me\r\n")
        while line := await reader.readline():
            received.extend(line)
            await pause(1)
            writer.write(answer(line))
        writer.close()

    scenario = transcript.parse(f"{HEADER}{body}", "x.smtp")
    run = play_at(AsyncioHarness(streams(serve)), scenario, by_claims=Patience(grace_ns=0))
    return run, bytes(received)


def codes(run: VirtualRun) -> list[int]:
    return [reply.code for reply in run.connections[0].replies]


TWO = r"""
reply+0 C: A\r\n
*       S? 250
{claim}
reply+0 C: B\r\n
*       S? 250
reply+0 close
"""


def test_without_a_claim_the_sender_goes_on_after_the_expected_first_digit() -> None:
    run, received = play(TWO.replace("{claim}\n", ""), lambda line: b"251 ok\r\n")
    assert (codes(run), received) == ([220, 251, 251], b"A\r\nB\r\n")


def test_it_leaves_after_a_reply_that_it_cannot_go_on_after() -> None:
    run, received = play(TWO.replace("{claim}\n", ""), lambda line: b"550 no\r\n")
    assert (codes(run), received) == ([220, 550], b"A\r\n")
    assert run.virtual_ns == 1 * NS_PER_S


def test_it_goes_on_after_what_a_claim_allows() -> None:
    text = TWO.replace("{claim}", "may reply 250 5yz")
    run, received = play(text, lambda line: b"550 no\r\n" if line[:1] == b"A" else b"250 ok\r\n")
    assert (codes(run), received) == ([220, 550, 250], b"A\r\nB\r\n")


def test_where_the_server_is_to_end_the_connection_it_waits_for_that_and_then_no_longer() -> None:
    text = TWO.replace("{claim}", "must [RFC 5321 4.2.1] reply 250, or 5yz then end")
    run, _ = play(text, lambda line: b"550 no\r\n", closes_after_s=10)
    assert (run.connections[0].end, run.connections[0].end_at_ns) == ("eof", 10 * NS_PER_S)
    run, _ = play(text, lambda line: b"550 no\r\n")
    assert (run.connections[0].end, run.virtual_ns) == ("", 21 * NS_PER_S)


def test_a_reply_that_does_not_come_is_waited_for_no_longer_than_in_real_time() -> None:
    run, _ = play(TWO.replace("{claim}\n", ""), lambda line: b"")
    assert codes(run) == [220]
    assert run.virtual_ns == 20 * NS_PER_S
    assert run.connections[0].waits_for == "reply 2, to go on at line 10"


def test_a_bound_of_a_claim_is_waited_for() -> None:
    body = "reply+0 until-closed\nmust [RFC 5321 4.5.3.2.7] no end within 300s\n"
    run, _ = play(body, lambda line: b"", closes_after_s=299)
    assert run.connections[0].end_at_ns == 299 * NS_PER_S
    run, _ = play(body, lambda line: b"")
    assert run.connections[0].end == ""
    assert 300 * NS_PER_S <= run.virtual_ns < 302 * NS_PER_S


def test_what_comes_behind_an_abandoned_record_is_still_waited_for() -> None:
    body = "reply+0 C: A\\r\\n\n+0 abandon\n* S? 250\nmust [RFC 5321 4.3.2] reply 250\n"
    run, _ = play(body, lambda line: b"250 ok\r\n")
    assert codes(run) == [220, 250]
