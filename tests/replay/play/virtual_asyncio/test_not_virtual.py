"""What virtual time cannot hold fails a run, with a word and the line that did it."""

from __future__ import annotations

import asyncio
import datetime
import gc
import importlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from asyncio_servers import Act, Handler, aiosmtpd

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_S
from replay.play.virtual_asyncio.harness import AsyncioHarness
from replay.play.virtual_run import VirtualRun, play_at
from replay.play.virtual_time import NotVirtual
from replay.transcript import transcript

MESSAGE = r"""+++
notation = 2
story = "A message."
+++
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\r\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\r\n
*        S? 250
reply+0  C: RCPT TO:<b@example.test>\r\n
*        S? 250
reply+0  C: DATA\r\n
*        S? 354
reply+0  C: .\r\n
*        S? 250
reply+0  close
"""


def play(act: Act, *, clocks: bool = False) -> VirtualRun:
    harness = AsyncioHarness(aiosmtpd(Handler(act)), clocks=clocks)
    return play_at(harness, transcript.parse(MESSAGE, "x.smtp"))


def of_process() -> None:
    subprocess.run(["true"], check=True)


def of_fork() -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def of_name() -> None:
    socket.getaddrinfo("localhost", 25)


def of_peer() -> None:
    with socket.socket() as sock:
        sock.connect_ex(("127.0.0.1", 9))


def of_nap() -> None:
    getattr(importlib.import_module("time"), "sleep")(0)  # noqa: B009 (it waits for nothing)


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (of_process, "it started a process"),
        (of_fork, r"it started a process \(os.fork\)"),
        (of_name, r"it looked up a name \(socket.getaddrinfo localhost\)"),
        (of_peer, r"it talks to a real peer \(socket.connect \('127.0.0.1', 9\)\)"),
    ],
)
def test_what_cannot_be_virtual_is_named_with_its_line(act: Callable[[], None], word: str) -> None:
    with pytest.raises(NotVirtual, match=rf"{word}.* at {__file__}:[0-9]+"):
        play(act)


def test_a_thread_is_named() -> None:
    may_end = threading.Event()
    threads: list[threading.Thread] = []

    def act() -> None:
        threads.append(threading.Thread(target=may_end.wait, name="Store"))
        threads[0].start()

    try:
        with pytest.raises(NotVirtual, match="it started a thread"):
            play(act)
    finally:
        may_end.set()
        threads[0].join()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="nothing tells of threads before")
def test_a_thread_that_has_ended_is_named_too() -> None:
    def act() -> None:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()

    with pytest.raises(NotVirtual, match="it started a thread"):
        play(act)


def test_sleeping_is_named() -> None:
    with pytest.raises(NotVirtual, match=r"real (time|clock).*sleep"):
        play(of_nap, clocks=True)


def test_it_fails_the_run_although_the_handler_made_a_reply_of_an_exception() -> None:
    def act() -> None:
        of_peer()
        raise OSError("nobody there")

    with pytest.raises(NotVirtual, match="real peer"):
        play(act)


def test_a_thread_that_calls_into_the_loop_is_named() -> None:
    begun, answered = threading.Event(), threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def answer() -> None:
        begun.wait()
        loop, future = loops[0]
        loop.call_soon_threadsafe(future.set_result, None)
        answered.set()

    thread = threading.Thread(target=answer)  # as of a pool that was there before
    thread.start()

    def act() -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        loops.append((loop, loop.create_future()))
        begun.set()
        answered.wait()
        return loops[0][1]

    with pytest.raises(NotVirtual, match="another thread calls into the event loop"):
        play(act)
    thread.join()


def test_what_runs_in_an_executor_takes_no_time_and_no_thread() -> None:
    threads: list[int] = []

    def act() -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, lambda: threads.append(threading.get_ident()))

    run = play(act)
    assert threads == [threading.get_ident()]
    assert run.connections[0].replies[-1].code == 250
    assert run.virtual_ns == 0


def test_what_an_executor_raises_reaches_its_caller() -> None:
    def act() -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(None, int, "x")  # type: ignore[return-value]

    assert play(act).connections[0].replies[-1].code == 500


def test_an_executor_that_waits_for_the_loop_is_named_and_does_not_hang() -> None:
    def act() -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()

        def ask() -> None:
            loop.call_soon_threadsafe(int)

        return loop.run_in_executor(None, ask)

    with pytest.raises(NotVirtual, match="calls back into the event loop"):
        play(act)


READS = [
    SystemClock.realtime_ns,
    SystemClock.monotonic_ns,
    lambda: datetime.datetime.now(datetime.UTC),
]


@pytest.mark.parametrize("read", READS)
def test_a_real_clock_is_named_where_it_is_looked_for(read: Callable[[], object]) -> None:
    def act() -> None:
        read()

    assert play(act).virtual_ns == 0
    with pytest.raises(NotVirtual, match=r"it read a real clock"):
        play(act, clocks=True)


def test_the_loop_s_own_clock_is_virtual_and_the_log_s_is_nobody_s_business() -> None:
    seen: list[float] = []

    def act() -> None:
        seen.append(getattr(asyncio.get_running_loop(), "time")())  # noqa: B009
        logging.getLogger("a server").info("a message")

    play(act, clocks=True)
    assert seen == [1009.0]


def test_what_others_do_when_garbage_is_collected_is_not_held_against_the_server() -> None:
    """hypothesis times the collector, for one."""

    def timed(phase: str, info: dict[str, int]) -> None:
        SystemClock.monotonic_ns()

    def act() -> None:
        cycles.extend([] for _ in range(gc.get_threshold()[0] + 1))

    cycles: list[list[object]] = []
    gc.callbacks.append(timed)
    try:
        play(act, clocks=True)
    finally:
        gc.callbacks.remove(timed)
    assert gc.isenabled()


def test_what_others_do_meanwhile_is_not_held_against_the_server() -> None:
    """Another thread of the test's process connects while the server runs."""
    connected, may_go = threading.Event(), threading.Event()

    def elsewhere() -> None:
        may_go.wait()
        of_peer()
        connected.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()

    def act() -> None:
        may_go.set()
        connected.wait()

    assert play(act).virtual_ns < NS_PER_S
    thread.join()
    of_peer()
