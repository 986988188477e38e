"""Servers of others, from Debian, npm and PyPI: how each is installed, configured and started.

Each is as it comes, but for what lets the same work be done: mail for the recipient is taken and
thrown away, many connections come from one address, and nothing is looked up in the DNS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.contenders import ROOT, Command, UnavailableError, install_aiosmtpd
from benchmarks.postfix import DISCARDING, configure

SMTP_SERVER_VERSION = "3.21.6"
HARAKA_VERSION = "3.3.4"
NPM_FOLDER = ROOT / ".benchmarks" / "npm"
DEBIAN = ("postfix", "nodejs", "npm")
INSTALL_GUARD_S = 600

_SMTP_SERVER = """\
const { SMTPServer } = require("smtp-server");
new SMTPServer({
    authOptional: true,
    disabledCommands: ["AUTH", "STARTTLS"],
    disableReverseLookup: true,
    onData(stream, session, done) { stream.resume(); stream.on("end", () => done(null)); },
}).listen(Number(process.argv[2]), "127.0.0.1");
"""


def install() -> list[str]:
    """Install what is missing, from Debian, npm and PyPI; returns what could not be."""
    failed = []
    programs = {"postfix": "postfix", "nodejs": "node", "npm": "npm"}
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if missing := [one for one in DEBIAN if not shutil.which(programs[one], path=path)]:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", *missing]):
            failed += _run(["apt-get", *command], environment)
    packages = [f"smtp-server@{SMTP_SERVER_VERSION}", f"Haraka@{HARAKA_VERSION}"]
    if not all((NPM_FOLDER / "node_modules" / one.split("@")[0]).is_dir() for one in packages):
        NPM_FOLDER.mkdir(parents=True, exist_ok=True)
        quiet = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(NPM_FOLDER)]
        failed += _run(["npm", "install", *quiet, *packages])
    try:
        install_aiosmtpd()
    except UnavailableError as reason:
        failed.append(str(reason))
    return failed


def _run(command: list[str], environment: dict[str, str] | None = None) -> list[str]:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=INSTALL_GUARD_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{' '.join(command[:3])}: {error}"]
    if not done.returncode:
        return []
    last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    return [f"{' '.join(command[:3])}: {last}"]


def _node_module(name: str) -> Path:
    place = NPM_FOLDER / "node_modules" / name
    if not place.is_dir() or shutil.which("node") is None:
        raise UnavailableError(f"{name} is not installed: --install does that")
    return place


def smtp_server(port: int, folder: Path, _python: str) -> list[str]:
    """nodemailer's smtp-server."""
    module = _node_module("smtp-server")
    script = folder / "server.js"
    script.write_text(_SMTP_SERVER.replace('require("smtp-server")', f"require({str(module)!r})"))
    return ["node", str(script), str(port)]


def haraka(port: int, folder: Path, _python: str) -> list[str]:
    module = _node_module("Haraka")
    program = module / "bin" / "haraka"
    config = folder / "config"
    config.mkdir()
    shutil.copy(module / "config" / "connection.ini", config)
    for name, text in (
        ("smtp.ini", f"listen=127.0.0.1:{port}\nnodes=0\n"),
        ("plugins", "rcpt_to.in_host_list\nqueue/discard\n"),
        ("host_list", "example.org\nexample.test\n"),
        ("me", "mx.example.test\n"),
        ("loglevel", "INFO\n"),
    ):
        (config / name).write_text(text)
    settings = "YES_REALLY_DO_DISCARD=1"
    return ["/usr/bin/env", settings, "node", str(program), "-c", str(folder)]


def postfix(port: int, folder: Path, _python: str) -> list[str]:
    """Its queue manager hands everything to the discard transport."""
    main = f"{DISCARDING}smtpd_peername_lookup = no\n"
    return [*configure(port, folder, main), "start-fg"]


PEERS: dict[str, Command] = {
    f"smtp-server {SMTP_SERVER_VERSION}": smtp_server,
    f"Haraka {HARAKA_VERSION}": haraka,
    "Postfix": postfix,
}
