"""Real next hops in a folder of their own: Postfix, Exim and Dovecot's LMTP, for root to start.

Each puts the mail of the users that it is told of into a Maildir a user, and refuses others.
Debian's packages of Exim and Postfix exclude one another.  To have both, unpack one of them::

    apt-get download exim4-daemon-light && dpkg -x exim4-daemon-light_*.deb FOLDER

and name its program in the environment: ``EXIM=FOLDER/usr/sbin/exim4``.  It wants an account
``Debian-exim``, and the libraries that the package depends on.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import UnavailableError, comes_up, free_port
from benchmarks.postfix import WITH_TLS, started
from replay.play.tls_client import CERTIFICATE, KEY

DOMAIN = "example.test"
GUARD_S = 30

POSTFIX = """myhostname = next.example.test
mydestination =
smtpd_recipient_restrictions = reject_unauth_destination, reject_unlisted_recipient
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/users
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
message_size_limit = 200000000
smtpd_recipient_limit = 2000
smtputf8_enable = yes
smtpd_tls_received_header = yes
"""
POSTFIX_SERVICES = "virtual unix - n n - - virtual\n"

EXIM = """exim_path = {program}
primary_hostname = next.example.test
spool_directory = {folder}/spool
log_file_path = {folder}/spool/%slog
pid_file_path = {folder}/spool/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
message_size_limit = 200M
recipients_max = 0
accept_8bitmime = true
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
tls_advertise_hosts = *
tls_certificate = {folder}/certificate.pem
tls_privatekey = {folder}/key.pem
acl_smtp_rcpt = rcpt
keep_environment =
deliver_drop_privilege = true
queue_run_in_order = false
begin acl
rcpt:
  accept local_parts = lsearch;{folder}/users
  deny message = no such user here
begin routers
users:
  driver = accept
  local_parts = lsearch;{folder}/users
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail/$local_part_data
  maildir_format
  create_directory
  user = {user}
begin retry
* * F,1h,1m
"""

DOVECOT = """protocols = lmtp
listen = 127.0.0.1
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
first_valid_uid = 1
mail_location = maildir:~/
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
  default_fields = uid={uid} gid={gid} home={folder}/mail/%n
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class NextHopServer:
    """A server that has started; ``delivery`` leads mailsrv to it."""

    delivery: str
    folder: Path

    def mail_of(self, user: str) -> list[bytes]:
        """The messages in a user's Maildir, with LF line ends, the oldest first."""
        new = self.folder / "mail" / user / "new"
        paths = list(new.glob("*")) if new.is_dir() else []
        paths.sort(key=lambda path: path.stat().st_mtime_ns)
        return [path.read_bytes().replace(b"\r\n", b"\n") for path in paths]


def _need_root() -> None:
    if os.geteuid() != 0:
        raise UnavailableError("these servers can be started by root alone")


def _program(name: str, package: str) -> str:
    found = os.environ.get(name.upper()) or shutil.which(
        name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    if found is None:
        raise UnavailableError(f"{name} is missing: install Debian's package {package}")
    return found


@contextmanager
def _folder(owner: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        (folder / "mail").mkdir()
        shutil.chown(folder / "mail", owner)
        yield folder


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise UnavailableError(f"there is no account {name}") from None


@contextmanager
def postfix(users: Sequence[str]) -> Iterator[NextHopServer]:
    """Raises UnavailableError."""
    owner, port = _account("nobody"), free_port()
    with _folder("nobody") as folder:
        lines = [f"{user}@{DOMAIN} {user}/\n" for user in users]
        (folder / "users").write_text("".join(lines), "utf-8")
        main = WITH_TLS + POSTFIX.format(
            folder=folder, domain=DOMAIN, uid=owner.pw_uid, gid=owner.pw_gid
        )
        with started(port, folder, main, POSTFIX_SERVICES):
            yield NextHopServer(f"relay=127.0.0.1:{port}", folder)


@contextmanager
def exim(users: Sequence[str]) -> Iterator[NextHopServer]:
    """Raises UnavailableError."""
    _need_root()
    account = _account("Debian-exim").pw_name
    program, port = _program("exim4" if "EXIM" not in os.environ else "exim", "exim4"), free_port()
    with _folder(account) as folder:
        (folder / "spool").mkdir()
        shutil.chown(folder / "spool", account)
        for source, name in ((CERTIFICATE, "certificate.pem"), (KEY, "key.pem")):
            shutil.copy(source, folder / name)
            shutil.chown(folder / name, account)
        (folder / "users").write_text("".join(f'"{one}": {one}\n' for one in users), "utf-8")
        text = EXIM.format(program=program, folder=folder, port=port, user=account)
        (folder / "conf").write_text(text)
        command = [program, "-C", str(folder / "conf"), "-bdf", "-q1s"]
        with _running(command, port):
            yield NextHopServer(f"relay=127.0.0.1:{port}", folder)


@contextmanager
def dovecot(users: Sequence[str]) -> Iterator[NextHopServer]:
    """Raises UnavailableError."""
    _need_root()
    program, owner = _program("dovecot", "dovecot-lmtpd"), _account("nobody")
    if not Path("/usr/lib/dovecot/lmtp").exists():
        raise UnavailableError("Dovecot's LMTP is missing: install Debian's package dovecot-lmtpd")
    port = free_port()
    with _folder("nobody") as folder:
        lines = [f"{user}::::::\n" for user in users]
        (folder / "users").write_text("".join(lines), "utf-8")
        text = DOVECOT.format(
            folder=folder,
            port=port,
            uid=owner.pw_uid,
            gid=owner.pw_gid,
            certificate=CERTIFICATE,
            key=KEY,
        )
        (folder / "conf").write_text(text)
        with _running([program, "-F", "-c", str(folder / "conf")], port):
            yield NextHopServer(f"lmtp=127.0.0.1:{port}", folder)


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    """Raises UnavailableError."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        try:
            if not comes_up(process, port):
                output.seek(0)
                said = output.read().strip().splitlines() or ["it says nothing"]
                raise UnavailableError(f"{command[0]} does not start: {said[-1]}")
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GUARD_S)
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], guard_s: float) -> bool:
    """Whether ``condition`` came true within ``guard_s``."""
    until_s = time.monotonic() + guard_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True
