"""What ``replay check`` says of SMTP servers as they come, in a table: docs/servers.md is made so.

    python -m benchmarks.checked_servers [SERVER...] [--rounds 2] [--keep FOLDER]

Each server is started on loopback, checked as often as ``--rounds`` says, and stopped.  A verdict
counts if every round gives it.  Five minutes a round go to the timeouts that a server should have.

Postfix, nodemailer's smtp-server, Haraka and aiosmtpd are found where ``benchmarks.peers`` installs
them.  Debian's mail servers exclude one another; so the others are unpacked side by side::

    apt-get download exim4-daemon-light opensmtpd chasquid sendmail-bin sendmail-cf m4
    for package in *.deb; do dpkg -x $package FOLDER; done

and ``SERVERS=FOLDER`` in the environment leads to them.  They want root, their own accounts
(Debian-exim, opensmtpd, opensmtpq, smmta, smmsp) and directories, and the libraries that their
packages depend on; sendmail waits a minute unless the machine's name has a dot.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import command
from benchmarks.contenders import Command, UnavailableError, aiosmtpd, running
from benchmarks.peers import PEERS
from replay.play.tls_client import CERTIFICATE, KEY

CHECK_GUARD_S = 900
TOLD = ("violates", "departs")

EXIM = """exim_path = {program}
primary_hostname = mx.example.test
spool_directory = {folder}/spool
log_file_path = {folder}/spool/%slog
pid_file_path = {folder}/spool/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
keep_environment =
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {key}
acl_smtp_rcpt = accept
begin routers
all:
  driver = redirect
  data = :blackhole:
"""
OPENSMTPD = """pki "mx.example.test" cert "{certificate}"
pki "mx.example.test" key "{key}"
listen on 127.0.0.1 port {port} hostname mx.example.test tls pki "mx.example.test"
action "all" mda "/bin/cat" virtual {{ "@" = nobody }}
match from any for any action "all"
"""
CHASQUID = """hostname: "mx.example.test"
smtp_address: "127.0.0.1:{port}"
submission_address: "127.0.0.1:0"
submission_over_tls_address: "127.0.0.1:0"
data_dir: "{folder}/data"
mail_delivery_agent_bin: "/bin/true"
mail_log_path: "{folder}/mail.log"
"""
SENDMAIL = """divert(-1)dnl
include(`{macros}/m4/cf.m4')dnl
divert(0)dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `mx.example.test')dnl
define(`QUEUE_DIR', `{folder}/queue')dnl
define(`STATUS_FILE', `{folder}/stat')dnl
define(`ALIAS_FILE', `')dnl
define(`confPID_FILE', `{folder}/pid')dnl
define(`LOCAL_MAILER_PATH', `/bin/true')dnl
define(`LOCAL_MAILER_ARGS', `true')dnl
define(`confCONTROL_SOCKET_NAME', `')dnl
define(`confSERVER_CERT', `{certificate}')dnl
define(`confSERVER_KEY', `{key}')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`accept_unqualified_senders')dnl
DAEMON_OPTIONS(`Port={port}, Addr=127.0.0.1, Name=MTA')dnl
define(`LUSER_RELAY', `local:nobody')dnl
MAILER(`local')dnl
MAILER(`smtp')dnl
LOCAL_CONFIG
Cwexample.test
"""


def _program(path: str) -> Path:
    """A program of an unpacked package."""
    place = os.environ.get("SERVERS")
    if place is None:
        raise UnavailableError("SERVERS names no folder with unpacked packages")
    program = Path(place).resolve() / path
    if not program.is_file():
        raise UnavailableError(f"{program} is missing")
    if os.geteuid() != 0:
        raise UnavailableError("it can be started by root alone")
    return program


def _certificate(folder: Path) -> dict[str, Path]:
    """Copies that belong to who starts the server, and that nobody else can read."""
    made = {"certificate": folder / "certificate.pem", "key": folder / "key.pem"}
    for source, path in zip((CERTIFICATE, KEY), made.values(), strict=True):
        shutil.copy(source, path)
        path.chmod(0o600)
    return made


def exim(port: int, folder: Path, _python: str) -> list[str]:
    program = _program("usr/sbin/exim4")
    (folder / "spool").mkdir()
    shutil.chown(folder / "spool", "Debian-exim", "Debian-exim")
    files = _certificate(folder)
    for path in files.values():
        shutil.chown(path, "Debian-exim")
    config = folder / "exim.conf"
    config.write_text(EXIM.format(program=program, folder=folder, port=port, **files))
    return [str(program), "-C", str(config), "-bdf"]


def opensmtpd(port: int, folder: Path, _python: str) -> list[str]:
    program = _program("usr/sbin/smtpd")
    config = folder / "smtpd.conf"
    config.write_text(OPENSMTPD.format(port=port, **_certificate(folder)))
    return [str(program), "-d", "-f", str(config)]


def chasquid(port: int, folder: Path, _python: str) -> list[str]:
    program = _program("usr/bin/chasquid")
    files = _certificate(folder)
    place = folder / "certs" / "mx.example.test"
    place.mkdir(parents=True)
    files["certificate"].rename(place / "fullchain.pem")
    files["key"].rename(place / "privkey.pem")
    domain = folder / "domains" / "example.test"
    domain.mkdir(parents=True)
    (domain / "aliases").write_text("*: b@example.test\nb: | /bin/true\n")
    (folder / "chasquid.conf").write_text(CHASQUID.format(port=port, folder=folder))
    return [str(program), "-config_dir", str(folder)]


def sendmail(port: int, folder: Path, _python: str) -> list[str]:
    program = _program("usr/libexec/sendmail/sendmail")
    macros = _program("usr/share/sendmail/cf/m4/cf.m4").parents[1]
    (folder / "queue").mkdir(0o700)
    source = folder / "sendmail.mc"
    values = {"macros": macros, "folder": folder, "port": port, **_certificate(folder)}
    source.write_text(SENDMAIL.format(**values))
    made = subprocess.run(
        [shutil.which("m4") or str(_program("usr/bin/m4")), f"-D_CF_DIR_={macros}/", str(source)],
        cwd=macros / "cf",
        capture_output=True,
        text=True,
        check=True,
    )
    config = folder / "sendmail.cf"
    config.write_text(made.stdout)
    return [str(program), "-C", str(config), "-bD"]


SERVERS: dict[str, Command] = {
    **PEERS,
    "aiosmtpd": aiosmtpd,
    "Exim": exim,
    "OpenSMTPD": opensmtpd,
    "chasquid": chasquid,
    "sendmail": sendmail,
}


def check(name: str, file: Path) -> None:
    """Check one server and write the verdicts to ``file``.  Raises UnavailableError."""
    with running(name, command=SERVERS[name]) as server:
        target = f"127.0.0.1:{server.port}"
        command = [sys.executable, "-m", "replay", "check", target, "--json", str(file)]
        subprocess.run(command, check=False, capture_output=True, timeout=CHECK_GUARD_S)
    if not file.is_file():
        raise UnavailableError("the check came to nothing")


def verdicts(file: Path) -> dict[str, str]:
    """The verdict of each scenario of one check."""
    said = json.loads(file.read_text(encoding="utf-8"))
    return {one["name"]: one["verdict"] for one in said["scenarios"]}


def confirmed(rounds: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all rounds say alike."""
    first = rounds[0]
    return {
        name: verdict
        for name, verdict in first.items()
        if all(other.get(name) == verdict for other in rounds)
    }


def table(by_server: Mapping[str, Mapping[str, str]]) -> Iterable[str]:
    """Scenarios that some server violates or departs from, a row each; then the counts."""
    servers = list(by_server)
    yield f"| transcript | {' | '.join(servers)} |"
    yield "|---" * (len(servers) + 1) + "|"
    names = sorted({name for said in by_server.values() for name in said})
    for name in names:
        cells = [by_server[server].get(name, "") for server in servers]
        if any(cell in TOLD for cell in cells):
            shown = [_shown(cell) for cell in cells]
            yield f"| `{name}` | {' | '.join(shown)} |"
    for verdict in ("holds", "violates", "departs", "could not tell"):
        counts = [str(list(by_server[server].values()).count(verdict)) for server in servers]
        yield f"| *{verdict}* | {' | '.join(counts)} |"


def _shown(verdict: str) -> str:
    return {
        "holds": "holds",
        "violates": "**violates**",
        "departs": "departs",
        "does not apply": "-",
    }.get(verdict, "?")


def main() -> int:
    arguments = command.parser(__doc__)
    arguments.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(SERVERS)}")
    arguments.add_argument("--rounds", type=command.positive, default=2, help="that must agree")
    arguments.add_argument("--keep", type=Path, help="a folder for the verdicts as JSON")
    options = arguments.parse_args()
    by_server = {}
    with tempfile.TemporaryDirectory() as text:
        folder = options.keep or Path(text)
        folder.mkdir(parents=True, exist_ok=True)
        for name in command.chosen(arguments, options.servers, SERVERS):
            files = [folder / f"{name}.{number}.json" for number in range(1, options.rounds + 1)]
            try:
                for file in files:
                    check(name, file)
            except (UnavailableError, subprocess.SubprocessError, KeyError) as reason:
                print(f"{name} takes no part: {reason}", file=sys.stderr)
                continue
            by_server[name] = confirmed([verdicts(file) for file in files])
    print("\n".join(table(by_server)))
    return 0


if __name__ == "__main__":
    command.run(main)
