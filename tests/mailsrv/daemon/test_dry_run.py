"""check-config tries what serve would do: ports, the user and what it may touch, name servers."""

from __future__ import annotations

import errno
import gc
import os
import pwd
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from process import serving
from spooling import spool_in

from mailsrv.config.validation import ConfigError
from mailsrv.daemon import dry_run
from mailsrv.daemon.check_config import inspect
from mailsrv.daemon.privileges import acting_as, identity
from mailsrv.daemon.storage_trial import (
    database_trouble,
    file_trouble,
    maildir_trouble,
    spool_trouble,
)
from mailsrv.delivery.files import Files, SystemFiles
from mailsrv.runtime.listener import bind
from replay.play.tls_client import CERTIFICATE, KEY

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
BINDS_MAX = 10
ANY = 'listen = ["127.0.0.1:0"]\n'


def found(folder: Path, text: str, *, ask_nameservers: bool = False) -> list[str]:
    """Complaints if there are any, else doubts."""
    file = folder / "mailsrv.toml"
    file.write_text(text)
    try:
        lines = inspect(file, ask_nameservers=ask_nameservers)
    except ConfigError as error:
        return [one.removeprefix(f"{file}: ") for one in error.complaints]
    return [line.strip() for line in lines if line.startswith("  mind: ")]


# -- ports ----------------------------------------------------------------------------------------


def test_a_port_in_use_is_a_doubt_because_the_server_may_be_running(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        text = f'listen = ["127.0.0.1:{running.port}"]'
        expected = f"mind: listen: 127.0.0.1:{running.port} is in use; by this server, if it runs"
        assert found(tmp_path, text) == [expected]
        running.deliver()


def test_an_address_of_another_machine_is_a_complaint(tmp_path: Path) -> None:
    text = 'listen = ["192.0.2.1:0"]\ndomains = ["example.org"]\nhostname = "mx.example.org"'
    (complaint,) = found(tmp_path, text)
    assert complaint.startswith("listen: cannot listen on 192.0.2.1:0: Cannot assign")


def test_addresses_that_exclude_one_another_are_a_complaint(tmp_path: Path) -> None:
    for _ in range(BINDS_MAX):  # a port that is free now may be another's in a moment
        with bind("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        text = f'listen = ["127.0.0.1:{port}"]\nmetrics_listen = "0.0.0.0:{port}"'
        complaint, *_ = found(tmp_path, text)
        if not complaint.startswith("mind: "):
            break
    assert complaint.startswith(
        f"metrics_listen: 0.0.0.0:{port}: cannot listen beside the other addresses: Address already"
    )


def test_nothing_stays_bound(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    text = f'{ANY}listen_tls = ["127.0.0.1:0"]\nmetrics_listen = "127.0.0.1:0"\n'
    assert found(tmp_path, text + _tls(CERTIFICATE, KEY)) == []
    assert len(os.listdir("/proc/self/fd")) == before


def _tls(certificate: Path | str, key: Path | str) -> str:
    return f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'


# -- the user and its rights ----------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may read, and root alone may write."""
    made = Path(tempfile.mkdtemp(prefix="mailsrv-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


AS_NOBODY = f"{ANY}user = 'nobody'\n"


@needs_root
def test_what_the_user_may_not_write_is_a_complaint(folder: Path) -> None:
    (folder / "theirs").mkdir()
    (folder / "theirs" / "new").mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(folder / "theirs", nobody.pw_uid, nobody.pw_gid)
    text = f"""{AS_NOBODY}
        delivery = "maildir=theirs"
        log_file = "log"
        greylist = true
        greylist_database = "theirs/grey.db"
    """
    assert found(folder, text) == [
        f"log_file: {folder}/log: cannot be written (as nobody)",
        f"delivery: {folder}/theirs/new: cannot be written (as nobody)",
        f"spool: {folder}: cannot be written (as nobody)",
    ]
    assert found(folder, AS_NOBODY) == [
        f"{key}: {_cwd()}: cannot be written (as nobody)" for key in ("delivery", "spool")
    ]
    assert (os.geteuid(), os.getegid()) == (0, 0)


def _cwd() -> Path:
    return Path("mail").absolute().parent


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"something else", "is no database"),
        (b"SQLite format 3\0" + bytes(4096), "file is not a database"),
    ],
)
def test_a_spool_of_another_program_is_a_complaint_and_is_not_touched(
    tmp_path: Path, octets: bytes, complaint: str
) -> None:
    (tmp_path / "mail.spool").mkdir()
    (tmp_path / "mail.spool" / "spool.db").write_bytes(octets)
    text = f'{ANY}delivery = "maildir=mail"'
    assert found(tmp_path, text) == [f"spool: {tmp_path}/mail.spool/spool.db: {complaint}"]
    assert [one.name for one in (tmp_path / "mail.spool").iterdir()] == ["spool.db"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('log_file = "/proc/none"', "log_file: /proc: can hold no file: No such file"),
        (
            'greylist = true\ngreylist_database = "/proc/none"',
            "greylist_database: /proc: can hold no file: No such file",
        ),
        (
            'greylist = true\ngreylist_database = "mailsrv.toml"',
            "greylist_database: {}/mailsrv.toml: is no greylist, and is not written to",
        ),
        (
            'greylist = true\ngreylist_database = "mail.spool/spool.db"',
            "greylist_database: {}/mail.spool/spool.db: is no greylist, and is not written to",
        ),
    ],
)
def test_a_file_that_cannot_be_made_or_is_another_is_a_complaint(
    tmp_path: Path, text: str, complaint: str
) -> None:
    spool_in(tmp_path / "mail.spool").close()
    before = sorted(tmp_path.rglob("*"))
    (told,) = found(tmp_path, f'{ANY}delivery = "maildir=mail"\n{text}')
    assert told.startswith(complaint.format(tmp_path))
    (tmp_path / "mailsrv.toml").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_greylist_that_is_in_use_is_none_to_complain_of(tmp_path: Path) -> None:
    text = 'delivery = "maildir=mail"\ngreylist = true\ngreylist_database = "grey"\n'
    with serving(tmp_path, ANY + text, ()):
        assert (tmp_path / "grey").exists()
        assert found(tmp_path, ANY + text) == []
    assert found(tmp_path, ANY + text) == []


@pytest.mark.parametrize("key", ["spool", "delivery"])
def test_a_place_where_no_folder_can_be_is_a_complaint(tmp_path: Path, key: str) -> None:
    keyed = {"delivery": "maildir=mail", "spool": "spool"}
    keyed[key] = "/proc/none" if key == "spool" else "maildir=/proc/none"
    (complaint,) = found(tmp_path, ANY + "".join(f'{k} = "{v}"\n' for k, v in keyed.items()))
    assert complaint.startswith(f"{key}: /proc: can")


class Lacking(SystemFiles):
    """A file system that cannot do one thing."""

    def __init__(self, method: str) -> None:
        setattr(self, method, self.fail)

    def fail(self, *arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize(
    ("trouble", "needed"),
    [
        (spool_trouble, ("create", "sync", "sync_directory")),
        (maildir_trouble, ("create", "sync", "sync_directory", "link")),
        (database_trouble, ("sync_directory",)),
        (file_trouble, ("create",)),
    ],
)
def test_a_file_system_that_lacks_what_is_needed_can_hold_neither(
    tmp_path: Path, trouble: Callable[[Path, Files], str], needed: tuple[str, ...]
) -> None:
    for method in needed:
        assert trouble(tmp_path, Lacking(method)) == "Operation not supported", method
    assert trouble(tmp_path, SystemFiles()) == ""
    assert list(tmp_path.iterdir()) == [], "nothing stays of a trial"


def test_a_trial_leaves_a_spool_in_use_and_its_folder_as_they_are(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        text = f'listen = ["127.0.0.1:{running.port}"]\ndelivery = "maildir=mail"'
        before = {*tmp_path.rglob("*"), tmp_path / "mailsrv.toml"}
        assert [one[:12] for one in found(tmp_path, text)] == ["mind: listen"]
        assert {*tmp_path.rglob("*")} == before
        running.deliver()


@needs_root
def test_what_lies_in_a_folder_that_the_user_may_not_search_is_a_complaint(folder: Path) -> None:
    (folder / "private").mkdir(0o700)
    text = f'{AS_NOBODY}delivery = "maildir=private/mail"\nlog_file = "private/log"'
    assert found(folder, text) == [
        f"log_file: {folder}/private/log: cannot be reached (as nobody)",
        f"delivery: {folder}/private/mail: cannot be reached (as nobody)",
        f"spool: {folder}/private/mail.spool: cannot be reached (as nobody)",
    ]


@needs_root
def test_a_key_that_the_user_may_not_read_is_a_doubt_and_a_table_a_complaint(
    folder: Path,
) -> None:
    for source, name in ((CERTIFICATE, "crt.pem"), (KEY, "key.pem")):
        shutil.copy(source, folder / name)
    (folder / "key.pem").chmod(0o600)
    text = f'{AS_NOBODY}delivery = "discard"\nhostname = "mx.example.test"\n'
    text += _tls("crt.pem", "key.pem")
    expected = f"mind: tls_key: {folder}/key.pem: cannot be read (as nobody): a reload will fail"
    assert found(folder, text) == [expected]
    (folder / "table").write_text("ann@example.org\n")
    (folder / "table").chmod(0o600)
    text += 'domains = ["example.org"]\nrecipient_table = "table"'
    assert found(folder, text) == [f"recipient_table: {folder}/table: cannot be read (as nobody)"]


@needs_root
def test_who_is_not_root_is_told_what_was_not_tried(folder: Path) -> None:
    file = folder / "mailsrv.toml"
    file.write_text(f"{ANY}user = 'daemon'\n")
    nobody = identity("nobody", "")
    assert nobody is not None
    with acting_as(nobody):
        doubts = [line for line in inspect(file) if line.startswith("  mind: ")]
    assert doubts == [
        "  mind: user: only root can try what daemon may read and write; it was not tried"
    ]


@needs_root
def test_root_is_warned_of_listening_where_others_can_reach_it_as_by_serve(tmp_path: Path) -> None:
    public = 'listen = ["0.0.0.0:0"]\ndomains = ["example.org"]\nhostname = "mx.example.org"\n'
    public += 'delivery = "discard"\n'
    expected = "mind: runs as root where others can reach it; set user"
    assert found(tmp_path, public) == [expected]
    assert expected not in found(tmp_path, f'{public}user = "nobody"')
    assert expected not in found(tmp_path, ANY)


# -- name servers ---------------------------------------------------------------------------------


@contextmanager
def name_server(answer: Callable[[dns.message.Message], bytes]) -> Iterator[int]:
    """The port of a name server that answers one question."""

    def serve() -> None:
        octets, source = sock.recvfrom(4096)
        sock.sendto(answer(dns.message.from_wire(octets)), source)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(60)
        thread = threading.Thread(target=serve)
        thread.start()
        yield sock.getsockname()[1]
        thread.join()


def responding(rcode: str) -> Callable[[dns.message.Message], bytes]:
    def answer(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.from_text(rcode))
        return response.to_wire()

    return answer


def probed(folder: Path, *ports: int) -> list[str]:
    servers = [f"127.0.0.1:{port}" for port in ports]
    return found(folder, f"{ANY}resolvers = {servers}", ask_nameservers=True)


def test_a_probe_takes_what_answers_and_names_what_fails(tmp_path: Path) -> None:
    with name_server(responding("NOERROR")) as port:
        assert probed(tmp_path, port) == []
    with name_server(responding("REFUSED")) as port:
        complaint = f"resolvers: 127.0.0.1:{port}: refuses to answer, or fails"
        assert probed(tmp_path, port) == [complaint]
    complaint = f"resolvers: 127.0.0.1:{port}: cannot be asked: Connection refused"
    assert probed(tmp_path, port) == [complaint]  # it has gone


def test_a_probe_says_who_answered(tmp_path: Path) -> None:
    file = tmp_path / "mailsrv.toml"
    with name_server(responding("NOERROR")) as port:
        file.write_text(f'{ANY}resolvers = ["127.0.0.1:{port}"]')
        assert f"  name server 127.0.0.1:{port} answers" in inspect(file, ask_nameservers=True)


def test_without_a_probe_no_name_server_is_asked(tmp_path: Path) -> None:
    assert found(tmp_path, f'{ANY}resolvers = ["127.0.0.1:1"]') == []


def test_a_probe_does_not_wait_for_ever() -> None:
    assert 0 < dry_run.PROBE_TIMEOUT_S * dry_run.PROBE_ATTEMPTS_MAX <= 10
