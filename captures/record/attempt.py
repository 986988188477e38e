"""One attempt at a delivery: ``mailsrv`` with a certificate and a sender, alone in namespaces.

Like ``take``, but for what becomes of the mail and not for the wire: nothing is captured, the
server takes STARTTLS and, on port 465, TLS from the first octet on, and believes the PROXY
headers of 127.0.0.3.  It ends with status 0 once the expected number of messages is in the
Maildir and the server has stopped.  The judgement is the starter's: see ``deliver``.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import stage
from recipe import DELIVERIES, HERE, load
from take import (
    SERVER_PORT,
    START_POLLS_MAX,
    Take,
    TakeError,
    assignments,
    listening,
    wait_for,
)

TLS_PORT = 465
PROXY = "127.0.0.3"
ARRIVE_POLLS_MAX = 300
STOP_S = 20
CONFIG = """
hostname = "{host}"
domains = ["example.test"]
listen = ["{address}:25"]
listen_tls = ["{address}:465"]
proxy_networks = ["{proxy}/32"]
tls_certificate = "{result}/certificate.pem"
tls_key = "{result}/key.pem"
delivery = "maildir={result}/mail"
log_file = "{result}/log"
log_format = "json"
grace_s = 1
"""
CERTIFICATE = "/etc/ssl/record.pem"
"""Where a sender finds whom to trust."""


class Attempt(Take):
    """One sender delivering to a ``mailsrv`` of its own; what is seen goes to ``output``."""

    def deliver(self, further: Sequence[str]) -> None:
        """Let the sender send, the server having ``further`` settings, too; raises TakeError."""
        result, wanted = self.output, int(self.recipe.delivered["messages"])
        self._furnish_server(further)
        with ExitStack() as running:
            try:
                command = [sys.executable, str(HERE / "watched.py"), str(result / "commands")]
                command += ["serve", "--config", str(result / "mailsrv.toml")]
                server = self._start("server", command, running)
                for port in (SERVER_PORT, TLS_PORT):
                    wait_for("the server listened", partial(listening, port), START_POLLS_MAX)
                self._send(running)
                new = result / "mail/new"
                wait_for(
                    f"{wanted} messages were there",
                    lambda: len(list(new.glob("*"))) >= wanted,
                    ARRIVE_POLLS_MAX,
                )
                server.terminate()
                if status := server.wait(STOP_S):
                    raise TakeError(f"the server ended with status {status}")
                self._keep_what_was_sent()
            except (TakeError, subprocess.TimeoutExpired) as error:
                raise TakeError(f"{error}\n{self._logs()}") from None

    def _furnish_server(self, further: Sequence[str]) -> None:
        result = self.output
        text = CONFIG.format(
            host=stage.SERVER_HOST, address=self.recipe.listen, proxy=PROXY, result=result
        )
        text += assignments(self.recipe.server) + "\n".join(further)
        (result / "mailsrv.toml").write_text(text, encoding="utf-8")
        target = self.root / CERTIFICATE.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(result / "certificate.pem", target)

    def _keep_what_was_sent(self) -> None:
        sent = self.output / "sent"
        sent.mkdir()
        for name in self.recipe.delivered["content"]:
            shutil.copy(self.root / name.lstrip("/"), sent / Path(name).name)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make one attempt; meant to be run by deliver.")
    parser.add_argument("recipe")
    parser.add_argument("output", type=Path)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--layer", type=Path, action="append", required=True)
    parser.add_argument("--set", action="append", default=[])
    wanted = parser.parse_args()
    socket.sethostname(stage.SERVER_HOST)
    attempt = Attempt(load(wanted.recipe, DELIVERIES), wanted.output, wanted.scratch)
    try:
        attempt.prepare(wanted.layer)
        attempt.deliver(wanted.set)
    except (TakeError, stage.StageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
