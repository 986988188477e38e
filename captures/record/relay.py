"""A TCP relay that passes the sender's octets at once and holds the server's back.

What a sender does later because a reply came later, it does because of the reply; what it does
at the same time as before hangs on its own clock.  The end of the server's stream is held back
like its octets; a reset is passed on as a reset, at once in the sender's direction too: it may
destroy what is still held back, as it would on a slow line.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
from functools import partial

CHUNK_OCTETS = 65536
HELD_CHUNKS_MAX = 1024

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on, 0 s: close() sends a reset."""


def _prepare(writer: asyncio.StreamWriter) -> None:
    """Nagle's algorithm would merge what the sender sent apart."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def _pass_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while octets := await reader.read(CHUNK_OCTETS):
        writer.write(octets)
        await writer.drain()
    writer.write_eof()


async def _hold_back(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hold_s: float
) -> None:
    loop = asyncio.get_running_loop()
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_CHUNKS_MAX)

    async def let_go() -> None:
        while True:
            due, octets = await held.get()
            await asyncio.sleep(due - loop.time())
            if not octets:
                writer.write_eof()
                return
            writer.write(octets)
            await writer.drain()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(let_go())
        octets = b"?"
        while octets:
            octets = await reader.read(CHUNK_OCTETS)
            await held.put((loop.time() + hold_s, octets))


async def _relay(
    upstream: tuple[str, int],
    hold_s: float,
    sender_reader: asyncio.StreamReader,
    sender_writer: asyncio.StreamWriter,
) -> None:
    server_reader, server_writer = await asyncio.open_connection(*upstream)
    _prepare(sender_writer)
    _prepare(server_writer)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pass_at_once(sender_reader, server_writer))
            tasks.create_task(_hold_back(server_reader, sender_writer, hold_s))
    except* (ConnectionError, RuntimeError):
        _reset(sender_writer)
        _reset(server_writer)
    else:
        sender_writer.close()
        server_writer.close()


async def serve(listen: tuple[str, int], upstream: tuple[str, int], hold_s: float) -> None:
    """Relay for ever."""
    server = await asyncio.start_server(partial(_relay, upstream, hold_s), *listen)
    async with server:
        await server.serve_forever()


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description="Relay TCP, holding back what the server says.")
    parser.add_argument("--listen", type=_endpoint, required=True, metavar="HOST:PORT")
    parser.add_argument("--upstream", type=_endpoint, required=True, metavar="HOST:PORT")
    parser.add_argument("--hold-s", type=float, default=0.2, metavar="S")
    wanted = parser.parse_args()
    asyncio.run(serve(wanted.listen, wanted.upstream, wanted.hold_s))


if __name__ == "__main__":
    main()
