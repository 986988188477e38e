"""Kills a server that relays, at every point of its work, and looks for what it acknowledged.

As a command: ``python tests/mailsrv/relay_killing.py RUNS [SEED]``.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from doomed import RUNNING, STARTING, Doom, Doomed, Nursery, within_a_commit
from killing_hop import STAGES, KillingHop, Taken
from process import PATIENCE_S

CLIENTS = 3
MESSAGES = 6
"""Of each client."""
LARGE_OCTETS = 100_000
"""Of a content that lies in a file."""
REACHED_WITHIN_S = 10
"""A point is not reached after so long, if it was not; the process is then killed where it is."""
KNOWN_TWICE_MAX = 8
"""Messages that one kill may repeat although the reply of the next hop was read: what became of
them is written with the next transaction, at most 2 ms later."""
CONFIG = """
hostname = "gateway.example.test"
listen = ["127.0.0.1:0"]
delivery = "relay=127.0.0.1:{port}"
relay_connections = 3
spool = "spool"
log_file = "log"
grace_s = 20
"""
OPTIONS = ("--config", "mailsrv.toml")
POINTS = (
    *("at random", "within a commit", "after a 250", "in a start at random"),
    *RUNNING,
    *(f"hop: {stage}" for stage in STAGES),
    *(f"start: {point}" for point in STARTING),
)


class Message(NamedTuple):
    sender: str
    recipients: list[str]
    nobody: str
    """A recipient whom the next hop refuses, or none."""
    content: bytes


@dataclass
class Found:
    """What a run showed.  Each list is of what must not be; ``again`` counts recipients who have
    a message twice because the reply of the next hop was lost with the kill, and ``again_known``
    those where it was read, but not written yet."""

    point: str
    is_reached: bool = False
    acknowledged: int = 0
    recipients: int = 0
    notices: int = 0
    again: int = 0
    again_known: int = 0
    missing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unlogged: list[str] = field(default_factory=list)
    outcome_unlogged: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> dict[str, list[str]]:
        names = ("missing", "differing", "twice", "unlogged", "outcome_unlogged")
        return {name: ids for name in names if (ids := getattr(self, name))}


class Senders:
    """Send messages until they have no more or the server is gone; ``acknowledged`` is what got
    its 250, by id."""

    def __init__(self, port: int, seed: int, on_acknowledged: Callable[[int], object]) -> None:
        self.acknowledged: dict[str, Message] = {}
        self._lock = threading.Lock()
        self._on_acknowledged = on_acknowledged
        self._threads = [
            threading.Thread(target=self._run, args=(port, random.Random(f"{seed} {n}"), n))
            for n in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, port: int, dice: random.Random, number: int) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            sock.settimeout(PATIENCE_S)
            file = sock.makefile("rb")
            _expect(file.readline(), b"220")
            sock.sendall(b"HELO client.example\r\n")
            _expect(file.readline(), b"250")
            for count in range(MESSAGES):
                self._send(sock, file, _message(dice, f"{number}.{count}"))

    def _send(self, sock: socket.socket, file: BinaryIO, message: Message) -> None:
        everybody = [*message.recipients, *filter(None, [message.nobody])]
        for line, code in (
            (f"MAIL FROM:<{message.sender}>", b"250"),
            *((f"RCPT TO:<{one}>", b"250") for one in everybody),
            ("DATA", b"354"),
        ):
            sock.sendall(f"{line}\r\n".encode())
            _expect(file.readline(), code)
        sock.sendall(re.sub(rb"(?m)^\.", b"..", message.content) + b".\r\n")
        reply = file.readline()
        _expect(reply, b"250")
        found = re.search(rb"queued as (\w+)\r\n", reply)
        assert found is not None
        with self._lock:
            self.acknowledged[found[1].decode()] = message
            self._on_acknowledged(len(self.acknowledged))


def _message(dice: random.Random, key: str) -> Message:
    octets = LARGE_OCTETS if dice.random() < 0.2 else dice.randrange(2000)
    text = "".join(dice.choices("abcdefgh.", k=octets))
    lines = [f"Key: {key}", "", *(text[n : n + 70] for n in range(0, len(text), 70)), ""]
    return Message(
        f"s{key}@example.test",
        [f"r{key}.{n}@example.test" for n in range(dice.choice((1, 1, 3)))],
        f"nobody{key}@example.test" if dice.random() < 0.4 else "",
        "\r\n".join(lines).encode(),
    )


def _expect(line: bytes, code: bytes) -> None:
    if not line.startswith(code):
        raise ConnectionError(line)


class KilledRun:
    """One run in ``folder``: serve, kill, start again (and kill again, where the point is in a
    start), let everything be delivered, and look."""

    def __init__(self, nursery: Nursery, folder: Path, seed: int, point: str) -> None:
        self._nursery = nursery
        self._folder = folder
        self._dice = random.Random(seed)
        self._seed = seed
        self.hop = KillingHop()
        self.acknowledged: dict[str, Message] = {}
        self._found = Found(point)
        (folder / "mailsrv.toml").write_text(CONFIG.format(port=self.hop.port))

    def run(self) -> Found:
        point = self._found.point
        try:
            self.acknowledged = self._first_life(point)
            if point.startswith("start: "):
                event, function = STARTING[point.removeprefix("start: ")]
                self._killed_start(Doom(event, function))
            elif point == "in a start at random":
                self._killed_start(Doom("call", "main", after_s=self._dice.random() * 0.1))
            self._last_life(self.acknowledged)
            self._look(self.acknowledged)
        finally:
            self.hop.close()
        return self._found

    def looked_at_again(self) -> Found:
        """What there is to be found now in ``hop``."""
        self._found = Found(self._found.point)
        self._look(self.acknowledged)
        return self._found

    def _start(self, doom: Doom | None = None) -> Doomed:
        self.hop.server += 1
        return self._nursery.start(self._folder, OPTIONS, doom)

    def _first_life(self, point: str) -> dict[str, Message]:
        doom, nth = None, self._dice.randrange(1, 7)
        if point in RUNNING:
            event, function = RUNNING[point]
            doom = Doom(event, function, 1 if "notice" in point or "file" in point else nth)
        elif point == "within a commit":
            doom = within_a_commit(self._dice)
        with closing(self._start(doom)) as server:
            if not server.await_port():
                raise RuntimeError(f"seed {self._seed}: it ended with {server.wait()}")
            if point.startswith("hop: "):
                self._kill_at(server, point.removeprefix("hop: "), nth)
            elif "start" in point:  # leave something to do to it
                self.hop.on_stage = lambda s: s == "dot" and server.is_gone(PATIENCE_S)
            after = nth if point == "after a 250" or "start" in point else CLIENTS * MESSAGES + 1
            timer = threading.Timer(self._dice.random() * 0.15, server.kill)
            if point == "at random":
                timer.start()
            senders = Senders(
                server.port, self._seed, lambda n: server.kill() if n == after else None
            )
            senders.join()
            if point == "at random":
                timer.join()
            self._found.is_reached = server.is_gone(REACHED_WITHIN_S)
            self.hop.on_stage = lambda stage: None
            server.kill()
            assert server.wait() in (-signal.SIGKILL, -signal.SIGALRM), server.wait()
        return senders.acknowledged

    def _kill_at(self, server: Doomed, stage: str, nth: int) -> None:
        left = 1 if stage in ("connected", "EHLO") or "notice" in stage else nth
        lock = threading.Lock()

        def on_stage(reached: str) -> None:
            nonlocal left
            with lock:
                left -= reached == stage
                if left == 0 and reached == stage:
                    server.kill()

        self.hop.on_stage = on_stage

    def _killed_start(self, doom: Doom) -> None:
        with closing(self._start(doom)) as server:
            self._found.is_reached = server.is_gone(REACHED_WITHIN_S)
            server.kill()
            server.wait()

    def _last_life(self, acknowledged: dict[str, Message]) -> None:
        """Start, and wait until what was left was tried and what is to come has come."""
        there = self._in_spool()
        left = {one.sender for id_, one in acknowledged.items() if id_ in there}
        hop, wanted = self.hop, set[str]()
        for one in acknowledged.values():
            wanted.update(one.recipients, [one.sender] if one.nobody else [])
        with closing(self._start()) as server:
            assert server.await_port(), f"seed {self._seed}: no start: {server.wait()}"

            def is_over() -> bool:
                tried = {sender for number, sender in hop.senders if number == hop.server}
                taken = {to for one in hop.taken for to in one.recipients}
                return wanted <= taken and left <= tried

            hop.wait_for(is_over)
            server.signal(signal.SIGTERM)
            assert server.wait() == 0

    def _in_spool(self) -> set[str]:
        """Ids of what the server left, read from a copy."""
        copy = self._folder / "copy"
        copy.mkdir()
        for path in (self._folder / "spool").glob("spool.db*"):
            shutil.copy(path, copy)
        with closing(sqlite3.connect(copy / "spool.db")) as database:
            ids = {id_ for (id_,) in database.execute("SELECT id FROM message")}
        shutil.rmtree(copy)
        return ids

    # -- what there must be -----------------------------------------------------------------------

    def _look(self, acknowledged: dict[str, Message]) -> None:
        found, log = self._found, (self._folder / "log").read_text()
        takings: dict[str, list[Taken]] = {}
        for one in self.hop.taken:
            for to in one.recipients:
                takings.setdefault(to, []).append(one)
        for id_, message in acknowledged.items():
            found.acknowledged += 1
            for to in message.recipients:
                found.recipients += 1
                taken = takings.get(to, [])
                self._look_at(f"{id_} for {to}", taken, lambda x, m=message: _is_whole(x, m))
            if message.nobody:
                found.notices += 1
                notices = takings.get(message.sender, [])
                self._look_at(f"notice of {id_}", notices, lambda x, m=message: _names(x, m.nobody))
            if f" id={id_} " not in "".join(_lines(log, "message", "verdict=accepted")):
                found.unlogged.append(id_)
            events = ["relayed", *(["failed"] if message.nobody else [])]
            found.outcome_unlogged += [
                f"{event} {id_}"
                for event in events
                if f" id={id_} " not in "".join(_lines(log, event))
            ]
        if found.again_known > KNOWN_TWICE_MAX:
            found.twice.append(f"{found.again_known} whose reply had been read")

    def _look_at(self, name: str, taken: list[Taken], is_right: Callable[[Taken], bool]) -> None:
        """One recipient's takings: none is missing or wrong, and each that was followed by another
        one is the last of a process that was killed."""
        if not taken:
            self._found.missing.append(name)
        self._found.differing += [name for one in taken if not is_right(one)]
        if len({one.server for one in taken}) < len(taken):
            self._found.twice.append(name)
        known = sum(one.is_known for one in taken[:-1])
        self._found.again_known += known
        self._found.again += max(len(taken) - 1, 0) - known


def _lines(log: str, event: str, more: str = "") -> Iterable[str]:
    return (x for x in log.splitlines() if f" event={event} " in x and more in x)


def _is_whole(taken: Taken, message: Message) -> bool:
    """The octets that were acknowledged, behind one trace field of ours."""
    head = taken.content.removesuffix(message.content)
    is_one = head.startswith(b"Received: ") and re.search(rb"\n[^ \t]", head) is None
    return len(head) + len(message.content) == len(taken.content) and is_one


def _names(taken: Taken, address: str) -> bool:
    return taken.sender == "" and f"rfc822; {address}\r\n".encode() in taken.content


def killed(nursery: Nursery, folder: Path, seed: int) -> Found:
    """A run with the point that its seed says."""
    return KilledRun(nursery, folder, seed, POINTS[seed % len(POINTS)]).run()


def main(runs: int, seed: int) -> int:
    total, missed, per_point = Counter[str](), Counter[str](), Counter[str]()
    wrong = 0
    with Nursery() as nursery:
        for number in range(seed, seed + runs):
            with tempfile.TemporaryDirectory() as folder:
                found = killed(nursery, Path(folder), number)
            for name in ("acknowledged", "recipients", "notices", "again", "again_known"):
                total[name] += getattr(found, name)
            per_point[found.point] += found.again + found.again_known
            missed[found.point] += not found.is_reached
            if found.wrong:
                wrong += 1
                print(f"seed {number}, {found.point}: {found.wrong}", flush=True)
            if (number - seed + 1) % 100 == 0:
                print(f"{number - seed + 1} runs, {wrong} wrong: {dict(total)}", flush=True)
    print(f"{runs} runs at {len(POINTS)} points, {wrong} wrong: {dict(total)}")
    print(f"points not reached: {dict(+missed)}")
    print(f"twice, by point: {dict(per_point.most_common(12))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
