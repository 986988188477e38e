"""The commands that the documents show are typed in order, in a fresh folder, and do what is shown.

In a block marked ``console`` a line that begins with ``$`` is a command, and what stands below it
is what must come; ``...`` stands for any lines, and where nothing stands nothing is compared.  A
block marked ``sh`` must succeed.  Comments that no reader sees say what a block needs::

    <!-- not run: REASON -->            it cannot be run here
    <!-- file: NAME -->                 the block is a file that later commands read
    <!-- needs: mailsrv at HOST:PORT -->
    <!-- needs: a lenient server at HOST:PORT -->
    <!-- needs: a greylist -->
    <!-- needs: a spool -->
    <!-- meanwhile: COMMAND -->         typed in another terminal once the command above listens

A server stays until its document ends, or the ``^C`` shown.  Ports are replaced by free ones, and
what must vary (durations in real time, queue ids, file names made of them) is masked.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import pytest

from mailsrv.policy.greylist import GreylistKey, GreylistRecord
from mailsrv.stores.greylist_sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PATIENCE_S = 60
COLUMNS = "110"

_BLOCK = re.compile(
    r"(?P<notes>(?:^<!-- [^\n]* -->\n+)*)^```(?P<kind>console|sh|toml|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"<!-- ([^:]+?)(?:: (.*?))? -->")
_LISTENS = re.compile(r"listening on \S+?:(\d+)(?: |$)")
_RUN_BY_CI = {"replay", "test"}
"""How README marks the two commands that .ci/run takes from there."""

_MS = r"[\d.]+ (?:ns|us|µs|ms|s|min)"
MASKS = [
    (re.compile(pattern, re.MULTILINE), masked)
    for pattern, masked in (
        (r"^(\S+ +\d+ +[\d.]+ \S+) +" + _MS + "(?=  )", r"\1 REAL"),  # run: real beside virtual
        (r"(of traffic, )" + _MS, r"\1REAL"),
        (r"later than due by .*", "LATE"),
        (r"^  mind: runs as root .*\n", ""),
        (r"^this machine was too busy to keep time.*\n", ""),
        (r"queued as [0-9A-F]+", "queued as ID"),
        (r"^\d+\.M\d+\S+$", "MAIL"),  # a file in a Maildir
        (r" in [\d.]+s\b", " in REAL"),  # pytest
        (r"asks DNS at .*", "asks DNS"),
        (r"from [\d.]+:\d+: (.*), [\d.]+ s,", r"from CLIENT: \1,"),  # record
        (r"\d+ packets, \d+ octets", "PACKETS"),
        (r"\(line \d+", "(line"),  # of a transcript, whose header may grow
        (r" {2,}", "  "),
        (r" +$", ""),
    )
]
REAL_TIME = [
    (re.compile(pattern, re.MULTILINE), masked)
    for pattern, masked in (
        (r"^(\S+ +\d+) +" + _MS + "(?=  )", r"\1 REAL"),
        (r"(at \S+:\d+, )" + _MS, r"\1REAL"),
        (r"@[\d.]+(?:ns|us|ms|s)? +", "@REAL "),
    )
]
"""For commands that play in real time."""


@dataclass(frozen=True)
class Command:
    """What is typed, and what is shown below it; ``line`` is where it stands."""

    line: int
    text: str
    shown: str
    interrupted: str | None = None
    """What is shown behind ``^C``, if that is shown."""


@dataclass
class Block:
    """One fenced block, with the comments above it."""

    line: int
    kind: str
    text: str
    notes: list[tuple[str, str]] = field(default_factory=list)

    def note(self, name: str) -> str | None:
        return next((value for key, value in self.notes if key == name), None)

    @property
    def is_run(self) -> bool:
        names = {name for name, _ in self.notes}
        return "not run" not in names and not names & _RUN_BY_CI

    def commands(self) -> Iterator[Command]:
        if self.kind == "sh":
            yield Command(self.line, "set -e\n" + self.text, "")
            return
        lines = self.text.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            shown, interrupt, rest = "\n".join(lines[start + 1 : end]).partition("^C\n")
            yield Command(
                self.line + start, lines[start][2:], shown.strip("\n"), rest if interrupt else None
            )


def blocks(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    return [
        Block(
            text.count("\n", 0, found.start("text")) + 1,
            found["kind"],
            found["text"],
            [(name, value or "") for name, value in _NOTE.findall(found["notes"])],
        )
        for found in _BLOCK.finditer(text)
        if found["kind"] != "python" or "<!-- file: " in found["notes"]
    ]


def masked(text: str, command: str) -> str:
    in_real_time = "--target" in command or "replay load" in command
    for pattern, mask in (*(REAL_TIME if in_real_time else ()), *MASKS):
        text = pattern.sub(mask, text)
    return text.strip("\n")


def as_shown(shown: str, came: str) -> bool:
    """Whether ``came`` is ``shown``, where a line ``...`` stands for any lines, or for none."""
    lines = came.splitlines()
    chunks: list[list[str]] = [[]]
    for line in shown.splitlines():
        if line == "...":
            chunks.append([])
        else:
            chunks[-1].append(line)
    if len(chunks) == 1:
        return lines == chunks[0]
    for chunk in chunks[:-1]:
        starts = [0] if chunk is chunks[0] else range(len(lines))
        at = next((start for start in starts if lines[start : start + len(chunk)] == chunk), None)
        if at is None:
            return False
        lines = lines[at + len(chunk) :]
    return len(lines) >= len(chunks[-1]) and lines[len(lines) - len(chunks[-1]) :] == chunks[-1]


class Terminal:
    """A fresh folder with what a checkout has, and the servers that were started in it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._ports: dict[str, str] = {}
        """Port as shown -> port here."""
        shutil.copytree(ROOT / "captures", folder / "captures")
        (folder / "docs" / "use").mkdir(parents=True)
        shutil.copy(ROOT / "docs" / "use" / "ticket.pcap", folder / "docs" / "use")
        self._environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "COLUMNS": COLUMNS,
        }

    def provide(self, what: str) -> None:
        server, at, place = what.rpartition(" at ")
        if what == "a greylist":
            store = SqliteStore(str(self.folder / "greylist.db"))
            store.put(GreylistKey("192.0.2.0/24", "a@example.org", "b@example.test"), GREYLISTED)
            store.flush()
            store.close()
        elif what == "a spool":
            self._serve("mailsrv serve --spool spool", "", None, None)
        elif server == "mailsrv":
            self._serve(f"mailsrv serve --delivery discard --listen {place}", "", None, None)
        else:
            assert (server, at) == ("a lenient server", " at "), what
            port = self._stack.enter_context(lenient_server())
            self._ports[place.rpartition(":")[2]] = str(port)

    def write(self, name: str, text: str) -> None:
        """A file that listens on any free port where it names one."""
        for port in re.findall(r'"[\d.]+:(\d+)"', text):
            self._ports[port] = "0"
        (self.folder / name).write_text(self._here(text))

    def type(self, command: Command, meanwhile: str | None) -> None:
        if command.text.startswith("pip install "):
            return  # what is shown to be installed is installed here
        if "sqlite3 " in command.text and shutil.which("sqlite3") is None:
            return
        if command.text.startswith(("mailsrv serve", "replay record")):
            self._serve(command.text, command.shown, meanwhile, command.interrupted)
            return
        done = subprocess.run(
            ["bash", "-c", self._here(command.text)],
            **self._surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
            check=False,
        )
        says_by_status = command.text.startswith(("replay", "pytest"))  # 1: something differs
        assert done.returncode in ((0, 1) if says_by_status else (0,)), done.stdout
        self._compare(command.text, command.shown, done.stdout)

    def _serve(self, text: str, shown: str, meanwhile: str | None, interrupted: str | None) -> None:
        place = re.search(r"--listen \S+:(\d+)", text)
        at = place[1] if place else "2525"
        here = re.sub(r" --listen \S+", "", self._here(text)) + " --listen 127.0.0.1:0"
        process = subprocess.Popen(
            ["bash", "-c", f"exec {here}"],
            **self._surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        lines = Lines(process)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        came = lines.take(1)
        listens = _LISTENS.search(came)
        assert listens, came + lines.rest()
        self._ports[at] = listens[1]
        if meanwhile:
            self.type(Command(0, meanwhile, ""), None)
        came += lines.take(shown.count("\n"))
        if interrupted is not None:
            process.send_signal(signal.SIGINT)
            came += lines.rest()
            shown += "\n" + interrupted
        place_shown = re.compile(r"listening on \S+")
        self._compare(text, place_shown.sub("listening", shown), place_shown.sub("listening", came))

    @property
    def _surroundings(self) -> dict[str, object]:
        return {"cwd": self.folder, "env": self._environment, "encoding": "utf-8"}

    def _here(self, text: str) -> str:
        """``text`` with the ports that there are, and with patience for a busy machine."""
        if "--target" in text and text.startswith("replay run"):
            text += f" --tolerance {PATIENCE_S}s"
        if "--target" in text and text.startswith("replay diff"):
            text += f" --tolerance {PATIENCE_S}"
        for shown, here in self._ports.items():
            text = re.sub(rf"(?<=[\d\]]:){shown}\b", here, text)
        return text

    def _compare(self, command: str, shown: str, came: str) -> None:
        if not shown:
            return
        for port, here in self._ports.items():
            came = re.sub(rf"(?<=[\d\]]:){here}\b", port, came)
        came = came.replace(str(self.folder), "/home/you")
        wanted, got = masked(shown, command), masked(came, command)
        assert as_shown(wanted, got), f"$ {command}\n{came}\n-- shown is:\n{shown}"


GREYLISTED = GreylistRecord(1, 0)


class Lines:
    """What a process says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._queue: Queue[str] = Queue()
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._queue.put(line)
        self._queue.put("")

    def take(self, count: int) -> str:
        with suppress(Empty):
            return "".join(self._queue.get(timeout=PATIENCE_S) for _ in range(count))
        raise AssertionError("it says too little")

    def rest(self) -> str:
        return "".join(iter(lambda: self._queue.get(timeout=PATIENCE_S), ""))


@contextmanager
def lenient_server() -> Iterator[int]:
    """Takes every command and every message, also those whose lines end in LF alone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def converse(sock: socket.socket) -> None:
        in_content = False
        with sock, sock.makefile("rb") as lines:
            sock.sendall(b"220 mx.example.test ESMTP Postfix\r\n")
            for line in lines:
                command = line[:4].upper()
                if in_content and line == b".\r\n":
                    in_content = False
                    sock.sendall(b"250 2.0.0 Ok: queued as 71F0523901D\r\n")
                elif command == b"DATA" and not in_content:
                    in_content = True
                    sock.sendall(b"354 End data with <CR><LF>.<CR><LF>\r\n")
                elif command == b"QUIT" and not in_content:
                    sock.sendall(b"221 2.0.0 Bye\r\n")
                    return
                elif not in_content:
                    sock.sendall(b"250 2.1.0 Ok\r\n")

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=converse, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


WITH_COMMANDS = [
    pytest.param(path, id=str(path.relative_to(ROOT)))
    for path in DOCUMENTS
    if any(block.is_run for block in blocks(path))
]


@pytest.mark.parametrize("path", WITH_COMMANDS)
def test_the_commands_of_a_document_do_what_is_shown(path: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        terminal = Terminal(tmp_path, stack)
        for block in blocks(path):
            if (name := block.note("file")) is not None:
                terminal.write(name, block.text)
            if block.kind in ("toml", "python") or not block.is_run:
                continue
            for name, value in block.notes:
                if name == "needs":
                    terminal.provide(value)
            for command in block.commands():
                terminal.type(command, block.note("meanwhile"))


def test_what_is_not_run_says_why() -> None:
    reasons = [
        (path.name, value)
        for path in DOCUMENTS
        for block in blocks(path)
        for name, value in block.notes
        if name == "not run"
    ]
    assert [name for name, reason in reasons if not reason] == []
    assert len(reasons) <= 8


_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_block_of_commands_is_marked_as_one(path: Path) -> None:
    unmarked = [text for kind, text in _FENCE.findall(path.read_text("utf-8")) if not kind]
    first_words = [word for text in unmarked for word in text.split()[:1]]
    assert [word for word in first_words if word == "$" or shutil.which(word)] == []


def test_the_comparison_finds_what_differs() -> None:
    assert as_shown("a\n...\nz", "a\nb\nc\nz\n")
    assert as_shown("a\n...", "a\nb\n")
    assert as_shown("...\nz", "a\nz\n")
    assert not as_shown("a\n...\nz", "a\nb\n")
    assert not as_shown("a\nz", "a\nb\nz")
    assert not as_shown("a", "a\nb")
    virtual = "x/y  1  0.3 ms  2.1 ms  differs"
    assert masked(virtual, "replay run x") == masked(virtual.replace("2.1", "99.5"), "replay run x")
    assert masked(virtual, "replay run x") != masked(virtual.replace("0.3", "0.4"), "replay run x")
