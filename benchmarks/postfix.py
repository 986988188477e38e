"""Postfix from Debian, as an instance of its own: a folder, a queue, a port; for root to start."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import UnavailableError
from replay.play.tls_client import CERTIFICATE, KEY

GUARD_S = 30
MAIN = """compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
maillog_file = /var/log/postfix-benchmark.log
"""
WITH_TLS = f"""smtpd_tls_cert_file = {CERTIFICATE}
smtpd_tls_key_file = {KEY}
smtpd_tls_security_level = may
"""
DISCARDING = """myhostname = mx.example.test
mydestination =
local_recipient_maps =
default_transport = discard
relay_transport = discard
smtpd_recipient_restrictions = permit_mynetworks, reject
"""
MASTER = """127.0.0.1:{port} inet n - n - 100 smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
discard unix - - n - - discard
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


def configure(port: int, folder: Path, main: str, services: str = "") -> list[str]:
    """Write into ``folder``, which is empty, what listens on ``port`` of 127.0.0.1: ``main`` is put
    behind what every instance has, ``services`` below those of its ``master.cf``.

    Returns the command to which ``start``, ``start-fg`` or ``stop`` is added.  Raises
    UnavailableError.
    """
    program = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise UnavailableError("Postfix is missing: install Debian's package postfix")
    if os.geteuid() != 0:
        raise UnavailableError("Postfix can be started by root alone")
    for name in ("etc", "spool", "data"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    (folder / "etc" / "main.cf").write_text(MAIN.format(folder=folder) + main)
    (folder / "etc" / "master.cf").write_text(MASTER.format(port=port) + services)
    return [program, "-c", str(folder / "etc")]


@contextmanager
def started(port: int, folder: Path, main: str, services: str = "") -> Iterator[int]:
    """The number of its first process.  Raises UnavailableError."""
    command = configure(port, folder, main, services)
    # Ctrl-C is for this process alone: a start that it cuts short goes on and cannot be stopped.
    starting = subprocess.Popen(
        [*command, "start"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if starting.wait(GUARD_S):
            raise UnavailableError("Postfix does not start: see /var/log/postfix-benchmark.log")
        yield int((folder / "spool" / "pid" / "master.pid").read_text())
    finally:
        starting.wait(GUARD_S)
        stop = [*command, "stop"]
        subprocess.run(stop, capture_output=True, timeout=GUARD_S, start_new_session=True)
