"""Checks that ask DNS, for real: a running ``mailsrv serve`` and a name server on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import pytest
from nameserver import Asked, Behaviour, NameServer

PATIENCE_S = 20
CLIENT = "127.0.0.2"
"""No list may list 127.0.0.1, and this one every list must (RFC 5782 section 5)."""

ZONE = {
    "good.example. MX": "300 10 mx.good.example.",
    "2.0.0.127.in-addr.arpa. PTR": "300 out.example.",
    "out.example. A": f"300 {CLIENT}",
    "2.0.0.127.bl.example. A": "300 127.0.0.4",
    "2.0.0.127.world.example. A": "300 127.0.0.4",
    "1.0.0.127.world.example. A": "300 127.0.0.4",
    "2.0.0.127.sold.example. A": "300 203.0.113.80",
}
STRANGER = "[198.51.100.1]"


def zone(asked: Asked) -> list[bytes]:
    """What there is, the MX records over TCP only; nothing from dead.example."""
    if asked.name.endswith("dead.example."):
        return []
    record = ZONE.get(f"{asked.name} {asked.rtype}")
    if record is None:
        return [asked.reply(rcode="NXDOMAIN")]
    if asked.rtype == "MX" and asked.over == "UDP":
        return [asked.reply(flags=dns.flags.TC)]
    ttl, data = record.split(maxsplit=1)
    return [asked.reply(f"{asked.name} {ttl} {asked.rtype} {data}")]


def silent(asked: Asked) -> list[bytes]:
    return []


@contextlib.contextmanager
def answering(behaviour: Behaviour) -> Iterator[NameServer]:
    """A name server that answers by itself, on a thread of its own."""
    server = NameServer(behaviour)
    bell, rung = socket.socketpair()

    def serve() -> None:
        while True:
            sockets = [server.udp, server.tcp, *server.streams, rung]
            if rung in select.select(sockets, [], [])[0]:
                return
            server.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        bell.close()
        thread.join(PATIENCE_S)
        rung.close()
        server.close()


class Served:
    """A running server, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self._client = socket.create_connection(("127.0.0.1", port), PATIENCE_S, (CLIENT, 0))
        self._lines = self._client.makefile("rb")
        self.log = ""
        assert self._lines.readline().startswith(b"220 ")

    def say(self, command: str) -> str:
        self._client.sendall(command.encode() + b"\r\n")
        return self._lines.readline().decode()

    def stop(self) -> str:
        """Hang up and stop the server; gives its log."""
        self.close()
        self._process.send_signal(signal.SIGTERM)
        _, self.log = self._process.communicate(timeout=PATIENCE_S)
        assert (self._process.returncode, "fault" in self.log) == (0, False), self.log
        return self.log

    def close(self) -> None:
        self._lines.close()
        self._client.close()


@contextlib.contextmanager
def served(directory: Path, server: NameServer, settings: str) -> Iterator[Served]:
    """A running ``mailsrv serve`` that asks ``server``, and trusts nobody."""
    config = directory / "mailsrv.toml"
    config.write_text(
        f'delivery = "discard"\nresolvers = ["127.0.0.1:{server.address[1]}"]\n'
        f"trusted_networks = []\n{settings}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mailsrv", "serve", "--listen", "127.0.0.1:0", "--config", config],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"mailsrv: listening on .*:(\d+)\n", process.stdout.readline())
        assert found is not None
        with contextlib.closing(Served(process, int(found[1]))) as one:
            yield one
            if process.poll() is None:
                one.stop()
    finally:
        process.kill()
        process.communicate()


def test_a_sender_domain_is_looked_up_for_real_over_tcp_where_it_must_be(tmp_path: Path) -> None:
    with (
        answering(zone) as server,
        served(tmp_path, server, 'sender_domain_check = "reject"') as client,
    ):
        client.say(f"HELO {STRANGER}")
        assert client.say("MAIL FROM:<a@bad.example>").startswith("450 4.1.8 ")
        assert client.say("MAIL FROM:<a@good.example>").startswith("250 2.1.0 ")
        client.say("RSET")
        assert client.say("MAIL FROM:<b@good.example>").startswith("250 2.1.0 ")  # from the cache
        asked = [(one.name, one.over) for one in server.asked]
        assert asked == [
            ("bad.example.", "UDP"),
            ("good.example.", "UDP"),
            ("good.example.", "TCP"),
        ]


def test_the_client_is_looked_up_for_real_by_name_and_by_list(tmp_path: Path) -> None:
    settings = """
        reverse_name_check = "reject"
        helo_check = "score"
        reputation_threshold = 6
        dns_lists = { "bl.example" = 1, "world.example" = 50, "sold.example" = 50 }
    """
    with answering(zone) as server, served(tmp_path, server, settings) as client:
        client.say(f"HELO [{CLIENT}]")
        assert client.say("MAIL FROM:<a@b.example>").startswith("250 2.1.0 ")
        client.say("HELO nowhere.example")
        assert client.say("MAIL FROM:<a@b.example>") == (
            "550 5.7.1 Client refused: bad reputation, score 6 reaches 6: "
            "+1 bl.example (127.0.0.4), +5 helo\r\n"
        )
        log = client.stop()
        assert 'event="list lists the world"' in log
        assert 'event="list gives an answer that is none"' in log


def test_a_dead_list_lets_mail_flow_for_real_and_the_log_says_why(tmp_path: Path) -> None:
    settings = """
        lookup_timeout_s = 0.2
        reputation_threshold = 5
        dns_lists = { "dead.example" = 5 }
    """
    with answering(zone) as server, served(tmp_path, server, settings) as client:
        client.say(f"HELO {STRANGER}")
        assert client.say("MAIL FROM:<a@b.example>").startswith("250 2.1.0 ")
        log = client.stop()
        assert 'event="list does not answer"' in log
        assert "list=dead.example" in log


@pytest.mark.parametrize(("mode", "code"), [("score", "250"), ("reject", "451")])
def test_a_dead_name_server_lets_mail_flow_as_configured(
    tmp_path: Path, mode: str, code: str
) -> None:
    settings = f"""
        lookup_timeout_s = 0.2
        reputation_threshold = 5
        sender_domain_check = "{mode}"
        dns_lists = {{ "bl.example" = 5 }}
    """
    with answering(silent) as server, served(tmp_path, server, settings) as client:
        client.say(f"HELO {STRANGER}")
        assert client.say("MAIL FROM:<a@b.example>").startswith(code)
        assert "event=unanswered" in client.stop()
