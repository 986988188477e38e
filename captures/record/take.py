"""One take: server, perhaps the relay, tcpdump and a sender, alone in namespaces of their own.

This program is started by ``unshare`` as the first process of a new process, network, mount and
host-name namespace (see ``NAMESPACES``).  So every take has a loopback interface to itself, ports
need no choosing, and whatever was started is gone with it.  It ends with status 0 only if the
capture is whole: nothing dropped, every connection there from SYN to FIN or RST.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import evidence
import stage
from recipe import HERE, Recipe, load

NAMESPACES = (
    *("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"),
    *("--kill-child", "--mount-proc"),
)

CERTIFICATE = HERE.parents[1] / "replay/play/for-tests-only.crt.pem"
KEY = CERTIFICATE.with_name("for-tests-only.key.pem")
SERVER_PORT = 25
UPSTREAM_PORT = 2525
"""Where the server is while the relay stands in its place."""

TCPDUMP_OPTIONS = (
    *("--nano", "-i", "lo", "-U", "-Z", "root"),
    "--immediate-mode",  # or packets stay in the kernel's ring when tcpdump is told to stop
    *("-B", "65536"),  # KiB; immediate mode spends 256 KiB of it on each packet
)

POLL_S = 0.1
START_POLLS_MAX = 100
SEND_TIMEOUT_S = 180
CLOSE_POLLS_MAX = 600
"""How long connections may stay open after the sender's commands: kept ones idle out."""


class TakeError(RuntimeError):
    """The take failed; the text says at which step."""


def wait_for(what: str, true: Callable[[], bool], polls_max: int) -> None:
    """Poll until ``true()``; raises TakeError naming ``what``."""
    for _ in range(polls_max):
        if true():
            return
        time.sleep(POLL_S)
    raise TakeError(f"waited in vain until {what}")


def listening(port: int) -> bool:
    """Is there a listener?  Read from the kernel: a connection to see would be recorded."""
    tables = (Path(f"/proc/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6"))
    return any(re.search(rf":{port:04X} [0-9A-F:]+ 0A ", table) for table in tables)


def _settings(recipe: Recipe) -> str:
    """The server's configuration: mailsrv.toml's, and what the recipe adds."""
    further = dict(recipe.server)
    if recipe.tls:
        further |= {"tls_certificate": str(CERTIFICATE), "tls_key": str(KEY)}
    return (HERE / "mailsrv.toml").read_text(encoding="utf-8") + assignments(further)


def assignments(settings: Mapping[str, Any]) -> str:
    """``settings`` as TOML, a line each; plain values look there as they do in JSON."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


class Take:
    """One sender talking once to one server, with a capture of it."""

    def __init__(self, recipe: Recipe, output: Path, scratch: Path) -> None:
        self.recipe = recipe
        self.output = output
        self.scratch = scratch
        self.root = scratch / "root"

    def prepare(self, layers: Sequence[Path]) -> None:
        """Bring the network up and lay a throw-away layer over the stage."""
        stage.run(["ip", "link", "set", "lo", "up", "mtu", str(self.recipe.mtu)])
        if self.recipe.mtu < 65536:
            stage.run(["ethtool", "-K", "lo", "tso", "off", "gso", "off", "gro", "off"])
        stage.run(["mount", "-t", "tmpfs", "tmpfs", str(self.scratch)])
        for name in ("root", "new", "work"):
            (self.scratch / name).mkdir()
        commands = [
            stage.overlay(layers, self.scratch / "new", self.scratch / "work", self.root),
            *stage.mounts(self.root),
        ]
        for command in commands:
            stage.run(shlex.split(command))
        stage.furnish(self.recipe, self.root)

    def record(self, server: str, hold_s: float) -> None:
        """Let the sender send to ``server``; raises TakeError."""
        with ExitStack() as running:
            try:
                self._serve(server, hold_s, running)
                tcpdump = self._capture(running)
                self._send(running)
                wait_for("all connections were closed", self._over, CLOSE_POLLS_MAX)
                time.sleep(POLL_S)  # the last acknowledgement
                tcpdump.send_signal(signal.SIGINT)
                self._check(tcpdump.communicate(timeout=10)[1])
            except (TakeError, subprocess.TimeoutExpired) as error:
                raise TakeError(f"{error}\n{self._logs()}") from None

    def _serve(self, server: str, hold_s: float, running: ExitStack) -> None:
        port = UPSTREAM_PORT if hold_s else SERVER_PORT
        upstream = f"{self.recipe.listen}:{port}"
        config = self.scratch / "mailsrv.toml"
        config.write_text(_settings(self.recipe), encoding="utf-8")
        command = shlex.split(server.format(listen=upstream, config=config))
        self._start("server", command, running)
        wait_for("the server listened", lambda: listening(port), START_POLLS_MAX)
        if hold_s:
            relay = [sys.executable, str(HERE / "relay.py"), "--hold-s", str(hold_s)]
            relay += ["--listen", f"{self.recipe.listen}:{SERVER_PORT}", "--upstream", upstream]
            self._start("relay", relay, running)
            wait_for("the relay listened", lambda: listening(SERVER_PORT), START_POLLS_MAX)

    def _capture(self, running: ExitStack) -> subprocess.Popen[str]:
        command = ["tcpdump", *TCPDUMP_OPTIONS, "-w", str(self.output), f"tcp port {SERVER_PORT}"]
        tcpdump = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        running.callback(tcpdump.kill)
        assert tcpdump.stderr is not None
        for line in tcpdump.stderr:
            if "listening on" in line:
                return tcpdump
        raise TakeError("tcpdump did not start")

    def _send(self, running: ExitStack) -> None:
        command = stage.inside(self.root, self.recipe.send)
        sender = self._start("sender", command, running)
        status = sender.wait(timeout=SEND_TIMEOUT_S)
        if status:
            raise TakeError(f"the sender's commands ended with status {status}")

    def _start(
        self, name: str, command: Sequence[str], running: ExitStack
    ) -> subprocess.Popen[bytes]:
        log = running.enter_context((self.scratch / f"{name}.log").open("wb"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        running.callback(process.kill)
        return process

    def _over(self) -> bool:
        seen = evidence.read(self.output)
        return seen.begun >= self.recipe.sessions and seen.whole

    def _check(self, said: str) -> None:
        if not re.search(r"^0 packets dropped by kernel", said, re.MULTILINE):
            raise TakeError(f"tcpdump missed packets: {said}")

    def _logs(self) -> str:
        logs = sorted([*self.scratch.glob("*.log"), *self.root.glob("var/log/**/*mail*log")])
        texts = (path.read_text(encoding="utf-8", errors="replace") for path in logs)
        return "\n".join(
            f"--- {path.name}\n{text[-3000:]}" for path, text in zip(logs, texts, strict=True)
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Make one take; meant to be run by the recorder.")
    parser.add_argument("recipe")
    parser.add_argument("output", type=Path)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--layer", type=Path, action="append", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--hold-s", type=float, default=0)
    wanted = parser.parse_args()
    socket.sethostname(stage.SERVER_HOST)
    take = Take(load(wanted.recipe), wanted.output, wanted.scratch)
    try:
        take.prepare(wanted.layer)
        take.record(wanted.server, wanted.hold_s)
    except (TakeError, stage.StageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
