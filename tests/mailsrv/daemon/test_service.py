"""The server as a process: signals, rotation, reload, descriptors, and what systemd asks for."""

from __future__ import annotations

import json
import os
import pwd
import re
import resource
import shutil
import signal
import smtplib
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process import PATIENCE_S, Process, fields, high_descriptor, http, serving

from mailsrv.runtime.listener import bind
from replay.play.tls_client import CERTIFICATE, KEY

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
HUP, TERM, INT = signal.SIGHUP, signal.SIGTERM, signal.SIGINT


def until(condition: Callable[[], bool]) -> None:
    """Look until it is so; the test run's own time limit ends it otherwise."""
    while not condition():
        os.sched_yield()


def begun(client: smtplib.SMTP) -> smtplib.SMTP:
    """A client in a transaction."""
    client.ehlo("client.example")
    assert client.mail("a@example.org")[0] == 250
    return client


def until_nobody_listens(port: int) -> None:
    """Wait for a signal to stop to be heard."""
    refused = False
    while not refused:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            refused = True
        except ConnectionResetError:
            continue  # it was waiting to be accepted


# -- stopping -------------------------------------------------------------------------------------


def test_sigterm_drains_the_idle_hear_421_and_a_transaction_is_finished(tmp_path: Path) -> None:
    with serving(tmp_path) as running, running.client() as idle, running.client() as busy:
        idle.ehlo("idle.example")
        begun(busy)
        running.ring(TERM)
        assert idle.getreply()[0] == 421
        until_nobody_listens(running.port)
        assert busy.rcpt("b@example.test")[0] == 250
        assert busy.data("x\r\n")[0] == 250
        assert busy.getreply()[0] == 421
        idle.close()
        busy.close()
        log = running.log.rest()
        assert running.process.wait(PATIENCE_S) == 0
    assert [fields(line)["verdict"] for line in log if "event=message" in line] == ["accepted"]


@pytest.mark.parametrize("second", [TERM, INT])
def test_a_second_signal_hurries(tmp_path: Path, second: signal.Signals) -> None:
    with serving(tmp_path) as running, running.client() as busy:
        begun(busy)
        running.ring(TERM)
        until_nobody_listens(running.port)
        running.ring(second)
        assert busy.getreply()[0] == 421
        busy.close()
        log = running.log.rest()
        assert running.process.wait(PATIENCE_S) == 0
    (message,) = [fields(line) for line in log if "event=message" in line]
    assert (message["verdict"], message["reply"][:9]) == ("deferred", "421 4.3.2")


def test_without_a_configuration_file_sighup_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        running.ring(HUP)
        assert running.process.wait(PATIENCE_S) == 0


# -- reloading ------------------------------------------------------------------------------------


def test_a_reload_serves_the_new_and_drops_nobody(tmp_path: Path) -> None:
    with serving(tmp_path, 'hostname = "old.example"') as running:
        file = tmp_path / "mailsrv.toml"
        with running.client() as here:
            begun(here)
            file.write_text('hostname = "new.example"\nmessage_octets = 1000')
            running.ring(HUP)
            running.log.until("event=reloaded")
            assert here.rcpt("b@example.test")[0] == 250
            assert here.data("x" * 2000)[0] == 250
            with running.client() as newcomer:
                assert b"new.example" in newcomer.ehlo("client.example")[1]
                assert newcomer.esmtp_features["size"] == "1000"
        running.end()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("idle_timeout_s = ", "is not TOML"),
        ("idle_timeout_s = -1", "idle_timeout_s: -1 is out of range"),
        ('tls_certificate = "no.pem"', "tls_certificate: "),
        ('log_file = "/nonexistent/log"', "log_file: /nonexistent/log: No such file"),
        ('delivery = "maildir=/dev/null/x"', "delivery"),
        ('metrics_listen = "192.0.2.1:9"', "cannot listen on 192.0.2.1:9"),
        ('domains = ["x.example"]\nrecipient_table = "no.txt"', "recipient_table: "),
        ('log_file = "other.log"\ntls_certificate = "no.pem"', "tls_certificate: "),
    ],
)
def test_a_bad_configuration_is_refused_with_a_line_and_the_old_one_stays(
    tmp_path: Path, text: str, complaint: str
) -> None:
    options = ("--listen", "127.0.0.1:0")
    with serving(tmp_path, 'hostname = "old.example"', options) as running:
        (tmp_path / "mailsrv.toml").write_text(f'hostname = "new.example"\n{text}')
        before = len(os.listdir(f"/proc/{running.pid}/fd"))
        running.ring(HUP)
        assert complaint in fields(running.log.until('event="reload refused"'))["why"]
        with running.client() as client:
            assert b"old.example" in client.ehlo("client.example")[1]
        running.ring(HUP)
        running.log.until('event="reload refused"')
        assert len(os.listdir(f"/proc/{running.pid}/fd")) <= before
        (tmp_path / "mailsrv.toml").write_text('hostname = "new.example"')
        running.ring(HUP)
        running.log.until("event=reloaded")
        running.end()


def test_a_reload_opens_new_sockets_keeps_the_unchanged_and_closes_the_others(
    tmp_path: Path,
) -> None:
    with bind("127.0.0.1", 0) as one, bind("127.0.0.1", 0) as two, bind("127.0.0.1", 0) as three:
        first, second, third = (f"127.0.0.1:{sock.getsockname()[1]}" for sock in (one, two, three))
    config = tmp_path / "mailsrv.toml"
    with serving(tmp_path, f'listen = ["{first}", "{second}"]', ()) as running:
        kept, gone = running.port, running.listening()
        with running.client(gone) as here:
            here.ehlo("client.example")
            config.write_text(f'listen = ["{first}", "{third}"]')
            running.ring(HUP)
            line = fields(running.log.until("event=listening"))
            assert f"{line['host']}:{line['port']}" == third
            running.log.until("event=reloaded")
            with pytest.raises(ConnectionRefusedError):
                running.client(gone)
            assert here.noop()[0] == 250
        running.deliver(kept)
        running.deliver(int(line["port"]))
        running.end()


def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, "") as running:
        config = 'greylist = true\ngreylist_database = "grey.db"'
        (tmp_path / "mailsrv.toml").write_text(config)
        running.ring(HUP)
        line = fields(running.log.until("event=reloaded"))
        assert line["needs_restart"] == "greylist_database"
        running.end()


def test_a_recipient_table_is_read_anew(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text("ann@example.test\n")
    config = 'domains = ["example.test"]\nrecipient_table = "table"'
    with serving(tmp_path, config) as running:
        with running.client() as client:
            assert begun(client).rcpt("bob@example.test")[0] == 550
        table.write_text("bob@example.test\n" + "x@example.test\n" * 50_000)
        running.ring(HUP)
        running.log.until("event=reloaded")
        with running.client() as client:
            assert begun(client).rcpt("bob@example.test")[0] == 250
            assert client.rcpt("ann@example.test")[0] == 550
        running.end()


def test_certificates_are_read_anew_and_sessions_under_tls_go_on(tmp_path: Path) -> None:
    for source, name in ((CERTIFICATE, "crt.pem"), (KEY, "key.pem")):
        shutil.copy(source, tmp_path / name)
    config = 'tls_certificate = "crt.pem"\ntls_key = "key.pem"\nlisten_tls = ["127.0.0.1:0"]'
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with serving(tmp_path, config) as running:
        tls_port = running.listening()
        with running.client() as client:
            client.starttls(context=context)
            begun(client)
            (tmp_path / "key.pem").write_text("damaged")
            running.ring(HUP)
            assert "key.pem" in fields(running.log.until('event="reload refused"'))["why"]
            with smtplib.SMTP_SSL("127.0.0.1", tls_port, context=context) as other:
                assert other.noop()[0] == 250
            shutil.copy(KEY, tmp_path / "key.pem")
            running.ring(HUP)
            running.log.until("event=reloaded")
            assert client.rcpt("b@example.test")[0] == 250
            assert client.data("x\r\n")[0] == 250
        message = fields(next(line for line in running.end() if "event=message" in line))
    assert message["tls"].startswith("TLSv1.")


# -- the log --------------------------------------------------------------------------------------


def test_the_log_survives_rotation_and_may_be_moved_by_a_reload(tmp_path: Path) -> None:
    log, rotated, other = (tmp_path / name for name in ("mail.log", "mail.log.1", "other.log"))
    with serving(tmp_path, 'log_file = "mail.log"\nlog_format = "json"') as running:
        running.deliver()
        log.rename(rotated)
        running.ring(HUP)
        until(lambda: log.exists() and "reloaded" in log.read_text())
        (tmp_path / "mailsrv.toml").write_text('log_file = "other.log"')
        running.ring(HUP)
        until(other.exists)
        running.deliver()
        assert running.end() == []
    started, message = map(json.loads, rotated.read_text().splitlines())
    assert (started["event"], message["event"]) == ("started", "message")
    assert message["to"] == ["<b@example.test>"]
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["reloaded"]
    assert [fields(line)["event"] for line in other.read_text().splitlines()] == [
        *("reloaded", "message", "stopping", "stopped")
    ]


def test_a_full_disk_under_the_log_stops_no_mail_and_is_said_once(tmp_path: Path) -> None:
    with serving(tmp_path, 'log_file = "/dev/full"') as running:
        running.deliver()
        running.deliver()
        complaint = running.log.until("log_file: /dev/full: No space left on device")
        assert "mail goes on" in complaint
        assert sum("No space" in line for line in running.end()) == 1


# -- descriptors ----------------------------------------------------------------------------------


def test_running_out_of_descriptors_stops_nobody_for_long(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))"
    with serving(tmp_path, "connections = 1000", before=limit) as running:
        address = "127.0.0.1", running.port
        crowd = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(60)]
        assert "Too many open files" in running.log.until("event=exhausted")
        assert crowd[0].recv(100).startswith(b"220 ")
        crowd[0].sendall(b"NOOP\r\n")
        assert crowd[0].recv(100).startswith(b"250 ")
        for sock in crowd:
            sock.close()
        running.deliver()
        assert not any("event=fault" in line for line in running.end())


# -- metrics --------------------------------------------------------------------------------------


def test_metrics_and_health_are_served_beside_the_mail(tmp_path: Path) -> None:
    with serving(tmp_path, 'metrics_listen = "127.0.0.1:0"') as running:
        port = running.metrics_port()
        running.deliver()
        with running.client() as here:
            here.ehlo("client.example")
            status, page = http(port, "/metrics")
            assert status == 200
            for line in (
                'mailsrv_messages_total{verdict="accepted"} 1',
                "mailsrv_connections 1",
                "mailsrv_stressed 0",
            ):
                assert f"\n{line}\n" in page
            memory = re.search(r"^process_resident_memory_bytes (\d+)$", page, re.MULTILINE)
            assert memory is not None and int(memory[1]) > 1_000_000
            assert http(port, "/healthz") == (200, "ok\n")
            begun(here)
            running.ring(TERM)
            until_nobody_listens(running.port)
            assert http(port, "/healthz")[0] == 503
            here.close()
            assert running.process.wait(PATIENCE_S) == 0


def test_the_page_may_be_moved_by_a_reload(tmp_path: Path) -> None:
    with serving(tmp_path, 'metrics_listen = "127.0.0.1:0"') as running:
        port = running.metrics_port()
        (tmp_path / "mailsrv.toml").write_text('metrics_listen = ""')
        running.ring(HUP)
        running.log.until("event=reloaded")
        with pytest.raises(ConnectionRefusedError):
            http(port, "/metrics")
        running.end()


# -- systemd --------------------------------------------------------------------------------------


class Manager:
    """Hears notices, as systemd would."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path)}

    def hears(self) -> list[str]:
        return self.sock.recv(4096).decode().splitlines()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.sock.close()


def test_readiness_reload_and_stop_are_told_in_this_order(tmp_path: Path, manager: Manager) -> None:
    with serving(tmp_path, "", environment=manager.environment) as running:
        assert manager.hears() == ["READY=1", "STATUS=serving as localhost"]
        running.ring(HUP)
        reloading, instant = manager.hears()
        assert reloading == "RELOADING=1"
        assert re.fullmatch(r"MONOTONIC_USEC=[1-9]\d+", instant)
        assert manager.hears()[0] == "READY=1"
        (tmp_path / "mailsrv.toml").write_text("nonsense")
        running.ring(HUP)
        assert [manager.hears()[0] for _ in range(2)] == ["RELOADING=1", "READY=1"]
        running.ring(TERM)
        assert manager.hears()[0] == "STOPPING=1"
        assert running.process.wait(PATIENCE_S) == 0


def test_who_rings_during_a_reload_gets_another_one(tmp_path: Path, manager: Manager) -> None:
    (tmp_path / "table").write_text("x@example.test\n" * 500_000)
    config = 'domains = ["example.test"]\nrecipient_table = "table"'
    with serving(tmp_path, config, environment=manager.environment) as running:
        assert manager.hears()[0] == "READY=1"
        running.ring(HUP)
        assert manager.hears()[0] == "RELOADING=1"
        running.ring(HUP)
        assert [manager.hears()[0] for _ in range(3)] == ["READY=1", "RELOADING=1", "READY=1"]
        running.end()


def test_the_watchdog_is_fed_while_nothing_else_happens(tmp_path: Path, manager: Manager) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "20000"}
    with serving(tmp_path, environment=environment) as running:
        assert manager.hears()[0] == "READY=1"
        assert [manager.hears() for _ in range(3)] == [["WATCHDOG=1"]] * 3
        running.end()


def handed(*socks: socket.socket, names: str) -> tuple[str, list[int]]:
    """Python that makes ``socks`` the new process's descriptors from 3 on, as systemd does."""
    descriptors = [high_descriptor(sock) for sock in socks]
    moves = "".join(
        f"os.dup2({descriptor}, {3 + number}); os.close({descriptor})\n"
        for number, descriptor in enumerate(descriptors)
    )
    variables = f'"LISTEN_FDS": "{len(socks)}", "LISTEN_FDNAMES": "{names}"'
    script = f'import os\n{moves}os.environ |= {{"LISTEN_PID": str(os.getpid()), {variables}}}\n'
    return script, descriptors


def test_sockets_that_were_handed_over_are_served_instead_of_the_configured(
    tmp_path: Path,
) -> None:
    with bind("127.0.0.1", 0) as mail, bind("127.0.0.1", 0) as page:
        before, descriptors = handed(mail, page, names="smtp:metrics")
        waiting = socket.create_connection(mail.getsockname(), timeout=PATIENCE_S)
        config = """
        listen = ["192.0.2.1:25"]
        domains = ["example.test"]
        metrics_listen = "192.0.2.1:1"
        """
        options = ("--delivery", "discard")
        with serving(tmp_path, config, options, before=before, pass_fds=descriptors) as running:
            for descriptor in descriptors:
                os.close(descriptor)
            assert running.port == mail.getsockname()[1]
            assert waiting.recv(100).startswith(b"220 ")
            waiting.close()
            assert http(page.getsockname()[1], "/healthz") == (200, "ok\n")
            running.ring(HUP)
            running.log.until("event=reloaded")
            running.deliver()
            running.end()


def test_what_cannot_be_served_of_it_is_said(tmp_path: Path) -> None:
    with socket.socket() as deaf:
        before, descriptors = handed(deaf, names="smtp")
        with serving(tmp_path, before=before, pass_fds=descriptors, listens=False) as running:
            running.log.until("socket activation: descriptor 3: is no listening TCP socket")
            assert running.process.wait(PATIENCE_S) == 2
        os.close(descriptors[0])


# -- privileges -----------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that belongs to nobody, in which nobody may write."""
    folder = Path(tempfile.mkdtemp(prefix="mailsrv-test-"))
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    yield folder
    shutil.rmtree(folder)


def identity_of(running: Process) -> set[str]:
    status = Path(f"/proc/{running.pid}/status").read_text()
    lines = re.findall(r"^[UG]id:\t(.*)$", status, re.MULTILINE)
    return {word for line in lines for word in line.split()}


@needs_root
def test_root_is_given_up_after_binding_and_files_belong_to_the_user(open_folder: Path) -> None:
    config = """
    listen = ["127.0.0.1:0"]
    user = "nobody"
    log_file = "mail.log"
    delivery = "maildir=mail"
    greylist = true
    greylist_database = "grey.db"
    greylist_allow_networks = ["127.0.0.0/8"]
    """
    nobody = pwd.getpwnam("nobody")
    with serving(open_folder, config, ()) as running:
        running.deliver()
        assert identity_of(running) == {str(nobody.pw_uid), str(nobody.pw_gid)}
        assert running.end() == []
    for name in ("mail.log", "mail", "grey.db"):
        assert (open_folder / name).stat().st_uid == nobody.pw_uid
    assert len(list((open_folder / "mail" / "new").iterdir())) == 1


@needs_root
def test_root_that_stays_root_where_others_reach_it_is_warned_of(tmp_path: Path) -> None:
    with serving(tmp_path, 'listen = ["0.0.0.0:0"]\ndomains = ["x.example"]', ()) as running:
        assert "runs as root where others can reach it; set user" in running.log.until("mailsrv: ")
        running.end()
    with serving(tmp_path, 'listen = ["127.0.0.1:0"]', ()) as running:
        assert not any("root" in line for line in running.end())


@needs_root
def test_a_port_below_1024_is_bound_before_root_is_given_up(open_folder: Path) -> None:
    port = next(port for port in range(1023, 600, -1) if is_free(port))
    config = f'listen = ["127.0.0.1:{port}"]\nuser = "nobody"\ndelivery = "discard"'
    with serving(open_folder, config, ()) as running:
        assert running.port == port
        running.deliver()
        running.end()


def is_free(port: int) -> bool:
    try:
        bind("127.0.0.1", port).close()
    except OSError:
        return False
    return True


@needs_root
def test_a_key_that_the_user_cannot_read_serves_and_is_warned_of(open_folder: Path) -> None:
    for source, name in ((CERTIFICATE, "crt.pem"), (KEY, "key.pem")):
        shutil.copy(source, open_folder / name)
    (open_folder / "key.pem").chmod(0o600)
    config = 'user = "nobody"\ntls_certificate = "crt.pem"\ntls_key = "key.pem"'
    with serving(open_folder, config) as running:
        assert "key.pem" in running.log.until('event="reload will fail"')
        with running.client() as client:
            client.ehlo("client.example")
            assert client.has_extn("starttls")
        running.ring(HUP)
        assert "Permission denied" in running.log.until('event="reload refused"')
        running.end()


def test_the_descriptor_limit_of_this_process_is_unchanged() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
