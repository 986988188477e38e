"""Servers that do anything at any time: a run comes to its end, and is the same a second time."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from asyncio_servers import pause, streams

from replay.play.conditions import Patience
from replay.play.virtual_asyncio.harness import AsyncioHarness, AsyncioTarget
from replay.play.virtual_run import play_at
from replay.transcript import collection, transcript
from replay.verify.check.prepared import speaks_tls

REPLIES = (
    *(b"250 ok\r\n", b"354 go\r\n", b"550 no\r\n", b"421 bye\r\n", b"250-a\r\n250 b\r\n"),
    *(b"\xff\xfe\n", b"25", b"250-" + b"z" * 70_000 + b"\r\n"),
)
SEEDS = 60
TRANSCRIPTS = [
    path
    for family in ("attack", "early", "esmtp", "line-ends", "rude", "slow")
    for path in collection.transcripts(family)
]


def rude_server(dice: random.Random) -> AsyncioTarget:
    """Answers with whatever the ``dice`` say, late, in pieces, or not at all."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        match dice.randrange(12):
            case 0:
                await pause(dice.choice((0, 0.001, 1, 400)))
            case 1:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await pause(dice.choice((0, 5)))
                if not writer.transport.is_closing():
                    writer.transport.resume_reading()  # type: ignore[attr-defined]
            case 2:
                return dice.random() < 0.5
            case 3 if dice.random() < 0.3:
                writer.transport.abort()
                return False
            case 4:
                await writer.drain()
            case _:
                writer.write(dice.choice(REPLIES))
        return True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 rude.example\r\n")
        try:
            while await reader.read(dice.choice((1, 10, 100_000))):
                for _ in range(dice.choice((1, 1, 2))):
                    if not await act(reader, writer):
                        return
        except (ConnectionError, RuntimeError):
            pass  # it is closed, by either end
        finally:
            writer.close()

    return streams(serve)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_run_ends_and_is_the_same_again(seed: int) -> None:
    path: Path = random.Random(seed).choice(TRANSCRIPTS)
    scenario = transcript.load(path)
    assert not speaks_tls(scenario)
    for by_claims in (None, Patience(grace_ns=0)):
        hashes = {
            play_at(
                AsyncioHarness(rude_server(random.Random(seed))), scenario, by_claims=by_claims
            ).trace_hash
            for _ in range(2)
        }
        assert len(hashes) == 1, path
