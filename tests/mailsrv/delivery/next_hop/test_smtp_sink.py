"""Postfix's smtp-sink as the next hop, with each of its faults: a program that we did not write."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hops import message

from mailsrv.config.deliveries import Host, ToHosts
from mailsrv.config.routes import Route
from mailsrv.delivery.job import Job
from mailsrv.delivery.next_hop.connection import OutgoingContext
from mailsrv.delivery.next_hop.dial import dial
from mailsrv.delivery.next_hop.next_hops import NextHops
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.loop import Loop
from mailsrv.runtime.memory_budget import MemoryBudget
from mailsrv.runtime.poll import Handler, SystemPoll
from mailsrv.smtp.sending.options import TlsPolicy
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.transport.tls_context import client_context

PROGRAM = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PAUSE_S = 0.05
TRIES = 200
STARTS = 5
PASSES_MAX = 5_000
"""Of the loop, for one message: more would be a busy loop."""

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="smtp-sink is not installed (postfix)")


@contextlib.contextmanager
def sink(*options: str, folder: Path) -> Iterator[int]:
    """Run smtp-sink; yields its port."""
    folder.chmod(0o777)
    said = b""
    for _ in range(STARTS):  # another program may take the port before it does
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        as_nobody = ["-u", "nobody", "-R", str(folder)] if os.geteuid() == 0 else []
        command = [str(PROGRAM), *as_nobody, *options, f"127.0.0.1:{port}", "64"]
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)
        try:
            if comes_up(process, port):
                yield port
                return
        finally:
            process.send_signal(signal.SIGKILL)
            said = process.communicate()[1]
    pytest.skip(f"smtp-sink does not start: {said!r}")


def comes_up(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until ``process`` listens on ``port``; False when it ends first, or never does."""
    for _ in range(TRIES):
        if process.poll() is None and listens(process.pid, port):
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=PAUSE_S)
            return False
    return False


def listens(pid: int, port: int) -> bool:
    """Whether the process itself does: another program may have the port, and answer there."""
    with contextlib.suppress(OSError):  # it ends meanwhile
        own = {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            is_listening = state == "0A" and local.endswith(f":{port:04X}")
            if is_listening and f"socket:[{rest[5]}]" in own:
                return True
    return False


def send(port: int, *jobs: Job, lmtp: bool = False) -> list[list[Outcome]]:
    """The outcomes of each job, one after the other, on a loop of the shipped kind."""
    clock = SystemClock()
    poll = SystemPoll(clock)
    faults: list[Exception] = []

    def on_fault(handler: Handler | None, fault: Exception) -> None:
        faults.append(fault)

    loop = Loop(clock, poll, on_fault)
    memory = MemoryBudget(1 << 27)
    next_hops = NextHops(
        OutgoingContext(loop, dial, memory),
        NoResolver(),
        random.Random(1),
        hostname="mx.our.test",
        tls_contexts=lambda policy: client_context(verified=policy is TlsPolicy.VERIFIED),
    )
    protocol = "lmtp" if lmtp else "smtp"
    route = Route(ToHosts(protocol, (Host("127.0.0.1", port),)))  # type: ignore[arg-type]
    found: list[list[Outcome]] = []
    for job in jobs:
        way = next_hops.way(route, job.envelope.forward_paths[0])
        way.deliver(job, lambda outcomes: found.append(list(outcomes)))
        before, passes = len(found), 0
        while len(found) == before:
            loop.run_once()
            passes += 1
            assert passes < PASSES_MAX
    next_hops.close(0)
    while not next_hops.done:
        loop.run_once()
    assert not faults
    assert memory.held_octets == 0
    assert len(loop.timers) == 0
    poll.close()
    return found


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{one.kind.value} {one.status}" for one in outcomes]


THREE = ("b@d.test", "c@d.test", "d@d.test")
EIGHT_BIT = b"Subject: x\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n"


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ("", "relayed 2.0.0"),
        ("-p", "relayed 2.0.0"),  # no PIPELINING
        ("-e", "relayed 2.0.0"),  # no EHLO
        ("-E", "relayed 2.0.0"),  # no ENHANCEDSTATUSCODES
        ("-f ehlo", "relayed 2.0.0"),
        ("-f ehlo,helo", "deferred 4.3.0"),
        ("-f connect", "deferred 4.3.0"),
        ("-r connect", "deferred 4.3.0"),
        ("-q connect", "deferred 4.4.2"),
        ("-q ehlo", "deferred 4.4.2"),
        ("-r ehlo", "deferred 4.3.0"),
        ("-f mail", "failed 5.3.0"),
        ("-r mail", "deferred 4.3.0"),
        ("-q mail", "deferred 4.4.2"),
        ("-f rcpt", "failed 5.3.0"),
        ("-r rcpt", "deferred 4.3.0"),
        ("-q rcpt", "deferred 4.4.2"),
        ("-f data", "failed 5.3.0"),
        ("-r data", "deferred 4.3.0"),
        ("-q data", "deferred 4.4.2"),
        ("-f .", "failed 5.3.0"),
        ("-r .", "deferred 4.3.0"),
        ("-q .", "deferred 4.4.2"),
        ("-p -q rcpt", "deferred 4.4.2"),
        ("-p -f rcpt", "failed 5.3.0"),
        ("-f mail -b 450 -B 550", "failed 5.0.0"),
    ],
)
def test_each_fault_of_smtp_sink_has_its_outcome(
    options: str, outcome: str, tmp_path: Path
) -> None:
    with sink(*options.split(), folder=tmp_path) as port:
        (outcomes,) = send(port, message(*THREE))
    assert summary(outcomes) == [outcome] * 3


@pytest.mark.parametrize("content", [b"x\r\n", b"x" * 1_000_000 + b"\r\n"])
def test_a_refusal_amid_the_content_counts_unless_a_reset_destroys_it(
    content: bytes, tmp_path: Path
) -> None:
    with sink("-A", "0", folder=tmp_path) as port:
        (outcomes,) = send(port, message(*THREE, content=content))
    assert summary(outcomes) in (["failed 5.0.0"] * 3, ["deferred 4.4.2"] * 3)


@pytest.mark.parametrize("options", ["", "-p"])
def test_lmtp_has_an_outcome_for_each_recipient(options: str, tmp_path: Path) -> None:
    with sink("-L", *options.split(), folder=tmp_path) as port:
        first, second = send(port, message(*THREE), message(*THREE), lmtp=True)
    # It offers DSN, so what becomes of the mail is its own duty to tell.
    assert summary(first) == summary(second) == ["relayed 2.2.0"] * 3


def test_8_bit_content_is_not_sent_where_8bitmime_is_not_offered(tmp_path: Path) -> None:
    with sink("-8", folder=tmp_path) as port:
        first, second = send(port, message(content=EIGHT_BIT), message())
    assert summary(first) == ["failed 5.6.3"]
    assert summary(second) == ["relayed 2.0.0"]


def test_a_refused_message_leaves_the_connection_to_the_next(tmp_path: Path) -> None:
    with sink("-f", "rcpt", folder=tmp_path) as port:
        found = send(port, *[message(*THREE)] * 5)
    assert [summary(one) for one in found] == [["failed 5.3.0"] * 3] * 5


def test_the_content_arrives_as_it_was(tmp_path: Path) -> None:
    content = b"Subject: x\r\n\r\n.\r\n..\r\n.x\r\n" + b"line\r\n" * 50_000
    with sink("-D", "dump", folder=tmp_path) as port:
        (outcomes,) = send(port, message(content=content, head=b"Received: here\r\n"))
    assert summary(outcomes) == ["relayed 2.0.0"]
    (dump,) = tmp_path.glob("dump*")
    _, found, arrived = dump.read_bytes().partition(b"Received: here\n")
    assert found
    assert arrived.rstrip(b"\n") == content.replace(b"\r\n", b"\n").rstrip(b"\n")
